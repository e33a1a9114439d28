"""A network in two parts: up to a layer, and from that layer on.

The graph of the network (`helpers.tracing`) is cut behind the layer. Where that cannot be followed as far as
the layer, the network is run whole, with a hook that puts other features in the place of the layer's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from helpers.tracing import Cut, has_hooks, original, trace

Rest = list[Any]
"""What the second part needs besides the features: values that go past the layer."""

# layers that are the identity in evaluation mode, and affine ones, each image on its own
IDENTITY_LAYERS = (nn.Dropout, nn.Dropout2d, nn.Identity)
AFFINE_LAYERS = (*IDENTITY_LAYERS, nn.Linear, nn.Flatten, nn.BatchNorm1d, nn.Conv2d)


@dataclass
class GraphParts:
    """Both parts as networks; they share the layers of the network that was cut."""

    trunk: fx.GraphModule
    tail: fx.GraphModule
    passing: list[str]
    module: nn.Module | None = None

    def run_trunk(self, images: Tensor) -> tuple[Tensor, Rest]:
        features, rest = self.trunk(images)
        return features, list(rest)

    def run_tail(self, features: Tensor, rest: Rest) -> Any:
        return self.tail(features, *rest)


@dataclass
class HookedParts:
    """The whole network runs each time; a hook on the layer reads its features or puts in others."""

    model: nn.Module
    layer: nn.Module
    passing = ("the whole network",)

    def run_trunk(self, images: Tensor) -> tuple[Tensor, Rest]:
        return read(self.model, self.layer, images.clone())[0], [images]

    def run_tail(self, features: Tensor, rest: Rest) -> Any:
        wanted = torch.is_grad_enabled()

        def replace(_: Tensor) -> Tensor:
            torch.set_grad_enabled(wanted)  # also in a part that the network itself runs without gradients
            return features

        handle = self.layer.register_forward_hook(lambda layer, inputs, output: replace(output))
        try:
            return self.model(rest[0])
        finally:
            handle.remove()


def read(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Any, Any]:
    """What `layer` gives, before anything behind it changes it in place, and the output: one forward pass.

    Raises ValueError where the layer does not run exactly once.
    """
    seen: list[Any] = []

    def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output.clone() if isinstance(output, Tensor) else output)

    handle = layer.register_forward_hook(keep)
    try:
        output = model(images)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(
            f"the target layer ran {len(seen)} times in one forward pass; choose one that runs once"
        )
    return seen[0], output


def cut_at(model: nn.Module, layer: nn.Module | str) -> GraphParts | HookedParts:
    """The parts of `model` before and after `layer`: a module, its name, or that of a node of the graph.

    Raises ValueError for a layer that is not part of the model, cannot be reached, does not run exactly once,
    or has no influence on the output.
    """
    module, names, name = _find(model, layer)
    kind = type(model).__name__
    try:
        parents = {outer for n in names for outer in accumulate(n.split(".")[:-1], "{}.{}".format)}
        graph = trace(model, lambda _, n: n in names, around=parents)
    except Exception as error:
        if module is None:
            raise ValueError(f"no layer {name!r} in {kind}, and torch.fx cannot trace it") from error
        return HookedParts(model, module)
    whole = [f"{n.target}." for n in graph.nodes if n.op == "call_module"]  # the graph ends at these
    if module is not None and (has_hooks(model) or any(n.startswith(o) for n in names for o in whole)):
        return HookedParts(model, module)
    if module is not None:
        found = [n for n in graph.nodes if n.op == "call_module" and n.target in names]
    else:
        found = [n for n in graph.nodes if n.name == name and n.op != "output"]
        if not found or has_hooks(model):
            why = ", whose own hooks torch.fx would leave out" if found else ""
            raise ValueError(f"no layer and no node {name!r} in {kind}{why}")
    if len(found) != 1:
        raise ValueError(f"{name} runs {len(found)} times in a forward pass; choose a layer that runs once")
    (output,) = (n for n in graph.nodes if n.op == "output")
    cut = Cut(model, graph, found[0], output.args[0])
    if output not in cut.after:
        raise ValueError(f"{found[0].name} has no influence on the output of {kind}")
    trunk = cut.first((found[0], tuple(cut.passing)))
    return GraphParts(trunk, cut.second(), [n.name for n in cut.passing], module)


def _find(model: nn.Module, layer: nn.Module | str) -> tuple[nn.Module | None, list[str], str]:
    """The layer, all its names in the network, and the name to speak of; no layer for that of a node."""
    modules = {n: m for n, m in model.named_modules(remove_duplicate=False) if n}
    module = layer
    if isinstance(layer, str):
        module = {_written(n): m for n, m in modules.items()}.get(_written(layer))
        if layer and module is None:
            return None, [layer], layer
    module = getattr(module, "_orig_mod", module)
    names = [n for n, m in modules.items() if m is module]
    if not names:
        raise ValueError(f"target_layer {layer!r:.80} is not a layer of {type(model).__name__}")
    for outer, m in modules.items():
        if isinstance(m, torch.jit.ScriptModule) and any(f"{n}.".startswith(f"{outer}.") for n in names):
            original(m)  # says why not
    return module, names, layer if isinstance(layer, str) else names[0]


def _written(name: str) -> str:
    """The name of a layer in the network as it was before `torch.compile`."""
    return name.replace("_orig_mod.", "")


def usual(value: Any) -> Any:
    """A tensor that gradients can pass, from a network that works in inference mode."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def alike(found: Any, expected: Any) -> bool:
    """Whether outputs are the same up to rounding, which TF32 and half precision make large."""
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return isinstance(found, Tensor) == isinstance(expected, Tensor)
    if found.shape != expected.shape:
        return False
    precision = torch.promote_types(found.dtype, torch.float32)
    found, expected = found.to(precision), expected.to(precision)
    far = (found - expected).abs().max() if found.numel() else 0.0
    return bool(far <= 1e-2 * expected.abs().max() + 1e-30) or bool(torch.isnan(far))


def leads_to(parts: GraphParts, features: Tensor, rest: Rest, output: Any) -> bool:
    """Whether the second part makes the network's output of these; torch.fx follows only one branch."""
    try:
        found = tree_leaves(parts.run_tail(features.clone(), rest))
    except Exception:
        return False
    expected = tree_leaves(output)
    return len(found) == len(expected) and all(map(alike, found, expected))


def pooled_head(parts: GraphParts | HookedParts) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    """What follows global average pooling, if the second part is that and an affine map, else None and why.

    The function takes the features of single positions (R, C) to outputs (R, K), as if the pooled map had
    these values.
    """
    if isinstance(parts, HookedParts):
        return None, "torch.fx cannot trace the network"
    if parts.passing:
        return None, f"{parts.passing[0]} goes past the layer"
    nodes = [n for n in parts.tail.graph.nodes if n.op != "get_attr"]
    for node, source in zip(nodes[1:], nodes, strict=False):
        fixed = [n for n in node.all_input_nodes if n is not source]
        if len(source.users) != 1 or node.args[:1] != (source,) or any(n.op != "get_attr" for n in fixed):
            return None, f"{node.name} is not all that follows {source.name}, or needs more than that"
    chain = nodes[1:-1]
    while chain and _is_identity(parts.tail, chain[0]):
        chain = chain[1:]  # dropout before the pooling
    if not chain or not _is_global_average(parts.tail, chain[0]):
        name = chain[0].name if chain else "the output"
        return None, f"{name} is not global average pooling"
    for node in chain[1:]:
        if not _is_affine(parts.tail, node):
            return None, f"{node.name} is not known to be affine in the pooled features"
    head = fx.Graph()
    copies = {chain[0]: head.placeholder("pooled")}
    for node in parts.tail.graph.nodes:
        if node in chain[1:] or node.op == "get_attr":
            copies[node] = head.node_copy(node, copies.__getitem__)
    head.output(copies[chain[-1]])
    network, flat = fx.GraphModule(parts.tail, head), _drops_space(chain[0])

    def positions_to_outputs(vectors: Tensor) -> Tensor:
        return network(vectors if flat else vectors[:, :, None, None]).reshape(len(vectors), -1)

    return positions_to_outputs, "global average pooling, then affine"


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _plain(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """One of torch's layers as it is: no subclass, no hook, no forward of its own."""
    return type(layer) in kinds and not has_hooks(layer) and "forward" not in vars(layer)


def _option(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else default)


def _is_identity(network: fx.GraphModule, node: fx.Node) -> bool:
    if (layer := _layer(network, node)) is not None:
        return _plain(layer, IDENTITY_LAYERS)
    return node.target is F.dropout and _option(node, 2, "training", True) is False


def _is_affine(network: fx.GraphModule, node: fx.Node) -> bool:
    """Affine for each image on its own; what mixes images, or might with one image or one channel, is not."""
    if (layer := _layer(network, node)) is not None:
        if isinstance(layer, nn.BatchNorm1d) and layer.running_mean is None:
            return False  # the statistics of the batch, in evaluation mode too
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
            return False
        if isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.padding) != ((1, 1), (0, 0)):
            return False
        return _plain(layer, AFFINE_LAYERS)
    if node.target in ("flatten", torch.flatten):
        return (_option(node, 1, "start_dim", 0), _option(node, 2, "end_dim", -1)) == (1, -1)
    if node.target in ("squeeze", torch.squeeze):
        return _option(node, 1, "dim", None) in (2, 3, -1, (2, 3), (-1, -2), (-2, -1), (3, 2))
    return node.target is F.linear or _is_identity(network, node)


def _is_global_average(network: fx.GraphModule, node: fx.Node) -> bool:
    if (layer := _layer(network, node)) is not None:
        return _plain(layer, (nn.AdaptiveAvgPool2d,)) and layer.output_size in (1, (1, 1), [1, 1])
    if node.target is F.adaptive_avg_pool2d:
        return _option(node, 1, "output_size", None) in (1, (1, 1), [1, 1])
    return _is_mean(node)


def _is_mean(node: fx.Node) -> bool:
    """mean((2, 3)) as a method or a function, in the type of the features."""
    if node.op == "call_module" or node.target not in ("mean", torch.mean):
        return False
    axes = _option(node, 1, "dim", None)
    known = isinstance(axes, list | tuple) and set(axes) in ({2, 3}, {-1, -2}, {2, -1}, {-2, 3})
    return known and len(node.args) <= 3 and set(node.kwargs) <= {"dim", "keepdim"}


def _drops_space(node: fx.Node) -> bool:
    return _is_mean(node) and not _option(node, 2, "keepdim", False)

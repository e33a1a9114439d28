"""A network in two parts: up to a layer, and from that layer on.

The graph of the network (`helpers.tracing`) is cut behind the layer. Where that cannot be followed as far as
the layer, the network is called, with a hook that puts other features in the place of the layer's own.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from helpers.tracing import Cut, has_hooks, original, place, same_attributes, trace

Rest = list[Any]
"""What the second part needs besides the features: values that go past the layer."""


@dataclass
class GraphParts:
    """Both parts as networks; they share the layers of the network that was cut."""

    trunk: fx.GraphModule
    tail: fx.GraphModule
    passing: list[str]
    name: str
    module: nn.Module | None = None

    def run_trunk(self, images: Tensor) -> tuple[Tensor, Rest]:
        features, rest = self.trunk(images)
        return features, list(rest)

    def run_tail(self, features: Tensor, rest: Rest) -> Any:
        return self.tail(features, *rest)


@dataclass
class HookedParts:
    """The network is called each time, and a hook on the layer reads its features or puts in others.

    Layers that end before it, and the layer itself, run once: then they give what they gave for the images,
    where this leads to the network's output. `early` has them, one for each value of `Rest` but the first.
    """

    model: nn.Module
    layer: nn.Module
    name: str
    why: str
    early: list[nn.Module] = field(default_factory=list)
    passing = ("the whole network",)

    def run_trunk(self, images: Tensor) -> tuple[Tensor, Rest]:
        early: list[tuple[nn.Module, Tensor]] = []
        recording = True

        def record(layer: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
            nonlocal recording
            start, output = len(early), forward(*args, **kwargs)
            each_image = (rows := _rows(output)) and rows == _rows(*args[:1]) and rows % len(images) == 0
            if recording and each_image and output is not args[0]:
                early[start:] = [(layer, output.clone())]  # in the place of its parts
            recording = recording and layer is not self.layer
            return output

        with _every_forward(self.model, record):
            features, output = read(self.model, self.layer, images.clone())
        self.early, rest = [layer for layer, _ in early], [images, *(value for _, value in early)]
        if not leads_to(self, features, rest, output):
            self.early, rest = [], [images]
        return features, rest

    def run_tail(self, features: Tensor, rest: Rest) -> Any:
        wanted, ahead = torch.is_grad_enabled(), defaultdict(list)
        for layer, value in zip(self.early, rest[1:], strict=True):
            ahead[layer].append(value)

        def replace(*_: Any) -> Tensor:
            torch.set_grad_enabled(wanted)  # also in a part that the network itself runs without gradients
            return features

        def replay(layer: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
            known = ahead[layer]
            if known and _rows(known[0]) == _rows(*args[:1]):
                return known.pop(0).clone()
            return forward(*args, **kwargs)

        handle = self.layer.register_forward_hook(replace)
        try:
            with _every_forward(self.model, replay):
                return self.model(rest[0])
        finally:
            handle.remove()


def _rows(value: Any = None) -> int | None:
    return len(value) if isinstance(value, Tensor) and value.ndim else None


@contextlib.contextmanager
def _every_forward(model: nn.Module, run: Callable) -> Iterator[None]:
    """Calls ``run(layer, forward, args, kwargs)`` for the forward pass of every layer."""

    def through(layer: nn.Module, forward: Callable) -> Callable:
        return lambda *args, **kwargs: run(layer, forward, args, kwargs)

    with same_attributes(model):
        for layer in model.modules():
            if not isinstance(layer, torch.jit.ScriptModule) and not hasattr(layer, "_orig_mod"):
                layer.forward = through(layer, layer.forward)
        yield


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
        return HookedParts(model, module, name, f"torch.fx cannot follow {kind} as far as {name} ({error})")
    whole = [f"{n.target}." for n in graph.nodes if n.op == "call_module"]  # the graph ends at these
    closed = [o.rstrip(".") for o in whole if any(n.startswith(o) for n in names)] + [kind] * has_hooks(model)
    if module is not None and closed:
        return HookedParts(
            model, module, name, f"torch.fx does not enter {closed[0]}, for its hooks or its kind"
        )
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
    return GraphParts(trunk, cut.second(), [place(n) for n in cut.passing], name, module)


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

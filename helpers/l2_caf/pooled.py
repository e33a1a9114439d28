"""Is what follows a layer global average pooling, and after it nothing but affine layers?

Then the output is known from what single positions of the map give, and the exact solver applies. Layers
count by their kind and settings, never by how they act on some images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from helpers.l2_caf.graph import GraphParts, HookedParts
from helpers.tracing import has_hooks, place

# layers that are the identity in evaluation mode, and affine ones, each image on its own
IDENTITY_LAYERS = (nn.Dropout, nn.Dropout2d, nn.Identity)
AFFINE_LAYERS = (*IDENTITY_LAYERS, nn.Linear, nn.Flatten, nn.BatchNorm1d, nn.Conv2d)


def pooled_head(parts: GraphParts | HookedParts) -> tuple[int | None, str | None]:
    """What the second part says of the features, and what stands against the exact solution, None if nothing.

    The first is the axis of the channels, -3 or -1, where global average pooling comes first, else None.
    """
    if isinstance(parts, HookedParts):
        return None, f"{parts.why}, so what follows the layer is not known"
    if parts.passing:
        return None, f"{parts.passing[0]} goes past the layer"
    nodes = [n for n in parts.tail.graph.nodes if n.op != "get_attr"]
    for node, source in zip(nodes[1:], nodes, strict=False):
        fixed = [n for n in node.all_input_nodes if n is not source]
        if len(source.users) != 1 or node.args[:1] != (source,) or any(n.op != "get_attr" for n in fixed):
            return None, f"{place(node)} is not all that follows {place(source)}, or needs more than that"
    chain = nodes[1:-1]
    while chain and _is_identity(parts.tail, chain[0]):
        chain = chain[1:]  # dropout before the pooling
    axis = -1 if chain and _permutation(chain[0]) == (0, 3, 1, 2) else -3
    chain = chain[1:] if axis == -1 else chain
    if axis == -3 and chain and _mean_axes(chain[0]) == {1, 2}:
        axis = -1
    elif not chain or not _is_global_average(parts.tail, chain[0]):
        return None, f"{place(chain[0]) if chain else 'the output'} is not global average pooling"
    for node in chain[1:]:
        if not _is_affine(parts.tail, node):
            return axis, f"{place(node)} is not known to be affine in the pooled features"
    return axis, None


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
    return node.target is F.linear or _permutation(node)[:1] == (0,) or _is_identity(network, node)


def _is_global_average(network: fx.GraphModule, node: fx.Node) -> bool:
    if (layer := _layer(network, node)) is not None:
        return _plain(layer, (nn.AdaptiveAvgPool2d,)) and layer.output_size in (1, (1, 1), [1, 1])
    if node.target is F.adaptive_avg_pool2d:
        return _option(node, 1, "output_size", None) in (1, (1, 1), [1, 1])
    return _mean_axes(node) == {2, 3}


def _mean_axes(node: fx.Node) -> set[int]:
    """The axes of a map (B, _, _, _) that a mean, as a method or a function in the type of the map, takes."""
    asked = node.op != "call_module" and node.target in ("mean", torch.mean)
    axes = _option(node, 1, "dim", None) if asked else None
    known = isinstance(axes, list | tuple) and len(node.args) <= 3 and set(node.kwargs) <= {"dim", "keepdim"}
    return {axis % 4 for axis in axes} if known else set()


def _permutation(node: fx.Node) -> tuple[int, ...]:
    """The order of axes that a permute asks for, else ()."""
    asked = node.op != "call_module" and node.target in ("permute", torch.permute)
    return tuple(tree_leaves((node.args[1:], node.kwargs))) if asked else ()

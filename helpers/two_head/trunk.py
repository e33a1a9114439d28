"""A classifier in parts: up to its last map of features, and from that map to the logits.

The graph of the network (`helpers.tracing`) is traced once in training and once in evaluation mode, since a
network may branch on its mode. The parts are functions of the network: they run whatever layers it has now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from helpers.tracing import Cut, place, trace
from helpers.training.modes import in_mode

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)

Part = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Parts:
    """One mode of a classifier; each part takes the classifier as first argument.

    Attributes:
        trunk: images to (the map,).
        trunk_and_aux: images to (the map, *auxiliary logits).
        logits: the map to (the logits, the input of the last linear layer).
        penultimate: the map to (the input of the last linear layer,).
        classifiers: names of the linear layers of the logits and of the auxiliary logits.
    """

    trunk: Part
    trunk_and_aux: Part
    logits: Part
    penultimate: Part
    classifiers: tuple[str, ...]


def split(backbone: nn.Module) -> dict[bool, Parts]:
    """The parts by mode, True for training. Raises ValueError for a network of another form, saying why."""
    return {mode: _split(backbone, _trace(backbone, mode)) for mode in (True, False)}


def resize_classifier(backbone: nn.Module, parts: dict[bool, Parts], num_classes: int) -> None:
    """Replace, in place, the linear layers of the logits, auxiliary ones too, whose size differs."""
    # in the order of the outputs, so that a seed always gives the same weights
    for name in dict.fromkeys(parts[True].classifiers + parts[False].classifiers):
        layer = backbone.get_submodule(name)
        if layer.out_features != num_classes:
            device, dtype = layer.weight.device, layer.weight.dtype
            kind = nn.Linear if type(layer).forward is nn.Linear.forward else type(layer)
            new = kind(layer.in_features, num_classes, layer.bias is not None, device, dtype)
            parent, _, last = name.rpartition(".")
            setattr(backbone.get_submodule(parent), last, new)


def _split(backbone: nn.Module, graph: fx.Graph) -> Parts:
    logits, *aux = outputs = _outputs(graph, backbone)
    classifiers = [_last_linear(node, backbone) for node in outputs]
    pool = linear = classifiers[0]
    while not (axes := _pooled_axes(backbone, pool)):
        sources = [n for n in pool.all_input_nodes if n.op != "get_attr"]
        if len(sources) != 1 or sources[0].op == "placeholder":
            raise ValueError(
                f"{type(backbone).__name__} has no pooling between one map of features and its last linear "
                f"layer, {linear.target} (looked back to {place(pool)}); TwoHead needs a convolutional "
                "classifier with one"
            )
        pool = sources[0]
    features, penultimate = pool.all_input_nodes[0], linear.all_input_nodes[0]
    if axes == {1, 2}:  # the map has its channels last; between the parts it has them first
        with graph.inserting_before(pool):
            first = graph.call_method("permute", (features, 0, 3, 1, 2))
            pool.replace_input_with(features, graph.call_method("permute", (first, 0, 2, 3, 1)))
        features = first
    both, one = (Cut(backbone, graph, features, r) for r in ((logits, penultimate), (penultimate,)))
    parts = (both.first((features,)), both.first((features, *aux)), both.second(), one.second())
    return Parts(*(type(part).forward for part in parts), tuple(str(node.target) for node in classifiers))


def _trace(backbone: nn.Module, training: bool) -> fx.Graph:
    try:
        with in_mode(backbone, training):
            return trace(backbone, _holds_no_head)
    except Exception as error:
        raise ValueError(
            f"torch.fx cannot trace {type(backbone).__name__} ({error}); TwoHead takes classifiers such as "
            "torchvision.models.resnet50"
        ) from error


def _holds_no_head(layer: nn.Module, name: str) -> bool:
    """With weights, but no linear layer or pooling in it, a layer stays whole: hooks on it go on to work."""
    inside = any(isinstance(part, (nn.Linear, *_POOLS)) for part in layer.modules())
    return isinstance(layer, nn.Linear) or (not inside and next(layer.parameters(), None) is not None)


def _outputs(graph: fx.Graph, backbone: nn.Module) -> list[fx.Node]:
    """The logits, then the auxiliary logits."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    found = output.args[0]
    if isinstance(found, fx.Node) and isinstance(found.target, type) and issubclass(found.target, tuple):
        found = [*found.args, *found.kwargs.values()]  # a named tuple of logits and auxiliary logits
    leaves = [leaf for leaf in tree_leaves(found) if leaf is not None]
    if not leaves or not all(isinstance(leaf, fx.Node) for leaf in leaves):
        raise ValueError(f"{type(backbone).__name__} returns something other than logits")
    return leaves


def _last_linear(node: fx.Node, backbone: nn.Module) -> fx.Node:
    while node.op == "call_module" and type(backbone.get_submodule(str(node.target))) is nn.Identity:
        node = node.all_input_nodes[0]
    if node.op == "call_module" and isinstance(backbone.get_submodule(str(node.target)), nn.Linear):
        return node
    kind = type(backbone).__name__
    raise ValueError(f"the logits of {kind} come from {place(node)}; expected an nn.Linear as last layer")


def _pooled_axes(backbone: nn.Module, node: fx.Node) -> set[int]:
    """The axes of height and width in a map that a node pools; of other nodes none."""
    if node.op == "call_module":
        return {2, 3} if isinstance(backbone.get_submodule(str(node.target)), _POOLS) else set()
    if node.target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
        return {2, 3}
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if node.target not in ("mean", torch.mean) or not isinstance(axes, list | tuple):
        return set()
    return found if (found := {axis % 4 for axis in axes}) in ({1, 2}, {2, 3}) else set()

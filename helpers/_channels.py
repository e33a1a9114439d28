"""How channels flow through a network, and the smaller network that the first of them make.

Which channels belong together is read off Torch-Pruning's `DependencyGraph`; which of them stay is decided
here, and `helpers._cuts` does the cutting.
"""

from __future__ import annotations

import math
import traceback
from collections import defaultdict
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch_pruning import DependencyGraph
from torch_pruning.dependency import Group, Node
from torch_pruning.ops import OPTYPE

from helpers._cuts import PER_CHANNEL, WEIGHTED, Cut, SplitError, copy_with

MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention, nn.RNNBase)


def kept_channels(width: int, rate: float) -> int:
    """``ceil(rate * width)``, exact for decimal rates, at least 1."""
    return max(1, math.ceil(Fraction(str(rate)) * width))


def check_layers(model: nn.Module) -> None:
    """SplitError for layers whose weights neither split covers."""
    owner: dict[int, str] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _ConvTransposeNd):
            raise SplitError(f"{name} ({type(layer).__name__}): transposed convolutions are not supported")
        if is_parametrized(layer):
            raise SplitError(f"{name} has a parametrised weight; remove the parametrisation first")
        if isinstance(layer, WEIGHTED) and (other := owner.setdefault(id(layer.weight), name)) != name:
            raise SplitError(f"{name} shares its weight with {other}; give each its own")


def channel_cuts(model: nn.Module, example_input: Tensor, split_rate: float) -> dict[str, Cut]:
    """How to cut every tensor of `model` down to the first channels of every layer, by tensor name.

    Channels of the input and of the output are all kept. Where layers must agree (sums, gates), they keep the
    same channels; a concatenation keeps the first ones of each of its blocks, a grouped convolution those of
    each of its groups, and so do the layers before it. `model` stays as it is.

    Raises SplitError for layers that mix channels, a network that cannot be traced, and layers that
    `example_input` does not reach.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, MIXING):
            raise SplitError(
                f"{name} ({type(layer).__name__}) mixes channels: without the reset half, the kept channels "
                "after it would change, so there is no slim network"
            )
    hollow = {name: torch.zeros(1).expand(weight.shape) for name, weight in model.named_parameters()}
    traced = copy_with(model, hollow).cpu().float().requires_grad_(True)  # channels flow whatever the weights
    graph, probe = _trace(traced, example_input)
    names = {layer: name for name, layer in traced.named_modules()}
    for layer, name in names.items():
        if isinstance(layer, WEIGHTED) and layer not in graph.module2node:
            raise SplitError(f"{name} takes no part in the forward pass of example_input; remove it first")
    dropped: dict[tuple[nn.Module, bool], set[int]] = defaultdict(set)  # (layer, its output?) -> channels
    for group in graph.get_all_groups():
        if any(_is_end(graph, item, probe) for item, _ in group):
            continue
        kept = _kept_of(graph, group, split_rate)
        for item in group:
            output = graph.is_out_channel_pruning_fn(item.dep.handler)
            lost = {i for i, root in zip(item.idxs, item.root_idxs, strict=True) if root not in kept}
            dropped[item.dep.target.module, output] |= lost
    cuts: dict[str, Cut] = {}
    for layer in dict.fromkeys(layer for layer, _ in dropped):
        out, into = dropped.get((layer, True), set()), dropped.get((layer, False), set())
        if isinstance(layer, nn.Parameter):
            dim = graph.module2node[layer].pruning_dim
            cuts[graph._param_to_name[layer].removeprefix("1.")] = {dim: _rest(layer.shape[dim], out | into)}
        elif layer in names:
            cuts |= {
                f"{names[layer]}.{tensor}": cut
                for tensor, cut in _layer_cuts(names[layer], layer, out, into).items()
            }
    return cuts


def _trace(model: nn.Module, example_input: Tensor) -> tuple[DependencyGraph, nn.Module]:
    """The graph in training mode, in which auxiliary heads take part, behind a layer that marks the input."""
    images = torch.cat([example_input[:1], example_input[:1]]).cpu().float()  # a batch norm may need two
    width = images.shape[1]
    kinds = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    with torch.random.fork_rng(devices=[]):
        probe = kinds[images.ndim](width, width, 1) if images.ndim in kinds else nn.Linear(width, width)
        whole = nn.Sequential(probe, model)
        try:
            with torch.enable_grad():
                graph = DependencyGraph().build_dependency(
                    whole, images, forward_fn=lambda network, batch: network.train()(batch), verbose=False
                )
        except Exception as error:
            raise SplitError(
                f"cannot follow the channels {_where_it_failed(model, error)}: a reshape, a shuffle or an "
                f"input of the wrong size stops the tracer there ({type(error).__name__}: {error})"
            ) from error
    return graph, probe


def _where_it_failed(model: nn.Module, error: Exception) -> str:
    """The last layer before the node of the graph at which tracing stopped, if it got that far."""
    names = {module: name for name, module in model.named_modules()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    nodes = [n for frame in frames if isinstance(n := frame.f_locals.get("node"), Node)][-1:]
    for node in nodes:  # grows
        if node.module in names:
            return f"after {names[node.module]} ({type(node.module).__name__})"
        nodes += [source for source in node.inputs if source not in nodes]
    return f"of {type(model).__name__}"


def _is_end(graph: DependencyGraph, dependency, probe: nn.Module) -> bool:
    """Whether these channels are the network's input or output, which are never cut."""
    node, output = dependency.target, graph.is_out_channel_pruning_fn(dependency.handler)
    return node.type == OPTYPE.OUTPUT or (output and (node.module is probe or not node.outputs))


def _kept_of(graph: DependencyGraph, group: Group, rate: float) -> set[int]:
    """The channels of a coupled set that stay: the first of every block that a layer or conv group makes."""
    blocks: dict[int, list] = defaultdict(list)
    for number, item in enumerate(group):
        layer, output = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        depthwise = isinstance(layer, _ConvNd) and 1 < groups == layer.in_channels == layer.out_channels
        if not isinstance(layer, WEIGHTED) or depthwise or not (output or groups > 1):
            continue
        size = (layer.weight.shape[0] if output else layer.weight.shape[1] * groups) // groups
        for i, root in zip(item.idxs, item.root_idxs, strict=True):
            blocks[root].append((number, i // size))
    members: dict[tuple, list[int]] = defaultdict(list)
    for root in sorted(blocks):
        members[tuple(blocks[root])].append(root)
    return {root for block in members.values() for root in block[: kept_channels(len(block), rate)]}


def _rest(width: int, lost: set[int]) -> Tensor:
    if len(lost) >= width:
        raise SplitError(
            f"a layer with {width} channels would lose all of them; something splits its channels"
        )
    return torch.tensor([i for i in range(width) if i not in lost])


def _layer_cuts(name: str, layer: nn.Module, out: set[int], into: set[int]) -> dict[str, Cut]:
    """Tensor name -> cut, for one layer whose output and input lose these channels."""
    if isinstance(layer, PER_CHANNEL):
        own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        sizes = {tensor: values for tensor, values in own if values.ndim == 1 and len(values) > 1}
        return {tensor: {0: _rest(len(values), out | into)} for tensor, values in sizes.items()}
    if not isinstance(layer, WEIGHTED):
        raise SplitError(f"{name}: there is no rule to cut the channels of {type(layer).__name__}")
    groups = getattr(layer, "groups", 1)
    filters = _rest(len(layer.weight), out)
    columns = _rest(layer.weight.shape[1] * groups, into)
    if groups > 1:  # which input channels each kept filter reads, counted within its group
        size, per_group = layer.weight.shape[1], len(layer.weight) // groups
        local = [columns[columns // size == g] % size for g in (filters // per_group).tolist()]
        if len({len(row) for row in local}) > 1:
            raise SplitError(
                f"{name} ({type(layer).__name__}): its {groups} groups would keep unequal inputs"
            )
        columns = torch.stack(local)
    cuts = {"weight": {0: filters, 1: columns}}
    return cuts | ({"bias": {0: filters}} if layer.bias is not None else {})

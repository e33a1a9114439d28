"""Which channels of a network make the smaller one: the first of every block.

`dependencies` says which channels hang together, `slicing` does the cutting.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch_pruning import DependencyGraph
from torch_pruning.ops import OPTYPE

from helpers.knowledge_evolution.dependencies import Entry, Sets, coupled_sets, is_depthwise, trace
from helpers.knowledge_evolution.slicing import PER_CHANNEL, WEIGHTED, Cut, SplitError, copy_with

MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention, nn.RNNBase)


def kept_channels(width: int, rate: float) -> int:
    """``ceil(rate * width)``, at least 1; the tolerance takes 0.07 * 100 = 7.000000000000001 for 7."""
    return max(1, math.ceil(rate * width - 1e-9))


def check_layers(model: nn.Module) -> None:
    """SplitError for layers whose weights neither split covers."""
    owner: dict[int, str] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _ConvTransposeNd):
            raise SplitError(f"{name} ({type(layer).__name__}): transposed convolutions are not supported")
        if isinstance(layer, WEIGHTED) and (is_parametrized(layer) or "weight" not in layer._parameters):
            raise SplitError(f"{name} has a parametrised weight; remove the parametrisation first")
        if isinstance(layer, WEIGHTED) and (other := owner.setdefault(id(layer.weight), name)) != name:
            raise SplitError(f"{name} shares its weight with {other}; give each its own")


def bare_parameters(model: nn.Module) -> list[str]:
    """Names of parameters that the network's own code uses, as no layer of torch does."""
    return [
        f"{name}.{own}".strip(".")
        for name, layer in model.named_modules()
        if not type(layer).__module__.startswith("torch.")
        for own, _ in layer.named_parameters(recurse=False)
    ]


def channel_cuts(
    model: nn.Module,
    example_input: Tensor,
    split_rate: float,
    outputs: Callable[[Any], Any] | None = None,
) -> dict[str, Cut]:
    """How to cut every tensor of `model` down to the first channels of every layer, by tensor name.

    Channels of the input and of the `outputs` all stay. Any other set of coupled channels belongs to blocks:
    outputs of the layers that produce it, groups of the grouped convolutions around it. Of the sets in the
    same blocks the first ``kept_channels`` stay: a concatenation keeps the first channels of each of its
    parts, a grouped convolution those of each group, and layers that must agree with them keep the same.

    Raises SplitError for layers that mix channels, a network that cannot be traced, and layers that
    `example_input` does not reach.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, MIXING):
            raise SplitError(
                f"{name} ({type(layer).__name__}) mixes channels: without the reset half, the kept channels "
                "after it would change, so there is no slim network"
            )
    blank = {name: torch.zeros(1).expand(weight.shape) for name, weight in model.named_parameters()}
    traced = copy_with(model, blank).cpu().float().requires_grad_(True)  # channels flow whatever the weights
    entry = Entry(example_input.shape[1], affine=False, track_running_stats=False)
    graph = trace(nn.Sequential(entry, traced), example_input, outputs)
    names = {module: name for name, module in [*traced.named_modules(), *traced.named_parameters()]}
    for layer, name in names.items():
        if isinstance(layer, WEIGHTED) and layer not in graph.module2node:
            raise SplitError(f"{name} takes no part in the forward pass of example_input; remove it first")
    sets = coupled_sets(graph, names)
    kept = _kept_sets(sets, split_rate)
    cuts: dict[str, Cut] = {}
    for module, name in names.items():
        if module in graph.module2node:
            for tensor, cut in _cuts_of(module, name, graph, sets, kept).items():
                cuts[f"{name}.{tensor}".strip(".")] = cut
    return cuts


def _kept_sets(sets: Sets, rate: float) -> set[int]:
    """The sets that stay: those of the input and the output, and the first of all that share their blocks."""
    blocks: dict[int, set] = defaultdict(set)
    for (node, side), channels in sets.items():
        layer, groups = node.module, getattr(node.module, "groups", 1)
        is_end = isinstance(layer, Entry) or node.type == OPTYPE.OUTPUT
        makes = isinstance(layer, WEIGHTED) and side.__name__ == "prune_out_channels"
        if not is_end and (not isinstance(layer, WEIGHTED) or not (makes or groups > 1)):
            continue
        width = math.inf if is_end or is_depthwise(layer) else _sizes(layer)[not makes] // groups
        for channel, number in channels.items():
            blocks[number].add("end" if is_end else (node, side, channel // width))
    alike: dict[frozenset, list[int]] = defaultdict(list)
    for number, own in blocks.items():
        alike[frozenset(own)].append(number)
    return {
        number
        for own, numbers in alike.items()
        for number in numbers[: None if "end" in own else kept_channels(len(numbers), rate)]
    }


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Output and input channels of a convolution or linear layer."""
    return len(layer.weight), layer.weight.shape[1] * getattr(layer, "groups", 1)


def _cuts_of(
    module: nn.Module | nn.Parameter, name: str, graph: DependencyGraph, sets: Sets, kept: set[int]
) -> dict[str, Cut]:
    """Tensor name -> cut, for one layer (or one parameter that belongs to none, with an empty name)."""
    node, pruner = graph.module2node[module], graph.get_pruner_of_module(module)

    def rest(side: Callable, width: int) -> Tensor:
        number = sets.get((node, side), {})
        if not (stay := [c for c in range(width) if c not in number or number[c] in kept]):
            raise SplitError(f"{name} would lose all of its {width} channels; something splits them")
        return torch.tensor(stay)

    if isinstance(module, nn.Parameter):
        return {"": {node.pruning_dim: rest(pruner.prune_out_channels, module.shape[node.pruning_dim])}}
    if isinstance(module, PER_CHANNEL):
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        return {
            tensor: {0: rest(pruner.prune_out_channels, len(values))}
            for tensor, values in own
            if values.ndim == 1 and len(values) > 1
        }
    if not isinstance(module, WEIGHTED):
        return {}
    outputs, inputs = _sizes(module)
    rows, columns = rest(pruner.prune_out_channels, outputs), rest(pruner.prune_in_channels, inputs)
    if getattr(module, "groups", 1) > 1:
        columns = _columns_by_row(name, module, rows, columns)
    return {"weight": {0: rows, 1: columns}} | ({} if module.bias is None else {"bias": {0: rows}})


def _columns_by_row(name: str, layer: nn.Module, rows: Tensor, columns: Tensor) -> Tensor:
    """Which inputs each kept filter of a grouped convolution reads, counted within its group."""
    size, filters = layer.weight.shape[1], len(layer.weight) // layer.groups
    groups = (rows // filters).tolist()
    by_group = {g: columns[columns // size == g] % size for g in groups}
    counts = {(len(inputs), groups.count(g)) for g, inputs in by_group.items()}
    lost = set((columns // size).tolist()) - by_group.keys()
    if len(counts) > 1 or lost:
        raise SplitError(
            f"{name} ({type(layer).__name__}): its {layer.groups} groups would keep unequal channel counts"
        )
    return torch.stack([by_group[g] for g in groups])

"""How channels flow through a network: which of one layer is which of the next, and which hang together.

The graph is Torch-Pruning's `DependencyGraph`. Its own groups follow the channels of one layer at a time, and
its pruning cuts one group after the other: neither is enough where a concatenation is added to something.
Here all channels that meet anywhere are merged into one set.
"""

from __future__ import annotations

import math
import traceback
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch_pruning import DependencyGraph
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency import Node
from torch_pruning.ops import OPTYPE
from torch_pruning.utils import flatten_as_list

from helpers.knowledge_evolution.slicing import WEIGHTED, SplitError

Side = tuple[Node, Callable]
"""A node, and Torch-Pruning's function for its input or its output channels (one for both if they agree)."""

Sets = dict[Side, dict[int, int]]
"""For every side: channel -> number of the set of channels that it stays or goes with."""


class Entry(_BatchNorm):
    """The identity, in front of the network: puts the channels of the input on the graph."""

    def forward(self, images: Tensor) -> Tensor:
        return images * torch.ones((), requires_grad=True)


PRODUCERS = (*WEIGHTED, Entry)


class _Graph(DependencyGraph):
    """Torch-Pruning takes one output per group for depthwise, even if a group has several inputs."""

    def get_pruner_of_module(self, module: nn.Module):
        if isinstance(module, _ConvNd) and not is_depthwise(module):
            return self.REGISTERED_PRUNERS[OPTYPE.CONV]
        return super().get_pruner_of_module(module)


def is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels


def trace(model: nn.Module, example_input: Tensor, outputs: Callable[[Any], Any] | None) -> DependencyGraph:
    """The graph in training mode, in which auxiliary heads take part; every output is a node of its own.

    `outputs` picks those that count, None means all.
    """
    images = torch.cat([example_input[:1], example_input[:1]]).cpu().float()  # a batch norm may need two
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            return _Graph().build_dependency(
                model,
                images,
                forward_fn=lambda network, batch: network.train()(batch),
                output_transform=lambda found: [
                    tensor.clone()
                    for tensor in flatten_as_list(outputs(found) if outputs else found)
                    if getattr(tensor, "grad_fn", None)
                ],
                verbose=False,
            )
    except Exception as error:
        raise SplitError(
            f"cannot follow the channels {_where_it_failed(model[1], error)}: a reshape, a shuffle or an "
            f"input of the wrong size stops the tracer there ({type(error).__name__}: {error})"
        ) from error


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


def coupled_sets(graph: DependencyGraph, names: dict[nn.Module | Tensor, str]) -> Sets:
    """Follows the output channels of every layer along all edges; sets that meet become one (union-find).

    Where many channels meet a layer of width 1, that layer is broadcast to them and stays apart.
    """
    parent: list[int] = []

    def find(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    sets: Sets = defaultdict(dict)
    broadcast: set[Side] = set()
    producers = [node for module, node in graph.module2node.items() if isinstance(module, PRODUCERS)]
    starts = [(node, graph.get_pruner_of_module(node.module).prune_out_channels) for node in producers]
    for start in sorted(starts, key=lambda side: _width(graph, *side) == 1):
        fresh = [c for c in range(_width(graph, *start)) if c not in sets[start]]
        flow = [(start, [_HybridIndex(c, len(parent) + i) for i, c in enumerate(fresh)])]
        parent += range(len(parent), len(parent) + len(fresh))
        while flow:
            (node, side), channels = flow.pop()
            if _passes(graph, names, (node, side), channels, broadcast):
                known, new = sets[node, side], []
                for channel in channels:
                    if channel.idx in known:
                        parent[find(channel.root_idx)] = find(known[channel.idx])
                    else:
                        known[channel.idx] = channel.root_idx
                        new.append(channel)
                for edge in node.dependencies if new else []:
                    if edge.is_triggered_by(side):
                        arriving = new
                        for mapping in edge.index_mapping:
                            arriving = mapping(arriving) if mapping else arriving
                        flow.append(((edge.target, edge.handler), arriving))
    return {side: {c: find(known[c]) for c in sorted(known)} for side, known in sets.items()}


def _passes(
    graph: DependencyGraph,
    names: dict[nn.Module | Tensor, str],
    side: Side,
    channels: list,
    broadcast: set[Side],
) -> bool:
    """Whether channels arrive at a side that carries them one by one."""
    module, last = side[0].module, max((channel.idx for channel in channels), default=-1)
    width = _width(graph, *side)
    if side in broadcast or (width == 1 and last > 0):
        broadcast.add(side)
        return False
    if last >= width and module in names:
        why = "something next to it re-arranges or merges channels"
        if isinstance(module, nn.Parameter):
            why = "as a parameter of no layer it is not followed; make it the weight of an nn.Linear"
        raise SplitError(
            f"{names[module]} ({type(module).__name__}) has {width} channels, but more are led there: {why}"
        )
    return bool(channels)


def _width(graph: DependencyGraph, node: Node, side: Callable) -> float:
    """Number of channels there, infinite where any number passes."""
    if node.type == OPTYPE.OUTPUT:
        return math.inf
    into = side == graph.get_pruner_of_module(node.module).prune_in_channels
    return (graph.get_in_channels(node) if into else graph.get_out_channels(node)) or math.inf

"""How channels flow through a network, and the smaller network that its first channels make.

The tracing is Torch-Pruning's `DependencyGraph`. To learn what its pruning keeps, every entry of every tensor
is set to its own position before: what stands in the pruned tensors then says where each entry came from.
"""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch_pruning import DependencyGraph
from torch_pruning.dependency import Group, Node
from torch_pruning.ops import OPTYPE

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention, nn.RNNBase)


class SplitError(ValueError):
    """A network whose channels cannot be split into a fit and a reset hypothesis; says where and why."""


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def slim_template(model: nn.Module, example_input: Tensor, split_rate: float) -> nn.Module:
    """The network of the first ``ceil(split_rate * C)`` channels of every layer, on the CPU in float64.

    The floating-point entries of its tensors are positions in the flattened tensors of `model`, which stays
    as it is. Channels of the input and of the output are all kept; a concatenation keeps the first channels
    of each of its blocks, a grouped convolution those of each of its groups.

    Raises SplitError for layers that mix channels, a network that cannot be traced, and layers that
    `example_input` does not reach.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, MIXING):
            raise SplitError(
                f"{name} ({type(layer).__name__}) mixes channels: without the reset half, the kept channels "
                "after it would change, so there is no slim network"
            )
    traced = copy.deepcopy(model).cpu().double().requires_grad_(True)
    images = torch.cat([example_input[:1], example_input[:1]]).cpu().double()  # a batch norm may need two
    try:
        graph = _trace(traced, images)
    except Exception as error:
        where = _where_it_failed(traced, error)
        raise SplitError(f"cannot follow the channels {where}: {type(error).__name__}: {error}") from error
    for name, layer in traced.named_modules():
        if isinstance(layer, WEIGHTED) and layer not in graph.module2node:
            raise SplitError(f"{name} takes no part in the forward pass of example_input; remove it first")
    for _, tensor in tensors(traced):
        if tensor.is_floating_point():
            tensor.copy_(torch.arange(tensor.numel(), dtype=torch.float64).view_as(tensor))
    for group in list(graph.get_all_groups()):
        if not _reaches_output(graph, group):
            channels = group[0].idxs
            of_one = len(channels) // _conv_groups(group)
            group.prune([c for c in channels if c % of_one >= math.ceil(split_rate * of_one)])
    return traced


def _trace(model: nn.Module, images: Tensor) -> DependencyGraph:
    """The dependency graph in training mode, in which auxiliary heads take part."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        return DependencyGraph().build_dependency(
            model, images, forward_fn=lambda network, batch: network.train()(batch), verbose=False
        )


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


def _reaches_output(graph: DependencyGraph, group: Group) -> bool:
    """Whether these channels are the network's output, which is never cut."""
    return any(
        dependency.target.type == OPTYPE.OUTPUT
        or (graph.is_out_channel_pruning_fn(dependency.handler) and not dependency.target.outputs)
        for dependency, _ in group
    )


def _conv_groups(group: Group) -> int:
    """Number of equal runs of channels that grouped (not depthwise) convolutions keep apart."""
    layers = [dependency.target.module for dependency, _ in group]
    counts = [m.groups for m in layers if isinstance(m, WEIGHTED[:3]) and 1 < m.groups < m.out_channels]
    return math.lcm(*counts)


def positions_in_dense(template: nn.Module) -> dict[str, Tensor]:
    """Tensor name -> where its entries stand in the flattened dense tensor (integers are left out)."""
    return {name: tensor.long() for name, tensor in tensors(template) if tensor.is_floating_point()}


@torch.no_grad()
def check_identity(
    zeroed: nn.Module, slim: nn.Module, positions: dict[str, Tensor], example_input: Tensor
) -> None:
    """SplitError unless, in eval mode, the dense network without its reset half computes what `slim` does.

    Every layer with a weight is compared on its kept channels; the networks are converted in place.
    """
    names = [name.removesuffix(".weight") for name in positions if name.endswith(".weight")]

    def outputs(network: nn.Module) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        for name in names:
            keep = lambda *call, name=name: seen.__setitem__(name, call[2].clone())  # noqa: E731
            network.get_submodule(name).register_forward_hook(keep)
        network.cpu().double().eval()(example_input[:1].cpu().double())
        return seen

    dense = outputs(zeroed)
    for name, ours in outputs(slim).items():
        layer = zeroed.get_submodule(name)
        kept = (
            positions[f"{name}.weight"].flatten(1)[:, 0]
            if layer.weight.ndim > 1
            else positions[f"{name}.weight"]
        )
        kept = kept // layer.weight[0].numel()
        theirs = dense[name].index_select(-1 if isinstance(layer, nn.Linear) else 1, kept)
        if not torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9 * theirs.abs().max().item()):
            raise SplitError(
                f"the kept channels of {name} ({type(layer).__name__}) read more than kept channels: "
                "something before it mixes or re-orders channels"
            )

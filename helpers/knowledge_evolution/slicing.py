"""Cutting a network down to some of its channels: tensors, masks, the smaller network, and the proof.

Where the cuts come from is the business of `helpers.knowledge_evolution.channels`.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
PER_CHANNEL = (_BatchNorm, _InstanceNorm, nn.PReLU)

Cut = dict[int, Tensor]
"""Dimension -> indices kept (K,); for a grouped convolution dimension 1 has a row of indices per filter."""


class SplitError(ValueError):
    """A network whose channels cannot be split into a fit and a reset hypothesis; says where and why."""


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def copy_with(model: nn.Module, new: dict[str, Tensor]) -> nn.Module:
    """A copy of `model` in which these tensors stand for its own; only the others are copied."""
    memo: dict[int, Tensor] = {}
    for name, tensor in tensors(model):
        if name in new:
            fresh = new[name].detach()
            memo[id(tensor)] = (
                nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh
            )
    return copy.deepcopy(model, memo)


def cut_tensor(tensor: Tensor, cut: Cut) -> Tensor:
    """A new tensor with the kept entries."""
    for dim, kept in cut.items():
        kept = kept.to(tensor.device)
        if kept.ndim == 1:
            tensor = tensor.index_select(dim, kept)
        else:
            rows = kept.view(*kept.shape, *[1] * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
            tensor = tensor.gather(dim, rows)
    return tensor


def cut_mask(shape: torch.Size, cut: Cut) -> Tensor:
    """Bool tensor of that shape, True where `cut` keeps."""
    mask = torch.ones(shape, dtype=torch.bool)
    for dim, kept in cut.items():
        here = torch.zeros(shape[:2] if kept.ndim == 2 else (shape[dim],), dtype=torch.bool)
        if kept.ndim == 2:
            here[cut[0]] = torch.zeros(len(kept), shape[1], dtype=torch.bool).scatter(1, kept, True)
            mask &= here.view(*shape[:2], *[1] * (len(shape) - 2))
        else:
            here[kept] = True
            mask &= here.view(*[1] * dim, -1, *[1] * (len(shape) - dim - 1))
    return mask


@torch.no_grad()
def cut_network(model: nn.Module, cuts: dict[str, Cut]) -> nn.Module:
    """The smaller network, with tensors of its own; `model` stays as it is."""
    network = copy_with(model, {n: cut_tensor(t, cuts[n]) for n, t in tensors(model) if n in cuts})
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, _ConvNd):
            if layer.groups > 1 and f"{name}.weight" in cuts:
                filters = cuts[f"{name}.weight"][0]
                layer.groups = len((filters // (layer.out_channels // layer.groups)).unique())
            layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = len(layer.weight)
        elif isinstance(layer, PER_CHANNEL):
            sizes = [len(t) for t in (layer.weight, layer.running_mean) if t is not None]
            layer.num_features = sizes[0] if sizes else layer.num_features
    return network


@torch.no_grad()
def check_identity(model: nn.Module, cuts: dict[str, Cut], masks: dict[str, Tensor], images: Tensor) -> None:
    """SplitError unless, in eval mode, the dense network without its reset half computes what the slim does.

    Compared are the kept channels of every layer with a weight, on copies with random weights.
    """
    dense = copy_with(model, _random_tensors(model, masks)).cpu().float().eval()
    slim = cut_network(dense, cuts)
    seen: dict[str, list[Tensor]] = defaultdict(list)  # a layer may run more than once
    running = ""

    def look(name: str) -> None:
        def before(layer: nn.Module, _) -> None:
            nonlocal running
            running = f"{name} ({type(layer).__name__})"

        dense.get_submodule(name).register_forward_hook(lambda *call: seen[name].append(call[2].clone()))
        slim.get_submodule(name).register_forward_pre_hook(before)
        slim.get_submodule(name).register_forward_hook(
            lambda layer, _, out: _compare(name, layer, seen[name].pop(0), out, cuts)
        )

    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED) or f"{name}.weight" in cuts or f"{name}.running_mean" in cuts:
            look(name)
    batch = images[:1].cpu().float()
    dense(batch)
    try:
        slim(batch)
    except SplitError:
        raise
    except Exception as error:
        raise SplitError(
            f"the slim network stops at or after {running}: something there counts on all channels "
            f"({type(error).__name__}: {error})"
        ) from error


def _compare(name: str, layer: nn.Module, dense: Tensor, slim: Tensor, cuts: dict[str, Cut]) -> None:
    dim = dense.ndim - 1 if isinstance(layer, nn.Linear) else 1
    kept = cuts.get(f"{name}.weight", cuts.get(f"{name}.running_mean", {})).get(0)
    wanted = dense if kept is None or dense.shape == slim.shape else dense.index_select(dim, kept)
    if wanted.shape != slim.shape or not torch.allclose(
        slim, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item()
    ):
        raise SplitError(
            f"the kept channels of {name} ({type(layer).__name__}) read more than kept channels: something "
            "before it mixes or re-orders channels"
        )


def _random_tensors(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights (zero where the mask is False), other parameters and statistics: no channel is silent."""
    generator = torch.Generator().manual_seed(0)
    fresh: dict[str, Tensor] = {}
    for name, mask in masks.items():
        bound = math.sqrt(6 / mask[0].numel())
        fresh[name] = (
            torch.empty(mask.shape).uniform_(-bound, bound, generator=generator).masked_fill_(~mask, 0)
        )
    for name, tensor in tensors(model):
        kind = name.rpartition(".")[2]
        if name not in masks and (
            isinstance(tensor, nn.Parameter) or kind in ("running_mean", "running_var")
        ):
            low = -0.5 if kind in ("bias", "running_mean") else 0.5
            fresh[name] = torch.empty(tensor.shape).uniform_(low, low + 1, generator=generator)
    return fresh

"""Knowledge Evolution: train a network in generations; keep the fit hypothesis, re-draw the rest.

A. Taha, A. Shrivastava, L. Davis, *Knowledge Evolution in Neural Networks*, CVPR 2021, and its released code.
A mask marks the fit hypothesis. Every generation trains the whole network; `reset` stands between two
generations. With the split by channels (KELS) the fit hypothesis is a smaller dense network, `slim`.

Which channels go together (residual sums, concatenations, depthwise and grouped convolutions, gates) is read
off the traced network by Torch-Pruning's `DependencyGraph`; no architecture is known by name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.knowledge_evolution.channels import bare_parameters, channel_cuts, check_layers
from helpers.knowledge_evolution.slicing import WEIGHTED, SplitError, check_identity, cut_mask, cut_network
from helpers.tracing import original, uncompiled
from helpers.training.modes import evaluating

__all__ = ["KnowledgeEvolution", "SplitError", "evolve", "kaiming_uniform", "multiply_adds"]

kaiming_uniform = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))
"""What the released code re-draws with: uniform within 1 / sqrt(fan_in), PyTorch's own default."""

T = TypeVar("T")


class KnowledgeEvolution:
    """The split of a network into fit and reset hypothesis, fixed once, and what one does with it.

    Attributes:
        model: the network given (out of `torch.compile`), changed in place by `reset`; train it as usual.
        masks: name of the weight of every convolution and linear layer -> bool tensor of its shape on the
            CPU, True for the fit hypothesis. Batch norms and biases belong to no hypothesis, as in the code.

    ``split="kels"`` keeps of every layer the first ``ceil(split_rate * C)`` input and output channels: of
    every concatenated block, and of every group of a grouped convolution, its own first channels (the layers
    that must agree with it then keep the same ones). Channels of the network's input and output all stay.
    ``split="wels"`` keeps each weight with probability ``split_rate``.

    Args:
        model: a convolutional network; it must take part in autograd as it is.
        example_input: images (B, C, H, W) to trace it with, needed for "kels" alone. One is enough, of any
            size that the network takes in training (Inception v3 with its auxiliary head: 299 px).
        split_rate: between 0 and 1, both excluded.
        outputs: picks from what the network returns that whose channels all stay; None means all of it. For a
            two-head network ``lambda out: out[:2]`` lets its last map be cut, which it returns as well.
        generator: source of all randomness here, on the CPU; None is torch's global one.

    Raises:
        SplitError: a layer mixes or re-orders channels in a way that leaves no slim network, or has weights
            that cannot be split (transposed, shared, parametrised); the message names it.
        ValueError: a split rate outside (0, 1), an unknown split, or no weight to split.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        example_input: Tensor | None = None,
        split_rate: float = 0.5,
        split: str = "kels",
        outputs: Callable[[Any], Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 0 < split_rate < 1:
            raise ValueError(
                f"split_rate is {split_rate!r}; expected a number between 0 and 1, both excluded"
            )
        if split not in ("kels", "wels"):
            raise ValueError(f"split is {split!r}; expected 'kels' or 'wels'")
        self.model = model = original(model)
        self.split, self.split_rate, self.generator = split, split_rate, generator
        weights = self._weights()
        check_layers(model)
        if not weights:
            raise ValueError(f"{type(model).__name__} has no convolution and no linear layer to split")
        if split == "wels":
            draws = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
            self.masks = {name: draw >= 1 - split_rate for name, draw in draws.items()}
            self._check_both_halves()
            return
        if not isinstance(example_input, Tensor) or example_input.ndim < 2 or not len(example_input):
            found = tuple(example_input.shape) if isinstance(example_input, Tensor) else example_input
            raise ValueError(
                f"example_input is {found!s:.80}; split='kels' follows the channels of images (B, C, H, W), "
                "at least one"
            )
        with uncompiled(model):
            self._cuts = channel_cuts(model, example_input, split_rate, outputs)
            self.masks = {name: cut_mask(w.shape, self._cuts.get(name, {})) for name, w in weights.items()}
            self._check_both_halves()
            check_identity(model, self._cuts, self.masks, example_input)

    def _check_both_halves(self) -> None:
        if self.fit_fraction not in (0, 1):
            return
        if self.fit_fraction == 1 and (bare := bare_parameters(self.model)):
            raise SplitError(
                f"nothing of {type(self.model).__name__} to reset: {bare[0]} is a parameter of no layer; all "
                "channels that it meets stay; make it the weight of an nn.Linear, whose channels are followed"
            )
        kept, left = ("all", "reset") if self.fit_fraction else ("nothing", "fit")
        raise SplitError(
            f"split rate {self.split_rate} keeps {kept} of {type(self.model).__name__}; nothing to {left}"
        )

    def _weights(self) -> dict[str, nn.Parameter]:
        """The weights of convolutions and linear layers, by parameter name, each once."""
        wanted = {id(layer.weight) for layer in self.model.modules() if isinstance(layer, WEIGHTED)}
        return {name: weight for name, weight in self.model.named_parameters() if id(weight) in wanted}

    @property
    def fit_fraction(self) -> float:
        """Share of the masked weights that belong to the fit hypothesis."""
        kept = sum(int(mask.count_nonzero()) for mask in self.masks.values())
        return kept / sum(mask.numel() for mask in self.masks.values())

    @torch.no_grad()
    def reset(self, draw: Callable[..., Tensor] = kaiming_uniform) -> None:
        """Re-draw the reset hypothesis in place; the fit hypothesis, batch norms and biases stay bit for bit.

        Args:
            draw: an initialiser of `torch.nn.init` that takes ``generator=``, such as ``kaiming_normal_`` or
                ``orthogonal_``. It draws whole layers, so the fan-in is that of the dense network.
        """
        for name, weight in self._weights().items():
            # not every draw knows half precision
            precision = torch.promote_types(weight.dtype, torch.float32)
            fresh = draw(torch.empty(weight.shape, dtype=precision), generator=self.generator).to(weight)
            weight.copy_(torch.where(self.masks[name].to(weight.device), weight, fresh))

    @torch.no_grad()
    def scaled(self, factor: float) -> nn.Module:
        """A copy of the network with its reset hypothesis times `factor`: 1 is the dense network, and 0
        computes what the slim one does. In between lies the line from one to the other."""
        other = copy.deepcopy(self.model)
        for name, weight in other.named_parameters():
            if name in self.masks:
                mask = self.masks[name].to(weight.device)
                weight.copy_(torch.where(mask, weight, factor * weight))
        return other

    @torch.no_grad()
    def slim(self) -> nn.Module:
        """The fit hypothesis as a smaller dense network with weights of its own, ready to use or to train.

        Batch-norm statistics are those of the kept channels; nothing is tuned. Training mode, device and
        `requires_grad` are those of the dense network. Raises ValueError with weight-level masks.
        """
        if self.split == "wels":
            raise ValueError("split='wels' keeps scattered weights, which make no smaller dense network; "
                             "use split='kels', or scaled(0.0) for the sparse network")  # fmt: skip
        return cut_network(self.model, self._cuts)

    @torch.no_grad()
    def mean_magnitudes(self) -> tuple[float, float]:
        """Mean |w| over all weights of the fit and of the reset hypothesis."""
        weights = self._weights()
        size = torch.cat([weight.detach().abs().flatten().cpu() for weight in weights.values()])
        fit = torch.cat([self.masks[name].flatten() for name in weights])
        return size[fit].mean().item(), size[~fit].mean().item()


def evolve(
    evolution: KnowledgeEvolution,
    train: Callable[[int], T],
    generations: int,
    draw: Callable[..., Tensor] = kaiming_uniform,
) -> list[T]:
    """Train, reset, train, ...: the list of what ``train(g)`` returns for generation g = 1 ... `generations`.

    `train` trains ``evolution.model`` with an optimiser and a schedule of its own and returns the caller's
    measurements; `draw` goes to `KnowledgeEvolution.reset`. With a checkpoint per generation in it
    (`helpers.training.loop`), a killed run resumes exactly: call this again on a network built from the same
    seeds, and finished generations are read back.

    Raises ValueError for fewer than one generation.
    """
    if generations < 1:
        raise ValueError(f"generations is {generations!r}; expected a whole number from 1 up")
    results = []
    for generation in range(1, generations + 1):
        if generation > 1:
            evolution.reset(draw)
        results.append(train(generation))
    return results


@torch.no_grad()
def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulate operations of all convolutions and matrix products for one pass over `images`.

    Counted in evaluation mode; every layer has its own mode back afterwards.
    """
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2

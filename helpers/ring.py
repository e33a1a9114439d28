"""Small generators and critics on a ring of eight Gaussians: many independent pairs train at once."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

STD = 0.1
ANGLES = torch.arange(8) * math.pi / 4
CENTRES = 2 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
LEAST = 0.01
"""Share of a generator's points that a mode must get to count as covered."""


def real_points(runs: int, count: int) -> Tensor:
    """Points (R, N, 2) of the ring: radius 2, eight Gaussians of standard deviation `STD`."""
    return CENTRES[torch.randint(8, (runs, count))] + STD * torch.randn(runs, count, 2)


def networks(runs: int, sizes: tuple[int, ...]) -> list[Tensor]:
    """Weights (R, n, m) and biases (R, 1, m) of R independent networks, layer by layer."""
    return [
        tensor.requires_grad_()
        for n, m in itertools.pairwise(sizes)
        for tensor in (torch.randn(runs, n, m) * math.sqrt(2 / n), torch.zeros(runs, 1, m))
    ]


def forward(weights: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (R, B, m) of R networks for inputs (R, B, n), and the last hidden layer (R, B, h)."""
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = F.relu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(weights[-1], x, weights[-2]), x


def modes_covered(points: Tensor) -> Tensor:
    """Modes, of 8, that get at least `LEAST` of the points (R, N, 2) within three deviations; shape (R,)."""
    distance, nearest = torch.cdist(points, CENTRES).min(dim=2)
    hits = F.one_hot(nearest, 8) * (distance < 3 * STD).unsqueeze(2)
    return (hits.float().mean(1) >= LEAST).sum(1).float()


def verdict(critic: list[Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """How badly R critics tell real from fake points (R, B, 2): the sum of their cross-entropies."""
    logits = [forward(critic, points)[0] for points in (real, fake)]
    return (F.softplus(-logits[0]) + F.softplus(logits[1])).mean((1, 2)).sum()


def unrolled(critic: list[Tensor], real: Tensor, fake: Tensor, rate: float, steps: int) -> list[Tensor]:
    """The critics' weights `steps` gradient steps ahead; gradients flow through the steps to the fake points.

    Source: Metz and co-authors, Unrolled Generative Adversarial Networks, ICLR 2017. Here the steps are plain
    gradient descent.
    """
    for _ in range(steps):
        slopes = torch.autograd.grad(verdict(critic, real, fake), critic, create_graph=True)
        critic = [weight - rate * slope for weight, slope in zip(critic, slopes, strict=True)]
    return critic

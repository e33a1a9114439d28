"""The ring of eight Gaussians: independent networks side by side, and modes counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from helpers import ring


def test_every_network_computes_what_it_would_alone():
    torch.manual_seed(0)
    weights, x = ring.networks(3, (4, 6, 5, 2)), torch.randn(3, 7, 4)
    outputs, hidden = ring.forward(weights, x)
    for r in range(3):
        rows = x[r]
        for layer in range(3):
            rows = nn.functional.linear(rows, weights[2 * layer][r].T, weights[2 * layer + 1][r, 0])
            if layer < 2:
                rows = rows.relu()
                last = rows
        assert torch.allclose(outputs[r], rows, atol=1e-6)
        assert torch.allclose(hidden[r], last, atol=1e-6)
    assert all(weight.requires_grad for weight in weights)


def test_the_gradient_of_a_sum_keeps_the_networks_apart():
    weights = ring.networks(2, (3, 4, 1))
    outputs, _ = ring.forward(weights, torch.randn(2, 5, 3))
    slopes = torch.autograd.grad(outputs[0].sum(), weights)
    assert all(slope[1].abs().sum() == 0 for slope in slopes)
    assert slopes[0][0].abs().sum() > 0


def test_points_of_the_ring_cover_all_modes_and_others_none():
    torch.manual_seed(0)
    points = ring.real_points(4, 2000)
    assert ring.modes_covered(points).tolist() == [8.0] * 4
    assert (points.norm(dim=2).mean() - 2).abs() < 0.02
    assert ring.modes_covered(torch.zeros(1, 100, 2)).tolist() == [0.0]


def test_a_mode_counts_from_one_per_cent_within_three_deviations():
    centres = ring.CENTRES

    def at(counts: list[int]) -> torch.Tensor:
        return torch.cat([centres[m].expand(n, 2) for m, n in enumerate(counts)])[None]

    assert ring.modes_covered(at([97, 1, 1, 1])).item() == 4
    assert ring.modes_covered(at([198, 1, 1])).item() == 1
    away = torch.tensor([3.1 * ring.STD, 0.0])
    assert ring.modes_covered(at([50, 50]) + away).item() == 0


def test_the_verdict_is_the_cross_entropy_of_every_critic():
    torch.manual_seed(0)
    critic, real, fake = ring.networks(3, (2, 5, 1)), ring.real_points(3, 8), torch.randn(3, 8, 2)
    logits = torch.cat([ring.forward(critic, points)[0] for points in (real, fake)], 1)[..., 0]
    truth = torch.tensor([1.0] * 8 + [0.0] * 8)
    each = [2 * nn.functional.binary_cross_entropy_with_logits(row, truth) for row in logits]
    assert torch.allclose(ring.verdict(critic, real, fake), torch.stack(each).sum())


def test_unrolled_critics_are_those_that_plain_descent_gives():
    torch.manual_seed(0)
    critic, real, fake = ring.networks(2, (2, 4, 1)), ring.real_points(2, 6), torch.randn(2, 6, 2)
    descended = [weight.detach().clone().requires_grad_() for weight in critic]
    optimizer = torch.optim.SGD(descended, lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        ring.verdict(descended, real, fake).backward()
        optimizer.step()
    ahead = ring.unrolled(critic, real, fake.requires_grad_(), 0.3, 3)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ahead, descended, strict=True))
    (slope,) = torch.autograd.grad(sum(w.sum() for w in ahead), fake)
    assert slope.abs().sum() > 0  # the fake points move the critics of tomorrow
    assert ring.unrolled(critic, real, fake, 0.3, 0) is critic

"""Training on features that were computed once."""

from __future__ import annotations

import torch
from torch import nn

from helpers.training.frozen import features_of, learn


def test_features_are_those_of_one_pass_and_have_no_gradient() -> None:
    layers, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.rand(130, 3, 6, 6)
    found = features_of(layers, images)
    assert torch.allclose(found, layers(images), atol=1e-6)
    assert not found.requires_grad


def test_a_linear_head_learns_what_it_can_and_the_same_for_the_same_seed() -> None:
    labels = torch.arange(48) % 4
    features = torch.eye(4)[labels] + 0.1 * torch.randn(48, 4, generator=torch.Generator().manual_seed(0))

    def trained(seed: int) -> nn.Linear:
        head = nn.Linear(4, 4)
        with torch.no_grad():
            head.weight.zero_(), head.bias.zero_()
        return learn(head, features, labels, seed, rate=0.1, steps=60)

    one, again, other = trained(0), trained(0), trained(1)
    assert (one(features).argmax(1) == labels).all()
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    assert not one.training


def test_another_loss_is_what_falls() -> None:
    labels, features = torch.arange(32) % 8, torch.rand(32, 5, generator=torch.Generator().manual_seed(0))

    class ToLabel(nn.Module):
        def forward(self, outputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            return (outputs[:, 0] - classes).square().mean()

    line = nn.Linear(5, 1)
    before = ToLabel()(line(features), labels).item()
    learn(line, features, labels, 0, rate=0.05, steps=40, loss=ToLabel())
    assert ToLabel()(line(features), labels).item() < 0.7 * before

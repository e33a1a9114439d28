"""What the thesis promises of L2-CAF for any network is measured, and a broken promise is seen."""

from __future__ import annotations

import torch
from torch import nn

from helpers.l2_caf import L2CAF, promises


def network(last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_kept_promises_are_near_zero_and_the_solver_is_named():
    found = promises(network(nn.BatchNorm2d(4)), "0", torch.rand(2, 3, 9, 13), max_iterations=20)
    assert found["map"] == "4 x 6"
    assert found["length"] < 1e-5
    assert found["features"] < 1e-5
    assert found["changed"] == 0
    assert (found["solver"], "BatchNorm2d" in found["why not exact"]) == ("gradient", True)
    exact = promises(network(nn.Identity()), "1", torch.rand(2, 3, 9, 13))
    assert (exact["solver"], exact["why not exact"]) == ("exact", "")


def test_a_changed_weight_is_counted(monkeypatch):
    model = network(nn.Identity())
    features = L2CAF.features

    def spoil(self, images):
        with torch.no_grad():
            model[0].bias.add_(1)
        return features(self, images)

    monkeypatch.setattr(L2CAF, "features", spoil)
    found = promises(model, "1", torch.rand(2, 3, 9, 13))
    assert found["changed"] == 1


def test_filters_of_another_length_are_seen(monkeypatch):
    call = L2CAF.__call__

    def longer(self, *args, **kwargs):
        found = call(self, *args, **kwargs)
        object.__setattr__(found, "filters", 2 * found.filters)
        return found

    monkeypatch.setattr(L2CAF, "__call__", longer)
    found = promises(network(nn.Identity()), "1", torch.rand(2, 3, 9, 13))
    assert 0.9 < found["length"] < 1.1
    assert found["features"] > 0.1

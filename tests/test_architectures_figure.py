"""What the figures of the notebook on architectures say of the numbers that they draw."""

from __future__ import annotations

import pytest
import torch

from helpers.figures import architectures


def test_how_much_of_a_curve_is_lost() -> None:
    curve = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert architectures.lost_share(curve, curve) == 0
    assert architectures.lost_share(curve, torch.zeros(4, 2)) == pytest.approx(1)
    assert architectures.lost_share(curve, curve * torch.tensor([1.0, 0.0])) == pytest.approx(0.5)


def test_the_title_names_the_fewest_channels_that_bring_the_curve_back() -> None:
    curve = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    back = {2: 0 * curve, 5: 0.99 * curve, 30: curve}
    _, alt = architectures.spirals_figure(curve, back)
    assert alt.startswith("A spiral through a ReLU: 5 channels bring it back.")
    _, alt = architectures.spirals_figure(curve, {1: 0 * curve})
    assert "so few channels do not bring it back" in alt


def test_the_title_compares_counted_costs_with_powers_of_two() -> None:
    figure, alt = architectures.scaling_figure([1.0, 1.7, 4.6])
    assert alt.startswith("Promised 2, 4 times the cost, counted 1.7, 4.6.")
    lines = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert lines == [[1, 2, 4], pytest.approx([1, 1.2 * 1.1**2 * 1.15**2, 3.69], abs=0.01), [1.0, 1.7, 4.6]]


def test_times_are_compared_round_by_round_with_the_fastest() -> None:
    seconds = {"ResNet": [1.0, 10.0], "DenseNet": [2.0, 20.0]}  # the second round was ten times as slow
    figure, alt = architectures.latency_figure({"ResNet": 1.0, "DenseNet": 1.1}, seconds)
    dots = [list(line.get_xdata()) for line in figure.axes[1].lines[::2]]
    assert dots == [[1, 1], [2, 2]]
    assert alt.startswith("Counts within a factor of 1.1, times within 2.")
    assert alt.endswith("ResNet 1.0, DenseNet 2.0.")

"""The pictures of chapter 4: what they draw, what they say, and what they refuse."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from helpers.figures.attention import OBLIVIOUS, convergence_figure, show_attention, watch_filter


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    ).eval()


IMAGES = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def figure(model: nn.Sequential, **changes):
    chosen = {"image": 1, "target": "b", "layer": "relu", "step": 4, "steps": 12} | changes
    return convergence_figure(model, {"relu": model[1]}, IMAGES, ["a", "b", "c"], **chosen)


def test_the_search_goes_down_to_the_exact_answer(model):
    filters, losses, best = watch_filter(model, model[1], IMAGES[0], 2, 300)
    assert filters.shape == (301, 6, 8)
    assert np.allclose(np.linalg.norm(filters.reshape(301, -1), axis=1), 1, atol=1e-5)
    assert losses[-1] < losses[0]
    assert best.solver == "exact"
    assert float(best.loss[0]) <= losses.min() + 1e-5
    assert losses[-1] - float(best.loss[0]) < 0.02 * (losses[0] - float(best.loss[0]))


@pytest.mark.parametrize("target", ["a", OBLIVIOUS])
def test_a_figure_says_what_it_shows(model, target):
    drawn, alt = figure(model, target=target)
    assert f"target {target}" in alt
    assert "after 4 of 12 steps" in alt
    assert len(drawn.axes) == 5  # four panels and a colour bar


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "d"}, "target is 'd'; expected one of all it knows, a, b, c"),
        ({"layer": "conv"}, "layer is 'conv'; expected one of relu"),
        ({"image": 2}, "image is 2; expected 0 to 1"),
        ({"step": 13}, "step is 13; expected 0 to 12"),
    ],
)
def test_choices_that_do_not_exist_are_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        figure(model, **changes)


def shown(image, heatmap=None) -> np.ndarray:
    drawing, axes = plt.subplots()
    show_attention(axes, image, heatmap)
    pixels = axes.images[0].get_array()
    plt.close(drawing)
    return np.asarray(pixels)


def test_an_overlay_keeps_what_is_bright_and_dims_what_is_not():
    image = IMAGES[0]
    assert np.allclose(shown(image), image.permute(1, 2, 0))
    heat = torch.zeros(12, 16)
    heat[:, 8:] = 1
    pixels = shown(image, heat)
    assert np.allclose(pixels[:, 8:, 2], image[2, :, 8:], atol=1e-6)
    assert np.allclose(pixels[:, :8], 0.25 * image.mean(0)[:, :8, None], atol=1e-6)
    assert shown(image[:1], heat).shape == (12, 16, 3)

"""The figure of the split shows what Knowledge Evolution keeps."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torchvision.models import resnet18

from helpers.figures.split import SPLIT_LAYERS, split_figure
from helpers.knowledge_evolution import KnowledgeEvolution


@pytest.mark.parametrize(
    ("split_rate", "saved", "layers"), [(0.5, "73.4%", SPLIT_LAYERS), (0.8, "34.1%", ["conv1"])]
)
def test_split_figure_shows_the_split_of_knowledge_evolution(split_rate, saved, layers):
    dense = resnet18(weights=None, num_classes=102)
    evolution = KnowledgeEvolution(dense, example_input=torch.zeros(1, 3, 64, 64), split_rate=split_rate)
    slim = sum(p.numel() for p in evolution.slim().parameters())
    for layer in layers:
        figure, alt = split_figure(split_rate, layer)
        mask = evolution.masks[f"{layer}.weight"]
        shown = torch.from_numpy(figure.axes[0].images[0].get_array().filled().copy()).bool()
        assert torch.equal(shown.view(*shown.shape, *[1] * (mask.ndim - 2)).expand_as(mask), mask)
        outputs, inputs = (int(mask.movedim(dim, 0).flatten(1).any(1).sum()) for dim in (0, 1))
        assert f"At split rate {split_rate:.2f}, {layer} of" in alt
        assert re.search(rf"keeps {outputs} of {len(mask)} \w+ and {inputs} of {mask.shape[1]} inputs", alt)
        assert f"{slim / 1e6:.3f} M of 11.229 M parameters and needs {saved} fewer" in alt
    bars, kept = figure.axes[1].containers
    assert [bar.get_height() for bar in bars] == [len(mask) for mask in evolution.masks.values()]
    assert [bar.get_height() for bar in kept] == [m.flatten(1).any(1).sum() for m in evolution.masks.values()]


def test_split_figure_leaves_the_random_state_and_ignores_a_sliders_rounding():
    before = torch.random.get_rng_state()
    _, alt = split_figure(0.75 + 1e-12, "layer4.1.conv2")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "384 of 512 filters and 384 of 512 inputs" in alt


@pytest.mark.parametrize("bad", [(0.5, "layer9"), (1.0, "fc"), (math.nan, "fc")])
def test_split_figure_says_what_it_expects(bad):
    with pytest.raises(ValueError, match=", ".join(SPLIT_LAYERS) if bad[1] == "layer9" else "split_rate is"):
        split_figure(*bad)

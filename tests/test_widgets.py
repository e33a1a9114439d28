"""Widget callbacks as pure functions, and through a live kernel by setting `.value`."""

from __future__ import annotations

import math
import re

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torchvision.models import resnet18

from helpers.figures.split import SPLIT_LAYERS, split_figure
from helpers.knowledge_evolution import KnowledgeEvolution
from helpers.svmax import singular_value_bounds
from helpers.widgets import bounds_figure, chooser, concentrated_rows, explorer, slider


@pytest.mark.parametrize(("b", "d"), [(48, 32), (16, 64), (2, 1), (5, 1)])
def test_bounds_figure_shows_the_numbers_of_its_batch(b, d):
    figure, alt = bounds_figure(b, d, 0.5)
    lower, upper = singular_value_bounds(b, d)
    assert f"{lower:.3f}" in alt
    assert f"{upper:.3f}" in alt
    bars = figure.axes[0].patches
    assert len(bars) == min(b, d)
    assert sum(bar.get_height() ** 2 for bar in bars) == pytest.approx(b)
    (dot,) = (line for line in figure.axes[1].get_lines() if line.get_label() == "this batch")
    assert lower - 1e-9 <= dot.get_ydata()[0] <= upper + 1e-9
    assert sum(bar.get_height() for bar in bars) / min(b, d) == pytest.approx(dot.get_ydata()[0])


def test_concentration_moves_rows_from_uniform_to_collapsed():
    rows = [concentrated_rows(200, 16, c) for c in (0.0, 1.0, 50.0)]
    cosines = [(r.sum(0).square().sum().item() - 200) / (200 * 199) for r in rows]
    assert abs(cosines[0]) < 0.05 < cosines[1] < 0.95 < cosines[2]
    assert all(torch.allclose(r.norm(dim=1), torch.ones(200, dtype=r.dtype)) for r in rows)


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_concentration_must_be_a_size(bad):
    with pytest.raises(ValueError, match="concentration"):
        concentrated_rows(4, 4, bad)


def test_explorer_redraws_and_reports_errors():
    seen = []

    def callback(n):
        seen.append(n)
        if n == 3:
            raise RuntimeError("no <three>")
        return bounds_figure(4 + n, 4, 0.0)

    box = explorer(callback, n=slider("n", 1, 0, 5))
    control, picture = box.children
    before = picture.value
    control.value = 2
    assert seen == [1, 2]
    assert picture.value != before
    assert re.search(r'alt="For a batch of 6 unit rows', picture.value)
    with pytest.raises(RuntimeError):
        control.value = 3
    assert "no &lt;three&gt;" in picture.value


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


def test_explorer_redraws_for_a_slider_and_a_dropdown():
    box = explorer(
        split_figure,
        split_rate=slider("split rate", 0.5, 0.1, 0.9, step=0.05),
        layer=chooser("layer", SPLIT_LAYERS, "layer2.0.conv1"),
    )
    rate, layer, picture = box.children
    assert "layer2.0.conv1 of ResNet-18 keeps 64 of 128 filters" in picture.value
    layer.value = "fc"
    assert "At split rate 0.50, fc of" in picture.value
    rate.value = 0.8
    assert "At split rate 0.80, fc of" in picture.value


@pytest.mark.notebook
def test_explorer_in_a_live_kernel():
    source = (
        "from helpers.widgets import bounds_figure, explorer, slider\n"
        "box = explorer(bounds_figure, batch_size=slider('b', 8, 2, 64),\n"
        "    embedding_dim=slider('d', 4, 1, 64), concentration=slider('c', 0.5, 0.0, 4.0, step=0.1))\n"
        "box"
    )
    move = (
        "pictures = []\nfor b in (16, 32):\n"
        "    box.children[0].value = b\n    pictures.append(box.children[-1].value)"
    )
    check = "assert len(set(pictures)) == 2\nassert 'batch of 32 unit rows' in pictures[1]"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (source, move, check)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in output.data
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    assert any("batch of 32 unit rows" in str(s["state"].get("value")) for s in states)

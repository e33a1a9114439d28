"""The explorer: redrawn and refused in this process, and in a live kernel by setting `.value`."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.figures.bounds import bounds_figure
from helpers.figures.split import SPLIT_LAYERS, split_figure
from helpers.widgets import chooser, explorer, slider


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
        "from helpers.figures.bounds import bounds_figure\n"
        "from helpers.widgets import explorer, slider\n"
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

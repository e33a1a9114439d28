"""The pictures of Knowledge Evolution show what they are given, and its promises hold for an architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from helpers import small_data
from helpers.experiments import Arm, Results
from helpers.figures import evolution
from helpers.knowledge_evolution.promises import promises


def generation(accuracy: tuple[float, float], line: list[float]) -> dict:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:2, :3] = True
    return {
        "weights": torch.rand(4, 6), "mask": mask, "accuracy": accuracy, "line": line,
        "dense": torch.tensor([0.9, 0.5]), "slim": torch.tensor([0.2, 0.4]),
    }  # fmt: skip


def test_a_generation_is_drawn_with_those_before_it_only() -> None:
    part = small_data.few_images("digits", 0, size=8, per_class=1).train
    course = [
        generation((0.5, 0.1), [3.0, 1.0]),
        generation((0.6, 0.5), [1.5, 1.1]),
        generation((0.7, 0.7), [1, 1]),
    ]
    figure, alt = evolution.generation_figure(course, part, [0, 3], 2, "A finding")
    layer, line, curve = figure.axes[:3]
    (frame,) = (patch for patch in layer.patches if isinstance(patch, Rectangle))
    assert (frame.get_width(), frame.get_height()) == (3, 2)  # inputs, filters
    assert len([one for one in line.lines if len(one.get_xdata()) == 2]) == 2
    assert np.allclose(curve.lines[1].get_ydata(), [0.1, 0.5])
    assert alt.startswith("A finding. Generation 2 of 3.")
    assert "dense 0.60, slim 0.50" in alt
    bars = [bar.get_width() for axes in figure.axes if axes.patches for bar in axes.patches]
    assert {round(width, 1) for width in bars} >= {0.9, 0.5, 0.2, 0.4}


def results() -> Results:
    arms = [Arm("KE", "blue"), Arm("restarts", "orange")]
    runs = {
        (arm, seed, 0.1): {
            "dense by generation": [[1, 0.5], [2, 0.6 + seed]],
            "slim by generation": [[1, 0.1], [2, 0.2 * (1 + place) + seed]],
        }
        for place, arm in enumerate(arms)
        for seed in (0, 1)
    }
    return Results.of_runs("images", arms, runs, None)


def test_generations_tell_the_mean_at_the_end() -> None:
    found = results()
    figure, alt = evolution.generations_figure(found, found.arms, None, "Slim rises")
    assert len(figure.axes) == 1
    assert alt.startswith("Slim rises. Accuracy over the generations, mean over seeds, at the end: ")
    assert alt.endswith("KE, dense 1.10; KE, slim 0.70; restarts, dense 1.10; restarts, slim 0.90.")


def test_shares_have_a_row_each_in_the_order_given() -> None:
    found = results()
    figure, _ = evolution.shares_figure(found, {0.75: found.arms[1], 0.25: found.arms[0]}, "Less is later")
    shown = figure.axes[0].collections[0].get_array().reshape(2, 2)
    assert np.allclose(shown, [[0.1, 0.9], [0.1, 0.7]])


@pytest.mark.parametrize(("rate", "saved"), [(0.5, 0.73), (0.8, 0.34)])
def test_what_is_promised_of_an_architecture_holds(rate: float, saved: float) -> None:
    (row,) = promises(rate, architectures={"resnet18": 64})
    assert row["difference"] < 1e-5
    assert abs(row["saved"] - saved) < 0.01
    assert row["slim (M)"] < row["dense (M)"]
    assert abs(row["stays"] - rate**2) < 0.01

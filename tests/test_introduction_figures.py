"""The figures of chapter 1: what they draw and tell is what was given."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from helpers.experiments import Results
from helpers.figures.collection import collection_figure
from helpers.figures.pulls import pulls_figure
from helpers.figures.rates import rates_figure
from helpers.figures.yardsticks import neighbours_to_scale, published_figure


def test_points_are_drawn_to_scale_and_counted():
    points, kinds = torch.tensor([[0.0, 0], [0, 1], [3, 0], [3.2, 0]]), torch.tensor([0, 0, 1, 0])
    figure, alt = neighbours_to_scale({"some": points, "far": 9 * points}, kinds, "Finding")
    assert all(ax.get_aspect() == 1 for ax in figure.axes)
    assert alt.startswith("Finding. ")
    assert "some: 50% of the points; far: 50% of the points" in alt


def test_published_numbers_stand_at_their_places():
    figure, alt = published_figure({"name": {"A": 80.0}, "find": {"B": 40.0, "C": 30.0}}, "Finding")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B", "C"]
    drawn = [xy for line in axes.lines for xy in zip(*line.get_data(), strict=True)]
    assert drawn == [(80.0, 0), (40.0, 1), (30.0, 2)]
    assert "find: B 40, C 30" in alt


def test_arrows_go_against_the_gradient_and_what_feels_none_is_hollow():
    points, labels = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    gradient = torch.tensor([[1.0, 0], [0, -2], [0, 0]])
    figure, alt = pulls_figure(points, labels, {"loss": gradient}, {"loss": torch.eye(3)[:, :2]})
    arrows = [text for text in figure.axes[0].texts if text.arrow_patch is not None]
    assert [arrow.xyann for arrow in arrows] == [(0.0, 0.0)] * 2
    ends = torch.tensor([arrow.xy for arrow in arrows])
    torch.testing.assert_close(ends, torch.tensor([[-0.275, 0.0], [0.0, 0.55]]))
    assert "loss, 1 of 3 points stay" in alt


@pytest.mark.parametrize("source", ["this run", "study"])
def test_the_plateau_is_framed(source):
    values = {"a": (0.1, 0.95, 1.0), "b": (0.5, 0.2, 0.1)}
    rows = [
        (arm, rate, 0, None, "recall", v)
        for arm, of in values.items()
        for rate, v in zip((1, 2, 3), of, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["arm", "rate", "seed", "step", "metric", "value"])
    found = Results.of_table("x", table.to_dict("list"), {"a": 3, "b": 1}, source=source)
    figure, alt = rates_figure([found], "recall", "Finding")
    patches = [patch for patch in figure.axes[0].patches if patch.get_edgecolor()[:3] == (0, 0, 0)]
    frames = {(int(p.get_x()), int(p.get_y()), round(p.get_width())) for p in patches}
    assert frames == {(1, 0, 2), (0, 1, 1)}  # column, row, columns
    assert "a 1.00 at 3; b 0.50 at 1" in alt


def test_a_square_for_every_claim_of_the_chapters_asked_for():
    def claim(chapter: str, verdict: str) -> SimpleNamespace:
        row, best = SimpleNamespace(chapter=chapter), SimpleNamespace(verdict=verdict)
        return SimpleNamespace(row=row, best=best)

    standing = [
        claim("02", "supported"),
        claim("02", "contradicted"),
        claim("03", "not run"),
        claim("06", "supported"),
    ]
    figure, alt = collection_figure({"02": ("lack", "answer"), "03": ("other", "tool")}, standing)
    assert len(figure.axes[0].patches) == 3
    assert "chapter 2: 1 supported, 1 contradicted; chapter 3: 1 not run" in alt

"""Figures of collapse say the numbers of what they are given."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from helpers.experiments import Arm, Results
from helpers.experiments.results import COLUMNS
from helpers.figures import collapse, spheres
from helpers.figures.bounds import concentrated_rows
from helpers.svmax import collapse_diagnostics, singular_value_bounds


def spread(rows: torch.Tensor) -> str:
    return f"{collapse_diagnostics(rows)['spread']:.2f}"


def test_spheres_tell_the_spread_and_show_the_spectrum():
    batches = {name: concentrated_rows(40, 3, c) for name, c in (("pile", 9.0), ("ball", 0.0))}
    figure, alt = spheres.spheres_figure(batches, "A finding")
    assert alt.startswith("A finding. ")
    assert f"pile {spread(batches['pile'])}, ball {spread(batches['ball'])}" in alt
    heights = [[bar.get_height() for bar in ax.patches] for ax in figure.axes[2:]]
    assert [sum(h**2 for h in bars) for bars in heights] == pytest.approx([1.0, 1.0])
    points = sum(len(marks.get_offsets()) for marks in figure.axes[0].collections)
    assert points == 40


def test_turned_points_leave_the_spectrum_alone():
    told = {spheres.drag_figure(1.0, turned)[1].split("turned")[-1] for turned in (0.0, 0.25, 1.0)}
    assert len(told) == 1


def test_moments_hold_the_first_and_the_last_frame():
    frames = {step: concentrated_rows(5, 3, 0.0) for step in range(0, 240, 4)}
    chosen = list(spheres.moments_of(frames, 5))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 236, 5)
    _, alt = spheres.moment_figure({"run": frames}, torch.arange(5), 7)
    assert "run, step 4 " in alt
    _, alt = spheres.frames_figure({"run": {0: frames[0]}}, torch.arange(5), "T")
    assert (
        alt == f"T. Embeddings on the sphere at steps 0, a row for each run. Spread: run {spread(frames[0])}."
    )


def test_regimes_draw_the_bounds_of_every_shape():
    shapes = [s for n in collapse.SIZES for s in ((n, 32), (32, n))]
    extremes = {"flat": {shape: concentrated_rows(*shape, 0.0) for shape in shapes}}
    figure, _ = collapse.regimes_figure(extremes)
    drawn = [line.get_ydata() for line in figure.axes[0].get_lines()[:2]]
    bounds = [singular_value_bounds(n, 32) for n in collapse.SIZES]
    for line, wanted in zip(drawn, zip(*bounds, strict=True), strict=True):
        assert list(line) == pytest.approx(wanted)


def results(source: str = "this run") -> Results:
    rows = [
        (arm, rate, seed, None, "recall", value + seed / 10)
        for arm, values in {"a": (0.1, 0.3), "level": (0.2, 0.2)}.items()
        for rate, value in zip((0.01, 0.1), values, strict=True)
        for seed in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"step": float})
    arms = [Arm("a", "blue"), Arm("level", "ink")]
    return Results("s", arms, table, {"a": 0.1, "level": 0.1}, source=source)


@pytest.mark.parametrize("kept", [None, results("study")])
def test_rates_draw_means_over_seeds_and_the_level(kept: Results | None):
    figure, alt = collapse.rates_figure(results(), {"recall": ("recall", {"a": "A"})}, kept, "level", "T")
    lines = figure.axes[0].get_lines()
    (means, *_) = [line for line in lines if line.get_marker() == "o"]
    assert list(means.get_ydata()) == pytest.approx([0.15, 0.35])
    assert any(list(line.get_ydata()) == pytest.approx([0.25, 0.25]) for line in lines)
    assert alt == "T. recall, highest mean of each: a 0.35 at rate 0.1."
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["A", "level", *(["kept evidence (study)"] if kept else []), "this run"]


def test_pushes_spectra_and_rings_are_told():
    _, alt = collapse.pushes_figure(torch.tensor([2.0, 1.0]), {"SVMax": torch.tensor([-0.5, 0.25])})
    assert "SVMax: -0.5 on the strongest, 0.25 on the weakest" in alt
    figure, alt = collapse.spectra_figure(
        {"x": {0: 0.9, 10: 0.4}}, {"x": torch.tensor([3.0, 4.0])}, (64, 32), {"x": "blue"}
    )
    assert "at the end x 0.40" in alt
    assert figure.axes[1].get_lines()[0].get_ydata().tolist() == pytest.approx([0.6, 0.8])
    figure, alt = collapse.ring_figure({"nothing": torch.zeros(2, 5, 2), "SVMax": torch.zeros(2, 5, 2)})
    assert len(figure.axes) == 4
    assert "2 generators" in alt

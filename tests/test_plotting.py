"""Figures are shown sharp, with alt text, and closed; the small plots draw what they are given."""

from __future__ import annotations

import base64

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers import plotting


@pytest.fixture
def displayed(monkeypatch):
    seen = []
    monkeypatch.setattr(plotting, "display", lambda data, raw, metadata: seen.append((data, metadata)))
    return seen


def test_show_gives_png_and_alt_text_and_closes(displayed):
    plotting.use_style()
    figure, _ = plt.subplots(figsize=(4, 2))
    plotting.show(figure, "An empty pair of axes.")
    ((data, metadata),) = displayed
    png = base64.b64decode(data["image/png"])
    assert png.startswith(b"\x89PNG")
    assert data["text/plain"] == metadata["image/png"]["alt"] == "An empty pair of axes."
    assert metadata["image/png"]["width"] < int.from_bytes(png[16:20], "big")  # more pixels than shown
    assert not plt.fignum_exists(figure.number)


def test_a_figure_without_alt_text_is_refused(displayed):
    with pytest.raises(ValueError, match="alt text is empty"):
        plotting.show(plt.figure(), "  ")
    assert displayed == []
    plt.close("all")


def test_spread_is_mean_with_minimum_and_maximum():
    _, axes = plt.subplots()
    plotting.plot_spread(axes, [1, 2], np.array([[0.0, 4.0], [2.0, 6.0]]), "runs", "black")
    assert axes.get_lines()[0].get_ydata().tolist() == [1, 5]
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(v) for v in band} >= {(1, 0), (1, 2), (2, 4), (2, 6)}
    plt.close("all")


def test_seeds_are_one_dot_each_and_a_bar_at_the_mean():
    _, axes = plt.subplots()
    plotting.plot_seeds(axes, {"a": [1.0, 3.0], "b": [5.0]}, {"a": "red", "b": "blue"})
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[1, 3], [5]]
    assert [bar.get_segments()[0][0][1] for bar in axes.collections] == [2, 5]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
    plt.close("all")


def test_colours_are_distinct():
    assert len(set(plotting.PALETTE.values())) == len(plotting.PALETTE)
    assert len(set(plotting.TEN_CLASSES)) == 10

"""The figure of the bounds shows the numbers of its batch."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.figures.bounds import bounds_figure, concentrated_rows
from helpers.svmax import singular_value_bounds


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

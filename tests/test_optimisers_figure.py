"""The valley of the notebook on optimisation, and what its figures say of the numbers that they draw."""

from __future__ import annotations

import pytest
import torch

from helpers.figures import optimisers


@pytest.mark.parametrize("turn", [0, 30, 45, 90])
def test_a_turned_valley_is_the_same_valley(turn: float) -> None:
    H, start = optimisers.valley(turn, 1000.0)
    assert torch.linalg.eigvalsh(H.double()).tolist() == pytest.approx([1, 1000], rel=1e-3)
    straight, first = optimisers.valley(0, 1000.0)
    assert float(start @ H @ start) == pytest.approx(float(first @ straight @ first), rel=1e-4)
    gradient, first_gradient = H @ start, straight @ first  # turned with it
    assert float(gradient.norm()) == pytest.approx(float(first_gradient.norm()), rel=1e-4)


def test_the_valley_lies_along_the_first_axis_and_turns_to_the_left() -> None:
    H, start = optimisers.valley(0, 9.0)
    assert H.tolist() == [[1, 0], [0, 9]]
    assert start.tolist() == [-1.5, 1]
    turned, _ = optimisers.valley(45, 9.0)
    along = torch.tensor([1.0, 1.0])
    torch.testing.assert_close(turned @ along, along)  # curvature 1 along the diagonal


def test_the_title_names_the_method_that_ends_lowest_in_each_valley() -> None:
    H, start = optimisers.valley(0, 4.0)
    ends = ([0.1, 0.0], [0.0, 1.0], [1.0, 0.0])
    near, far, flat = (torch.stack([start, torch.tensor(end)]) for end in ends)
    _, alt = optimisers.valleys_figure(
        {"one": (H, {"momentum": near, "Adam": far}), "two": (H, {"momentum": far, "Adam": flat})}
    )
    assert alt.startswith("Lowest at the end: one momentum, two Adam.")
    assert "one, Adam 2; two, momentum 2; two, Adam 0.5" in alt


def test_the_line_says_where_each_curve_is_lowest() -> None:
    figure, alt = optimisers.line_figure(
        [-1.0, 0.0, 1.0, 2.0],
        {"training loss": [3, 1, 2, 4], "test error": [3, 2.5, 1, 4]},
        {"with": 0.8, "without": 0.1},
        0.1,
        "Finding",
    )
    assert alt.startswith("Finding. Along the line training loss is lowest at 0.00, test error is lowest at")
    assert "test error is lowest at 1.00." in alt
    assert "with 0.80, without 0.10" in alt
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0.8, 0.1]


def test_the_range_test_marks_what_it_found() -> None:
    shapes = {"constant": [1, 1, 1], "cyclic": [0, 1, 0]}
    figure, alt = optimisers.rates_figure(
        [0.01, 0.1, 1.0], [2.0, 1.0, 3.0], {"from": 0.01, "to": 0.1}, shapes
    )
    assert "marked from 0.01 to 0.1" in alt
    assert "schedules constant, cyclic" in alt
    left, right = figure.axes
    assert [line.get_xdata()[0] for line in left.lines[1:]] == [0.01, 0.1]
    assert [list(line.get_ydata()) for line in right.lines] == [[1, 1, 1], [0, 1, 0]]

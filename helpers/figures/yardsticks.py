"""Two yardsticks, naming and finding: published numbers, and points that are named right and found wrong."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled
from helpers.retrieval import nearest_neighbours

MARKERS = (("o", "blue"), ("s", "purple"), ("^", "yellow"), ("D", "sky"))


def published_figure(
    questions: Mapping[str, Mapping[str, float]], finding: str, unit: str = "percent right"
) -> tuple[Figure, str]:
    """Numbers of other people as dots, one row for each, grouped by the question they answer.

    Args:
        questions: question -> who was asked -> number.
        finding: title of the figure.
    """
    rows = [(q, who, value) for q, answers in questions.items() for who, value in answers.items()]
    figure = Figure(figsize=(8.6, 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for (question, answers), color in zip(questions.items(), ("grey", "blue", "orange"), strict=False):
        places = [i for i, row in enumerate(rows) if row[0] == question]
        axes.hlines(places, 0, list(answers.values()), color=PALETTE[color], linewidth=2)
        axes.plot(list(answers.values()), places, "o", color=PALETTE[color], markersize=8, label=question)
    for place, (_, _, value) in enumerate(rows):
        axes.text(value + 1.5, place, f"{value:g}", va="center", fontsize=10)
    axes.set_yticks(range(len(rows)), [who for _, who, _ in rows])
    axes.set(xlabel=unit, xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")
    said = "; ".join(
        f"{q}: " + ", ".join(f"{who} {value:g}" for who, value in answers.items())
        for q, answers in questions.items()
    )
    return titled(figure, finding, f"Dots, in {unit}. {said}.")


def neighbours_to_scale(panels: Mapping[str, Tensor], kinds: Tensor, finding: str = "") -> tuple[Figure, str]:
    """Points (N, 2) of up to four classes (N,), to scale, each joined to its nearest other point.

    The line is green where both are of one class, and orange where they are not.
    """
    figure = Figure(figsize=(4.4 * len(panels), 3.6), layout="constrained")
    right = {}
    for axes, (title, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        near = nearest_neighbours(points, 1, normalize=False)[0][:, 0]
        good = kinds[near] == kinds
        right[title] = good.float().mean().item()
        for point, other, same in zip(points, points[near], good, strict=True):
            ends = [[float(point[axis]), float(other[axis])] for axis in (0, 1)]
            axes.plot(*ends, color=PALETTE["green" if same else "orange"], linewidth=2.5, zorder=1)
        for c, (marker, color) in zip(kinds.unique().tolist(), MARKERS, strict=False):
            axes.plot(*points[kinds == c].T, marker, color=PALETTE[color], markersize=8, label=f"class {c}")
        axes.set_title(title, fontsize=11, fontweight="normal")
        axes.set_aspect("equal", "datalim")
        axes.margins(0.12)
    for label, color in (("nearest is of its class", "green"), ("nearest is of another class", "orange")):
        axes.plot([], [], color=PALETTE[color], linewidth=2.5, label=label)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    said = "; ".join(f"{title}: {share:.0%} of the points" for title, share in right.items())
    return titled(figure, finding, f"Points to scale. Nearest other point of the same class in {said}.")

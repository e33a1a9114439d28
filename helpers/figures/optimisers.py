"""Pictures of the notebook on optimisation: paths in a valley, rates, losses between two networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled

COLORS = {
    "gradient descent": PALETTE["grey"],
    "momentum": PALETTE["sky"],
    "Adam": PALETTE["purple"],
    "constant": PALETTE["grey"],
    "cosine": PALETTE["green"],
    "cyclic": PALETTE["orange"],
    "SWA": PALETTE["blue"],
}
"""One colour for each method, the same in every figure of the notebook."""


def valley(turn: float, steepness: float) -> tuple[Tensor, Tensor]:
    """Matrix H (2, 2) of a valley x'Hx / 2, and where to start in it (2,).

    Args:
        turn: degrees by which the valley, and the start with it, is turned out of the first axis.
        steepness: curvature across the valley; along it the curvature is 1.
    """
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    turned = torch.tensor([[cosine, -sine], [sine, cosine]])
    return turned @ torch.diag(torch.tensor([1.0, steepness])) @ turned.T, turned @ torch.tensor([-1.5, 1.0])


def valleys_figure(panels: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]]) -> tuple[Figure, str]:
    """A panel for each valley: its contours, and the path that each method takes from one start.

    The title names the method that ends lowest in each.

    Args:
        panels: title -> (matrix H (2, 2) of the loss x'Hx / 2, path (T, 2) of each method).
    """
    figure = Figure(figsize=(4.9 * len(panels), 4.6), layout="constrained")
    said, best = [], []
    for ax, (title, (H, paths)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _contours(ax, H)
        ends = {name: float(path[-1] @ H @ path[-1] / 2) for name, path in paths.items()}
        for name, path in paths.items():
            label = f"{name}: {ends[name]:.1g}"
            ax.plot(*path.T, ".-", color=COLORS[name], linewidth=1.2, markersize=4, label=label)
        ax.plot(*next(iter(paths.values()))[0], "o", color=PALETTE["ink"], markersize=7)
        ax.plot(0, 0, "*", color=PALETTE["ink"], markersize=12)
        ax.set_title(title, loc="center", fontsize=11)
        ax.legend(title="loss at the end", loc="upper right", fontsize=9, title_fontsize=9, frameon=True)
        said += [f"{title}, {name} {loss:.1g}" for name, loss in ends.items()]
        best.append(f"{title} {min(ends, key=ends.get)}")
    finding = f"Lowest at the end: {', '.join(best)}"
    return titled(figure, finding, f"Paths from the dot to the star. Loss at the end: {'; '.join(said)}.")


def _contours(ax: Axes, H: Tensor) -> None:
    across, up = np.meshgrid(*2 * [np.linspace(-2, 2, 121)])
    a, b, c = float(H[0, 0]), float(H[0, 1]), float(H[1, 1])
    height = (a * across**2 + 2 * b * across * up + c * up**2) / 2
    levels = np.geomspace(height.max() / 1e4, height.max(), 9)
    ax.contour(across, up, height, levels, colors="#C9CED4", linewidths=0.8)
    ax.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xlabel="weight 1", ylabel="weight 2")


def rates_figure(
    rates: Sequence[float],
    losses: Sequence[float],
    marks: Mapping[str, float],
    shapes: Mapping[str, Sequence[float]],
    finding: str = "",
) -> tuple[Figure, str]:
    """Left, the loss of a range test against the rate; right, the rate along a run, in units of the highest.

    Args:
        marks: text -> rate of a vertical line.
        shapes: name of a schedule -> rates from the first step to the last.
    """
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(rates, losses, color=PALETTE["ink"])
    low, high = min(losses), losses[0]
    left.set(xscale="log", xlabel="learning rate", ylabel="loss of the batch, smoothed")
    left.set_ylim(low - 0.12 * (high - low), high + 0.35 * (high - low))
    for text, rate in marks.items():
        left.axvline(rate, color=PALETTE["ink"], linestyle=":", linewidth=1.2)
        left.annotate(f" {text} {rate:.2g}", (rate, high + 0.24 * (high - low)), fontsize=9)
    for name, shape in shapes.items():
        right.plot(np.linspace(0, 1, len(shape)), shape, color=COLORS[name], label=name)
    right.set(xlabel="share of the steps", ylabel="rate, in units of the highest", ylim=(0, 1.08))
    right.legend(fontsize=9, loc="lower left")
    said = " ".join(f"{text} {rate:.2g}" for text, rate in marks.items())
    alt = f"Loss against learning rate, marked {said}. Right, the schedules {', '.join(shapes)}."
    return titled(figure, finding, alt)


def line_figure(
    places: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    scores: Mapping[str, float],
    chance: float,
    finding: str = "",
) -> tuple[Figure, str]:
    """Left, curves along the line through two networks at 0 and 1; right, accuracy for kinds of statistics.

    Args:
        curves: name -> training loss, then test error, at each of the places.
        scores: how batch-norm statistics were had -> accuracy.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for (name, losses), color in zip(curves.items(), (PALETTE["grey"], PALETTE["blue"]), strict=True):
        left.plot(places, losses, ".-", color=color, label=name)
        _lowest(left, places, losses, color)
    for place, name in ((0, "SGD"), (1, "SWA")):
        left.axvline(place, color=PALETTE["ink"], linestyle=":", linewidth=1.2)
        left.annotate(f" w {name}", (place, 0.97), xycoords=("data", "axes fraction"), fontsize=9, va="top")
    left.set(xlabel="place on the line", ylabel="loss, and share of errors", ylim=(0, None))
    left.legend(fontsize=9)
    bars = right.barh(list(scores), list(scores.values()), color=PALETTE["sky"])
    right.bar_label(bars, fmt=" %.2f", fontsize=9)
    right.axvline(chance, color=PALETTE["ink"], linestyle=":", linewidth=1.2)
    right.annotate(" chance", (chance, -0.55), fontsize=9, va="bottom")
    right.set(xlabel="test accuracy", xlim=(0, 1.08), ylim=(len(scores) - 0.4, -1))
    right.grid(axis="y", visible=False)
    lowest = ", ".join(f"{name} is lowest at {places[int(np.argmin(v))]:.2f}" for name, v in curves.items())
    accuracies = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    return titled(figure, finding, f"Along the line {lowest}. Test accuracy: {accuracies}.")


def _lowest(ax: Axes, places: Sequence[float], losses: Sequence[float], color: str) -> None:
    i = int(np.argmin(losses))
    ax.plot(places[i], losses[i], "o", color=color, markersize=9, markerfacecolor="white", markeredgewidth=2)

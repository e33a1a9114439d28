"""Pictures of the notebook on teachers and on the library: a turned teacher, parts exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled

COLORS = {"absolute": PALETTE["orange"], "relative": PALETTE["blue"]}


def turned_figure(
    teacher: Tensor, student: Tensor, curves: Mapping[str, Sequence[float]], turn: float, finding: str = ""
) -> tuple[Figure, str]:
    """Left, a teacher's points (N, 2), turned, and the student's; right, both losses against the turn.

    Args:
        curves: name of a loss -> its value at equally many turns from 0 to 360 degrees.
        turn: degrees by which the teacher is turned in the left picture.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    for (x, y), (u, v) in zip(student.tolist(), teacher.tolist(), strict=True):
        left.plot([x, u], [y, v], color=PALETTE["grey"], linewidth=0.8)
    left.plot(*teacher.T, "o", color=PALETTE["ink"], label="teacher")
    left.plot(*student.T, "s", markerfacecolor="white", color=PALETTE["green"], label="student")
    left.set(aspect="equal", xticks=[], yticks=[])
    left.margins(0.15)
    left.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.02), ncols=2)
    said = []
    for name, values in curves.items():
        degrees = np.linspace(0, 360, len(values))
        right.plot(degrees, values, color=COLORS[name], label=name)
        said.append(f"{name} {np.interp(turn, degrees, values):.2f}")
    right.axvline(turn, color=PALETTE["ink"], linestyle=":", linewidth=1)
    right.set(xlabel="degrees by which the teacher is turned", ylabel="loss", xticks=range(0, 361, 90))
    right.legend(fontsize=9)
    alt = f"Points of a teacher, turned by {turn:.0f} degrees, and of its student. Losses: {', '.join(said)}."
    return titled(figure, finding, alt)


def batches_figure(
    sizes: Sequence[int], curves: Mapping[str, Sequence[float]], finding: str = ""
) -> tuple[Figure, str]:
    """A loss against the size of the batch, a line for each way to sum it up."""
    figure = Figure(figsize=(7.5, 2.9), layout="constrained")
    ax, said = figure.subplots(), []
    for (name, values), color in zip(curves.items(), ("blue", "grey"), strict=True):
        ax.plot(sizes, values, "o-", color=PALETTE[color], label=name)
        said.append(f"{name} from {values[0]:.2f} to {values[-1]:.2f}")
    ax.set(xscale="log", yscale="log", xlabel="images in a batch", ylabel="loss")  # a power is a line
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside right center", fontsize=9)
    return titled(figure, finding, f"For {sizes[0]} to {sizes[-1]} images: {'; '.join(said)}.")


def exchanges_figure(
    usual: Sequence[float], exchanged: Mapping[str, float], xlabel: str, finding: str = ""
) -> tuple[Figure, str]:
    """A dot for each part that was exchanged, on the range of unchanged runs with other seeds.

    Args:
        usual: scores of the pipeline as it is.
        exchanged: what was exchanged -> score.
    """
    figure = Figure(figsize=(8, 0.36 * len(exchanged) + 1.2), layout="constrained")
    ax = figure.subplots()
    label = f"nothing exchanged, {len(usual)} seeds"
    ax.axvspan(min(usual), max(usual), color=PALETTE["grey"], alpha=0.25, label=label)
    rows = np.arange(len(exchanged))
    values = np.array(list(exchanged.values()))
    inside = (values >= min(usual)) & (values <= max(usual))
    for which, color, where in ((inside, "grey", "in the range"), (~inside, "orange", "outside")):
        ax.plot(values[which], rows[which], "o", color=PALETTE[color], label=f"one part exchanged, {where}")
    ax.set_yticks(range(len(exchanged)), list(exchanged))
    ax.set(xlabel=xlabel, ylim=(len(exchanged) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower left", fontsize=9, ncols=3)
    said = ", ".join(f"{name} {value:.2f}" for name, value in exchanged.items())
    alt = f"{xlabel}: nothing exchanged {min(usual):.2f} to {max(usual):.2f}; {said}."
    return titled(figure, finding, alt)

"""The plot that decides a claim: effects and controls against zero, or a violation against its tolerance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.claims.ledger import Claim, Measurement, Verdict, judge, paired_interval
from helpers.plotting import PALETTE, use_style

WIDTH, ROW, FRAME = 6.0, 0.46, 0.95
"""Inches: width of a figure, height of one row of dots, and height of a panel's title and axis."""


def claim_figure(row: Claim, measurement: Measurement) -> tuple[Figure, str]:
    """The figure of one measured claim and its alt text.

    An effect has two panels: what each arm scored, one dot per seed, where the chapter recorded that, and the
    paired differences, with their 95 % intervals, against zero and the smallest effect that counts. An
    identity has a number line from its violation to its tolerance.
    """
    use_style()
    verdict = judge(row, measurement)
    if measurement.violation is not None:
        figure = Figure(figsize=(WIDTH, ROW + FRAME), layout="constrained")
        _violation_line(figure.subplots(), row, measurement.violation)
        return figure, f"Number line. {verdict.sentence}"
    heights = [FRAME + ROW * len(panel) for panel in (measurement.summaries, _leads(measurement)) if panel]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    if measurement.summaries:
        _arms(axes[0], measurement.summaries)
    _differences(axes[-1], row, measurement, verdict)
    return figure, _alt(measurement, verdict)


def _leads(measurement: Measurement) -> dict[str, list[float]]:
    """The effect and the leads over the controls, in the order in which they are drawn."""
    return {"effect": measurement.effects, **measurement.controls}


def _alt(measurement: Measurement, verdict: Verdict) -> str:
    means = [f"{name} {np.mean(values):.3g}" for name, values in measurement.summaries.items()]
    arms = f"Mean of each arm: {', '.join(means)}. " if means else ""
    return f"Dots, one per seed. {arms}{' '.join([verdict.sentence, *verdict.controls.values()])}"


def _rows(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(title, fontsize=11)


def _dots(axes: Axes, position: int, values: Sequence[float], color: str, *, filled: bool = True) -> None:
    offsets = np.linspace(-0.15, 0.15, len(values))
    face = color if filled else "white"
    axes.plot(values, position + offsets, "o", color=color, markerfacecolor=face, markersize=5, zorder=3)
    axes.vlines(np.mean(values), position - 0.36, position + 0.36, color=color, linewidth=2.5, zorder=4)


def _arms(axes: Axes, arms: Mapping[str, Sequence[float]]) -> None:
    for position, values in enumerate(arms.values()):
        _dots(axes, position, values, PALETTE["grey"])
    _rows(axes, list(arms), "Each arm: a dot per seed, a bar at the mean")


def _differences(axes: Axes, row: Claim, measurement: Measurement, verdict: Verdict) -> None:
    answers = {True: "beaten", False: "not\N{NO-BREAK SPACE}beaten"}
    names = ["the effect", *(f"over {name}: {answers[beaten]}" for name, beaten in verdict.beaten.items())]
    for position, values in enumerate(_leads(measurement).values()):
        color = PALETTE["orange" if position else "blue"]
        interval = paired_interval(values)
        width = interval.high - interval.low
        axes.barh(position, width, 0.62, interval.low, color=color, alpha=0.2, linewidth=0)
        filled = position == 0 or list(verdict.beaten.values())[position - 1]
        _dots(axes, position, values, color, filled=filled)
    axes.use_sticky_edges = False  # room beyond the outermost interval
    axes.axvline(0, color=PALETTE["ink"], linewidth=1.2)
    wanted = row.sign * row.tolerance
    if wanted:
        axes.plot([wanted, wanted], [-0.5, 0.5], color=PALETTE["blue"], linewidth=1.5, linestyle=(0, (3, 2)))
    _rows(axes, names, "Paired differences, 95 % interval shaded")
    counts = f"; counts from {wanted:+g} (dashed)" if wanted else f"; counts when {row.direction} than 0"
    axes.set_xlabel(f"{textwrap.shorten(row.unit, 60)}{counts}", fontsize=10)


def _violation_line(axes: Axes, row: Claim, violation: float) -> None:
    """A log axis; a violation of exactly zero, which has no place on it, is an arrow at its left end."""
    positive = [value for value in (violation, row.tolerance) if value > 0] or [1.0]
    left, right = min(positive) / 30, max(positive) * 30
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    if row.tolerance:
        axes.axvspan(left, row.tolerance, color=PALETTE["blue"], alpha=0.12, linewidth=0)
        axes.axvline(row.tolerance, color=PALETTE["blue"], linewidth=1.5, linestyle=(0, (3, 2)))
    holds = violation <= row.tolerance
    shape, color = ("o", PALETTE["blue"]) if holds else ("X", PALETTE["orange"])
    place = (violation, shape) if violation else (left * 1.25, "<")
    axes.plot(place[0], 0, place[1], color=color, markersize=8, clip_on=False, zorder=3)
    axes.annotate(
        f"{violation:.2g}" if violation else "exactly 0",
        (place[0], 0),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
    )
    _rows(axes, ["largest violation"], f"Allowed: up to {row.tolerance:g} (shaded)")
    axes.set_xlabel(textwrap.shorten(row.unit, 60), fontsize=10)

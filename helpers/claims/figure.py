"""The plots of the claims: one for each claim, and a forest plot of all effects."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.claims.ledger import Claim
from helpers.claims.report import SIGNS, TIER_NAMES, Titles, because_text, by_chapter, interval_text
from helpers.claims.standing import Standing
from helpers.claims.verdict import DECIDED, TIERS, VERDICTS
from helpers.plotting import PALETTE, png_and_width, use_style

ROW, FRAME = 0.46, 0.95
"""Inches: height of one row of dots, and of a panel's title and axis."""
WORD_COLORS = dict(zip(VERDICTS, ("green", "blue", "orange", "purple", *["grey"] * 3), strict=True))
ANSWER_COLORS = {"beaten": "blue", "explains it": "orange", "open": "grey", "for comparison": "grey"}
TIER_COLORS = dict(zip(TIERS, ("grey", "blue", "green", "purple"), strict=True))
DASHED = {"linestyle": (0, (3, 2)), "linewidth": 1.5}


def claim_figure(s: Standing) -> tuple[Figure, str] | None:
    """The figure of one measured claim and its alt text; None for a composite or what was not run.

    An effect has two panels: what each arm scored in the best tier, one dot per seed, where that was
    recorded; and the paired differences of every tier and over the controls of the best, with 95 % intervals,
    against zero and the smallest effect that counts. Kept evidence is solid, a laptop run hollow. An identity
    has a number line from its violation to its tolerance.
    """
    if s.row.kind == "composite" or not s.best.tiers:
        return None
    use_style()
    top = s.best.tiers[0]
    best, kept = s.measurements[top], top != "laptop"
    if s.row.kind == "identity":
        figure = Figure(figsize=(6, ROW + FRAME), layout="constrained")
        _violation_line(figure.subplots(), s.row, best.violation)
        return figure, f"Number line: violation {best.violation:.3g}, allowed up to {s.row.tolerance:g}."
    leads = [
        (f"effect, {TIER_NAMES[tier]}", m.effects, WORD_COLORS[s.verdicts[tier].verdict], tier != "laptop")
        for tier, m in reversed(s.measurements.items())
    ]
    for name, paired in best.controls.items():
        answer = s.shown.controls.get(name, "for comparison")
        leads.append((f"over {name}: {answer}", paired, ANSWER_COLORS[answer], kept))
    heights = [FRAME + ROW * len(panel) for panel in (best.summaries, leads) if panel]
    figure = Figure(figsize=(6, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    if best.summaries:
        for position, values in enumerate(best.summaries.values()):
            _dots(axes[0], position, values, PALETTE["grey"], solid=kept)
        _rows(
            axes[0], list(best.summaries), f"Each arm, {TIER_NAMES[top]}: a dot per seed, a bar at the mean"
        )
    _differences(axes[-1], s.row, leads)
    said = "; ".join(f"{name} {interval_text(paired.interval())}" for name, paired, _, _ in leads)
    means = ", ".join(f"{name} {np.mean(values):.3g}" for name, values in best.summaries.items())
    arms = f"Mean of each arm: {means}. " if means else ""
    return figure, f"Dots, one per seed. {arms}{said}. {s.best.verdict}."


def embedded_figure(s: Standing) -> dict[str, str] | None:
    """`claim_figure` as a page holds it: a PNG in base64, the width in pixels to show it at, its alt text."""
    if (made := claim_figure(s)) is None:
        return None
    png, width = png_and_width(made[0])
    return {"data": base64.b64encode(png).decode(), "width": str(width), "alt": made[1]}


def _rows(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(title, fontsize=11)


def _dots(axes: Axes, position: int, values: Sequence[float], color: str, *, solid: bool) -> None:
    offsets = np.linspace(-0.15, 0.15, len(values))
    face = color if solid else "white"
    axes.plot(values, position + offsets, "o", color=color, markerfacecolor=face, markersize=5, zorder=3)
    axes.vlines(np.mean(values), position - 0.36, position + 0.36, color=color, linewidth=2.5, zorder=4)


def _differences(axes: Axes, row: Claim, leads: Sequence[tuple]) -> None:
    for position, (_, paired, color, solid) in enumerate(leads):
        found = paired.interval()
        if np.isfinite(found.se):
            width = found.high - found.low
            axes.barh(position, width, 0.62, found.low, color=PALETTE[color], alpha=0.2, linewidth=0)
        _dots(axes, position, paired.effects, PALETTE[color], solid=solid)
    axes.use_sticky_edges = False  # room beyond the outermost interval
    axes.axvline(0, color=PALETTE["ink"], linewidth=1.2)
    axes.axvline(row.sign * row.smallest, color=PALETTE["ink"], **DASHED)
    _rows(axes, [name for name, *_ in leads], "Paired differences, 95 % interval shaded")
    label = f"{textwrap.shorten(row.unit, 60)}; counts from {row.sign * row.smallest:+g} (dashed)"
    axes.set_xlabel(label, fontsize=10)


def _violation_line(axes: Axes, row: Claim, violation: float) -> None:
    """A log axis; a violation of exactly zero, which has no place on it, is an arrow at its left end."""
    positive = [value for value in (violation, row.tolerance) if value > 0] or [1.0]
    left, right = min(positive) / 30, max(positive) * 30
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    if row.tolerance:
        axes.axvspan(left, row.tolerance, color=PALETTE["blue"], alpha=0.12, linewidth=0)
        axes.axvline(row.tolerance, color=PALETTE["blue"], **DASHED)
    shape, color = ("o", "blue") if violation <= row.tolerance else ("X", "orange")
    place = (violation, shape) if violation else (left * 1.25, "<")
    axes.plot(place[0], 0, place[1], color=PALETTE[color], markersize=8, clip_on=False, zorder=3)
    text = f"{violation:.2g}" if violation else "exactly 0"
    axes.annotate(text, (place[0], 0), (9, 0), textcoords="offset points", va="center", fontsize=10)
    _rows(axes, ["largest violation"], f"Allowed: up to {row.tolerance:g} (shaded)")
    axes.set_xlabel(textwrap.shorten(row.unit, 60), fontsize=10)


# ---- all effects


def forest_svg(stand: Sequence[Standing], titles: Titles = None) -> str:
    """`forest_figure` as SVG text, the same bytes for the same numbers."""
    buffer = io.StringIO()
    fixed = {"font.family": "DejaVu Sans", "svg.hashsalt": "forest", "svg.fonttype": "path"}
    with mpl.rc_context():
        use_style()
        mpl.rcParams.update(fixed)
        forest_figure(stand, titles).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def forest_figure(stand: Sequence[Standing], titles: Titles = None) -> Figure:
    """The best evidence of every effect of the thesis that was run; 9 inches wide.

    In multiples of its smallest effect that counts, positive in the claimed direction. A solid dot is a firm
    verdict, a colour a tier.
    """
    lines: list[Standing | str] = []
    for _, title, of in by_chapter([s for s in stand if s.row.of_thesis], titles):
        ran = [s for s in of if s.row.kind == "effect" and s.best.tiers]
        lines += [title.split(":")[0], *ran] if ran else []
    lines = lines or ["no effect was run yet"]
    height = 0.24 * len(lines) + 1.2
    figure = Figure(figsize=(9, height), facecolor="white")
    axes = figure.add_axes((0.33, 0.62 / height, 0.46, 0.24 * len(lines) / height))
    axes.set_xscale("symlog", linthresh=3, linscale=1.2)
    axes.set_xlim(-40, 40)
    ticks = (-30, -10, -3, -1, 0, 1, 3, 10, 30)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=9)
    axes.minorticks_off()
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=PALETTE["ink"], linewidth=1)
    axes.axvline(1, color=PALETTE["ink"], **DASHED)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for y, line in enumerate(lines):
        if isinstance(line, str):
            axes.text(-0.7, y, line, weight="bold", **beside)
            continue
        axes.text(-0.02, y, line.row.label, ha="right", **beside)
        because = ", but explained" if because_text(line.shown).startswith("no, ") else ""
        axes.text(1.02, y, f"{SIGNS[line.best.verdict]} {line.best.verdict}{because}", **beside)
        for tier, shift in zip(line.best.tiers, (0, 0.25), strict=False):
            _whisker(axes, y + shift, line, tier)
    axes.set_xlabel("effect as a multiple of the smallest effect that counts (dashed)", fontsize=9)
    there = [tier for tier in TIERS if any(tier in s.best.tiers for s in stand)]
    marks = [Line2D([], [], color=PALETTE[TIER_COLORS[t]], marker="o", label=TIER_NAMES[t]) for t in there]
    hollow = {"marker": "o", "mfc": "white", "linewidth": 0, "label": "hollow: provisional or undecided"}
    marks.append(Line2D([], [], color=PALETTE["ink"], **hollow))
    figure.legend(handles=marks, loc="upper center", ncols=len(marks), fontsize=9)
    return figure


def _whisker(axes: Axes, y: float, s: Standing, tier: str) -> None:
    verdict, color = s.verdicts[tier], PALETTE[TIER_COLORS[tier]]
    found, unit = verdict.interval, s.row.sign * s.row.smallest
    mean, *ends = (value / unit for value in (found.mean, found.low, found.high))
    axes.plot(np.clip(ends, *axes.get_xlim()), [y, y], color=color, linewidth=1.8)
    face = color if verdict.verdict in DECIDED and not verdict.provisional else "white"
    axes.plot(np.clip(mean, *axes.get_xlim()), y, "o", color=color, markerfacecolor=face, markersize=5.5)

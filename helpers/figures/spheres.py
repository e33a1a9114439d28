"""Points on a sphere with the spectrum of their matrix beside them: the pictures of collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse
from torch import Tensor

from helpers.figures.bounds import concentrated_rows
from helpers.plotting import PALETTE, TEN_CLASSES, titled
from helpers.svmax import collapse_diagnostics

_AZIMUTH, _ELEVATION = 0.9, 0.35
_TURN = np.array([
    [-np.sin(_AZIMUTH), np.cos(_AZIMUTH), 0.0],
    [-np.sin(_ELEVATION) * np.cos(_AZIMUTH), -np.sin(_ELEVATION) * np.sin(_AZIMUTH), np.cos(_ELEVATION)],
    [np.cos(_ELEVATION) * np.cos(_AZIMUTH), np.cos(_ELEVATION) * np.sin(_AZIMUTH), np.sin(_ELEVATION)],
])  # fmt: skip


def spheres_figure(
    batches: Mapping[str, Tensor], title: str = "", labels: Tensor | None = None
) -> tuple[Figure, str]:
    """A sphere for each named batch of unit rows (B, 3), its three singular values and its spread below.

    `labels` (B,), 0 to 9, colour the points.
    """
    figure = Figure(figsize=(2.35 * len(batches), 3.6), layout="constrained")
    axes = figure.subplots(2, len(batches), squeeze=False, height_ratios=[2.4, 1], sharey="row")
    told = []
    for (ball, bars), (name, rows) in zip(axes.T, batches.items(), strict=True):
        _draw_sphere(ball, rows, labels)
        ball.set_title(name, fontsize=11, loc="center", fontweight="normal")
        told.append(f"{name} {_draw_spectrum(bars, rows):.2f}")
    axes[1, 0].set_ylabel("size")
    alt = "Points on spheres, and the three singular values of each batch as bars. Spread, 0 on the floor "
    return titled(figure, title, alt + f"and 1 on the ceiling: {', '.join(told)}.")


def frames_figure(
    frames: Mapping[str, Mapping[int, Tensor]], labels: Tensor, title: str = ""
) -> tuple[Figure, str]:
    """A row for each run, a sphere for each of its steps, the spread under it.

    Args:
        frames: name of a run -> step -> unit rows (N, 3); all runs have the same steps.
        labels: (N,), 0 to 9.
    """
    steps = list(next(iter(frames.values())))
    figure = Figure(figsize=(1.75 * len(steps), 2.15 * len(frames) + 0.3), layout="constrained")
    axes, told = figure.subplots(len(frames), len(steps), squeeze=False), []
    for row, (name, moments) in zip(axes, frames.items(), strict=True):
        spreads = [collapse_diagnostics(rows)["spread"] for rows in moments.values()]
        for ax, rows, spread in zip(row, moments.values(), spreads, strict=True):
            _draw_sphere(ax, rows, labels, size=7)
            ax.text(0, -1.32, f"spread {spread:.2f}", ha="center", va="center", fontsize=9.5)
        row[0].text(-1.4, 0, name, rotation=90, ha="center", va="center", fontsize=10)
        told.append(f"{name} " + ", ".join(f"{spread:.2f}" for spread in spreads))
    for ax, step in zip(axes[0], steps, strict=True):
        ax.set_title(f"step {step}", fontsize=10, loc="center", fontweight="normal")
    alt = f"Embeddings on the sphere at steps {', '.join(map(str, steps))}, a row for each run. Spread: "
    return titled(figure, title, alt + "; ".join(told) + ".")


def moment_figure(
    frames: Mapping[str, Mapping[int, Tensor]], labels: Tensor, step: int
) -> tuple[Figure, str]:
    """All runs at the last of their steps that is not after `step`, with their spectra."""
    at = {
        name: max((s for s in moments if s <= step), default=min(moments)) for name, moments in frames.items()
    }
    return spheres_figure(
        {f"{name}, step {at[name]}": frames[name][at[name]] for name in frames}, labels=labels
    )


def drag_figure(concentration: float, turned: float, points: int = 80) -> tuple[Figure, str]:
    """A random batch pulled together, a share `turned` of its rows replaced by their opposites."""
    rows = concentrated_rows(points, 3, concentration, seed=1)
    sign = torch.ones(points, 1, dtype=rows.dtype)
    sign[: round(turned * points)] = -1
    rows = rows * sign
    return spheres_figure({f"concentration {concentration:g}, {turned:.0%} turned": rows})


def _draw_sphere(ax: Axes, rows: Tensor, labels: Tensor | None, size: float = 16) -> None:
    x, y, depth = _TURN @ rows.detach().cpu().double().numpy().T
    ax.add_patch(Circle((0, 0), 1, facecolor="#F3F5F7", edgecolor=PALETTE["grey"], linewidth=0.8))
    for centre in (-0.6, 0.0, 0.6):  # circles of latitude
        radius = np.sqrt(1 - centre**2)
        ax.add_patch(Ellipse((0, centre * np.cos(_ELEVATION)), 2 * radius, 2 * radius * np.sin(_ELEVATION),
                             fill=False, edgecolor="#D5D9DE", linewidth=0.7))  # fmt: skip
    colors = np.full(len(x), PALETTE["blue"]) if labels is None else np.array(TEN_CLASSES)[labels.numpy()]
    for here, alpha in ((depth < 0, 0.22), (depth >= 0, 0.85)):  # the far side is paler
        ax.scatter(x[here], y[here], c=list(colors[here]), s=size, alpha=alpha, linewidths=0)
    ax.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
    ax.axis("off")


def _draw_spectrum(ax: Axes, rows: Tensor) -> float:
    """Bars of singular values, as shares of the length of the matrix; returns the spread."""
    s = torch.linalg.svdvals(rows.detach().double())
    spread = collapse_diagnostics(rows)["spread"]
    ax.bar(range(1, len(s) + 1), (s / s.norm()).cpu().numpy(), color=PALETTE["blue"], width=0.6)
    ax.set(xticks=range(1, len(s) + 1), ylim=(0, 1.05), xlabel=f"spread {spread:.2f}")
    ax.grid(axis="x", visible=False)
    return spread


def moments_of(frames: Mapping[int, Tensor], count: int) -> dict[int, Tensor]:
    """`count` of the frames, the first and the last among them, closer together at the beginning."""
    steps: Sequence[int] = sorted(frames)
    places = np.unique(np.round((len(steps) - 1) * np.linspace(0, 1, count) ** 3).astype(int))
    return {steps[i]: frames[steps[i]] for i in places}

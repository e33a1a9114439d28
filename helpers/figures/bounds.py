"""Where the mean singular value of a batch stands between its bounds, as the batch is pulled together."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plotting import PALETTE
from helpers.svmax import mean_singular_value, singular_value_bounds, unit_rows


def concentrated_rows(
    batch_size: int, embedding_dim: int, concentration: float, seed: int = 0
) -> torch.Tensor:
    """Random unit rows (B, D) in float64, pulled towards one direction: 0 is uniform, large is collapsed."""
    if concentration < 0 or not math.isfinite(concentration):
        raise ValueError(f"concentration must be finite and not negative, got {concentration}")
    singular_value_bounds(batch_size, embedding_dim)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch_size, embedding_dim, generator=generator, dtype=torch.float64)
    rows[:, 0] += concentration * math.sqrt(embedding_dim)
    return unit_rows(rows)


def bounds_figure(
    batch_size: int, embedding_dim: int, concentration: float, seed: int = 0
) -> tuple[Figure, str]:
    """Spectrum of a concentrated batch, and where its mean singular value stands between the bounds."""
    rows = concentrated_rows(batch_size, embedding_dim, concentration, seed)
    spectrum = torch.linalg.svdvals(rows).numpy()
    lower, upper = singular_value_bounds(batch_size, embedding_dim)
    s_mu = float(spectrum.mean())
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_spectrum(left, spectrum, s_mu)
    _draw_between_bounds(right, batch_size, embedding_dim, concentration, s_mu, seed)
    alt = (
        f"For a batch of {batch_size} unit rows in {embedding_dim} dimensions at concentration "
        f"{concentration:g}, the mean singular value is {s_mu:.3f}, between the lower bound {lower:.3f} "
        f"and the upper bound {upper:.3f}. Left: bars of the spectrum. Right: the mean against concentration."
    )
    return figure, alt


def _draw_spectrum(axes: Axes, spectrum: np.ndarray, s_mu: float) -> None:
    axes.bar(range(1, len(spectrum) + 1), spectrum, color=PALETTE["blue"], width=0.85)
    axes.axhline(
        s_mu, color=PALETTE["ink"], linewidth=1.5, linestyle="--", label=f"mean $s_\\mu$ = {s_mu:.3f}"
    )
    axes.set(xlabel="singular value, largest first", ylabel="size", title="Spectrum of the batch")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")


def _draw_between_bounds(axes: Axes, b: int, d: int, concentration: float, s_mu: float, seed: int) -> None:
    lower, upper = singular_value_bounds(b, d)
    grid = np.linspace(0, max(4.0, concentration), 25)
    curve = [mean_singular_value(concentrated_rows(b, d, float(c), seed)).item() for c in grid]
    axes.axhspan(lower, upper, color=PALETTE["grey"], alpha=0.08, linewidth=0)
    for value, name in ((lower, "lower bound"), (upper, "upper bound")):
        axes.axhline(value, color=PALETTE["grey"], linewidth=1.5)
        axes.annotate(
            f"{name} {value:.3f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=PALETTE["grey"],
        )
    axes.plot(grid, curve, color=PALETTE["sky"])
    axes.plot([concentration], [s_mu], "o", color=PALETTE["orange"], markersize=10, label="this batch")
    axes.set(xlabel="concentration", ylabel="mean singular value", title="Between its bounds")
    margin = 0.14 * ((upper - lower) or 1)
    axes.set_ylim(lower - margin, upper + 1.4 * margin)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.8), frameon=True, edgecolor="none")

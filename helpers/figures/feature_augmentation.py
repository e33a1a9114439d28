"""Pictures of the notebook on feature augmentation: dropped rectangles, moments, power means, learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled

TWO = (PALETTE["blue"], PALETTE["orange"])
THREE = (PALETTE["grey"], PALETTE["orange"], PALETTE["blue"])


def rows_figure(rows: Mapping[str, Tensor], finding: str = "") -> tuple[Figure, str]:
    """A row of images (N, 3, S, S) for each name."""
    count = max(map(len, rows.values()))
    figure = Figure(figsize=(1.45 * count, 1.6 * len(rows) + 0.4), layout="constrained")
    for line, (name, images) in zip(
        figure.subplots(len(rows), count, squeeze=False), rows.items(), strict=True
    ):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_title(name, fontsize=10)
    return titled(figure, finding, f"{count} images in each of the rows {', '.join(rows)}.")


def moments_figure(
    local: Tensor, first: Tensor, second: Tensor, labels: Tensor, finding: str = ""
) -> tuple[Figure, str]:
    """Left, local features of one image of each kind; then both moments of all images.

    Args:
        local: (N, P, 2), features at P positions of N images.
        first, second: (N, 2), two numbers of the moments of order 1 and 2.
        labels: (N,), 0 or 1.
    """
    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    for ax, points, title in zip(
        figure.subplots(1, 3),
        (local, first, second),
        ("local features of two images", "order 1: means", "order 2: estimates"),
        strict=True,
    ):
        for kind, (color, marker) in enumerate(zip(TWO, "os", strict=True)):
            mine = points[labels == kind]
            shown = mine[0] if mine.ndim == 3 else mine
            ax.plot(*shown.T, marker, color=color, alpha=0.6, label=f"kind {kind + 1}")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("first number")
    figure.axes[0].set_ylabel("second number")
    figure.axes[0].legend(fontsize=9)
    gaps = [
        (p[labels == 0].mean(0) - p[labels == 1].mean(0)).norm() / p.std(0).norm() for p in (first, second)
    ]
    alt = (
        f"Two kinds of images. Their means lie {gaps[0]:.2f} standard deviations apart in order 1, "
        f"{gaps[1]:.2f} in order 2."
    )
    return titled(figure, finding, alt)


def powers_figure(
    powers: Sequence[float], curves: Mapping[str, Sequence[float]], finding: str = ""
) -> tuple[Figure, str]:
    """The power mean of each map against p, on a logarithmic axis."""
    figure = Figure(figsize=(7.5, 3.3), layout="constrained")
    ax = figure.subplots()
    for (name, values), color in zip(curves.items(), TWO, strict=True):
        ax.plot(powers, values, color=color, label=name)
    for place, name in ((1, "S, the mean"), (3, "G"), (powers[-1], "M, nearly")):
        ax.axvline(place, color=PALETTE["ink"], linestyle=":", linewidth=1)
        side = "right" if place == powers[-1] else "left"
        ax.annotate(f" {name} ", (place, 1.04), fontsize=9, ha=side)
    ax.set(xscale="log", xlabel="p", ylabel="pooled value", ylim=(0, 1.15))
    ax.legend(fontsize=9, loc="center right")
    said = "; ".join(f"{name} from {v[0]:.2f} to {v[-1]:.2f}" for name, v in curves.items())
    return titled(figure, finding, f"Pooled value for p from {powers[0]:g} to {powers[-1]:g}: {said}.")


def bars_figure(scores: Mapping[str, float], xlabel: str, finding: str = "") -> tuple[Figure, str]:
    """A bar with its number for each name."""
    figure = Figure(figsize=(7.5, 0.36 * len(scores) + 0.9), layout="constrained")
    ax = figure.subplots()
    bars = ax.barh(list(scores), list(scores.values()), color=PALETTE["sky"])
    ax.bar_label(bars, fmt=" %.3f", fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, xlim=(0, 1.15 * max(scores.values())))
    ax.grid(axis="y", visible=False)
    said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    return titled(figure, finding, f"{xlabel}: {said}.")


def kept_figure(kept: Mapping[str, Sequence[float]], chance: float, finding: str = "") -> tuple[Figure, str]:
    """How often each share of the items keeps its learner, a histogram for each way of matching."""
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    ax = figure.subplots()
    for (name, shares), color in zip(kept.items(), THREE, strict=True):
        ax.hist(shares, bins=np.linspace(0, 1, 26), color=color, alpha=0.65, label=name)
    ax.axvline(chance, color=PALETTE["ink"], linestyle=":", linewidth=1.2, label="chance")
    ax.set(xlabel="share of the images that keep their learner", ylabel="draws", xlim=(0, 1.02))
    ax.legend(fontsize=9, loc="upper center")
    said = ", ".join(f"{name} {np.mean(shares):.2f}" for name, shares in kept.items())
    return titled(figure, finding, f"Mean share of images that keep their learner: {said}.")

"""Where losses pull: points on a plane, class vectors, and an arrow for one step against the gradient."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled

MARKERS = (("o", "blue"), ("s", "purple"), ("^", "yellow"))


def pulls_figure(
    points: Tensor,
    labels: Tensor,
    gradients: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor] | None = None,
    finding: str = "",
) -> tuple[Figure, str]:
    """One panel for each loss: points (B, 2) of up to three classes, each with an arrow against its gradient.

    The longest arrow of a panel has the same length in all: compare directions, not sizes. A point without
    gradient is drawn hollow.

    Args:
        gradients: title -> gradient (B, 2) of the loss at the points.
        vectors: title -> class vectors (C, 2) that the loss compares with, drawn as lines from the middle.
    """
    figure = Figure(figsize=(4.6 * len(gradients), 4.0), layout="constrained")
    still = {}
    for axes, (title, gradient) in zip(
        figure.subplots(1, len(gradients), squeeze=False)[0], gradients.items(), strict=True
    ):
        _draw_vectors(axes, (vectors or {}).get(title))
        moves = gradient.norm(dim=1) > 1e-6 * gradient.norm().clamp(min=1e-12)
        still[title] = int((~moves).sum())
        steps = -0.55 * gradient / gradient.norm(dim=1).max().clamp(min=1e-12)
        for c, (marker, color) in zip(labels.unique().tolist(), MARKERS, strict=False):
            for point, step, moving in zip(
                points[labels == c], steps[labels == c], moves[labels == c], strict=True
            ):
                face = PALETTE[color] if moving else "white"
                axes.plot(*point, marker, color=PALETTE[color], markerfacecolor=face, markersize=11, zorder=3)
                if moving:
                    axes.annotate(
                        "", (point + step).tolist(), point.tolist(), zorder=4,
                        arrowprops={"arrowstyle": "-|>", "color": PALETTE["ink"], "linewidth": 1.6},
                    )  # fmt: skip
            axes.plot([], [], marker, color=PALETTE[color], label=f"class {c}", markersize=9)
        axes.set_title(title, fontsize=11, fontweight="normal")
        axes.set(xlim=(-1.9, 1.9), ylim=(-1.7, 1.7), aspect="equal")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=len(handles))
    said = "; ".join(f"{title}, {count} of {len(points)} points stay" for title, count in still.items())
    return titled(figure, finding, f"Points with arrows against the gradient: {said}.")


def _draw_vectors(axes: Axes, vectors: Tensor | None) -> None:
    for (_, color), end in zip(MARKERS, [] if vectors is None else vectors.tolist(), strict=False):
        axes.plot([0, end[0]], [0, end[1]], color=PALETTE[color], linewidth=5, alpha=0.3, zorder=1)
        axes.plot(*end, "*", color=PALETTE[color], alpha=0.6, markersize=15, zorder=2)
    axes.plot(0, 0, "+", color=PALETTE["grey"], markersize=9)

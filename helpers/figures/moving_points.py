"""Pictures of the two-head chapter: the architecture, and points that several losses move about a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from torch import Tensor

from helpers.plotting import PALETTE, titled

COLORS = (PALETTE["blue"], PALETTE["orange"], PALETTE["green"])
BOXES = (
    (0.0, 1.0, 1.5, "image", "grey"),
    (2.1, 1.0, 2.0, "convolutions", "ink"),
    (4.7, 1.0, 2.4, "map of\nfeatures", "ink"),
    (7.7, 2.0, 2.4, "average, linear", "grey"),
    (7.7, 0.0, 2.4, "linear, length 1", "blue"),
    (10.8, 2.0, 2.6, "logits\ncross-entropy", "grey"),
    (10.8, 0.0, 2.6, "embedding\nranking loss", "blue"),
)
ARROWS = (
    ((1.5, 1), (2.1, 1)), ((4.1, 1), (4.7, 1)), ((7.1, 1.1), (7.7, 2)),
    ((7.1, 0.9), (7.7, 0)), ((10.1, 2), (10.8, 2)), ((10.1, 0), (10.8, 0)),
)  # fmt: skip
SIGHTS = (
    ((0, 0), "anchor", "blue"), ((0.71, 0.71), "positive", "blue"), ((-0.5, 0.3), "hard", "orange"),
    ((-0.9, -0.85), "semi-hard", "orange"), ((1.5, -0.9), "easy", "orange"),
)  # fmt: skip


def architecture_figure() -> tuple[Figure, str]:
    """Left, a network with two heads; right, what a negative is to one anchor and one positive."""
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    for x, y, width, text, color in BOXES:
        left.add_patch(
            Rectangle((x, y - 0.38), width, 0.76, facecolor="white", edgecolor=PALETTE[color], linewidth=2)
        )
        left.text(x + width / 2, y, text, ha="center", va="center", fontsize=8.5)
    for start, end in ARROWS:
        left.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": PALETTE["grey"]})
    left.set(xlim=(-0.2, 13.6), ylim=(-0.7, 2.7), title="One map of features, two heads")
    left.axis("off")
    for radius, style, color in ((1.0, "-", "ink"), (1.5, ":", "grey")):
        right.add_patch(Circle((0, 0), radius, fill=False, linestyle=style, color=PALETTE[color]))
    for (x, y), text, color in SIGHTS:
        right.plot(x, y, "o" if color == "blue" else "s", color=PALETTE[color], markersize=11)
        right.text(x + 0.12, y - (0.42 if text == "semi-hard" else 0.24), text, fontsize=9.5)
    right.text(0, 1.56, "+ margin", ha="center", fontsize=9, color=PALETTE["grey"])
    right.set(xlim=(-2, 2.3), ylim=(-1.7, 1.8), aspect="equal", title="Hard, semi-hard, easy")
    right.axis("off")
    alt = (
        "Left: an image passes convolutions to a map of features; one arrow leads over average and linear "
        "layer to logits and cross-entropy, another over a linear layer of length one to an embedding and a "
        "ranking loss. Right: an anchor, a positive on a ring around it, a hard negative inside the ring, "
        "a semi-hard one between ring and margin, an easy one beyond."
    )
    return figure, alt


def moving_figure(
    frames: Mapping[str, Sequence[Tensor]],
    labels: Tensor,
    modes: Tensor,
    moments: Sequence[int],
    title: str = "",
) -> tuple[Figure, str]:
    """One row for each loss, one panel for each moment; colour is the class, mark the mode.

    Args:
        frames: name of a loss -> points (N, 2) at every step.
        labels, modes: (N,).
        moments: the steps to show.
    """
    figure = Figure(figsize=(2.1 * len(moments) + 1, 1.9 * len(frames)), layout="constrained")
    axes = figure.subplots(len(frames), len(moments), squeeze=False)
    for row, (name, points) in zip(axes, frames.items(), strict=True):
        for ax, moment in zip(row, moments, strict=True):
            _plane(ax, points[moment], labels, modes)
        row[0].set_ylabel(name, fontsize=11)
    for ax, moment in zip(axes[0], moments, strict=True):
        ax.set_title(f"step {moment}", fontsize=10, fontweight="normal", loc="center")
    return titled(figure, title, _told(frames, labels, modes, moments))


def moment_figure(
    frames: Mapping[str, Sequence[Tensor]], labels: Tensor, modes: Tensor, step: int
) -> tuple[Figure, str]:
    """All losses side by side at one step."""
    figure = Figure(figsize=(2.6 * len(frames), 2.9), layout="constrained")
    panels = figure.subplots(1, len(frames), squeeze=False)[0]
    for ax, (name, points) in zip(panels, frames.items(), strict=True):
        _plane(ax, points[step], labels, modes)
        ax.set_title(name, fontsize=11)
    return figure, _told(frames, labels, modes, [step])


def _told(
    frames: Mapping[str, Sequence[Tensor]], labels: Tensor, modes: Tensor, moments: Sequence[int]
) -> str:
    """What a figure shows of the modes: how far apart a class's two lie, in the mean over classes."""
    apart = "; ".join(
        f"{name} " + ", ".join(f"{_apart(points[m], labels, modes):.2f}" for m in moments)
        for name, points in frames.items()
    )
    return (
        f"Points of {len(labels.unique())} classes with two modes each, at step "
        f"{', '.join(map(str, moments))}. Distance between the modes of a class: {apart}."
    )


def _apart(points: Tensor, labels: Tensor, modes: Tensor) -> float:
    centres = [
        [points[(labels == label) & (modes == mode)].mean(0) for mode in modes[labels == label].unique()]
        for label in labels.unique()
    ]
    return sum((one - other).norm().item() for one, other in centres) / len(centres)


def _plane(axes: Axes, points: Tensor, labels: Tensor, modes: Tensor) -> None:
    for label in labels.unique().tolist():
        for mark, mode in zip("os", modes[labels == label].unique().tolist(), strict=True):
            here = points[(labels == label) & (modes == mode)]
            axes.plot(*here.T.numpy(), mark, color=COLORS[label], markersize=4.5, alpha=0.75)
    axes.set(xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), xticks=[], yticks=[], aspect="equal")
    for side in axes.spines.values():
        side.set(visible=True, color="#D5D9DE")

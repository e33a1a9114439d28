"""The picture that opens chapter 6: one network, and the four places where the tools of the thesis attach."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.data import load_dataset
from helpers.plotting import PALETTE

LAYERS = ((3.1, 2.5, 6), (4.1, 2.1, 8), (5.1, 1.7, 10))
"""Left edge, height and number of channels of each drawn layer."""
ARROWS = (
    ((2.2, 0), (3.0, 0)),
    ((5.7, 0), (6.35, 0)),
    ((8.25, 0.2), (9.35, 1.25)),
    ((8.25, -0.2), (9.35, -1.25)),
    ((11.6, -1.25), (12.4, -1.25)),
)
NAMES = (
    (4.4, 2.15, "Knowledge Evolution:\nhalf stays, half is drawn again", "blue"),
    (7.3, 1.6, "L2-CAF:\nwhere does it look?", "purple"),
    (10.5, 2.3, "two heads", "green"),
    (13.4, -2.4, "SVMax: keep all\ndirections in use", "orange"),
)


def tools_figure() -> tuple[Figure, str]:
    """A drawn bird passes the network from left to right; each tool is named where it attaches."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    bird = load_dataset("birds", size=64, num_species=8, per_species=8, siblings=1).train[9][0]
    axes.imshow(bird.permute(1, 2, 0).numpy(), extent=(0, 2.2, -1.1, 1.1), zorder=2)
    for layer in LAYERS:
        _layer(axes, *layer)
    y, x = np.linspace(-1.1, 0.9, 7)[:, None] ** 2, np.linspace(-0.8, 1.2, 7) ** 2
    axes.imshow(np.exp(-4 * (y + x)), extent=(6.4, 8.2, -0.9, 0.9), cmap="Purples", vmin=-0.15, zorder=2)
    for height, text, color in (
        (1.25, "logits\ncross-entropy", "grey"),
        (-1.25, "embedding\ntriplets", "green"),
    ):
        box = Rectangle(
            (9.4, height - 0.45), 2.2, 0.9, facecolor="white", edgecolor=PALETTE[color], linewidth=2
        )
        axes.add_patch(box)
        axes.text(10.5, height, text, ha="center", va="center", fontsize=10)
    axes.text(8.75, 0.98, "average", ha="right", va="center", fontsize=10)
    values = np.arange(8)
    axes.bar(12.6 + 0.22 * values, 0.35 + 0.55 * 0.9**values, 0.15, bottom=-1.7, color=PALETTE["orange"])
    for start, end in ARROWS:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": PALETTE["ink"]})
    for x, y, text, color in NAMES:
        axes.text(x, y, text, ha="center", va="center", fontsize=11, fontweight="bold", color=PALETTE[color])
    axes.set(xlim=(-0.2, 14.8), ylim=(-2.9, 2.7), aspect="equal")
    axes.axis("off")
    return figure, (
        "A drawn bird passes three layers of channels, half of them solid and half hatched, to a map of "
        "features with a bright spot, and from there to logits with cross-entropy and to an embedding with "
        "triplets; beside the embedding stands its spectrum. Labels: Knowledge Evolution at the channels, "
        "L2-CAF at the map, two heads, SVMax at the spectrum."
    )


def _layer(axes: Axes, left: float, height: float, channels: int) -> None:
    """A column of channels, the first half hatched (drawn again), the other solid (stays)."""
    for c, bottom in enumerate(np.linspace(-height / 2, height / 2, channels + 1)[:-1]):
        stays = c >= channels // 2
        axes.add_patch(
            Rectangle((left, bottom), 0.55, 0.86 * height / channels, hatch=None if stays else "////",
                      facecolor=PALETTE["blue"] if stays else "white",
                      edgecolor=PALETTE["blue" if stays else "sky"])
        )  # fmt: skip

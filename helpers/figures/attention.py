"""Pictures of attention maps: overlays, a budget of two positions, maps of a network that turns random."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from helpers.data import ImageSet
from helpers.data.scenes import mosaics as mosaics_of
from helpers.localisation import fit_to_image
from helpers.plotting import PALETTE, titled

HEAT = 0.6
"""Share of the heat map in the picture."""


def show_attention(
    axes: Axes,
    image: Tensor,
    heatmap: Tensor | None = None,
    title: str = "",
    box: Sequence[float] | Tensor | None = None,
) -> None:
    """An image (3 or 1, H, W) in [0, 1], under a map (H, W) in [0, 1] from violet, low, to yellow, high.

    `box` is drawn: x1, y1, x2, y2 in pixels.
    """
    pixels = image.detach().cpu().float().expand(3, -1, -1).permute(1, 2, 0).numpy()
    if heatmap is not None:
        heat = matplotlib.colormaps["inferno"](heatmap.detach().cpu().float().numpy())[..., :3]
        pixels = (1 - HEAT) * pixels + HEAT * heat
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    if box is not None:
        x1, y1, x2, y2 = (float(v) for v in box)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="white", linewidth=1.6))
    if title:
        axes.set_title(title, fontsize=10, fontweight="normal", loc="center")


def maps_figure(
    images: Sequence[Tensor],
    columns: Mapping[str, Sequence[Tensor | None]],
    *,
    boxes: Sequence[Tensor] | None = None,
    titles: Sequence[Sequence[str]] | None = None,
    finding: str = "",
    height: float = 1.6,
) -> tuple[Figure, str]:
    """A row for each image (C, H, W), a column for each kind of map (None: the image alone).

    Args:
        columns: heading -> one map (H, W) in [0, 1] for each image.
        boxes: one for each image, drawn in every column.
        titles: for each image the words above each of its pictures, in place of the headings.
        finding: title of the figure.
    """
    rows, width = len(images), max(image.shape[-1] / image.shape[-2] for image in images)
    size = (min(height * width * len(columns), 13), height * rows * (1.18 if titles else 1.04) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    for r, line in enumerate(figure.subplots(rows, len(columns), squeeze=False)):
        for c, (ax, (heading, maps)) in enumerate(zip(line, columns.items(), strict=True)):
            title = titles[r][c] if titles else heading if r == 0 else ""
            show_attention(ax, images[r], maps[r], title, None if boxes is None else boxes[r])
    said = "; ".join(", ".join(line) for line in titles) if titles else ", ".join(columns)
    many = f"{rows} images, a row for each" if rows > 1 else "An image"
    return titled(figure, finding, f"{many}, with maps from violet, low, to yellow, high: {said}.")


def asked_figure(
    part: ImageSet,
    embeddings: Tensor,
    methods: Sequence[str],
    seed: int,
    maps_of: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    *,
    finding: str = "",
    rows: int = 2,
) -> tuple[Figure, str]:
    """Mosaics of four classes, each asked with another image of one of them, whose quarter is framed.

    Args:
        part: N square images.
        embeddings: theirs, (N, D).
        methods: the maps to draw, of those that `maps_of` gives.
        maps_of: (pictures (M, C, H, W), asked (M, D)) -> method -> maps (M, h, w).
    """
    images, labels = part[:]
    mosaics = mosaics_of(images, labels, 4 * rows, seed)  # more than are drawn: maps may subtract a mean
    others = mosaics.asked[:, None] != torch.arange(len(labels))
    asked = ((labels[mosaics.asked][:, None] == labels) & others).int().argmax(1)
    maps, side = maps_of(mosaics.pictures, embeddings[asked]), images.shape[-1]
    heats = [fit_to_image(maps[name][:rows], 2 * side) for name in methods]
    figure = Figure(figsize=(1.2 * (2 + len(methods)), 1.25 * rows + 0.5), layout="constrained")
    for row, line in enumerate(figure.subplots(rows, 2 + len(methods), squeeze=False)):
        left, top = int(mosaics.quarter[row]) % 2 * side, int(mosaics.quarter[row]) // 2 * side
        box = (left, top, left + side - 1, top + side - 1)
        show_attention(line[0], images[asked[row]], None, "asked with" if row == 0 else "")
        show_attention(line[1], mosaics.pictures[row], None, "mosaic" if row == 0 else "", box)
        for axes, name, heat in zip(line[2:], methods, heats, strict=True):
            show_attention(axes, mosaics.pictures[row], heat[row], name if row == 0 else "", box)
    alt = (
        f"{rows} mosaics of four images, a row for each; left the image it is asked with, in each mosaic "
        f"the right quarter framed, then maps by {', '.join(methods)}, from violet, low, to yellow, high."
    )
    return titled(figure, finding, alt)


def cascade_figure(
    panels: Mapping[str, Mapping[str, Sequence[float]]], steps: Sequence[str], finding: str = ""
) -> tuple[Figure, str]:
    """How like the trained network's its maps stay, as more of it turns random, a panel for each network.

    Args:
        panels: network -> method -> rank correlation at each of `steps`.
    """
    colors = {"L2-CAF": PALETTE["blue"], "mean activation": PALETTE["ink"]}
    figure = Figure(figsize=(4.6 * len(panels), 3.2), layout="constrained")
    for ax, (network, lines) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for method, values in lines.items():
            ax.plot(range(len(steps)), values, "o-", color=colors[method], label=method)
        ax.set_xticks(range(len(steps)), steps)
        ax.set_title(network, fontsize=10, fontweight="normal")
        ax.set(xlabel="random down to", ylim=(-0.55, 1.06))
    figure.axes[0].set_ylabel("rank correlation of maps")
    figure.axes[0].legend(loc="lower left")
    told = "; ".join(
        f"{network}: "
        + ", ".join(f"{m} {v[1]:.2f} at once and {v[-1]:.2f} at the end" for m, v in lines.items())
        for network, lines in panels.items()
    )
    return titled(figure, finding, f"Rank correlation with the trained network's maps. {told}.")


def two_positions_figure(shares: Tensor, found: Tensor) -> tuple[Figure, str]:
    """The loss |M (f - 1)|^2 over the two numbers of a filter, the circle of length 1, and where it rests.

    Args:
        shares: M (K, 2), what each of two positions adds to each of K outputs.
        found: the filter (2,) of length 1 with the lowest loss.
    """
    side = np.linspace(-0.35, 1.75, 220)
    grid = np.stack(np.meshgrid(side, side), -1)  # (220, 220, 2)
    loss = np.square((grid - 1) @ shares.numpy().T).sum(-1)
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    plane, along = figure.subplots(1, 2, width_ratios=(1, 1.25))
    turn = np.linspace(0, 2 * np.pi, 361)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    losses = np.square((circle - 1) @ shares.numpy().T).sum(-1)
    plane.contour(side, side, loss, levels=12, colors=PALETTE["grey"], linewidths=0.7)
    plane.contour(side, side, loss, levels=[losses.min()], colors=PALETTE["orange"], linewidths=1.2)
    plane.plot(*circle.T, color=PALETTE["blue"], label="all filters of length 1")
    plane.plot(1, 1, "o", color=PALETTE["ink"], label="f = (1, 1): nothing filtered")
    plane.plot(*found.numpy(), "D", color=PALETTE["orange"], label="the best of them")
    plane.set(xlim=(side[0], side[-1]), ylim=(side[0], side[-1]), aspect="equal")
    plane.set(xlabel="filter at position 1", ylabel="filter at position 2")
    plane.legend(loc="upper left", fontsize=8, frameon=True, framealpha=0.9)
    along.plot(np.degrees(turn), losses, color=PALETTE["blue"])
    angle = math.degrees(math.atan2(found[1], found[0]))
    along.plot(angle % 360, losses.min(), "D", color=PALETTE["orange"])
    along.set(xlabel="direction of the filter, degrees", ylabel="loss", xticks=range(0, 361, 90))
    share = float(found[0] ** 2)
    return figure, (
        "Left: contours of the loss over a filter of two numbers, lowest at (1, 1), and the circle of length "
        f"1, which touches a contour at ({found[0]:.2f}, {found[1]:.2f}). Right: the loss "
        f"along the circle. {share:.0%} of the budget goes to position 1."
    )

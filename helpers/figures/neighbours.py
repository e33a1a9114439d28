"""An image and its nearest neighbours in an embedding: the plane of all points, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from helpers.plotting import PALETTE
from helpers.retrieval import nearest_neighbours


def plane_of(embeddings: Tensor) -> Tensor:
    """Embeddings (N, D), scaled to length 1, on their two main axes: (N, 2). The sign of an axis is fixed."""
    rows = F.normalize(embeddings.cpu().double())
    rows = rows - rows.mean(0)
    axes = torch.linalg.svd(rows, full_matrices=False).Vh[:2]
    points = rows @ axes.T
    points = F.pad(points, (0, 2 - points.shape[1]))
    sign = torch.where(points.amax(0) >= -points.amin(0), 1.0, -1.0)
    return (points * sign).float()


def neighbour_figure(
    image: int,
    space: str,
    *,
    spaces: Mapping[str, Tensor],
    labels: Tensor,
    images: Tensor,
    names: Sequence[str],
    k: int = 5,
) -> tuple[Figure, str]:
    """Left, all images as points of one embedding, with a query and its k nearest; right, their pictures.

    Args:
        image: position of the query, 0 to N - 1.
        space: which of `spaces`.
        spaces: name -> embeddings (N, D); compared by cosine, as `helpers.retrieval` does.
        labels: (N,) classes; images: (N, C, S, S) in [0, 1], C 1 or 3; names: one per class.
        k: neighbours to show, 1 to N - 1.

    Raises ValueError for an image, space or k that is not there, or for parts that do not fit each other.
    """
    _check(image, space, spaces, labels, images, names, k)
    near = nearest_neighbours(spaces[space], k)[0][image].tolist()
    right = [bool(labels[i] == labels[image]) for i in near]
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    plane, *cells = _panels(figure, k)
    _draw_plane(plane, plane_of(spaces[space]).numpy(), labels.numpy(), image, near, right)
    plane.set_title(f"{space}: {sum(right)} of {k} right", fontsize=11)
    for ax, i, kind in zip(cells, [image, *near], ["query", *right], strict=True):
        _draw_picture(ax, images[i], names[int(labels[i])], kind)
    alt = (
        f"Image {image}, {names[int(labels[image])]}, in the embedding {space}: of its {k} nearest "
        f"neighbours {sum(right)} are of the same class. Left, all images as points on two main axes, those "
        "of the class in blue, lines to the neighbours; right, the pictures of the query and its "
        "neighbours, nearest first."
    )
    return figure, alt


def _check(image, space, spaces, labels, images, names, k) -> None:
    if space not in spaces:
        raise ValueError(f"space is {space!r}; expected one of {', '.join(map(repr, spaces))}")
    count = len(labels)
    for what, held in (("images", images), (f"spaces[{space!r}]", spaces[space])):
        if len(held) != count:
            raise ValueError(f"{what} has {len(held)} rows and labels {count}; expected as many")
    if len(names) <= int(labels.max()):
        raise ValueError(f"names has {len(names)} entries, but a label is {int(labels.max())}")
    for what, value, low, high in (("image", image, 0, count - 1), ("k", k, 1, count - 1)):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{what} is {value!r}; expected a whole number from {low} to {high}")


def _panels(figure: Figure, k: int) -> list[Axes]:
    """The plane, and k + 1 cells in two rows beside it."""
    columns = (k + 2) // 2
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.35])
    cells = right.subplots(2, columns, squeeze=False).flatten().tolist()
    for ax in cells[k + 1 :]:
        ax.set_visible(False)
    return [left.subplots(), *cells[: k + 1]]


def _draw_plane(
    axes: Axes, points: np.ndarray, labels: np.ndarray, image: int, near: list[int], right: list[bool]
) -> None:
    own = labels == labels[image]
    axes.plot(*points[~own].T, ".", color="#C9CED6", markersize=4, label="other classes")
    axes.plot(*points[own].T, "o", color=PALETTE["blue"], markersize=5, alpha=0.8, label="class of the query")
    for i, good in zip(near, right, strict=True):
        axes.plot(*points[[image, i]].T, color=PALETTE["grey"], linewidth=0.8, zorder=1)
        axes.plot(
            *points[i],
            "o" if good else "X",
            color=PALETTE["green" if good else "orange"],
            markersize=8,
            zorder=3,
        )
    axes.plot(*points[image], "*", color=PALETTE["ink"], markersize=15, zorder=4, label="query")
    axes.set(xticks=[], yticks=[])
    axes.margins(0.06)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncol=3, fontsize=8.5, handletextpad=0.2)


def _draw_picture(axes: Axes, image: Tensor, name: str, kind: str | bool) -> None:
    axes.imshow(image.permute(1, 2, 0).expand(-1, -1, 3).clamp(0, 1).numpy())
    color, word = {"query": ("ink", "query"), True: ("green", "right"), False: ("orange", "wrong")}[kind]
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for side in axes.spines.values():
        side.set(visible=True, linewidth=4, color=PALETTE[color])
    axes.set_title(word, fontsize=9.5, loc="center", color=PALETTE[color])
    axes.set_xlabel(fill(name, 20), fontsize=8)

"""Pictures of image sets, of neighbours, and heat maps of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from helpers.data import ImageSet
from helpers.plotting import PALETTE, titled
from helpers.retrieval import nearest_neighbours


def classes_figure(part: ImageSet, classes: int = 8, each: int = 2) -> tuple[Figure, str]:
    """The first images of the first classes, one class per column."""
    classes = min(classes, part.num_classes)
    figure = Figure(figsize=(1.35 * classes, 1.35 * each + 0.45), layout="constrained")
    for column, c in zip(figure.subplots(each, classes, squeeze=False).T, range(classes), strict=True):
        column[0].set_title(fill(part.class_names[c], 17), fontsize=8, fontweight="normal", loc="center")
        for ax in column:
            ax.axis("off")
        for ax, i in zip(column, (part.labels == c).nonzero()[:each, 0].tolist(), strict=False):
            _picture(ax, part, i)
    return figure, f"{each} images of each of {classes} classes of {part.name}, one class per column."


def neighbours_figure(
    part: ImageSet, spaces: Mapping[str, Tensor], queries: Sequence[int], k: int = 5
) -> tuple[Figure, str]:
    """A row for each embedding: every query with its k nearest images, the right class framed.

    Args:
        spaces: name -> embeddings (N, D) of the whole part.
    """
    columns = len(queries) * (k + 1)
    figure = Figure(figsize=(0.68 * columns, 0.78 * len(spaces)), layout="constrained")
    axes, right = figure.subplots(len(spaces), columns, squeeze=False), {}
    for row, (name, points) in zip(axes, spaces.items(), strict=True):
        near = nearest_neighbours(points, k)[0][list(queries)].tolist()
        right[name] = 0
        for place, (query, found) in enumerate(zip(queries, near, strict=True)):
            for ax, i in zip(row[(k + 1) * place :], [query, *found], strict=False):
                _picture(ax, part, i)
                hit = i != query and part.labels[i] == part.labels[query]
                right[name] += int(hit)
                _frame(ax, PALETTE["ink"] if i == query else PALETTE["green"] if hit else None)
            axes[0, (k + 1) * place].set_title("query", fontsize=9, fontweight="normal", loc="center")
        row[0].set_ylabel(name, fontsize=9)
    counted = ", ".join(f"{n} of {k * len(queries)} by {name}" for name, n in right.items())
    return figure, (
        f"{len(queries)} queries, each with its {k} nearest images, a row for each of {', '.join(spaces)}; "
        f"images of the right class are framed: {counted}."
    )


def heatmaps_figure(
    panels: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[object],
    columns: Sequence[object],
    labels: tuple[str, str],
    finding: str = "",
) -> tuple[Figure, str]:
    """One heat map of numbers per panel, all with the same rows and columns, named by `labels`."""
    figure = Figure(figsize=(3.3 * len(panels), 2.6), layout="constrained")
    for ax, (title, values) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        sns.heatmap(
            np.asarray(values), ax=ax, annot=True, fmt=".3f", cmap="cividis", cbar=False,
            xticklabels=list(map(str, columns)), yticklabels=list(map(str, rows)), annot_kws={"fontsize": 9},
        )  # fmt: skip
        ax.set(title=title, xlabel=labels[1], ylabel=labels[0])
        ax.tick_params(rotation=0)
    best = {title: np.unravel_index(np.argmax(values), np.shape(values)) for title, values in panels.items()}
    told = "; ".join(
        f"{title} is best, {panels[title][r][c]:.3f}, at {labels[0]} {rows[r]}, {labels[1]} {columns[c]}"
        for title, (r, c) in best.items()
    )
    return titled(figure, finding, f"Heat maps over {labels[0]} and {labels[1]}: {told}.")


def _picture(axes: Axes, part: ImageSet, index: int) -> None:
    axes.imshow(part[index][0].permute(1, 2, 0).expand(-1, -1, 3).numpy())


def _frame(axes: Axes, color: str | None) -> None:
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=color is not None, linewidth=2.5, color=color or "white")

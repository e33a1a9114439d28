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
    part: ImageSet, spaces: Mapping[str, Tensor], queries: Sequence[int], k: int = 5, *, finding: str = ""
) -> tuple[Figure, str]:
    """Every query with its k nearest images, a row for each embedding, the right class framed.

    Args:
        spaces: name -> embeddings (N, D) of the whole part.
    """
    count = len(spaces)
    figure = Figure(figsize=(1.05 * (k + 1) + 0.4, 1.02 * count * len(queries) + 0.3), layout="constrained")
    blocks = figure.subfigures(len(queries), 1, squeeze=False)[:, 0]
    axes, right = [block.subplots(count, k + 1, squeeze=False) for block in blocks], {}
    for row, (name, points) in enumerate(spaces.items()):
        near = nearest_neighbours(points, k)[0][list(queries)].tolist()
        right[name] = 0
        for block, query, found in zip(axes, queries, near, strict=True):
            for ax, i in zip(block[row], [query, *found], strict=True):
                _picture(ax, part, i)
                hit = i != query and part.labels[i] == part.labels[query]
                right[name] += int(hit)
                _frame(ax, PALETTE["ink"] if i == query else PALETTE["green"] if hit else None)
            block[row, 0].set_ylabel(name, fontsize=9)
    for ax, word in zip(axes[0][0], ["query", "nearest", *["" for _ in range(k - 1)]], strict=True):
        ax.set_title(word, fontsize=9, fontweight="normal", loc="center")
    counted = ", ".join(f"{n} of {k * len(queries)} by {name}" for name, n in right.items())
    alt = (
        f"{len(queries)} queries, each with its {k} nearest images, a row for each of {', '.join(spaces)}; "
        f"images of the right class are framed: {counted}."
    )
    return titled(figure, finding, alt)


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

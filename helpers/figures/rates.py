"""A metric over learning rates as a heat map: one row for each method, its plateau framed."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.plotting import titled

if TYPE_CHECKING:
    import pandas as pd

    from helpers.experiments import Results

ENOUGH = 0.9
"""Share of a row's best value that belongs to its plateau."""


def rates_figure(sources: Sequence[Results], metric: str, finding: str = "") -> tuple[Figure, str]:
    """A heat map of means over seeds for each source, what is kept first: arms down, rates across.

    Framed are the rates at which an arm reaches nine tenths of its own best mean.
    """
    from helpers.experiments.drawing import source_name

    tables = {source_name(found): _means(found, metric) for found in sources}
    rows, columns = (max(table.shape[axis] for table in tables.values()) for axis in (0, 1))
    widths = [table.shape[1] + 0.6 for table in tables.values()]
    size = (min(13, 2.6 + 0.66 * sum(widths)), 1.3 + 0.36 * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(tables), width_ratios=widths, squeeze=False)[0]
    top = max(table.max(axis=None) for table in tables.values())
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        sns.heatmap(
            table, ax=axes, annot=True, fmt=".2f", cmap="cividis", cbar=False, vmin=0, vmax=top,
            annot_kws={"fontsize": 9}, xticklabels=[f"{rate:g}" for rate in table.columns],
            yticklabels=[fill(arm, 26) for arm in table.index],
        )  # fmt: skip
        _frame(axes, table)
        axes.tick_params(rotation=0)
        axes.set_title(name, fontsize=11, fontweight="normal")
        axes.set(xlabel="learning rate", ylabel="")
    best = "; ".join(
        f"{arm} {row.max():.2f} at {row.idxmax():g}" for arm, row in next(iter(tables.values())).iterrows()
    )
    return titled(figure, finding, f"Heat map of {metric}, arms by {columns} rates. Best: {best}.")


def _means(found: Results, metric: str) -> pd.DataFrame:
    rows = found.table[(found.table["metric"] == metric) & found.table["step"].isna()]
    means = rows.pivot_table(index="arm", columns="rate", values="value", aggfunc="mean")
    return means.loc[[arm.name for arm in found.arms if arm.name in means.index]]


def _frame(axes: Axes, table: pd.DataFrame) -> None:
    """A frame around each run of neighbouring rates, inside its row, dark on white to show on any colour."""
    enough = table.ge(ENOUGH * table.max(axis=1), axis=0).to_numpy().astype(int)
    edges = np.diff(np.pad(enough, ((0, 0), (1, 1))), axis=1)
    for (row, first), (_, last) in zip(np.argwhere(edges == 1), np.argwhere(edges == -1), strict=True):
        for color, width in (("white", 4.6), ("black", 2.0)):
            place = (first + 0.06, row + 0.08), last - first - 0.12, 0.84
            axes.add_patch(Rectangle(*place, fill=False, edgecolor=color, linewidth=width))

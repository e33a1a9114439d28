"""What a factorial experiment and its generations show: interactions of tools, courses over generations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.contest import by_seed
from helpers.experiments import Results, paired_interval
from helpers.experiments.drawing import band_of_seeds, source_name
from helpers.figures.gap import ACCURACY, FAMILY, RECALL, STYLES, TOOLS
from helpers.plotting import PALETTE, titled


def interactions_figure(
    found: Results, metrics: Sequence[str] = (ACCURACY, RECALL), finding: str = ""
) -> tuple[Figure, str]:
    """A panel for each pair of tools and metric: does a tool do the same without and with the other?

    Means over the third tool and the seeds; from four seeds on with 95 % intervals over seeds, once each
    seed's own level is taken out.
    """
    pairs = list(combinations(range(3), 2))
    figure = Figure(figsize=(9.6, 2.9 * len(metrics)), layout="constrained")
    told = []
    for row, metric in zip(
        figure.subplots(len(metrics), 3, sharey="row", squeeze=False), metrics, strict=True
    ):
        values = np.stack([found.values(name, metric) for name in FAMILY]).reshape(2, 2, 2, -1)
        for axes, (first, second) in zip(row, pairs, strict=True):
            (third,) = {0, 1, 2} - {first, second}
            table = values.mean(axis=third)  # (2, 2, seeds): first, second
            level = table.mean((0, 1))
            for on, color, style in ((0, "grey", "--"), (1, "blue", "-")):
                means = table[:, on].mean(-1)
                spans = [paired_interval(apart.tolist()) for apart in table[:, on] - level]
                reach = [span.high - span.mean for span in spans] if len(level) > 3 else None
                axes.errorbar(
                    (0, 1),
                    means,
                    reach,
                    color=PALETTE[color],
                    linestyle=style,
                    marker="o",
                    capsize=3,
                    label=f"{'with' if on else 'without'} {TOOLS[second]}",
                )
            slopes = (table[1] - table[0]).mean(-1)
            told.append(f"{metric}, {TOOLS[first]} by {TOOLS[second]}: {slopes[0]:+.3f} and {slopes[1]:+.3f}")
            axes.set_xticks((0, 1), ["without", "with"])
            axes.set_xlabel(TOOLS[first])
            axes.set_xlim(-0.3, 1.3)
            axes.legend(fontsize=9, loc="best")
        row[0].set_ylabel(metric)
    seeds = len(found.values(FAMILY[0], metrics[0]))
    said = f"{source_name(found)}, {seeds} seeds"
    said += "; bars: 95 % intervals, each seed's own level taken out" if seeds > 3 else ""
    figure.supxlabel(said, fontsize=9, x=0.02, ha="left")
    return titled(
        figure, finding, f"What the first tool does without and with the second: {'; '.join(told)}."
    )


def courses_figure(
    found: Results, arms: Sequence[str], ends: Sequence[str] = (), finding: str = ""
) -> tuple[Figure, str]:
    """Accuracy and recall of dense networks (lines) and of their slim ones (dashed) over the generations.

    Args:
        arms: with the curves of both metrics "by generation", and of "slim" both.
        ends: arms of one long run, each a level line where it ended.
    """
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    told = []
    for axes, metric in zip(figure.subplots(1, 2), (ACCURACY, RECALL), strict=True):
        for name in arms:
            color = PALETTE[STYLES[name][0]]
            for prefix, style in (("", "-"), ("slim ", "--")):
                runs = by_seed(found, name, f"{prefix}{metric} by generation", "step").T
                axes.plot(runs.index, runs.mean(axis=1), style, color=color, marker="o", markersize=4)
                axes.fill_between(
                    runs.index, runs.min(axis=1), runs.max(axis=1), color=color, alpha=0.12, linewidth=0
                )
                told.append(
                    f"{prefix}{metric} of {name} {runs.iloc[0].mean():.2f} to {runs.iloc[-1].mean():.2f}"
                )
        for name in ends:
            axes.axhline(found.values(name, metric).mean(), color=PALETTE[STYLES[name][0]], linestyle=":")
        axes.set(xlabel="generation", ylabel=metric, xticks=runs.index)
    lines = [Line2D([], [], color=PALETTE[STYLES[name][0]], label=name) for name in arms]
    lines += [
        Line2D([], [], color=PALETTE[STYLES[n][0]], linestyle=":", label=f"{n}, one long run") for n in ends
    ]
    lines += [
        Line2D([], [], color=PALETTE["ink"], linestyle=s, label=w)
        for w, s in (("dense", "-"), ("slim", "--"))
    ]
    lines.append(band_of_seeds())
    seeds = found.table["seed"].nunique()
    figure.legend(
        handles=lines,
        loc="outside right center",
        fontsize=9,
        title_fontsize=9,
        title=f"{source_name(found)},\n{seeds} seeds",
    )
    return titled(figure, finding, f"Means over seeds: {'; '.join(told)}.")

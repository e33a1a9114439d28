"""Pictures of the notebook on evaluation: spaces and rankings with their scores, epochs, leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from helpers.experiments.comparison import Interval
from helpers.experiments.results import OWN
from helpers.plotting import PALETTE, titled

KINDS = (("o", PALETTE["blue"]), ("s", PALETTE["orange"]), ("^", PALETTE["green"]))
PARTS = {"these classes": PALETTE["orange"], "other classes": PALETTE["blue"], "validation": PALETTE["grey"]}


def spaces_figure(
    spaces: Mapping[str, tuple[Tensor, Tensor]], scores: Mapping[str, Mapping[str, float]], finding: str = ""
) -> tuple[Figure, str]:
    """A panel for each embedding, points (N, 2) with labels (N,) from 0 to 2, its scores beneath."""
    figure = Figure(figsize=(3.1 * len(spaces), 3.7), layout="constrained")
    everything, said = torch.cat([points for points, _ in spaces.values()]), []
    low, high = (everything.amin(0) - 0.5).tolist(), (everything.amax(0) + 0.5).tolist()
    for ax, (name, (points, labels)) in zip(
        figure.subplots(1, len(spaces), squeeze=False)[0], spaces.items(), strict=True
    ):
        for kind, (marker, color) in enumerate(KINDS):
            ax.plot(*points[labels == kind].T, marker, color=color, markersize=6)
        ax.set_title(name, loc="center", fontsize=10)
        lines = [f"{measure} {value:.2f}" for measure, value in scores[name].items()]
        ax.set(xticks=[], yticks=[], aspect="equal", xlabel="\n".join(lines))
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        ax.spines[:].set_visible(True)
        said.append(f"{name}: {', '.join(lines)}")
    return titled(figure, finding, f"Points of three classes in the plane. {'; '.join(said)}.")


def rankings_figure(
    rankings: Sequence[Sequence[bool]], scores: Mapping[str, Sequence[float]], finding: str = ""
) -> tuple[Figure, str]:
    """A row of squares for each ranking, its first R places, filled where right, and its scores beside it.

    Args:
        scores: measure -> a value for each ranking.
    """
    count = max(map(len, rankings))
    figure = Figure(figsize=(7.5, 0.42 * len(rankings) + 0.9), layout="constrained")
    ax, said = figure.subplots(), []
    for row, hits in enumerate(rankings):
        for place, hit in enumerate(hits):
            face = PALETTE["green"] if hit else "white"
            ax.plot(place, row, "s", markersize=15, markerfacecolor=face, markeredgecolor=PALETTE["grey"])
        right = ", ".join(str(place + 1) for place, hit in enumerate(hits) if hit)
        said.append(f"right at {right}: {', '.join(f'{m} {v[row]:.2f}' for m, v in scores.items())}")
    for column, (measure, values) in enumerate(scores.items()):
        x = count + 0.6 + 1.6 * column
        ax.text(x, -0.8, measure, ha="center", fontsize=10, weight="bold")
        for row, value in enumerate(values):
            ax.text(x, row, f"{value:.2f}", va="center", ha="center")
    ax.set_xticks(range(count), range(1, count + 1))
    ax.set(xlim=(-0.6, count + 1.6 * len(scores)), ylim=(len(rankings) - 0.4, -1.2), yticks=[])
    ax.set_xlabel("rank", loc="left")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return titled(figure, finding, f"The first {count} places of rankings. {'; '.join(said)}.")


def epochs_figure(
    curves: Mapping[str, Sequence[float]], chosen: Mapping[str, int], ylabel: str, finding: str = ""
) -> tuple[Figure, str]:
    """A score after each epoch, a curve for each set of classes, and the epochs that were chosen.

    Args:
        chosen: what chose -> index of the epoch.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    ax, said = figure.subplots(), []
    for name, values in curves.items():
        ax.plot(range(1, len(values) + 1), values, "o-", color=PARTS[name], markersize=3.5, label=name)
    for name, epoch in chosen.items():
        ax.axvline(epoch + 1, color=PARTS[name], linestyle=":", linewidth=1.5)
        at = ", ".join(f"{part} {values[epoch]:.2f}" for part, values in curves.items())
        said.append(f"epoch {epoch + 1}, chosen on {name}: {at}")
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right center")
    return titled(
        figure, finding, f"{ylabel} along one run. {'; '.join(said)}. Dotted lines mark the choice."
    )


def optimism_figure(gains: Mapping[str, Tensor], finding: str = "") -> tuple[Figure, str]:
    """What choosing the best of the first k epochs gains over their mean, against k; a band of quartiles.

    Args:
        gains: classes that are scored -> (draws, epochs).
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    ax, said = figure.subplots(), []
    for name, values in gains.items():
        looks = range(1, values.shape[1] + 1)
        ax.plot(looks, values.mean(0), color=PARTS[name], label=name)
        ax.fill_between(looks, *np.percentile(values, (25, 75), axis=0), color=PARTS[name], alpha=0.15)
        said.append(f"{name} {values.mean(0)[-1]:+.3f}")
    ax.axhline(0, color=PALETTE["ink"], linewidth=0.8)
    ax.set(xlabel="epochs looked at", ylabel="gain in recall@1")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right center")
    last = next(iter(gains.values())).shape[1]
    return titled(figure, finding, f"Mean gain of the best of {last} epochs: {', '.join(said)}.")


def leads_figure(
    leads: Mapping[str, Mapping[str, Interval]], smallest: float, xlabel: str, finding: str = ""
) -> tuple[Figure, str]:
    """A lead with its 95 % interval for each method; this run hollow, kept evidence solid.

    Args:
        leads: source -> method -> interval.
        smallest: the effect that counts, drawn as a band around 0.
    """
    names = list(next(iter(leads.values())))
    figure = Figure(figsize=(8, 0.5 * len(names) + 1.1), layout="constrained")
    ax, said = figure.subplots(), []
    ax.axvspan(-smallest, smallest, color=PALETTE["grey"], alpha=0.15, label="too small to count")
    ax.axvline(0, color=PALETTE["ink"], linewidth=0.8)
    for i, (source, intervals) in enumerate(leads.items()):
        own = source == OWN
        rows = np.arange(len(names)) + 0.22 * (i - (len(leads) - 1) / 2)
        means = [intervals[name].mean for name in names]
        color = PALETTE["grey" if i else "ink"]
        reach = [min(intervals[name].mean - intervals[name].low, 1.0) for name in names]
        ax.errorbar(
            means,
            rows,
            xerr=reach,
            fmt="o",
            color=color,
            markerfacecolor="white" if own else color,
            capsize=2,
            label=source,
        )
        said.append(f"{source}: " + ", ".join(f"{n} {m:+.3f}" for n, m in zip(names, means, strict=True)))
    solid = next(iter(leads.values())).values()
    far = max(2 * smallest, *(max(abs(one.low), abs(one.high)) for one in solid))
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5), xlim=(-min(far, 0.5), min(far, 0.5)))
    if any(one.low < -far and one.high > far for found in leads.values() for one in found.values()):
        ax.set_xlabel(f"{xlabel} (bars from edge to edge are wider still)")
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower left", ncols=1 + len(leads))
    return titled(figure, finding, f"{xlabel}. {'; '.join(said)}. Below {smallest:g} nothing counts.")

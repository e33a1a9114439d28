"""Pictures of Knowledge Evolution: the idea, a generation, accuracy over generations and shares kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from helpers.data import ImageSet
from helpers.experiments import Arm, Results
from helpers.experiments.drawing import source_name
from helpers.figures.pictures import heatmaps_figure
from helpers.plotting import PALETTE, titled

PUBLISHED = {
    "dense": (52.76, 55.68, 56.16, 57.23, 57.85, 59.23, 59.55, 60.37, 60.92, 61.86),
    "slim": (1.53, 22.51, 54.50, 57.26, 57.78, 59.26, 59.54, 60.34, 60.92, 61.86),
}
"""Top-1 accuracy in per cent, ResNet-18 on Flower-102, from the released code."""
DENSE, SLIM = PALETTE["blue"], PALETTE["sky"]

Generation = Mapping[str, Any]
"""What `generation_figure` draws of one generation:

    weights: (O, I) mean |w| of each kernel of a layer
    mask: bool (O, I), those of them that stay
    dense, slim: (K,) probability of the right class, for K test images
    accuracy: test accuracy of the dense and of the slim network
    line: losses on the way from the slim network to the dense one, evenly spaced
"""


def idea_figure() -> tuple[Figure, str]:
    """Left, what a generation does to the weights of a layer; right, the published curves."""
    figure = Figure(figsize=(9.5, 3.1), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1.5, 1])
    first, second = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0)).abs()
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:6, :6] = True
    redrawn = torch.where(mask, first, second / math.sqrt(6))  # a reset draws smaller weights than the start
    titles = ("generation 1", "keep a quarter", "draw the rest")
    panels = grid[0].subgridspec(1, 3).subplots()
    for ax, weights, title in zip(
        panels, (first, torch.where(mask, first, torch.nan), redrawn), titles, strict=True
    ):
        _matrix(ax, weights, (6, 6), 2.5)
        ax.set_title(title, fontsize=11)
    panels[0].set(xlabel="input channels", ylabel="filters")
    ax = figure.add_subplot(grid[1])
    for (name, values), color, style in zip(PUBLISHED.items(), (DENSE, SLIM), ("o-", "o--"), strict=True):
        ax.plot(range(1, 11), values, style, color=color, label=name)
    ax.set(xlabel="generation", ylabel="accuracy (%)", title="Flowers, as published", xticks=range(1, 11))
    ax.legend(loc="lower right")
    return figure, (
        "Left: a matrix of weights three times; its upper left quarter stays, the rest is removed and drawn "
        "anew. Right: published accuracy of ResNet-18 on Flower-102 over ten generations; the dense network "
        "rises from 52.8 to 61.9 per cent, the slim one from 1.5 per cent to the same value, which it meets "
        "at generation four."
    )


def generation_figure(
    generations: Sequence[Generation], part: ImageSet, rows: Sequence[int], number: int, finding: str = ""
) -> tuple[Figure, str]:
    """Generation `number`, from 1: a layer, the loss from slim to dense, accuracies so far, some answers.

    Args:
        part, rows: the test images whose answers are shown.
        finding: a title of its own.
    """
    now, past = generations[number - 1], generations[:number]
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    layer, line, curve = top.subplots(1, 3, width_ratios=[1, 1.15, 1.15])
    kept = tuple(int(now["mask"].any(axis).sum()) for axis in (1, 0))
    _matrix(layer, now["weights"], kept, float(generations[0]["weights"].max()))
    layer.set(xlabel="input channels", ylabel="filters", title="A layer")
    shades = np.linspace(0.25, 1, len(generations))
    places = np.linspace(0, 1, len(now["line"]))
    for shade, generation in zip(shades, past, strict=False):
        line.plot(places, generation["line"], color=to_rgba(DENSE, shade))
    ends = {"dense": (1.0, now["line"][-1], DENSE), "slim": (0.0, now["line"][0], SLIM)}
    for name, (place, loss, color) in ends.items():
        line.plot(place, loss, "o", color=color, label=name)
    highest = max(max(generation["line"]) for generation in generations)
    line.set(xlabel="factor of the reset part", ylabel="test loss", ylim=(0, 1.05 * highest))
    line.set(xticks=[0, 0.5, 1], title="From slim to dense")
    _accuracies(curve, [generation["accuracy"] for generation in past], len(generations))
    _answers(bottom, part, rows, now)
    dense, slim = now["accuracy"]
    return titled(figure, finding or f"Generation {number}: dense {dense:.2f}, slim {slim:.2f}", (
        f"Generation {number} of {len(generations)}. Left: weights of a layer, the part that stays framed. "
        f"Middle: the test loss is {now['line'][0]:.2f} at the slim and {now['line'][-1]:.2f} at the dense "
        f"network. Right: accuracy so far, dense {dense:.2f}, slim {slim:.2f}. Below: {len(rows)} test "
        "images with the probability that either network gives to the right class."
    ))  # fmt: skip


def _accuracies(ax: Axes, accuracy: Sequence[tuple[float, float]], total: int) -> None:
    for values, name, color, style in zip(
        zip(*accuracy, strict=True), ("dense", "slim"), (DENSE, SLIM), ("o-", "o--"), strict=True
    ):
        ax.plot(range(1, len(accuracy) + 1), values, style, color=color, label=name)
    ax.set(xlabel="generation", ylabel="test accuracy", title="So far", ylim=(0, 1))
    ax.set(xlim=(0.7, total + 0.3), xticks=range(1, total + 1))
    ax.legend(loc="upper left", ncols=2)


def _answers(figure: Figure, part: ImageSet, rows: Sequence[int], now: Generation) -> None:
    pictures, bars = figure.subplots(2, len(rows), height_ratios=[2.2, 1], squeeze=False)
    for place, row in enumerate(rows):
        top, below = pictures[place], bars[place]
        top.imshow(part[row][0].permute(1, 2, 0).expand(-1, -1, 3).numpy())
        top.axis("off")
        below.barh([1, 0], [float(now["dense"][place]), float(now["slim"][place])], color=[DENSE, SLIM])
        below.set(xlim=(0, 1), xticks=[0, 1], yticks=[])
        below.grid(visible=False)
    bars[0].set_yticks([1, 0], ["dense", "slim"])
    bars[0].set_xlabel("probability of the right class", loc="left", fontsize=9)


def generations_figure(
    results: Results, arms: Sequence[Arm], kept: Results | None, finding: str
) -> tuple[Figure, str]:
    """Accuracy of the dense networks (lines) and their slim ones (dashed) over the generations, two panels
    where there is kept evidence: it, and this run.

    The runs give the curves "dense by generation" and "slim by generation".
    """
    sources = [results] if kept is None else [kept, results]
    figure = Figure(figsize=(9.5, 3.5), layout="constrained")
    told = []
    for ax, source in zip(
        figure.subplots(1, len(sources), sharey=True, squeeze=False)[0], sources, strict=True
    ):
        for arm in arms:
            for which, style in (("dense", "-"), ("slim", "--")):
                table = source.at_chosen(f"{which} by generation", curve=True)
                runs = table[table["arm"] == arm.name].pivot_table(
                    index="step", columns="seed", values="value"
                )
                color = PALETTE[arm.color]
                ax.plot(runs.index, runs.mean(axis=1), style, color=color, marker="o", markersize=4)
                ax.fill_between(
                    runs.index, runs.min(axis=1), runs.max(axis=1), color=color, alpha=0.12, linewidth=0
                )
                told.append(f"{arm.name}, {which} {runs.iloc[-1].mean():.2f}")
        seeds = source.table["seed"].nunique()
        ax.set(title=f"{source_name(source)}, {seeds} seeds", xlabel="generation", xticks=runs.index)
    figure.axes[0].set(ylabel="test accuracy", ylim=(0, 1))
    lines = [Line2D([], [], color=PALETTE[arm.color], label=arm.name) for arm in arms]
    lines += [
        Line2D([], [], color=PALETTE["ink"], linestyle=style, label=which)
        for which, style in (("dense", "-"), ("slim", "--"))
    ]
    figure.legend(handles=lines, loc="outside right center")
    alt = f"Accuracy over the generations, mean over seeds, at the end: {'; '.join(told)}."
    return titled(figure, finding, alt)


def shares_figure(found: Results, arms: Mapping[float, Arm], finding: str) -> tuple[Figure, str]:
    """Heat map of slim accuracy, mean over seeds: a row for each share kept, a column for each generation."""
    curves = found.at_chosen("slim by generation", curve=True)
    table = curves.pivot_table(index="arm", columns="step", values="value")
    values = table.loc[[arm.name for arm in arms.values()]]
    figure, alt = heatmaps_figure(
        {"slim accuracy": values.to_numpy()},
        list(arms),
        values.columns.astype(int),
        ("share kept", "generation"),
    )
    return titled(figure, finding, alt)


def _matrix(ax: Axes, weights: torch.Tensor, kept: tuple[int, int], highest: float) -> None:
    """Weights (O, I) as shades, the part that stays framed."""
    ax.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=highest, interpolation="nearest")
    filters, inputs = kept
    corner = (-0.5, -0.5)
    ax.add_patch(Rectangle(corner, inputs, filters, fill=False, color=PALETTE["orange"], linewidth=3))
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)

"""Pictures of the notebook on losses: collapse, weights of pairs, spreading labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled

COLORS = {
    "batch-all": PALETTE["sky"],
    "batch-all, active": PALETTE["purple"],
    "batch-hard": PALETTE["orange"],
}


def diagnostics_figure(
    paths: Mapping[tuple[str, float], pd.DataFrame], margin: float, finding: str = ""
) -> tuple[Figure, str]:
    """For every learning rate a column: above, which share of the triplets is active; below, the loss.

    Args:
        paths: (name of the loss, rate) -> a table with "loss" and "active triplets", a row for each step.
        margin: the unit of the loss.
    """
    rates = list(dict.fromkeys(rate for _, rate in paths))
    figure = Figure(figsize=(4.4 * len(rates), 5.2), layout="constrained")
    axes, said = figure.subplots(2, len(rates), squeeze=False, sharex=True, sharey="row"), []
    for (name, rate), path in paths.items():
        upper, lower = axes[:, rates.index(rate)]
        smooth = path.rolling(10, min_periods=1).mean()
        color = COLORS[name]
        upper.plot(smooth["active triplets"], color=color, label=name)
        lower.plot(smooth["loss"] / margin, color=color, label=name)
        last = smooth.iloc[-1]
        said.append(
            f"{name} at {rate:g}: {last['active triplets']:.0%} active, "
            f"loss {last['loss'] / margin:.2f} margins"
        )
    for column, rate in zip(axes.T, rates, strict=True):
        column[0].set_title(f"learning rate {rate:g}", fontsize=11)
        column[1].axhline(1, color=PALETTE["ink"], linestyle=":", linewidth=1.2)
        column[1].annotate("all distances equal", (0, 1.05), fontsize=9)
        column[1].set(xlabel="step", ylim=(0, 2.5))
    axes[0, 0].set(ylabel="share of active triplets", ylim=(0, 1.02))
    axes[1, 0].set_ylabel("loss, in margins")
    axes[0, -1].legend(loc="upper right", fontsize=9)
    return titled(figure, finding, "At the last steps, " + "; ".join(said) + ".")


def weights_figure(
    similarities: Tensor, curves: Mapping[str, Tensor], marks: Mapping[str, float], finding: str = ""
) -> tuple[Figure, str]:
    """How much a negative counts (N,) against its similarity (N,), a curve for each company it is in.

    Args:
        marks: text -> similarity of a vertical line.
    """
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    ax = figure.subplots()
    colors = [PALETTE[name] for name in ("grey", "green", "orange", "purple")]
    for (name, weights), color in zip(curves.items(), colors, strict=False):
        ax.plot(similarities, weights, color=color, label=name)
    for text, place in marks.items():
        ax.axvline(place, color=PALETTE["ink"], linestyle=":", linewidth=1)
        ax.annotate(f" {text}", (place, 1.03), fontsize=9)
    ax.set(xlabel="cosine similarity of the negative", ylabel="weight of the pair", ylim=(0, 1.12))
    ax.legend(loc="center left", fontsize=9)
    half = {name: _first_above(similarities, weights) for name, weights in curves.items()}
    said = "; ".join(f"{name}: half its weight at {place}" for name, place in half.items())
    return titled(figure, finding, f"Weight of a negative against its similarity. {said}.")


def _first_above(similarities: Tensor, weights: Tensor) -> str:
    above = (weights >= 0.5).nonzero()
    return f"{similarities[above[0, 0]]:.2f}" if len(above) else "no similarity"


def spreading_figure(
    accuracies: Mapping[str, np.ndarray],
    largest: Mapping[str, np.ndarray],
    iterations: Sequence[int],
    finding: str = "",
) -> tuple[Figure, str]:
    """Left, accuracy of the unlabelled; right, share of the class given most; mean and range over draws.

    Args:
        accuracies, largest: name of a graph -> (draws, len(iterations)).
    """
    figure = Figure(figsize=(9.5, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for panel, values in ((left, accuracies), (right, largest)):
        for (name, runs), color in zip(values.items(), (PALETTE["grey"], PALETTE["blue"]), strict=True):
            _band(panel, iterations, runs, name, color)
    left.set(ylabel="accuracy of the others", ylim=(0, 1))
    right.set(ylabel="share given to the largest class", ylim=(0, 1.02))
    right.axhline(0.1, color=PALETTE["ink"], linestyle=":", linewidth=1, label="ten equal classes")
    right.legend(fontsize=9)
    for panel in (left, right):
        panel.set_xlabel("iterations")
    said = "; ".join(
        f"{name}: {runs.mean(0)[0]:.2f} after {iterations[0]}, {runs.mean(0)[-1]:.2f} after {iterations[-1]}"
        for name, runs in accuracies.items()
    )
    return titled(figure, finding, f"Accuracy of digits without a label. {said}.")


def _band(ax: Axes, x: Sequence[int], runs: np.ndarray, name: str, color: str) -> None:
    ax.plot(x, runs.mean(0), "o-", color=color, label=name, markersize=4)
    ax.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.15, linewidth=0)

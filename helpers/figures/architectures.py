"""Pictures of the notebook on architectures: a squeezed spiral, costs that scale, costs against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plotting import PALETTE, titled

COLORS = {
    "ResNet": PALETTE["blue"],
    "DenseNet": PALETTE["orange"],
    "Inception v3": PALETTE["green"],
    "MobileNetV2": PALETTE["purple"],
    "EfficientNet": PALETTE["sky"],
}
RECOGNISABLE = 0.1
"""Share of a curve's variance that may be lost before the title calls it lost."""


def spirals_figure(curve: Tensor, back: Mapping[int, Tensor]) -> tuple[Figure, str]:
    """A curve, and what is left of it after so many channels; the title says how much.

    Args:
        curve: (N, 2), at most 1 in each coordinate.
        back: number of channels -> (N, 2), the curve as it came back.
    """
    figure = Figure(figsize=(2.3 * (1 + len(back)), 2.7), layout="constrained")
    panels = figure.subplots(1, 1 + len(back))
    lost = {n: lost_share(curve, points) for n, points in back.items()}
    pictures = {"the curve": curve} | {
        f"{n} channel{'s' * (n > 1)}: {lost[n]:.0%} lost": points for n, points in back.items()
    }
    shade = np.linspace(0, 1, len(curve))
    for ax, (title, points) in zip(panels, pictures.items(), strict=True):
        ax.scatter(*points.T, c=shade, cmap="viridis", s=5)
        ax.set_title(title, loc="center", fontsize=10)
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
        ax.spines[:].set_visible(False)
    enough = [n for n, share in lost.items() if share < RECOGNISABLE]
    said = f"{min(enough)} channels bring it back" if enough else "so few channels do not bring it back"
    alt = ", ".join(f"{n} channels lose {share:.0%}" for n, share in lost.items())
    return titled(figure, f"A spiral through a ReLU: {said}", f"{alt}.")


def lost_share(curve: Tensor, back: Tensor) -> float:
    """Squared distance between two curves (N, 2), over the variance of the first."""
    return ((curve - back).square().sum() / (curve - curve.mean(0)).square().sum()).item()


def scaling_figure(ratios: Sequence[float]) -> tuple[Figure, str]:
    """What networks at phi = 0, 1, 2, ... cost, in multiples of the first, beside powers of two."""
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    ax, phi = figure.subplots(), range(len(ratios))
    ax.plot(phi, [2**p for p in phi], "--", color=PALETTE["ink"], label="2 to the φ")
    formula = 1.2 * 1.1**2 * 1.15**2  # depth, width twice, resolution twice
    ax.plot(phi, [formula**p for p in phi], ":", color=PALETTE["ink"], label=f"{formula:.2f} to the φ")
    ax.plot(phi, ratios, "o-", color=PALETTE["sky"], label="counted")
    for p, ratio in zip(phi, ratios, strict=True):
        ax.annotate(f"{ratio:.1f}", (p, ratio), (-6, 5), textcoords="offset points", fontsize=9, ha="right")
    ax.set(yscale="log", xlabel="φ", ylabel="multiply-adds, B0 = 1", xticks=list(phi))
    ax.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    ax.minorticks_off()
    ax.legend(fontsize=9)
    said = ", ".join(f"{ratio:.1f}" for ratio in ratios[1:])
    promised = ", ".join(str(2**p) for p in phi[1:])
    return titled(
        figure,
        f"Promised {promised} times the cost, counted {said}",
        f"Cost at φ = 0 to {len(ratios) - 1}.",
    )


def latency_figure(
    million_multiply_adds: Mapping[str, float], seconds: Mapping[str, Sequence[float]]
) -> tuple[Figure, str]:
    """What an image costs in multiply-adds, and the time of a batch in multiples of the fastest.

    Args:
        seconds: name -> times of the rounds; a round's times belong together.
    """
    figure = Figure(figsize=(9.5, 3), layout="constrained")
    names = list(seconds)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    fastest = min(median, key=median.get)
    ratio = {name: np.asarray(times) / np.asarray(seconds[fastest]) for name, times in seconds.items()}
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(names, [million_multiply_adds[name] for name in names], color=[COLORS[n] for n in names])
    left.set(xlabel="million multiply-adds per image")
    left.invert_yaxis()
    for place, name in enumerate(names):
        style = {"color": COLORS[name], "alpha": 0.5, "markersize": 5}
        right.plot(ratio[name], [place] * len(ratio[name]), "o", **style)
        right.plot(np.median(ratio[name]), place, "|", color=PALETTE["ink"], markersize=18)
    right.set(xlabel=f"time of a batch, {fastest} = 1", xlim=(0, None))
    spread = max(million_multiply_adds.values()) / min(million_multiply_adds.values())
    times = max(float(np.median(r)) for r in ratio.values())
    said = ", ".join(f"{name} {np.median(r):.1f}" for name, r in ratio.items())
    finding = f"Counts within a factor of {spread:.1f}, times within {times:.1f}"
    return titled(figure, finding, f"Median time in multiples of the fastest: {said}.")

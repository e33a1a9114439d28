"""Where one network lands between two tasks: accuracy on known classes against retrieval of new ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plotting import PALETTE

TOOLS = ("two heads", "Knowledge Evolution", "SVMax")
CHOICES = ("with", "without")
PARTS = ("dense", "slim")

Paths = Mapping[str, Mapping[str, np.ndarray]]
"""arm -> "dense" and, for arms with generations, "slim" -> (seeds, generations, 2): accuracy and recall."""


def arm_name(two_heads: bool, evolution: bool, svmax: bool) -> str:
    """The name of one of the eight arms: "softmax" without any tool, "all" with the three of them."""
    used = [tool for tool, on in zip(TOOLS, (two_heads, evolution, svmax), strict=True) if on]
    return {0: "softmax", len(TOOLS): "all"}.get(len(used), " + ".join(used))


def gap_figure(
    paths: Paths,
    generation: int = 1,
    two_heads: str = "with",
    evolution: str = "with",
    svmax: str = "with",
    part: str = "dense",
) -> tuple[Figure, str]:
    """One arm's path through the plane of both tasks, up to `generation`, beside both specialists.

    `paths` holds the eight arms and "triplet". The slim network exists for arms with Knowledge Evolution
    alone; for the others the dense one is drawn, and the title says so. Raises ValueError for a choice that
    is neither "with" nor "without", an unknown part, or a generation that was not run.
    """
    for name, value, allowed in (
        *((tool, v, CHOICES) for tool, v in zip(TOOLS, (two_heads, evolution, svmax), strict=True)),
        ("part", part, PARTS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
    arm = arm_name(*(choice == "with" for choice in (two_heads, evolution, svmax)))
    shown = part if part in paths[arm] else "dense"
    path = np.asarray(paths[arm][shown])
    if not 1 <= generation <= path.shape[1]:
        raise ValueError(f"generation is {generation}; expected 1 to {path.shape[1]}")
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    _specialists(axes, paths)
    means = path[:, :generation].mean(0)
    axes.plot(*means.T, "-", color=PALETTE["sky"], zorder=2)
    axes.plot(*means[:-1].T, "o", color=PALETTE["sky"], markersize=5, zorder=2)
    axes.plot(*path[:, generation - 1].T, "o", color=PALETTE["blue"], alpha=0.6, markersize=7, label="seeds")
    axes.plot(*means[-1], "o", color=PALETTE["blue"], markersize=13, zorder=3, label="their mean")
    everything = np.concatenate(
        [np.reshape(p, (-1, 2)) for arm_paths in paths.values() for p in arm_paths.values()]
    )
    low, high = everything.min(0) - 0.03, everything.max(0) + 0.03
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(xlabel="accuracy, new images of seen classes", ylabel="recall@1, classes never seen")
    missing = "" if shown == part else " (no slim network without generations)"
    axes.set_title(f"{arm}, {shown}, generation {generation}{missing}", fontsize=11)
    axes.legend(loc="upper left")
    accuracy, recall = means[-1]
    alt = (
        f"Plane of both tasks: {arm}, the {shown} network, after generation {generation}{missing}, at "
        f"accuracy {accuracy:.3f} and recall {recall:.3f} in the mean of {len(path)} seeds, beside the "
        "softmax and the triplet network."
    )
    return figure, alt


def _specialists(axes: Axes, paths: Paths) -> None:
    for name, marker, offset in (("softmax", "s", (8, -14)), ("triplet", "D", (8, 8))):
        place = np.asarray(paths[name]["dense"])[:, -1].mean(0)
        axes.axvline(place[0], color=PALETTE["grey"], linestyle=":", linewidth=1)
        axes.axhline(place[1], color=PALETTE["grey"], linestyle=":", linewidth=1)
        axes.plot(*place, marker, color=PALETTE["orange"], markersize=9, zorder=3)
        axes.annotate(
            name, place, xytext=offset, textcoords="offset points", color=PALETTE["orange"], fontsize=10
        )

"""One network between two tasks: accuracy on known classes against retrieval of classes never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.contest import by_seed
from helpers.experiments import Results, paired_interval
from helpers.experiments.drawing import source_name
from helpers.experiments.results import OWN
from helpers.plotting import PALETTE, titled

TOOLS = ("two heads", "KE", "SVMax")
CHOICES = ("with", "without")
PARTS = ("dense", "slim")
ACCURACY, RECALL = METRICS = "test accuracy", "recall@1, unseen"
PLANE = ("nearest accuracy", RECALL)
"""The plane asks all arms by the same rule, the nearest training image."""
FAMILY = (
    "softmax",
    "SVMax",
    "KE",
    "KE + SVMax",
    "two heads",
    "two heads + SVMax",
    "two heads + KE",
    "all",
)
"""The eight arms of the factorial, without and with each of `TOOLS`; the last one turns fastest."""
GROUPS = {
    "Is there a gap?": ("softmax", "softmax, un-pooled", "triplet", "triplet, pooled"),
    "Three tools, alone and together": FAMILY,
    "Controls, and what came after": (
        *("all", "all, restarts", "slim from scratch"),
        *("SupCon", "proxies", "VICReg"),
    ),
}
STYLES = {
    "softmax": ("grey", "o"),
    "SVMax": ("orange", "o"),
    "KE": ("purple", "o"),
    "KE + SVMax": ("ink", "o"),
    "two heads": ("green", "o"),
    "two heads + SVMax": ("yellow", "o"),
    "two heads + KE": ("sky", "o"),
    "all": ("blue", "o"),
    "softmax, un-pooled": ("ink", "s"),
    "triplet": ("orange", "D"),
    "triplet, pooled": ("yellow", "D"),
    "all, restarts": ("purple", "s"),
    "slim from scratch": ("sky", "s"),
    "SupCon": ("green", "^"),
    "proxies": ("orange", "^"),
    "VICReg": ("yellow", "^"),
}
"""Colour and marker of each arm."""

Paths = Mapping[str, Mapping[str, np.ndarray]]
"""arm -> "dense" and, where it has generations, "slim" -> (seeds, generations, 2): accuracy and recall. An
arm of one long run has one place, its end."""


def arm_name(two_heads: bool, evolution: bool, svmax: bool) -> str:
    """The name of one of the eight arms: "softmax" without any tool, "all" with the three of them."""
    return FAMILY[4 * two_heads + 2 * evolution + svmax]


def plane_figure(
    found: Results,
    kept: Results | None = None,
    groups: Sequence[str] = tuple(GROUPS),
    finding: str = "",
) -> tuple[Figure, str]:
    """Every arm on the plane of both tasks: mean over seeds and its 95 % interval, a panel for each group.

    Args:
        found: a sweep that gave the metrics of `PLANE`.
        kept: evidence, drawn solid; `found` is hollow unless it is evidence itself.
        groups: keys of `GROUPS`; the arms of the others are faint dots, of the evidence where there is any.
    """
    sources = [found] if kept is None else [kept, found]
    alone = len(groups) == 1
    figure = Figure(figsize=(7.6, 4.3) if alone else (3.9 * len(groups), 4.9), layout="constrained")
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    told = []
    for axes, group in zip(panels, groups, strict=True):
        _all_faint(axes, sources[0])
        for source in sources:
            for name in (n for n in GROUPS[group] if n in source.chosen):
                place = _mark(axes, source, name)
                told.append(f"{name} {place[0]:.2f}, {place[1]:.2f} ({source_name(source)})")
        axes.set_title(group, fontsize=11)
        axes.set_xlabel("accuracy, seen classes, by the nearest image")
        marks = [_handle(name) for name in GROUPS[group] if any(name in s.chosen for s in sources)]
        where = (1.02, 1.0) if alone else (0.5, -0.16)
        corner = "upper left" if alone else "upper center"
        axes.legend(handles=marks, loc=corner, bbox_to_anchor=where, ncols=1 if alone else 2, fontsize=9)
    panels[0].set_ylabel("recall@1, classes never seen")
    _source_legend(figure, sources)
    alt = f"Accuracy on seen classes and recall at 1 on classes never seen, means: {'; '.join(told)}."
    return titled(figure, finding, alt)


def paths_of(found: Results) -> dict[str, dict[str, np.ndarray]]:
    """The `Paths` of the eight arms and the triplet network, from the curves of a sweep or its ends."""
    paths = {}
    for name in (*FAMILY, "triplet"):
        ends = np.stack([found.values(name, metric) for metric in METRICS], -1)[:, None]
        paths[name] = {"dense": ends}
        if "KE" in name or name == "all":
            paths[name] = {
                part: np.stack(
                    [by_seed(found, name, f"{prefix}{m} by generation", "step") for m in METRICS], -1
                )
                for part, prefix in (("dense", ""), ("slim", "slim "))
            }
    return paths


def gap_figure(
    paths: Paths,
    generation: int = 1,
    two_heads: str = "with",
    evolution: str = "with",
    svmax: str = "with",
    part: str = "dense",
) -> tuple[Figure, str]:
    """One arm's path through the plane of both tasks, up to `generation`, beside both specialists.

    The slim network exists for arms with KE alone; for the others the dense one is drawn at its end, and the
    title says so. Raises ValueError for a choice that is neither "with" nor "without", an unknown part, or a
    generation that was not run.
    """
    for name, value, allowed in (
        *((tool, v, CHOICES) for tool, v in zip(TOOLS, (two_heads, evolution, svmax), strict=True)),
        ("part", part, PARTS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
    arm = arm_name(*(choice == "with" for choice in (two_heads, evolution, svmax)))
    in_generations = "slim" in paths[arm]
    shown = part if in_generations else "dense"
    path = np.asarray(paths[arm][shown])
    last = path.shape[1]
    if in_generations and not 1 <= generation <= last:
        raise ValueError(f"generation is {generation}; expected 1 to {last}")
    path = path[:, :generation] if in_generations else path
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    _specialists(axes, paths)
    means, color = path.mean(0), PALETTE[STYLES[arm][0]]
    axes.plot(*means.T, "-", color=color, alpha=0.5, zorder=2)
    trail = "earlier generations" if len(means) > 1 else None
    axes.plot(*means[:-1].T, "o", color=color, alpha=0.5, markersize=4, zorder=2, label=trail)
    axes.plot(
        *path[:, -1].T, "o", color=color, alpha=0.5, markersize=6, markerfacecolor="none", label="seeds"
    )
    axes.plot(*means[-1], "o", color=color, markersize=13, zorder=3, label="their mean")
    everything = np.concatenate([np.reshape(p, (-1, 2)) for of in paths.values() for p in of.values()])
    low, high = everything.min(0) - 0.03, everything.max(0) + 0.03
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(
        xlabel="accuracy, seen classes, by logits (triplet: by the nearest image)",
        ylabel="recall@1, classes never seen",
    )
    when = f"generation {generation}" if in_generations else "one long run (no generations, no slim network)"
    axes.set_title(f"{arm}, {shown}, {when}", fontsize=11)
    axes.legend(loc="upper left")
    accuracy, recall = means[-1]
    return figure, (
        f"Plane of both tasks: {arm}, the {shown} network, {when}, at accuracy {accuracy:.3f} and recall "
        f"{recall:.3f} in the mean of {len(path)} seeds, beside the softmax and the triplet network."
    )


def _specialists(axes: Axes, paths: Paths) -> None:
    for name, offset in (("softmax", (8, -14)), ("triplet", (8, 8))):
        place = np.asarray(paths[name]["dense"])[:, -1].mean(0)
        color, marker = STYLES[name]
        axes.axvline(place[0], color=PALETTE["grey"], linestyle=":", linewidth=1)
        axes.axhline(place[1], color=PALETTE["grey"], linestyle=":", linewidth=1)
        axes.plot(*place, marker, color=PALETTE[color], markersize=9, zorder=3)
        axes.annotate(
            name, place, xytext=offset, textcoords="offset points", color=PALETTE[color], fontsize=10
        )


def _place(source: Results, name: str) -> tuple[float, float]:
    return tuple(float(source.values(name, metric).mean()) for metric in PLANE)


def _all_faint(axes: Axes, source: Results) -> None:
    for name in source.chosen:
        axes.plot(*_place(source, name), ".", color=PALETTE["grey"], alpha=0.3, markersize=6, zorder=1)


def _mark(axes: Axes, source: Results, name: str) -> tuple[float, float]:
    """The mean of one arm, and a cross of its 95 % intervals in evidence, where there are seeds enough."""
    (color, marker), place = STYLES[name], _place(source, name)
    if source.source != OWN:
        spans = [paired_interval(source.values(name, metric).tolist()) for metric in PLANE]
        if all(np.isfinite(span.se) for span in spans):
            reach = [[[s.mean - s.low], [s.high - s.mean]] for s in spans]
            axes.errorbar(
                *place, yerr=reach[1], xerr=reach[0], color=PALETTE[color], alpha=0.5, linewidth=1.2
            )
    face = "white" if source.source == OWN else PALETTE[color]
    axes.plot(
        *place,
        marker,
        color=PALETTE[color],
        markerfacecolor=face,
        markersize=9,
        markeredgewidth=1.8,
        zorder=3,
    )
    return place


def _handle(name: str) -> Line2D:
    color, marker = STYLES[name]
    return Line2D([], [], linestyle="none", marker=marker, color=PALETTE[color], label=name)


def _source_legend(figure: Figure, sources: Sequence[Results]) -> None:
    ink = PALETTE["ink"]
    marks = []
    for source in sources:
        own = source.source == OWN
        label = f"{source_name(source)}, {source.table['seed'].nunique()} seeds"
        style = {"color": ink, "markerfacecolor": "white" if own else ink}
        label += "" if own else ", with 95 % intervals"
        marks.append(Line2D([], [], linestyle="none", marker="o", label=label, **style))
    marks.append(
        Line2D([], [], linestyle="none", marker=".", color=PALETTE["grey"], alpha=0.4, label="all other arms")
    )
    figure.legend(handles=marks, loc="outside lower left", ncols=len(marks), fontsize=9, handletextpad=0.2)

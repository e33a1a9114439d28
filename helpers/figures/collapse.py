"""Figures of collapse and of what holds against it: bounds, pushes, spectra, learning rates, a ring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from torch import Tensor

from helpers.experiments import Results
from helpers.experiments.drawing import source_name
from helpers.figures.bounds import concentrated_rows
from helpers.plotting import PALETTE, titled
from helpers.ring import CENTRES, STD
from helpers.svmax import mean_singular_value, singular_value_bounds

SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
PUSHERS = {"SVMax": "blue", "spread-out": "orange", "uniformity": "purple"}
CONCENTRATIONS = {0.0: "sky", 0.7: "blue", 2.0: "purple"}


def regimes_figure(
    extremes: Mapping[str, Mapping[tuple[int, int], Tensor]], fixed: int = 32, title: str = ""
) -> tuple[Figure, str]:
    """Mean singular value as the batch grows, and as the dimension grows, the other being `fixed`.

    Args:
        extremes: name -> shape (B, D) -> a batch that should lie on a bound.
    """
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for place, ax in enumerate(figure.subplots(1, 2, sharey=True)):
        shapes = [((n, fixed), (fixed, n))[place] for n in SIZES]
        bounds = np.array([singular_value_bounds(*shape) for shape in shapes])
        ax.fill_between(SIZES, *bounds.T, color=PALETTE["grey"], alpha=0.14, linewidth=0)
        ax.plot(SIZES, bounds, color=PALETTE["ink"], linewidth=1.3)
        for concentration, color in CONCENTRATIONS.items():
            rows = [concentrated_rows(*shape, concentration) for shape in shapes]
            ax.plot(SIZES, [mean_singular_value(r, "svd") for r in rows], "o", color=PALETTE[color],
                    markersize=4, label=f"random, concentration {concentration:g}")  # fmt: skip
        for (name, batches), mark, color in zip(
            extremes.items(), "v^s", ("yellow", "green", "orange"), strict=False
        ):
            here = [shape for shape in shapes if shape in batches]
            values = [mean_singular_value(batches[shape], "svd") for shape in here]
            ax.plot(
                [shape[place] for shape in here], values, mark, color=PALETTE[color], markersize=7, label=name
            )
        ax.axvline(fixed, color=PALETTE["grey"], linewidth=1, linestyle=":")
        ax.set_xscale("log", base=2)
        ax.set_xticks(SIZES[::2], SIZES[::2])
        ax.set(xlabel=(f"batch size b, with d = {fixed}", f"dimension d, with b = {fixed}")[place])
    figure.axes[0].set_ylabel("mean singular value")
    named = {
        label: handle
        for ax in figure.axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named, loc="outside right center")
    alt = "Mean singular value against batch size and against dimension, between floor and ceiling; "
    return titled(figure, title, alt + f"{' and '.join(extremes)} lie on them, random batches between.")


def pushes_figure(spectrum: Tensor, pushes: Mapping[str, Tensor], title: str = "") -> tuple[Figure, str]:
    """What lies along each direction of a batch (r,), and how hard each term pushes there (r,)."""
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    axes, places = figure.subplots(1, 1 + len(pushes)), range(1, len(spectrum) + 1)
    for ax, (name, values) in zip(axes, {"in the batch": spectrum, **pushes}.items(), strict=True):
        values = values if name == "in the batch" else values / values.abs().max()
        ax.bar(places, np.asarray(values), color=PALETTE[PUSHERS.get(name, "grey")], width=0.85)
        ax.axhline(0, color=PALETTE["ink"], linewidth=0.8)
        ax.set_title(name, fontsize=11)
        ax.set(xlabel="direction, strongest first")
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("singular value")
    axes[1].set_ylabel("push along it, of the largest")
    told = "; ".join(
        f"{name}: {v[0]:.3g} on the strongest, {v[-1]:.3g} on the weakest" for name, v in pushes.items()
    )
    return titled(figure, title, f"Singular values of a batch and the push of each term along them. {told}.")


def spectra_figure(
    traces: Mapping[str, Mapping[int, float]],
    spectra: Mapping[str, Tensor],
    shape: tuple[int, int],
    colors: Mapping[str, str],
    title: str = "",
) -> tuple[Figure, str]:
    """Left, the mean singular value of training batches of a shape (B, D); right, spectra at the end."""
    figure = Figure(figsize=(9.5, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, trace in traces.items():
        left.plot(list(trace), list(trace.values()), color=PALETTE[colors[name]], label=name)
        s = spectra[name] / spectra[name].norm()
        right.plot(range(1, len(s) + 1), s, "o-", markersize=3.5, color=PALETTE[colors[name]], label=name)
    for value, name in zip(singular_value_bounds(*shape), ("floor", "ceiling"), strict=True):
        left.axhline(value, color=PALETTE["ink"], linewidth=1, linestyle=":")
        left.text(0, value, f" {name}", va="bottom", fontsize=9.5)
    left.set(xlabel="step", ylabel="mean singular value", ylim=(0, 1.13 * singular_value_bounds(*shape)[1]))
    right.set(xlabel="singular value, largest first", ylabel="share of the length", yscale="log")
    right.legend()
    ends = ", ".join(f"{name} {list(trace.values())[-1]:.2f}" for name, trace in traces.items())
    told = ", ".join(f"{name} {float(s[-1] / s[0]):.2g} of the largest" for name, s in spectra.items())
    alt = f"Left: mean singular value of the batches over the steps; at the end {ends}. "
    return titled(
        figure, title, alt + f"Right: spectrum of the test embedding; the smallest value is, {told}."
    )


def rates_figure(
    results: Results,
    panels: Mapping[str, tuple[str, Mapping[str, str]]],
    kept: Results | None = None,
    level: str | None = None,
    title: str = "",
) -> tuple[Figure, str]:
    """Means over seeds against the learning rate: kept evidence solid, this run hollow.

    Args:
        panels: title -> (metric, name of an arm -> what the legend calls it).
        level: arm that is drawn as a level line in every panel, because no learning rate enters.
    """
    figure = Figure(figsize=(min(3.0 * len(panels) + 2.8, 13.5), 3.4), layout="constrained")
    colors = {arm.name: PALETTE[arm.color] for arm in results.arms}
    one_metric = len({metric for metric, _ in panels.values()}) == 1
    axes, told, legend = figure.subplots(1, len(panels), squeeze=False, sharey=one_metric)[0], [], {}
    for ax, (name, (metric, arms)) in zip(axes, panels.items(), strict=True):
        for source in filter(None, (results, kept)):
            main = source is (kept or results)
            means = _means(source, metric, arms)
            for arm, at in means.items():
                legend[arms[arm]] = colors[arm]
                face = {"markerfacecolor": "white"} if source is results else {}
                ax.plot(list(at), list(at.values()), "o-" if main else "o", color=colors[arm],
                        markersize=5, **face)  # fmt: skip
            if level and main:
                value = np.mean(list(_means(source, metric, [level])[level].values()))
                ax.axhline(value, color=PALETTE["ink"], linestyle=":", linewidth=1.5)
            told += [_said(name, means)] if main else []
        ax.set(xscale="log", xlabel="learning rate", title="" if name == metric else name)
        if not one_metric or ax is axes[0]:
            ax.set_ylabel(metric)
    lines = [Line2D([], [], color=color, label=label) for label, color in legend.items()]
    lines += [Line2D([], [], color=PALETTE["ink"], linestyle=":", label=level)] if level else []
    for source in filter(None, (kept, results)):
        face = {"markerfacecolor": "white"} if source is results else {}
        mark = {"marker": "o", "linestyle": "none", "color": PALETTE["ink"], "label": source_name(source)}
        lines.append(Line2D([], [], **mark, **face))
    figure.legend(handles=lines, loc="outside right center", fontsize=9.5)
    return titled(figure, title, " ".join(told))


def ring_figure(points: Mapping[str, Tensor], title: str = "") -> tuple[Figure, str]:
    """Points (R, N, 2) of generators on the ring of eight Gaussians: a row for each arm, R panels."""
    runs = len(next(iter(points.values())))
    figure = Figure(figsize=(1.9 * runs + 0.6, 1.95 * len(points)), layout="constrained")
    for row, (name, clouds) in zip(
        figure.subplots(len(points), runs, squeeze=False), points.items(), strict=True
    ):
        for ax, cloud in zip(row, clouds, strict=True):
            for centre in CENTRES:  # the radius within which a point counts
                ax.add_patch(Circle(centre, 3 * STD, fill=False, color=PALETTE["grey"], linewidth=0.9))
            ax.scatter(*cloud.T, s=3, color=PALETTE["grey" if name == "nothing" else "blue"], linewidths=0)
            ax.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), aspect="equal", xticks=[], yticks=[])
        row[0].set_ylabel(name)
    return titled(
        figure,
        title,
        f"Points of {runs} generators for each of {', '.join(points)}, with the eight modes as rings.",
    )


def _means(source: Results, metric: str, arms: Iterable[str]) -> dict[str, dict[float, float]]:
    """Arm -> rate -> mean over the seeds."""
    table = source.table[(source.table["metric"] == metric) & source.table["step"].isna()]
    found = table[table["arm"].isin(list(arms))].groupby(["arm", "rate"], sort=False)["value"].mean()
    return {arm: found[arm].to_dict() for arm in arms if arm in found.index.get_level_values(0)}


def _said(panel: str, means: Mapping[str, Mapping[float, float]]) -> str:
    best = {name: max(at.items(), key=lambda pair: pair[1]) for name, at in means.items()}
    return f"{panel}, highest mean of each: " + ", ".join(
        f"{name} {value:.2f} at rate {rate:g}" for name, (rate, value) in best.items()
    ) + "."  # fmt: skip

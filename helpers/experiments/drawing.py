"""Figures of results, drawn by seaborn from the tidy table: this run hollow, kept evidence solid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator

from helpers import plotting
from helpers.experiments.comparison import paired_interval
from helpers.experiments.results import OWN

if TYPE_CHECKING:
    from helpers.experiments.arms import Arm
    from helpers.experiments.results import Results

_LANE = 0.19  # from the middle of an arm's row to the runs of one source, where there are two
_APART = 0.08  # from there up to the dots and down to their mean
_INK = plotting.PALETTE["ink"]


def show_runs(results: Results, metrics: Sequence[str], kept: Results | None, title: str) -> None:
    """See `Results.show`."""
    if not metrics:
        raise ValueError("name at least one metric to show")
    sources = [results] if kept is None else [kept, results]
    arms = _arms(sources)
    rows, colors = {arm.name: i for i, arm in enumerate(arms)}, _colors(arms)
    plotting.use_style()
    size = (min(3.6 + 3.2 * len(metrics), 13), 1.1 + (0.42 if kept is None else 0.6) * len(arms))
    figure, panels = plt.subplots(
        1, len(metrics), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, metric in zip(panels[0], metrics, strict=True):
        for i, source in enumerate(sources):
            offset = 0 if kept is None else (-_LANE, _LANE)[i]
            _draw_lane(axes, source.at_chosen(metric), rows, offset, colors, hollow=source.source == OWN)
        _keep_to_runs(axes, pd.concat([source.at_chosen(metric)["value"] for source in sources]))
        axes.set(xlabel=metric, ylabel="", ylim=(len(arms) - 0.5, -0.5))
        axes.set_yticks(range(len(arms)), list(rows))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    _legend_of_marks(figure, sources, metrics[0])
    _finish(figure, title, ". ".join(_means(metric, sources) for metric in metrics) + ".")


def show_curves(results: Results, metric: str, arms: Sequence[Arm], kept: Results | None, title: str) -> None:
    """See `Results.curve`."""
    sources = [results] if kept is None else [kept, results]
    names, colors = [arm.name for arm in arms], _colors(_arms(sources))
    plotting.use_style()
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    ends: dict[str, float] = {}
    for source in sources:
        table = source.at_chosen(metric, curve=True)
        beside = kept is not None and source.source == OWN
        for name in names:
            runs = table[table["arm"] == name]
            if runs.empty:
                continue
            style = {"linestyle": (0, (4, 2)), "linewidth": 1.3} if beside else {}
            sns.lineplot(
                runs, x="step", y="value", color=colors[name], errorbar=("pi", 100), ax=axes,
                err_kws={"alpha": 0.06 if beside else 0.15, "linewidth": 0}, **style,
            )  # fmt: skip
            ends.setdefault(name, runs[runs["step"] == runs["step"].max()]["value"].mean())
    values = pd.concat([source.at_chosen(metric, curve=True)["value"] for source in sources])
    if values.min() > 0 and values.max() > max(1, 10 * values.min()):
        axes.set_yscale("log")  # else early spikes flatten the rest
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis("{x:g}")
    axes.set(xlabel="step", ylabel=metric)
    axes.margins(x=0.01)
    lines = [Line2D([], [], color=colors[name], label=name) for name in sorted(ends, key=lambda n: -ends[n])]
    if any(_seeds(source, metric, True) > 1 for source in sources):
        lines.append(band_of_seeds())
    if kept is not None:
        lines += [
            Line2D([], [], color=_INK, label=_source(kept, metric, True)),
            Line2D(
                [], [], color=_INK, linestyle=(0, (4, 2)), linewidth=1.3, label=_source(results, metric, True)
            ),
        ]
    figure.legend(handles=lines, loc="outside right center")
    last = ", ".join(f"{name} {value:.3g}" for name, value in ends.items())
    seeds = _source(sources[0], metric, True)
    _finish(
        figure, title, f"{_capital(metric)} over the steps, mean over seeds ({seeds}); at the end: {last}."
    )


def show_dumbbells(results: Results, metric: str, over: str, kept: Results | None, title: str) -> None:
    """See `Results.dumbbells`."""
    source = results if kept is None else kept
    table = source.at_chosen(metric, curve=True).assign(step=lambda rows: rows["step"].astype(int))
    means = table.pivot_table(index="step", columns="arm", values="value", aggfunc="mean")
    arms = _arms([results] if kept is None else [kept, results])
    colors, names = _colors(arms), [arm.name for arm in arms if arm.name in means]
    plotting.use_style()
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.2 * len(means)), layout="constrained")
    places = range(len(means))
    axes.hlines(places, means.min(axis=1), means.max(axis=1), color="#C9CED4", linewidth=2)
    for arm in names:
        axes.plot(means[arm], places, "o", color=colors[arm], markersize=6.5, label=arm)
    axes.set_yticks(places, means.index)
    axes.set(xlabel=f"{metric} ({_source(source, metric, True)})", ylabel=over)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower left", ncols=len(names), handletextpad=0.2)
    few, many = means.iloc[0], means.iloc[-1]
    told = "; ".join(
        f"{arm} {few[arm]:.2f} at {means.index[0]}, {many[arm]:.2f} at {means.index[-1]}" for arm in names
    )
    _finish(figure, title, f"{_capital(metric)} against {over}, mean over seeds: {told}.")


def _draw_lane(
    axes: Axes,
    runs: pd.DataFrame,
    rows: Mapping[str, int],
    offset: float,
    colors: Mapping[str, str],
    hollow: bool,
) -> None:
    """Each run as a dot; under them, where there are several, the mean as a diamond on its 95 % interval."""
    several = runs["seed"].nunique() > 1
    row = runs["arm"].map(rows) + offset
    same = {"x": "value", "y": "row", "hue": "arm", "palette": dict(colors), "orient": "h", "ax": axes}
    before = len(axes.collections)
    dots = runs.assign(row=row - _APART * several)
    state = np.random.get_state()  # noqa: NPY002  which seaborn uses up even for a jitter of 0
    sns.stripplot(dots, **same, native_scale=True, jitter=False, size=5.5, alpha=0.75, legend=False)
    np.random.set_state(state)  # noqa: NPY002
    if hollow:
        for marks in axes.collections[before:]:
            marks.set(edgecolor=marks.get_facecolor(), facecolor="none", linewidth=1.2)
    if several:
        style = {"marker": "D", "markersize": 6, "markeredgewidth": 1.5, "linestyle": "none"}
        style |= {"markerfacecolor": "white"} if hollow else {}
        bars = {"errorbar": _interval, "err_kws": {"linewidth": 1.0 if hollow else 1.6}}
        sns.pointplot(runs.assign(row=row + _APART), **same, **style, **bars, native_scale=True, legend=False)


def _keep_to_runs(axes: Axes, values: pd.Series) -> None:
    """The axis shows the runs and a margin: an interval from three seeds may be several times as wide."""
    low, high = values.min(), values.max()
    margin = 0.4 * (high - low)
    if margin > 1e-3 * abs(high):
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, low - margin), min(right, high + margin))
    elif high > 0:
        axes.set_xlim(0.9 * low, 1.1 * high)  # all the same up to rounding
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds; no width for fewer than three, whose interval tells nothing."""
    interval = paired_interval(list(values))
    return (interval.low, interval.high) if interval.df > 1 else (interval.mean, interval.mean)


def _arms(sources: Sequence[Results]) -> list[Arm]:
    """Those of this run first, in its order, then what only the evidence has."""
    return list(dict.fromkeys(arm for source in reversed(sources) for arm in source.arms))


def _colors(arms: Sequence[Arm]) -> dict[str, str]:
    """Each arm's own colour, or the next of the cycle that no arm has taken."""
    taken = {plotting.PALETTE[arm.color] for arm in arms if arm.color in plotting.PALETTE}
    free = [color for color in [*plotting.CYCLE, _INK] if color not in taken] or plotting.CYCLE
    colors: dict[str, str] = {}
    for arm in arms:
        if arm.color is not None and arm.color not in plotting.PALETTE:
            raise ValueError(
                f"arm {arm.name!r} has colour {arm.color!r}; expected one of {list(plotting.PALETTE)}"
            )
        own = arm.color is not None
        colors[arm.name] = plotting.PALETTE[arm.color] if own else free[len(colors) % len(free)]
    return colors


def _legend_of_marks(figure: Figure, sources: Sequence[Results], metric: str) -> None:
    def mark(shape: str, hollow: bool, label: str) -> Line2D:
        face = "white" if hollow else _INK
        return Line2D([], [], linestyle="none", marker=shape, color=_INK, markerfacecolor=face, label=label)

    marks = [mark("o", source.source == OWN, _source(source, metric)) for source in sources]
    if any(_seeds(source, metric) > 1 for source in sources):
        marks.append(mark("D", sources[-1].source == OWN, "mean, from three seeds on with its 95 % interval"))
    figure.legend(
        handles=marks, loc="outside lower left", ncols=len(marks), handletextpad=0.2, columnspacing=1.4
    )


def _seeds(results: Results, metric: str, curve: bool = False) -> int:
    return results.at_chosen(metric, curve=curve)["seed"].nunique()


def band_of_seeds() -> Patch:
    """What a legend says of the band around a curve."""
    return Patch(color=_INK, alpha=0.15, linewidth=0, label="lowest to highest seed")


def source_name(results: Results) -> str:
    """What a figure calls the runs it draws: "this run", or "kept evidence (study)"."""
    return OWN if results.source == OWN else f"kept evidence ({results.source})"


def _source(results: Results, metric: str, curve: bool = False) -> str:
    seeds = _seeds(results, metric, curve)
    return f"{source_name(results)}, {seeds} seed{'s' if seeds > 1 else ''}"


def _means(metric: str, sources: Sequence[Results]) -> str:
    """ "Test accuracy, mean in this run, 3 seeds: softmax 0.81, semi-hard 0.84"."""
    said = []
    for source in sources:
        means = source.at_chosen(metric).groupby("arm", sort=False)["value"].mean()
        said.append(
            f"in {_source(source, metric)}: " + ", ".join(f"{arm} {m:.3g}" for arm, m in means.items())
        )
    return f"{_capital(metric)}, mean " + "; ".join(said)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _finish(figure: Figure, title: str, alt: str) -> None:
    plotting.show(*plotting.titled(figure, title, alt))

"""What a sweep found: one tidy table, and the comparisons, figures and summaries that are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from helpers.experiments.arms import Arm
from helpers.experiments.comparison import Gate, Paired
from helpers.tables import markdown_table

COLUMNS = ("arm", "rate", "seed", "step", "metric", "value")
OWN = "this run"
_DIGITS = 6

Run = dict[str, Any]
"""Of one run: metric -> number, list of one number per test item, or curve as a list of [step, value]."""


class Results:
    """Runs of several arms, at several rates, with several seeds.

    Attributes:
        name: of the sweep.
        arms: in the order in which they are shown.
        table: DataFrame with columns arm, rate, seed, step (missing unless the metric is a
            curve), metric, value.
        chosen: name of an arm -> the rate that all methods here use for it.
        source: "this run", or the tier of kept evidence.
    """

    def __init__(
        self,
        name: str,
        arms: Sequence[Arm],
        table: pd.DataFrame,
        chosen: Mapping[str, float],
        items: Mapping[tuple, np.ndarray] | None = None,
        source: str = OWN,
    ) -> None:
        self.name, self.arms, self.table, self.chosen = name, list(arms), table, dict(chosen)
        self.source, self._items = source, dict(items or {})

    @classmethod
    def of_runs(
        cls, name: str, arms: Sequence[Arm], runs: Mapping[tuple[Arm, int, float], Run], choose: str | None
    ) -> Results:
        """From what each run gave; each arm's rate is the best by the mean of `choose` over its seeds."""
        rows, items = [], {}
        for (arm, seed, rate), run in runs.items():
            for metric, value in run.items():
                place = (arm.name, rate, seed)
                if isinstance(value, float | int):
                    rows.append((*place, None, metric, value))
                elif isinstance(value[0], list):
                    rows += [(*place, step, metric, v) for step, v in value]
                else:
                    items[*place, metric] = np.asarray(value, dtype=float)
                    rows.append((*place, None, metric, float(np.nanmean(value))))
        table = _table(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))
        return cls(name, arms, table, _best_rates(table, choose), items)

    @classmethod
    def of_table(
        cls, name: str, columns: Mapping[str, Sequence], chosen: Mapping[str, float | None], source: str
    ) -> Results:
        """From a kept table, without items; the inverse of `columns`."""
        table = _table(columns)
        rates = _best_rates(table, None) if not chosen else dict(chosen)
        return cls(name, [Arm(arm) for arm in table["arm"].unique()], table, rates, source=source)

    def __repr__(self) -> str:
        seeds = self.table["seed"].nunique()
        return f"Results({self.name!r}, {self.source}: {len(self.arms)} arms, {seeds} seeds)"

    def columns(self) -> dict[str, list]:
        """The table as plain lists, to be kept: numbers at every rate, curves at the chosen ones."""
        table = self.table[self.table["step"].isna() | self._is_chosen()]
        lists = {column: table[column].tolist() for column in COLUMNS}
        lists["step"] = [None if math.isnan(step) else int(step) for step in lists["step"]]
        lists["value"] = [
            float(f"{v:.{_DIGITS}g}") if math.isfinite(v) else None for v in map(float, lists["value"])
        ]
        return lists

    def values(self, arm: Arm | str, metric: str) -> np.ndarray:
        """The metric of each seed at the arm's chosen rate, shape (seeds,)."""
        return self._seeds_of(arm, metric)["value"].to_numpy(float)

    def items(self, arm: Arm | str, metric: str) -> list[np.ndarray]:
        """For each seed the metric of every test item, at the arm's chosen rate.

        Raises ValueError when the metric has no items.
        """
        name, seeds = _name(arm), self._seeds_of(arm, metric)["seed"]
        found = [self._items.get((name, self.chosen[name], seed, metric)) for seed in seeds]
        if any(items is None for items in found):
            raise ValueError(f"metric {metric!r} of arm {name!r} has no items: the run gave one number")
        return found

    def paired(self, arm: Arm | str, baseline: Arm | str, metric: str, *, redrawn: bool = False) -> Paired:
        """Arm minus baseline, paired by seed, and by test item where both have items.

        Args:
            redrawn: each seed draws its own test items.
        """
        ours, theirs = self._seeds_of(arm, metric), self._seeds_of(baseline, metric)
        if list(ours["seed"]) != list(theirs["seed"]):
            raise ValueError(
                f"{_name(arm)!r} ran with seeds {list(ours['seed'])}, {_name(baseline)!r} with "
                f"{list(theirs['seed'])}: only the same seeds can be paired"
            )
        if not all(self._has_items(a, metric) for a in (arm, baseline)):
            return Paired.of(self.values(arm, metric) - self.values(baseline, metric), redrawn=redrawn)
        pairs = list(zip(self.items(arm, metric), self.items(baseline, metric), strict=True))
        if any((np.isnan(ours) != np.isnan(theirs)).any() for ours, theirs in pairs):
            raise ValueError(f"{_name(arm)!r} and {_name(baseline)!r} lack other items of {metric!r}: NaN?")
        return Paired.of([ours - theirs for ours, theirs in pairs], redrawn=redrawn)

    def against(
        self, arm: Arm | str, others: Sequence[Arm | str], metric: str, *, redrawn: bool = False
    ) -> dict[str, Paired]:
        """The lead of an arm over each of the others, by the other's name: the controls of a claim."""
        return {_name(other): self.paired(arm, other, metric, redrawn=redrawn) for other in others}

    def fitted(self, arms: Sequence[Arm | str], metric: str = "train accuracy", least: float = 0.95) -> Gate:
        """Whether every one of the arms has fitted its training set: mean over seeds at least `least`."""
        means = {_name(arm): float(self.values(arm, metric).mean()) for arm in arms}
        said = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        return Gate(
            "fitted",
            all(mean >= least for mean in means.values()),
            f"{metric}: {said}; at least {least} asked",
        )

    def within(self, arm: Arm | str, methods: Sequence[Arm]) -> Results:
        """Of one arm, its metrics "method: measure" as if these methods were arms that gave the measures.

        For methods that are compared on one and the same trained network. Raises ValueError where the arm
        gave nothing of any of them.
        """
        name, apart = _name(arm), ": "
        split = self.table["metric"].str.partition(apart)
        named = (split[1] == apart) & split[0].isin([m.name for m in methods])
        own = (self.table["arm"] == name) & self._is_chosen()
        table = self.table.assign(arm=split[0], metric=split[2])[own & named]
        there = [m for m in methods if (table["arm"] == m.name).any()]
        if not there:
            raise ValueError(f"arm {name!r} gave no metric 'method: measure' of {[m.name for m in methods]}")
        items = {
            (method, rate, seed, measure): values
            for (owner, rate, seed, metric), values in self._items.items()
            if owner == name and apart in metric
            for method, measure in [metric.split(apart, 1)]
        }
        rates = {method.name: self.chosen[name] for method in there}
        return Results(self.name, there, table, rates, items, self.source)

    def show(self, *metrics: str, kept: Results | None = None, title: str = "") -> None:
        """Draw every run and each arm's mean with its 95 % interval over seeds, a panel per metric.

        Args:
            kept: evidence to draw solid beside this run, which is hollow.
            title: the finding, in words.
        """
        from helpers.experiments import drawing  # seaborn takes a second, and not everyone draws

        drawing.show_runs(self, metrics, kept, title)

    def curve(
        self, metric: str, arms: Sequence[Arm] | None = None, *, kept: Results | None = None, title: str = ""
    ) -> None:
        """Draw a metric over the steps: mean over seeds as a line, lowest to highest as a band.

        Args:
            arms: those to draw; all by default.
            kept: evidence to draw as solid lines beside this run, which is dashed.
            title: the finding, in words.
        """
        from helpers.experiments import drawing

        drawing.show_curves(self, metric, self.arms if arms is None else arms, kept, title)

    def dumbbells(self, metric: str, over: str, *, kept: Results | None = None, title: str = "") -> None:
        """Draw a curve's mean over seeds as one row of joined dots, one per arm, for each of its steps.

        Args:
            over: what the steps are, such as "training images of the class".
            kept: evidence, which is drawn instead of this run.
            title: the finding, in words.
        """
        from helpers.experiments import drawing

        drawing.show_dumbbells(self, metric, over, kept, title)

    def summary(self, *metrics: str) -> None:
        """Display each arm's mean over seeds of each metric, and its rate where there were several."""
        several = self.table["rate"].nunique() > 1
        body = [
            [
                arm.name,
                *([f"{self.chosen[arm.name]:g}"] if several else []),
                *(f"{self.values(arm, metric).mean():.3f}" for metric in metrics),
            ]
            for arm in self.arms
        ]
        display(Markdown(markdown_table(["arm", *(["rate"] if several else []), *metrics], body)))

    def at_chosen(self, metric: str, *, curve: bool = False) -> pd.DataFrame:
        """Rows of one metric at the chosen rates; ValueError when no run gave it."""
        is_curve = self.table["step"].notna()
        rows = self.table[
            (self.table["metric"] == metric) & (is_curve if curve else ~is_curve) & self._is_chosen()
        ]
        if rows.empty:
            kind = "curve" if curve else "metric"
            there = sorted(self.table["metric"][is_curve if curve else ~is_curve].unique())
            raise ValueError(f"no {kind} {metric!r} in {self.name!r} ({self.source}); there are {there}")
        return rows

    def _is_chosen(self) -> pd.Series:
        return self.table["rate"] == self.table["arm"].map(self.chosen)

    def _has_items(self, arm: Arm | str, metric: str) -> bool:
        return any(key[0] == _name(arm) and key[-1] == metric for key in self._items)

    def _seeds_of(self, arm: Arm | str, metric: str) -> pd.DataFrame:
        if _name(arm) not in self.chosen:
            raise ValueError(f"no arm {_name(arm)!r} in {self.name!r}; there are {list(self.chosen)}")
        rows = self.at_chosen(metric)
        rows = rows[rows["arm"] == _name(arm)]
        if rows.empty:
            raise ValueError(f"arm {_name(arm)!r} gave no metric {metric!r}")
        return rows


def _name(arm: Arm | str) -> str:
    return arm.name if isinstance(arm, Arm) else arm


def _table(columns: Mapping[str, Sequence]) -> pd.DataFrame:
    table = pd.DataFrame({column: list(columns[column]) for column in COLUMNS})
    return table.astype({"rate": float, "step": float, "value": float})


def _best_rates(table: pd.DataFrame, choose: str | None) -> dict[str, float]:
    """For each arm the rate with the highest mean of `choose`; the first of equals; the only one there is."""
    best: dict[str, float] = {}
    for arm, rows in table.groupby("arm", sort=False):
        rates = rows["rate"].unique()
        if len(rates) > 1:
            of_choice = rows[(rows["metric"] == choose) & rows["step"].isna()]
            means = of_choice.groupby("rate", sort=False)["value"].agg(lambda v: v.to_numpy().mean())
            if means.notna().sum() == 0:
                raise ValueError(
                    f"arm {arm!r} ran at rates {list(rates)} and gave no metric {choose!r} to choose by"
                )
            rates = [means.idxmax()]
        best[arm] = float(rates[0])
    return best

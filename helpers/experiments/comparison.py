"""A method against its baseline, paired by seed and by test item: the effect and its 95 % interval.

D[s, i] is the difference between method and baseline for seed s and test item i (an image; a class where the
claim speaks of new classes). Seeds and items are both samples, so both contribute to the error: a two-way
random-effects model without replication, with Satterthwaite's degrees of freedom (Searle, Casella and
McCulloch, *Variance Components*, 1992, sections 4.5 and 2.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from torch import Tensor

MOST_SEEDS = 100_000
"""Where `seeds_needed` stops looking."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """Mean effect and its 95 % confidence interval; unbounded where the spread cannot be estimated."""

    mean: float
    low: float
    high: float
    se: float
    df: float


@dataclass(frozen=True)
class Gate:
    """A precondition under which a run can speak about a claim at all; `text` says what was measured."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Paired:
    """What is kept of the paired differences D of shape (seeds, items), enough for their interval.

    Attributes:
        effects: mean difference of each seed, in the measure's own sign.
        items: test items per seed (the fewest of any seed, where they differ); 0 for a measure without items.
        ms_item: mean square between items, n * var_i(mean_s D); 0 where items are drawn anew.
        ms_res: mean square of the residuals; where items are drawn anew, the variance within a seed.
        redrawn: test items are drawn anew for each seed.
    """

    effects: list[float]
    items: int = 0
    ms_item: float = 0.0
    ms_res: float = 0.0
    redrawn: bool = False

    @classmethod
    def of(
        cls, differences: Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor, *, redrawn=False
    ) -> Paired:
        """Reduce D: one number per seed, an array of shape (seeds, items), or one array of items per seed.

        In items shared by the seeds a NaN marks one that a seed did not test on, as where each seed leaves
        out other classes.

        Raises ValueError when there is no seed, a difference is not finite, or seeds differ in their number
        of items although items are shared by all seeds.
        """
        rows = [np.atleast_1d(np.asarray(row, dtype=float)) for row in differences]
        if not rows or min(map(len, rows)) == 0:
            raise ValueError(
                "there is nothing to compare: expected one difference, or row of items, per seed"
            )
        absent = [np.isnan(row) if len(row) > 1 and not redrawn else np.zeros(len(row), bool) for row in rows]
        here = [row[~gone] for row, gone in zip(rows, absent, strict=True)]
        if bad := [seed for seed, row in enumerate(here) if not len(row) or not np.isfinite(row).all()]:
            raise ValueError(f"differences of seed number {bad[0]} are not finite: has a run diverged?")
        sizes = sorted({len(row) for row in rows})
        if len(sizes) > 1 and not redrawn:
            raise ValueError(
                f"seeds have {sizes} test items: items shared by all seeds must be equally many; "
                "pass redrawn=True when each seed draws its own"
            )
        effects = [float(row.mean()) for row in here]
        if sizes[0] == 1:
            return cls(effects, redrawn=redrawn)
        if redrawn:
            within = float(np.mean([row.var(ddof=1) for row in rows]))
            return cls(effects, sizes[0], ms_res=within, redrawn=True)
        if any(gone.any() for gone in absent):
            return cls(effects, min(map(len, here)), *_partly_shared(np.stack(rows), effects))
        return cls(effects, sizes[0], *_mean_squares(np.stack(rows)))

    @property
    def mean(self) -> float:
        """The mean effect over the seeds."""
        return math.fsum(self.effects) / len(self.effects)

    def interval(self) -> Interval:
        """The mean effect and its 95 % interval, over fresh seeds and fresh test items.

        One seed, or effects that are all alike in a measure without items (or whose items are all alike),
        tell nothing of the spread: the interval is then unbounded, never of width zero.
        """
        n, mean = len(self.effects), self.mean
        if not self._spread_is_known():
            return Interval(mean, -math.inf, math.inf, math.inf, 0.0)
        v1, v2 = self._seed_variance() / n, self._item_variance()
        se, df = math.sqrt(v1 + v2), _degrees_of_freedom(v1, n, v2, self.items)
        half = _critical(df) * se
        return Interval(mean, mean - half, mean + half, se, df)

    def __neg__(self) -> Paired:
        return replace(self, effects=[-effect for effect in self.effects])

    def _seed_variance(self) -> float:
        """Of one seed's effect; its floor is what the items' noise alone gives."""
        mean = self.mean
        spread = math.fsum((effect - mean) ** 2 for effect in self.effects) / max(len(self.effects) - 1, 1)
        return max(spread, self.ms_res / self.items) if self.items else spread

    def _spread_is_known(self) -> bool:
        """Whether there are two seeds, and differences that differ by more than rounding."""
        rounding = _ROUNDING * max(map(abs, self.effects))
        return len(self.effects) > 1 and self._seed_variance() + self._item_variance() > rounding**2

    def _item_variance(self) -> float:
        """Of the mean effect, because another test set would hold other items; more seeds do not lower it."""
        if self.redrawn or not self.items:
            return 0.0
        return max(self.ms_item - self.ms_res, 0.0) / (len(self.effects) * self.items)


def paired_interval(effects: Paired | Sequence[float]) -> Interval:
    """The 95 % interval of `Paired.interval`; bare numbers are one effect per seed, without items."""
    return (effects if isinstance(effects, Paired) else Paired.of(effects)).interval()


def seeds_needed(paired: Paired, smallest: float, power: float = 0.8) -> int | None:
    """Number of seeds with which the 95 % interval excludes 0 in `power` of all runs, were the effect
    `smallest`, given the spread seen in `paired`.

    None where no number of seeds would do (the test items are too few), or the spread is not known. Raises
    ValueError when `smallest` is not positive.
    """
    if not smallest > 0:
        raise ValueError(f"smallest effect that counts is {smallest}; expected a number above 0")
    if not paired._spread_is_known():
        return None
    v_seed, v_item = paired._seed_variance(), paired._item_variance()

    def enough(n: int) -> bool:
        df = _degrees_of_freedom(v_seed / n, n, v_item, paired.items)
        shift = min(smallest / math.sqrt(v_seed / n + v_item), 35.0)  # scipy's noncentral t fails far out
        right_side = 1 - special.nctdtr(df, shift, _critical(df))
        wrong_side = np.nan_to_num(special.nctdtr(df, shift, -_critical(df)))  # NaN where it vanishes
        return right_side + wrong_side >= power

    too_few, n = 1, 2
    while not enough(n):
        too_few, n = n, 2 * n
        if n > MOST_SEEDS:
            return None
    while n - too_few > 1:
        middle = (too_few + n) // 2
        too_few, n = (too_few, middle) if enough(middle) else (middle, n)
    return n


def prediction_interval(paired: Paired, new_seeds: int) -> tuple[float, float]:
    """Where the mean effect of `new_seeds` fresh seeds lies in 95 % of all repetitions of the same study.

    Test items shared by all seeds are the same in the repetition, so only the seeds make a difference.
    Unbounded where the spread is not known. Raises ValueError when `new_seeds` is below 1.
    """
    if new_seeds < 1:
        raise ValueError(f"new_seeds is {new_seeds}; expected at least 1")
    n, mean, variance = len(paired.effects), paired.mean, paired._seed_variance()
    if not paired._spread_is_known():
        return -math.inf, math.inf
    half = _critical(n - 1) * math.sqrt(variance * (1 / n + 1 / new_seeds))
    return mean - half, mean + half


def _mean_squares(d: np.ndarray) -> tuple[float, float]:
    """MS_item and MS_res of D, shape (seeds, items)."""
    n, m = d.shape
    if n < 2:
        return 0.0, 0.0
    of_items, residuals = d.mean(0), d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()
    return float(n * of_items.var(ddof=1)), float((residuals**2).sum() / ((n - 1) * (m - 1)))


def _partly_shared(d: np.ndarray, effects: Sequence[float]) -> tuple[float, float]:
    """As `_mean_squares` for D with NaN where a seed lacks an item: the same in expectation.

    The part of an item that persists over seeds has the variance tau2, seen in the products of residuals of
    two seeds that share the item. It counts in the mean effect as far as seeds share their items.
    """
    (n, _), here = d.shape, ~np.isnan(d)
    residuals = np.where(here, d - np.asarray(effects)[:, None], 0.0)
    shared, products = here.astype(float) @ here.T, residuals @ residuals.T
    other = ~np.eye(n, dtype=bool)
    m = here.sum(1).mean()
    if n < 2 or not shared[other].sum():
        return 0.0, float((residuals**2).sum() / (here.sum() - n))
    tau2 = max(products[other].sum() / shared[other].sum(), 0.0) * m / (m - 1)
    ms_res = max(float((residuals**2).sum() / (here.sum() - n)) - tau2, 0.0)
    return float(ms_res + n * tau2 * shared[other].mean() / m), ms_res


def _critical(df: float) -> float:
    return float(special.stdtrit(df, 0.975))


def _degrees_of_freedom(v1: float, n: int, v2: float, m: int) -> float:
    """Of the variance V1 + V2, after Welch and Satterthwaite."""
    return (v1 + v2) ** 2 / (v1**2 / (n - 1) + (v2**2 / (m - 1) if v2 else 0.0))

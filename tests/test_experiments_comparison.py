"""The interval of a paired difference: by hand, against statsmodels, and its coverage in simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.experiments import Interval, Paired, paired_interval, prediction_interval, seeds_needed

SEED_VARIANCE, ITEM_VARIANCE, PERSISTENT = 0.02**2, 0.3, 0.4  # evidence.md's setting
CELLS = [(n, m) for n in range(3, 11) for m in (360, 1000)]
REPETITIONS = 4000
T1, T2 = 12.706204736, 4.302652730  # 97.5 % points of Student's t with 1 and 2 degrees of freedom
MONTE_CARLO = 3 * math.sqrt(0.95 * 0.05 / REPETITIONS)  # three standard errors of a simulated coverage


def test_two_seeds_and_two_items_by_hand():
    paired = Paired.of([[1, 2], [3, 6]])
    assert (paired.effects, paired.items) == ([1.5, 4.5], 2)
    assert (paired.ms_item, paired.ms_res) == (4, 1)  # item means 2 and 4; residuals +-.5
    interval = paired.interval()
    assert interval.mean == 3
    assert interval.se == pytest.approx(math.sqrt(4.5 / 2 + 3 / 4))  # V1 = var(e) / n, V2 = (4 - 1) / (n m)
    assert interval.df == pytest.approx(9 / (2.25**2 + 0.75**2))  # 1.6
    half = stats.t.ppf(0.975, 1.6) * math.sqrt(3)
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half))


def test_seeds_that_agree_by_chance_get_the_floor_of_the_items_noise():
    interval = Paired.of([[0, 1], [1, 0]]).interval()  # effects .5 and .5, MS_res 1, MS_item 0
    assert (interval.mean, interval.se, interval.df) == (0.5, 0.5, 1)
    assert (interval.low, interval.high) == pytest.approx((0.5 - T1 * 0.5, 0.5 + T1 * 0.5))


def test_items_drawn_anew_count_within_their_seed_and_may_differ_in_number():
    paired = Paired.of([[0, 2], [1, 3, 5]], redrawn=True)  # variances 2 and 4
    assert paired == Paired([1, 3], items=2, ms_res=3, redrawn=True)
    assert paired.interval().se == pytest.approx(1.0)  # max(2, 3 / 2) / 2
    assert Paired.of([[0, 4], [1, 3]], redrawn=True).interval().se == pytest.approx(math.sqrt(5 / 2 / 2))


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance():
    ols = pytest.importorskip("statsmodels.formula.api").ols
    from statsmodels.stats.anova import anova_lm

    d = np.random.default_rng(0).normal(size=(4, 9))
    seed, item = np.indices(d.shape)
    table = anova_lm(
        ols("d ~ C(s) + C(i)", pd.DataFrame({"d": d.ravel(), "s": seed.ravel(), "i": item.ravel()})).fit()
    )
    paired = Paired.of(d)
    assert paired.ms_item == pytest.approx(table.loc["C(i)", "mean_sq"])
    assert paired.ms_res == pytest.approx(table.loc["Residual", "mean_sq"])
    assert 9 * np.var(paired.effects, ddof=1) == pytest.approx(table.loc["C(s)", "mean_sq"])


def test_without_items_it_is_students_interval():
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    effects = [0.03, 0.11, -0.02, 0.07, 0.05]
    interval = paired_interval(effects)
    assert (interval.low, interval.high) == pytest.approx(
        weightstats.DescrStatsW(effects).tconfint_mean(0.05)
    )
    assert interval == paired_interval(Paired.of(effects))


@pytest.mark.parametrize(
    "differences", [[0.2], [0.1, 0.1, 0.1], [0, 0], np.zeros((3, 5)), np.full((1, 4), 0.5)], ids=str
)
def test_no_interval_has_width_zero(differences):
    interval = Paired.of(differences).interval()
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert interval.mean == np.mean(differences)
    assert seeds_needed(Paired.of(differences), 0.02) is None
    assert prediction_interval(Paired.of(differences), 3) == (-math.inf, math.inf)


def test_the_other_sign_mirrors_the_interval():
    paired = Paired.of(np.random.default_rng(0).normal(0.3, 1, size=(5, 40)))
    there, back = paired.interval(), (-paired).interval()
    assert (back.mean, back.low, back.high, back.se) == (-there.mean, -there.high, -there.low, there.se)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="nothing to compare"):
        Paired.of([])
    with pytest.raises(ValueError, match="seed number 1 are not finite"):
        Paired.of([0.1, math.nan])
    with pytest.raises(ValueError, match=r"\[2, 3\] test items.*redrawn=True"):
        Paired.of([[1, 2], [1, 2, 3]])


def test_the_number_of_seeds_is_that_of_students_t_test():
    power = pytest.importorskip("statsmodels.stats.power").TTestPower()
    paired = Paired.of([0.1, 0.13, 0.02, 0.05])
    spread = np.std(paired.effects, ddof=1)
    for smallest in (0.02, 0.04, 0.1):
        exact = power.solve_power(effect_size=smallest / spread, alpha=0.05, power=0.8)
        assert seeds_needed(paired, smallest) == math.ceil(exact)
    with pytest.raises(ValueError, match="smallest effect that counts is 0"):
        seeds_needed(paired, 0)


def test_more_seeds_do_not_replace_test_items():
    rng = np.random.default_rng(0)
    few_items = Paired.of(rng.normal(0, 0.5, size=20) + rng.normal(0, 0.02, size=(6, 20)))
    assert seeds_needed(few_items, 0.02) is None
    assert seeds_needed(few_items, 1.0) == 2


def simulated(n: int, m: int, shared: bool, rng: np.random.Generator) -> list[Paired]:
    """What `Paired.of` gives for an effect of 0; of normal D, effects and mean squares are independent."""
    persistent = PERSISTENT * ITEM_VARIANCE if shared else 0.0
    residual = ITEM_VARIANCE - persistent
    shape = (REPETITIONS, n)
    effects = rng.normal(0, math.sqrt(SEED_VARIANCE + residual / m), shape)
    effects += rng.normal(0, math.sqrt(persistent / m), (REPETITIONS, 1))
    within = (n - 1) * (m - 1) if shared else n * (m - 1)
    ms_res = residual * rng.chisquare(within, REPETITIONS) / within
    ms_item = (residual + n * persistent) * rng.chisquare(m - 1, REPETITIONS) / (m - 1) * shared
    pieces = zip(effects.tolist(), ms_item.tolist(), ms_res.tolist(), strict=True)
    return [Paired(e, m, item, res, redrawn=not shared) for e, item, res in pieces]


def coverage(intervals: list[Interval]) -> float:
    return float(np.mean([interval.low <= 0 <= interval.high for interval in intervals]))


@pytest.mark.parametrize(("n", "m"), CELLS)
def test_coverage_with_shared_items_is_94_to_96_percent(n, m):
    runs = simulated(n, m, True, np.random.default_rng([n, m]))
    assert 0.94 - MONTE_CARLO < coverage([run.interval() for run in runs]) < 0.96 + MONTE_CARLO
    assert coverage([paired_interval(run.effects) for run in runs]) < 0.925  # seeds alone


@pytest.mark.parametrize(("n", "m"), CELLS)
def test_coverage_with_items_drawn_anew_is_at_least_95_percent(n, m):
    runs = simulated(n, m, False, np.random.default_rng([n, m]))
    assert coverage([run.interval() for run in runs]) > 0.95 - MONTE_CARLO


def test_seeds_alone_cover_less_the_more_of_them_there_are():
    alone = [
        coverage([paired_interval(r.effects) for r in simulated(n, 360, True, np.random.default_rng(n))])
        for n in (3, 6, 10)
    ]
    assert alone[0] > alone[1] + 0.03 > alone[2] + 0.06


@pytest.mark.parametrize("shared", [True, False])
def test_coverage_from_the_differences_themselves(shared):
    """As above but through D, which the mean squares above only stand for."""
    rng = np.random.default_rng(1)
    covered = []
    for n in (3, 5, 10):
        for _ in range(700):
            persistent = rng.normal(0, math.sqrt(PERSISTENT * ITEM_VARIANCE), (1 if shared else n, 360))
            noise = rng.normal(0, math.sqrt((1 - PERSISTENT) * ITEM_VARIANCE), (n, 360))
            d = rng.normal(0, math.sqrt(SEED_VARIANCE), (n, 1)) + persistent + noise
            covered.append(Paired.of(d, redrawn=not shared).interval())
    error = 3 * math.sqrt(0.95 * 0.05 / len(covered))
    assert 0.94 - error < coverage(covered) < (0.96 if shared else 0.985) + error


def test_an_audit_falls_into_the_prediction_interval_as_often_as_it_says():
    assert prediction_interval(Paired.of([1, 2, 3]), 1) == pytest.approx(
        (2 - T2 * math.sqrt(4 / 3), 2 + T2 * math.sqrt(4 / 3))
    )
    rng = np.random.default_rng(0)
    inside = []
    for study, audit in zip(rng.normal(size=(3000, 8)), rng.normal(size=(3000, 3)).mean(1), strict=True):
        low, high = prediction_interval(Paired.of(study), 3)
        inside.append(low <= audit <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 3000))
    with pytest.raises(ValueError, match="new_seeds is 0"):
        prediction_interval(Paired.of([1, 2]), 0)


def test_nan_marks_items_that_a_seed_lacks_and_full_rows_agree_with_the_two_way_formula() -> None:
    """With nothing missing but one cell of a large table, both estimators tell nearly the same spread."""
    generator = np.random.default_rng(0)
    d = generator.normal(0, 0.3, 2000) + generator.normal(0, 0.2, (8, 2000)) + 0.1
    whole = Paired.of(d)
    d[3, 7] = np.nan
    partly = Paired.of(d)
    assert partly.items == 1999
    assert partly.ms_item == pytest.approx(whole.ms_item, rel=0.02)
    assert partly.ms_res == pytest.approx(whole.ms_res, rel=0.02)
    assert partly.interval().se == pytest.approx(whole.interval().se, rel=0.02)


@pytest.mark.parametrize(("kept", "least"), [(60, 0.93), (80, 0.93)])
def test_items_that_seeds_share_in_part_are_covered(kept: int, least: float) -> None:
    """80 of 120 items per seed, items with a lasting part: treating them as redrawn covers clearly less."""
    generator, n, m, runs = np.random.default_rng(1), 8, 120, 400
    inside = alone = 0
    for _ in range(runs):
        d = generator.normal(0, 0.025, m) + generator.normal(0, 0.01, (n, 1)) * 0.3
        d = d + generator.normal(0, 0.03, (n, m))
        for row in d:
            row[generator.permutation(m)[kept:]] = np.nan
        found = Paired.of(d).interval()
        inside += found.low <= 0 <= found.high
        plain = Paired.of([row[~np.isnan(row)] for row in d], redrawn=True).interval()
        alone += plain.low <= 0 <= plain.high
    assert inside / runs >= least
    assert alone < inside


def test_a_seed_without_any_item_is_refused() -> None:
    with pytest.raises(ValueError, match="seed number 1 are not finite"):
        Paired.of(np.array([[0.1, 0.2, np.nan], [np.nan] * 3]))

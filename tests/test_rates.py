"""Comparisons at other rates than each arm's own, and whether twice the steps would change anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.experiments import Arm, Results, sweep
from helpers.experiments.rates import at_rate, converged, learned, over_rates, own_rates

OURS, THEIRS = Arm("ours", "blue", lift=0.2, times=1), Arm("theirs", "grey", lift=0.0, times=1)
RATES = [0.1, 1.0]


def run(arm: Arm, seed: int, rate: float) -> dict:
    items = torch.arange(4) / 100 + seed / 10 + arm.lift * rate + 0.01 * (arm.times - 1)
    items[seed % 4] = torch.nan  # every seed lacks another item
    return {"recall": items, "validation": rate if arm.name == "ours" else -rate}


@pytest.fixture
def results(tmp_path) -> Results:
    return sweep(
        "s", run, arms=[OURS, THEIRS], rates=RATES, seeds=[0, 1, 2], choose="validation", folder=tmp_path
    )


def test_all_arms_at_one_rate(results: Results):
    assert results.chosen == {"ours": 1.0, "theirs": 0.1}
    found = at_rate(results, 0.1)
    assert found.values(OURS, "recall") == pytest.approx(results.values(THEIRS, "recall") + 0.02)
    assert found.paired(OURS, THEIRS, "recall").mean == pytest.approx(0.02)
    with pytest.raises(ValueError, match=r"no rate 0\.3 in 's'"):
        at_rate(results, 0.3)


def test_a_mean_over_rates_is_paired_by_seed_and_item(results: Results):
    paired = over_rates(results, RATES, OURS, THEIRS, "recall")
    assert paired.effects == pytest.approx([0.11] * 3)
    assert paired.items == 3
    one = over_rates(results, [1.0], OURS, THEIRS, "recall")
    assert one == at_rate(results, 1.0).paired(OURS, THEIRS, "recall")


def test_the_other_may_flee_to_its_own_rate(results: Results):
    paired = own_rates(results, RATES, OURS, THEIRS, "recall", "validation")
    assert paired.effects == pytest.approx([0.2] * 3)
    assert own_rates(results, [0.1], OURS, THEIRS, "recall", "validation").effects == pytest.approx(
        [0.02] * 3
    )


def test_learned_asks_for_three_times_chance(results: Results):
    least = min(results.values(arm, "recall").mean() for arm in (OURS, THEIRS))
    assert learned(results, [OURS, THEIRS], "recall", least / 3).passed
    gate = learned(results, [OURS, THEIRS], "recall", least / 2)
    assert not gate.passed
    assert "theirs 2.0" in gate.text
    assert type(gate.passed) is bool


@pytest.mark.parametrize(("smallest", "held"), [(0.02, True), (0.005, False)])
def test_converged_asks_what_twice_the_steps_add(results, smallest, held, monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.experiments.rates.sweep", lambda *a, **k: sweep(*a, **k, folder=tmp_path))
    gate = converged(results, run, [OURS, THEIRS], "recall", chance=0.01, smallest=smallest)
    assert gate.passed is held
    assert "twice the steps add: ours +0.010, theirs +0.010" in gate.text
    assert np.isfinite(results.values(OURS, "recall")).all()

"""The judge: every branch, by hand-computed cases and against an independent oracle."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired
from test_claims import EFFECT, IDENTITY, WHOLE

from helpers.claims import ClaimError, Gate, judge
from helpers.claims.ledger import Claim
from helpers.claims.measurement import Measurement, Result
from helpers.claims.standing import standings
from helpers.claims.verdict import (
    Best,
    Run,
    Verdict,
    best_evidence,
    composed,
    discoveries,
    judge_tier,
    p_value,
)
from helpers.experiments.comparison import Paired, seeds_needed

HELD, FAILED = Gate("fitted", True, "accuracy .99"), Gate("fitted", False, "accuracy .5")


def row(**changes: Any) -> Claim:
    return Claim(**{**EFFECT, **changes})


def measured(effects: list[float] | Paired, **more: Any) -> Measurement:
    return Measurement("svmax.recall", "digits", effects, **more)


def around(mean: float, half: float) -> list[float]:
    """Three effects whose 95 % interval is mean ± half."""
    step = half * np.sqrt(3) / stats.t.ppf(0.975, 2)
    return [mean - step, mean, mean + step]


@pytest.mark.parametrize(
    ("mean", "half", "verdict", "detail"),  # the smallest effect that counts is 0.5
    [
        (1.0, 0.9, "supported", ""),
        (0.5, 0.4, "supported", ""),  # exactly the smallest effect
        (1.0, 1.1, "inconclusive", ""),  # large enough in the mean, and zero is possible
        (0.45, 0.1, "inconclusive", ""),  # clear of zero, and may count or not
        (0.0, 0.6, "inconclusive", ""),
        (0.3, 0.1, "contradicted", "smaller than counts"),
        (0.0, 0.4, "contradicted", "no effect"),
        (-0.2, 0.25, "contradicted", "no effect"),
        (-0.3, 0.4, "contradicted", ""),  # cannot count, may be nothing or the reverse
        (-1.0, 0.5, "contradicted", "reversed"),
        (-0.1, 0.05, "contradicted", "reversed"),  # small, and clear of zero on the wrong side
    ],
)
def test_verdict_of_an_interval(mean: float, half: float, verdict: str, detail: str) -> None:
    effects = around(mean, half)
    found = judge(row(), measured(effects))
    assert (found.verdict, found.detail) == (verdict, detail)
    assert (found.interval.low, found.interval.high) == pytest.approx((mean - half, mean + half))
    assert found.needed == (seeds_needed(Paired(effects), 0.5) if verdict == "inconclusive" else None)
    assert found.seeds == 3

    mirrored = judge(row(direction="less"), measured([-e for e in effects]))
    assert (mirrored.verdict, mirrored.detail, mirrored.needed) == (verdict, detail, found.needed)
    assert mirrored.interval.mean == pytest.approx(-mean)

    promoted = judge(row(), measured(effects, thesis_setting=True)).verdict
    assert promoted == ("reproduced" if verdict == "supported" else verdict)

    gated = row(gate="has learned")
    untested = "not tested" if verdict == "contradicted" else verdict
    assert judge(gated, measured(effects, gate=HELD)).verdict == verdict
    for gate in (FAILED, None):
        blocked = judge(gated, measured(effects, gate=gate))
        assert (blocked.verdict, blocked.detail, blocked.gate_held) == (untested, "", False)


@given(st.lists(st.integers(-2000, 2000).map(lambda i: i / 1000), min_size=3, max_size=8))
def test_verdicts_agree_with_statsmodels(effects: list[float]) -> None:
    found = judge(row(), measured(effects))
    if np.ptp(effects) == 0:
        assert found.verdict == "inconclusive"  # no spread, no knowledge of it
        return
    low, high = DescrStatsW(effects).tconfint_mean(0.05)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    p = ttost_paired(np.asarray(effects), np.zeros(len(effects)), -0.5, 0.5)[0]
    near = min(abs(abs(end) - edge) for end in (low, high) for edge in (0, 0.5)) < 1e-9
    equivalent = low > -0.5 and high < 0.5
    assert near or equivalent == (p < 0.025)
    assert near or (found.detail == "no effect") == (p < 0.025 and low <= 0 <= high)


@given(st.lists(st.integers(-2000, 2000).map(lambda i: i / 1000), min_size=3, max_size=8))
def test_an_effect_and_its_mirror_are_never_both_supported(effects: list[float]) -> None:
    verdicts = [judge(row(direction=d), measured(effects)).verdict for d in ("greater", "less")]
    assert verdicts.count("supported") <= 1


def test_identity_and_absent_measurement() -> None:
    identity = Claim(**IDENTITY)
    assert judge(identity, Measurement(identity.id, "x", violation=1e-5)).verdict == "reproduced"
    assert judge(identity, Measurement(identity.id, "x", violation=1.1e-5)).verdict == "contradicted"
    assert judge(identity, None).verdict == judge(row(), None).verdict == "not run"


def test_controls_are_beaten_explain_the_effect_or_leave_it_open() -> None:
    controls = {
        "weak": around(1.0, 0.5),
        "clear, small": around(0.2, 0.1),
        "equal": around(0.0, 0.3),
        "better": around(-1.0, 0.5),
        "unclear": around(0.5, 1.0),
    }
    answers = dict(zip(controls, ("beaten", "beaten", "explains it", "explains it", "open"), strict=True))
    found = judge(row(), measured(around(1.0, 0.5), controls=controls))
    assert (found.controls, found.because) == (answers, "explains it")
    assert found.close == ("clear, small",)
    assert list(found.leads) == list(controls)
    for refuting, because in ((["weak"], "beaten"), (["weak", "unclear"], "open"), ([], "")):
        declared = judge(row(refuting=refuting), measured(around(1.0, 0.5), controls=controls))
        assert declared.because == because
        assert set(declared.controls) == set(refuting)
        assert set(declared.leads) == set(controls)
    less = {name: [-v for v in values] for name, values in controls.items()}
    mirrored = judge(row(direction="less"), measured(around(-1.0, 0.5), controls=less))
    assert (mirrored.controls, mirrored.close) == (answers, found.close)
    assert mirrored.leads["weak"].mean == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        (("supported", "supported"), "supported"),
        (("supported", "reproduced"), "supported"),
        (("reproduced", "reproduced"), "reproduced"),
        (("supported", "contradicted"), "contradicted"),
        (("inconclusive", "contradicted"), "contradicted"),
        (("supported", "inconclusive"), "inconclusive"),
        (("supported", "not run"), "inconclusive"),
        (("supported", "not tested"), "inconclusive"),
        (("supported", "mixed"), "inconclusive"),
        (("not tested", "not tested"), "not tested"),
        (("not run", "not run"), "not run"),
    ],
)
def test_a_composite_is_judged_from_its_components(parts: tuple[str, str], verdict: str) -> None:
    whole = Claim(**WHOLE)
    first, second = (Verdict(part) for part in parts)
    found = composed(whole, {"svmax.recall": first, "svmax.bound": second})
    assert (found.verdict, found.because, found.provisional) == (verdict, "", ())
    assert found.parts == dict(zip(whole.components, parts, strict=True))
    first = replace(first, controls={"a": "beaten", "b": "open"}, provisional=("few seeds",))
    second = replace(second, controls={"b": "beaten", "c": "explains it"}, gate_held=False)
    found = composed(whole, {"svmax.recall": first, "svmax.bound": second})
    assert found.controls == {"a": "beaten", "b": "open", "c": "explains it"}
    assert (found.provisional, found.gate_held) == (("few seeds",), False)


# ---- one tier


def firm(n: int = 6, m: int = 1000, mean: float = 1.0, seed: int = 0) -> Paired:
    return Paired.of(np.random.default_rng(seed).normal(mean, 0.1, (n, m)), redrawn=True)


@pytest.mark.parametrize(
    ("effects", "items", "planned", "fresh", "reasons"),
    [
        (firm(), "images", True, True, []),
        (firm(5), "images", True, True, ["fewer than 6 seeds"]),
        (firm(m=999), "images", True, True, ["fewer than 1000 test images"]),
        (firm(m=540), "maps", True, True, []),
        (firm(m=539), "maps", True, True, ["fewer than 540 test maps"]),
        (firm(m=40), "classes", True, True, []),
        (firm(m=39), "classes", True, True, ["fewer than 40 test classes"]),
        (Paired(firm().effects), "images", True, True, ["test images not counted"]),
        (Paired(firm().effects), "none", True, True, []),
        (firm(), "images", False, True, ["plan not committed before the run"]),
        (firm(), "images", True, False, ["seeds below 100"]),
        (Paired([0.9, 0.1, 0.9, 0.2, 0.9, 0.9]), "none", True, True, []),
    ],
)
def test_what_makes_a_verdict_provisional(
    effects: Paired, items: str, planned: bool, fresh: bool, reasons: list[str]
) -> None:
    run = Run(measured(effects), planned, fresh)
    (verdict,) = judge_tier({"svmax.recall": row(items=items)}, {"svmax.recall": run}).values()
    assert (verdict.verdict, list(verdict.provisional)) == ("supported", reasons)


def test_only_a_decided_verdict_can_be_provisional() -> None:
    for effects in (around(0.0, 5.0), None):
        runs = {} if effects is None else {"svmax.recall": Run(measured(effects))}
        assert judge_tier({"svmax.recall": row()}, runs)["svmax.recall"].provisional == ()
    bound = Run(Measurement("svmax.bound", "x", violation=0.0))
    assert (
        judge_tier({"svmax.bound": Claim(**IDENTITY)}, {"svmax.bound": bound})["svmax.bound"].provisional
        == ()
    )


def test_many_rows_in_one_tier_must_survive_benjamini_and_hochberg() -> None:
    weak = [0.9, 0.1, 0.9, 0.2, 0.9, 0.9]  # p = .009 against nothing, .05 / 12 = .004
    assert stats.ttest_1samp(weak, 0).pvalue == pytest.approx(0.0094, abs=1e-4)
    noise = [[-1.0, 1.0, 0.2, -0.3, 0.1, 0.5]] * 11
    rows = {f"r{i}": row(id=f"r{i}", items="none") for i in range(12)}
    runs = {f"r{i}": Run(measured(Paired(e)), True, True) for i, e in enumerate([weak, *noise])}
    verdicts = judge_tier(rows, runs)
    assert verdicts["r0"].provisional == ("not significant among all rows of its tier",)
    assert judge_tier(rows, {"r0": runs["r0"]})["r0"].provisional == ()


def test_benjamini_and_hochberg_by_hand() -> None:
    p = dict(zip("abcdefgh", (0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205), strict=True))
    assert discoveries(p) == {"a", "b"}  # .05 k / 8 = .00625, .0125, .019, .025, .031, ...
    assert discoveries({"a": 0.03, "b": 0.04}) == {"a", "b"}  # steps up from the largest
    assert discoveries({"a": 0.03, "b": 0.06}) == set()
    assert discoveries({}) == set()
    ps = np.random.default_rng(0).uniform(0, 0.5, 30) ** 2
    below = [k for k, p in enumerate(sorted(ps), start=1) if p <= 0.05 * k / 30]  # as the paper defines it
    assert 0 < max(below) < 30
    assert discoveries({str(i): v for i, v in enumerate(ps)}) == {
        str(i) for i in np.flatnonzero(ps <= sorted(ps)[max(below) - 1])
    }


def test_the_p_value_tests_what_the_verdict_denies() -> None:
    for direction, sign in (("greater", 1), ("less", -1)):
        claim = row(direction=direction)
        for values, null in (([1.0, 1.1, 0.8], 0.0), ([0.02, 0.01, -0.02], 0.5), ([2.0, -1.0, 0.3], 0.0)):
            effects = [sign * v for v in values]
            expected = stats.ttest_1samp(effects, sign * null).pvalue
            assert p_value(judge(claim, measured(effects)), claim) == pytest.approx(expected)
    assert p_value(judge(row(), measured([1.0, 1.0, 1.0])), row()) == 1.0


# ---- all tiers


def verdict(word: str, width: float = 1.0, **more: Any) -> Verdict:
    interval = SimpleNamespace(low=0.0, high=width) if word != "not run" else None
    return Verdict(word, interval=interval, **more)


SUPPORTED, AGAINST, OPEN = verdict("supported"), verdict("contradicted"), verdict("inconclusive")
FEW = ("few seeds",)


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ({}, Best("not run")),
        ({"laptop": verdict("not run")}, Best("not run")),
        ({"laptop": OPEN}, Best("inconclusive", ("laptop",))),
        ({"laptop": SUPPORTED, "study": SUPPORTED}, Best("supported", ("study",))),
        ({"study": SUPPORTED, "real": OPEN}, Best("supported", ("study",))),
        ({"study": SUPPORTED, "real": verdict("supported", gate_held=False)}, Best("supported", ("study",))),
        ({"study": SUPPORTED, "gpu": verdict("supported", provisional=FEW)}, Best("supported", ("study",))),
        (
            {"study": verdict("supported", provisional=FEW), "gpu": verdict("reproduced", provisional=FEW)},
            Best("reproduced", ("gpu",)),
        ),
        ({"study": SUPPORTED, "real": AGAINST}, Best("mixed", ("real", "study"))),
        ({"study": AGAINST, "real": verdict("reproduced"), "gpu": AGAINST}, Best("mixed", ("gpu", "real"))),
        ({"study": SUPPORTED, "real": verdict("not tested", gate_held=False)}, Best("supported", ("study",))),
        ({"laptop": verdict("inconclusive", 2.0), "study": OPEN}, Best("inconclusive", ("study",))),
        ({"study": OPEN, "real": verdict("inconclusive", 2.0)}, Best("inconclusive", ("study",))),
        ({"laptop": OPEN, "study": verdict("inconclusive", 2.0)}, Best("inconclusive", ("study",))),
        ({"laptop": AGAINST, "study": OPEN}, Best("inconclusive", ("study",))),
        ({"laptop": AGAINST, "study": SUPPORTED}, Best("supported", ("study",))),
        (
            {"laptop": SUPPORTED, "real": verdict("not tested", gate_held=False)},
            Best("not tested", ("real",)),
        ),
        ({"laptop": verdict("supported", 2.0, gate_held=False)}, Best("supported", ("laptop",))),
        ({"laptop": AGAINST, "study": verdict("not run")}, Best("contradicted", ("laptop",))),
    ],
)
def test_best_evidence(tiers: dict[str, Verdict], expected: Best) -> None:
    assert best_evidence(row(), tiers) == expected


def kept(tier: str, *measurements: Measurement, **more: Any) -> SimpleNamespace:
    """A kept run, as far as the reports read it."""
    facts = {"chapter": "03", "parameters": {"seed": 100}, "plan_committed": True, **more}
    return SimpleNamespace(tier=tier, claims={m.claim_id: asdict(m) for m in measurements}, **facts)


def test_standings_keep_the_tiers_apart_and_the_own_run_aside(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([WHOLE, EFFECT, IDENTITY]))
    holds = Measurement("svmax.bound", "x", violation=0.0)
    laptop = [Result(m, "03.ipynb", {}) for m in (measured([2.0, -1.0, 0.3]), holds)]
    own = [Result(measured(around(-1.0, 0.1)), "03.ipynb", {})]
    whole, effect, identity = standings(laptop, [kept("study", measured(firm()))], own=own, ledger=path)
    assert {tier: v.verdict for tier, v in effect.verdicts.items()} == {
        "laptop": "inconclusive", "study": "supported", "real": "not run", "gpu": "not run",
    }  # fmt: skip
    assert (effect.best, effect.shown) == (Best("supported", ("study",)), effect.verdicts["study"])
    assert effect.shown.provisional == ()
    assert effect.own.verdict == "contradicted"
    assert (identity.best, identity.own.verdict) == (Best("reproduced", ("laptop",)), "not run")
    assert whole.best == Best("supported", ("study", "laptop"))  # each component from its own best tier
    assert (whole.verdicts["laptop"].verdict, whole.verdicts["study"].verdict) == ("inconclusive",) * 2
    for change, reason in (
        ({"parameters": {"seed": 0}}, "seeds below 100"),
        ({"plan_committed": False}, "plan not committed before the run"),
    ):
        _, effect, _ = standings([], [kept("study", measured(firm()), **change)], ledger=path)
        assert effect.shown.provisional == (reason,)
    against = kept("real", measured(around(-1.0, 0.1)))
    whole, effect, _ = standings(laptop, [kept("study", measured(firm())), against], ledger=path)
    assert effect.best == Best("mixed", ("study", "real"))
    assert whole.best.verdict == "inconclusive"


def test_evidence_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([EFFECT]))
    wrong_chapter = kept("study", measured(firm()), chapter="04")
    for evidence, message in (
        (wrong_chapter, "04_study.json measures 'svmax.recall', which belongs to chapter 03"),
        (kept("real", Measurement("gone", "x", firm())), "03_real.json measures 'gone'"),
        (SimpleNamespace(**{**vars(wrong_chapter), "claims": {"a": {"claim_id": 3}}}), "malformed"),
    ):
        with pytest.raises(ClaimError, match=message):
            standings([], [evidence], ledger=path)

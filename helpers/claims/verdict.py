"""The judge: what the numbers measured for a claim bear out, in one run and over all tiers of evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from scipy import stats

from helpers.claims.ledger import Claim
from helpers.claims.measurement import Measurement
from helpers.experiments.comparison import Interval, seeds_needed

VERDICTS = ("reproduced", "supported", "contradicted", "mixed", "inconclusive", "not tested", "not run")
POSITIVE, DECIDED = VERDICTS[:2], VERDICTS[:3]
TIERS = ("laptop", "study", "real", "gpu")  # from the lowest to the highest
FEWEST_SEEDS, FRESH_SEED, FALSE_DISCOVERIES = 6, 100, 0.05
FEWEST_ITEMS = {"images": 1000, "maps": 540, "classes": 40, "none": 0}
ANSWERS = ("explains it", "open", "beaten")  # of a control, from the weakest


@dataclass(frozen=True)
class Verdict:
    """What one run says about one claim.

    Attributes:
        verdict: one of `VERDICTS`, except "mixed".
        detail: of a contradiction: "reversed", "smaller than counts", "no effect", or "".
        interval: mean effect and its 95 % interval, in the measure's own sign.
        seeds: number of paired effects; `needed`: seeds for 80 % power at the smallest effect that counts.
        controls: name of a refuting control -> one of `ANSWERS`; `leads`: over every control.
        close: controls that are beaten, by less than the smallest effect that counts.
        gate_held: the row has no precondition, or it was measured and held.
        provisional: why the verdict is provisional; empty when it is not.
        parts: of a composite, what each component says.
    """

    verdict: str
    detail: str = ""
    interval: Interval | None = None
    seeds: int = 0
    needed: int | None = None
    controls: Mapping[str, str] = field(default_factory=dict)
    leads: Mapping[str, Interval] = field(default_factory=dict)
    close: tuple[str, ...] = ()
    gate_held: bool = True
    provisional: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def because(self) -> str:
        """The weakest answer of the refuting controls; "" without one."""
        return min(self.controls.values(), key=ANSWERS.index, default="")


@dataclass(frozen=True)
class Run:
    """A measurement; was its plan committed before it started, and are its seeds not those of pilots?"""

    measurement: Measurement
    planned: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Best:
    """The verdict over all tiers and the tiers it rests on: two when they disagree, none when nothing ran."""

    verdict: str
    tiers: tuple[str, ...] = ()


def judge(row: Claim, measurement: Measurement | None) -> Verdict:
    """Compare a measurement with its row, an effect or an identity; `composed` judges the other kind."""
    if measurement is None:
        return Verdict("not run")
    if row.kind == "identity":
        return Verdict("reproduced" if measurement.violation <= row.tolerance else "contradicted")

    def claimed(paired):  # positive in the claimed direction
        return -paired if row.direction == "less" else paired

    effect, smallest, needed, detail = claimed(measurement.effects), row.smallest, None, ""
    found, gate = effect.interval(), measurement.gate
    gate_held = row.gate is None if gate is None else gate.passed
    if found.low > 0 and found.mean >= smallest:
        verdict = "reproduced" if measurement.thesis_setting else "supported"
    elif found.high >= smallest:
        verdict, needed = "inconclusive", seeds_needed(effect, smallest)
    elif gate_held:
        verdict, detail = "contradicted", _contradiction(found, smallest)
    else:
        verdict = "not tested"
    leads = {name: claimed(paired).interval() for name, paired in measurement.controls.items()}
    refuting = [name for name in leads if row.refuting is None or name in row.refuting]
    return Verdict(
        verdict, detail, measurement.effects.interval(), len(effect.effects), needed, gate_held=gate_held,
        controls={name: _answer(leads[name], smallest) for name in refuting},
        leads={name: paired.interval() for name, paired in measurement.controls.items()},
        close=tuple(name for name in refuting if leads[name].low > 0 and leads[name].high < smallest),
    )  # fmt: skip


def _contradiction(found: Interval, smallest: float) -> str:
    """Of an interval below `smallest`; "no effect" is an equivalence test (two one-sided t-tests)."""
    if found.high < 0:
        return "reversed"
    return "smaller than counts" if found.low > 0 else "no effect" if found.low > -smallest else ""


def _answer(lead: Interval, smallest: float) -> str:
    return "beaten" if lead.low > 0 else "explains it" if lead.high < smallest else "open"


def composed(row: Claim, verdicts: Mapping[str, Verdict]) -> Verdict:
    """A composite: supported if all components are, contradicted if any is; no minimum per seed, which noise
    alone would push down. A control says what it says of the component that it hits hardest."""
    parts = {name: verdicts[name] for name in row.components}
    said = {name: part.verdict for name, part in parts.items()}
    controls: dict[str, str] = {}
    for name, answer in ((n, a) for part in parts.values() for n, a in part.controls.items()):
        controls[name] = min(controls.get(name, answer), answer, key=ANSWERS.index)
    if len(set(said.values())) == 1:
        verdict = next(iter(said.values()))
    elif "contradicted" in said.values():
        verdict = "contradicted"
    else:
        verdict = "supported" if set(said.values()) <= set(POSITIVE) else "inconclusive"
    close = dict.fromkeys(name for part in parts.values() for name in part.close)
    provisional = dict.fromkeys(reason for part in parts.values() for reason in part.provisional)
    return Verdict(
        verdict, controls=controls, close=tuple(close), provisional=tuple(provisional), parts=said,
        gate_held=all(part.gate_held for part in parts.values()),
    )  # fmt: skip


def judge_tier(rows: Mapping[str, Claim], runs: Mapping[str, Run]) -> dict[str, Verdict]:
    """Every row judged from the runs of one tier, with what makes a verdict provisional."""
    verdicts = {
        i: judge(row, runs[i].measurement if i in runs else None)
        for i, row in rows.items()
        if row.kind != "composite"
    }
    survivors = discoveries({i: p_value(v, rows[i]) for i, v in verdicts.items() if v.interval})
    for i, verdict in verdicts.items():
        if verdict.interval and verdict.verdict in DECIDED:
            reasons = tuple(_provisional(rows[i], runs[i], i in survivors))
            verdicts[i] = replace(verdict, provisional=reasons)
    return {i: verdicts.get(i) or composed(row, verdicts) for i, row in rows.items()}


def too_few_seeds(measurement: Measurement) -> tuple[str, ...]:
    """Why effects of so few seeds make a verdict provisional; nothing for enough of them, or an identity."""
    few = measurement.effects is not None and len(measurement.effects.effects) < FEWEST_SEEDS
    return (f"fewer than {FEWEST_SEEDS} seeds",) if few else ()


def _provisional(row: Claim, run: Run, survives: bool) -> Iterable[str]:
    effects, fewest = run.measurement.effects, FEWEST_ITEMS[row.items]
    yield from too_few_seeds(run.measurement)
    if effects.items < fewest:
        yield f"fewer than {fewest} test {row.items}" if effects.items else f"test {row.items} not counted"
    if not run.planned:
        yield "plan not committed before the run"
    if not run.fresh:
        yield f"seeds below {FRESH_SEED}"
    if run.measurement.gate is not None and not run.measurement.gate.passed:
        yield "its precondition failed"
    if not survives:
        yield "not significant among all rows of its tier"


def p_value(verdict: Verdict, row: Claim) -> float:
    """Two-sided t-test of what the verdict denies: the smallest effect that counts for a contradiction, else
    no effect."""
    found, denied = verdict.interval, verdict.verdict in ("contradicted", "not tested")
    null = row.sign * row.smallest if denied else 0.0
    return (
        float(2 * stats.t.sf(abs(found.mean - null) / found.se, found.df)) if math.isfinite(found.se) else 1.0
    )


def discoveries(p_values: Mapping[str, float], rate: float = FALSE_DISCOVERIES) -> set[str]:
    """Names that survive Benjamini and Hochberg's step-up procedure (1995) at this false discovery rate."""
    adjusted = stats.false_discovery_control(list(p_values.values()))
    return {name for name, p in zip(p_values, adjusted, strict=True) if p <= rate}


def best_evidence(row: Claim, by_tier: Mapping[str, Verdict]) -> Best:
    """The highest tier whose gate held and that is decided, non-provisional first; else the narrowest.

    Supported in one such tier and contradicted in another is "mixed". Tiers are never pooled. A laptop's run
    shows an effect and decides nothing: it counts only while no other tier has run.
    """
    ran = [tier for tier in reversed(TIERS) if tier in by_tier and by_tier[tier].verdict != "not run"]
    ran = [tier for tier in ran if tier != "laptop"] or ran
    decided = [tier for tier in ran if by_tier[tier].gate_held and by_tier[tier].verdict in DECIDED]
    decided.sort(key=lambda tier: bool(by_tier[tier].provisional))
    against = [tier for tier in decided if by_tier[tier].verdict == "contradicted"]
    if against and len(against) < len(decided):
        favour = next(tier for tier in decided if tier not in against)
        return Best("mixed", tuple(sorted((favour, against[0]), key=decided.index)))
    width = lambda tier: i.high - i.low if (i := by_tier[tier].interval) else math.inf  # noqa: E731
    best = decided[:1] or sorted(ran, key=width)[:1]
    return Best(by_tier[best[0]].verdict, tuple(best)) if best else Best("not run")

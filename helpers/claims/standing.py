"""How every claim stands: judged in each tier of evidence, the best of them, and this copy's own run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.claims.ledger import LEDGER, Claim, ClaimError, load_ledger
from helpers.claims.measurement import Measurement, Result, read
from helpers.claims.verdict import FRESH_SEED, TIERS, Best, Run, Verdict, best_evidence, composed, judge_tier
from helpers.experiments.evidence import Evidence


@dataclass(frozen=True)
class Standing:
    """One claim with all that is known of it.

    Attributes:
        measurements, verdicts: by tier; a tier that measured nothing has no measurement.
        best: the verdict over all tiers, and the tiers it rests on.
        shown: the verdict of the first of these tiers, with its numbers.
        own: this copy's own run, which is never part of the best evidence.
    """

    row: Claim
    measurements: Mapping[str, Measurement]
    verdicts: Mapping[str, Verdict]
    best: Best
    shown: Verdict
    own: Verdict


def standings(
    results: Sequence[Result],
    evidences: Sequence[Evidence] = (),
    *,
    own: Sequence[Result] = (),
    ledger: str | Path = LEDGER,
) -> list[Standing]:
    """Every row of the ledger, in its order, judged from the stored notebooks and the kept evidence.

    Args:
        results: what `collect` read from the stored notebooks, tier "laptop"; `own` from this copy's own run.

    Raises:
        ClaimError: evidence that is malformed, or that measures a claim of another chapter.
    """
    rows = load_ledger(ledger)
    runs: dict[str, dict[str, Run]] = {tier: {} for tier in TIERS}
    runs["laptop"] = {r.measurement.claim_id: Run(r.measurement) for r in results}
    for evidence in evidences:
        fresh = evidence.parameters.get("seed", 0) >= FRESH_SEED
        kept = measured(evidence, ledger=ledger)
        if evidence.tier == "real":
            kept = {i: m for i, m in kept.items() if not rows[i].synthetic}
        runs[evidence.tier] |= {i: Run(m, evidence.plan_committed, fresh) for i, m in kept.items()}
    judged = {tier: judge_tier(rows, found) for tier, found in runs.items()}
    verdicts = {i: {tier: judged[tier][i] for tier in TIERS} for i in rows}
    alone = judge_tier(rows, {r.measurement.claim_id: Run(r.measurement) for r in own})
    best = {i: best_evidence(row, verdicts[i]) for i, row in rows.items()}
    shown = {i: verdicts[i][b.tiers[0]] if b.tiers else Verdict("not run") for i, b in best.items()}
    for i, row in rows.items():
        if row.kind == "composite":  # says what the rows of its components say, each from its own best tier
            shown[i] = composed(row, {p: replace(shown[p], verdict=best[p].verdict) for p in row.components})
            tiers = {tier for part in row.components for tier in best[part].tiers}
            best[i] = Best(shown[i].verdict, tuple(sorted(tiers, key=TIERS.index, reverse=True)))
    found = {i: {tier: run[i].measurement for tier, run in runs.items() if i in run} for i in rows}
    return [Standing(row, found[i], verdicts[i], best[i], shown[i], alone[i]) for i, row in rows.items()]


def measured(evidence: Evidence | None, *, ledger: str | Path = LEDGER) -> dict[str, Measurement]:
    """What kept evidence measured, by claim; nothing where there is none.

    Raises:
        ClaimError: a measurement that is malformed, or of a claim of another chapter.
    """
    if evidence is None:
        return {}
    rows, where = load_ledger(ledger), f"{evidence.chapter}_{evidence.tier}.json"
    found = [read(payload, rows, where) for payload in evidence.claims.values()]
    if strange := [m.claim_id for m in found if rows[m.claim_id].chapter != evidence.chapter]:
        chapter = rows[strange[0]].chapter
        raise ClaimError(f"{where} measures {strange[0]!r}, which belongs to chapter {chapter}")
    return {m.claim_id: m for m in found}

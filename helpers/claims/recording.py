"""The claims in a notebook: `record` what was measured, `collect` it again from executed notebooks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from IPython import get_ipython
from IPython.display import display

from helpers.claims.ledger import LEDGER, Claim, ClaimError, load_ledger
from helpers.claims.measurement import MIME, Measurement, Result, read
from helpers.claims.report import card
from helpers.experiments.arms import Arm
from helpers.experiments.comparison import Gate, Paired
from helpers.experiments.results import Results
from helpers.provenance import STAMP

MIN_SEEDS = 2


def record(
    claim_id: str,
    effects: Paired | Sequence[float] | None = None,
    *,
    setting: str,
    violation: float | None = None,
    summaries: Mapping[str, Sequence[float]] | None = None,
    controls: Mapping[str, Paired | Sequence[float]] | None = None,
    gate: Gate | None = None,
    thesis_setting: bool = False,
    note: str = "",
    ledger: str | Path = LEDGER,
) -> Measurement:
    """Record a measurement for one row of the ledger and show it, with its verdict, in the notebook.

    Args:
        effects: method minus baseline, paired by seed, in the row's unit; for kind "effect".
        setting: the data, network and budget used here, in words.
        violation: largest absolute violation found, >= 0; for a row of kind "identity".
        summaries: what the effects came from, name -> (seeds,) values, such as baseline and method.
        controls: name of the control -> method minus control.
        gate: whether the row's precondition held; a row that names one cannot be contradicted without it.
        thesis_setting: True only when data, network and budget are the thesis's own.

    Raises:
        ClaimError: unknown id, fewer than two seeds, non-finite numbers, or a refuting control left out.
    """
    rows = load_ledger(ledger)
    if claim_id not in rows:
        raise ClaimError(f"unknown claim {claim_id!r}; the ledger has: {', '.join(rows)}")
    row = rows[claim_id]
    _check_call(row, effects, violation, setting, summaries, controls)
    effects = None if effects is None else _paired(claim_id, "effects", effects)
    count = len(effects.effects) if effects else None
    measurement = Measurement(
        claim_id,
        setting,
        effects=effects,
        violation=None if violation is None else float(violation),
        summaries={n: _per_seed(claim_id, f"summary {n!r}", v, count) for n, v in (summaries or {}).items()},
        controls={n: _paired(claim_id, f"control {n!r}", v) for n, v in (controls or {}).items()},
        gate=gate,
        thesis_setting=bool(thesis_setting),
        note=note,
    )
    plain, html = card(row, measurement)
    if get_ipython() is None:
        print(plain)
    else:
        display({MIME: asdict(measurement), "text/html": html, "text/plain": plain}, raw=True)
    return measurement


def record_lead(
    claim_id: str,
    found: Results,
    metric: str,
    arm: Arm | str,
    *others: Arm | str,
    setting: str,
    less: bool = False,
    redrawn: bool = True,
    gate: Gate | None = None,
    ledger: str | Path = LEDGER,
) -> Measurement:
    """Record by how much an arm leads the first of the others on a metric; the rest are its controls.

    Args:
        less: small values are good.
        redrawn: each seed draws its own test items.
    """
    pairs = [(other, arm) if less else (arm, other) for other in others]
    leads = [found.paired(*pair, metric, redrawn=redrawn) for pair in pairs]
    names = [other.name if isinstance(other, Arm) else other for other in others]
    controls = dict(zip(names[1:], leads[1:], strict=True))
    return record(claim_id, leads[0], setting=setting, controls=controls, gate=gate, ledger=ledger)


def _check_call(row: Claim, effects, violation, setting: str, summaries, controls) -> None:
    if not (isinstance(setting, str) and setting.strip()):
        raise ClaimError(f"{row.id}: setting must say what was run here, got {setting!r}")
    if row.kind == "composite":
        raise ClaimError(f"{row.id} is composite: record its components, {', '.join(row.components)}")
    if (effects is not None, violation is not None) != (row.kind == "effect", row.kind == "identity"):
        wanted = "effects= (one per seed)" if row.kind == "effect" else "violation= (one number)"
        raise ClaimError(f"{row.id} is of kind {row.kind!r}: pass {wanted} and nothing else")
    if row.kind == "identity" and (controls or summaries):
        raise ClaimError(f"{row.id} is an identity: controls and summaries belong to effects")
    if violation is not None and not 0 <= float(violation) < math.inf:
        raise ClaimError(f"{row.id}: violation must be a finite number >= 0, got {violation!r}")
    if left_out := sorted(set(row.refuting or ()) - set(controls or {})):
        raise ClaimError(
            f"{row.id}: the ledger names the refuting control {left_out[0]!r}; pass it in controls="
        )


def _paired(claim_id: str, name: str, values: Paired | Sequence[float]) -> Paired:
    """Plain numbers are one effect per seed."""
    seeds = _per_seed(claim_id, name, values.effects if isinstance(values, Paired) else values)
    return values if isinstance(values, Paired) else Paired.of(seeds)


def _per_seed(claim_id: str, name: str, values: Sequence[float], count: int | None = None) -> list[float]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{claim_id}: {name} must be numbers, one per seed, got {values!r}") from error
    if array.ndim != 1 or len(array) < MIN_SEEDS or not np.isfinite(array).all():
        raise ClaimError(
            f"{claim_id}: {name} must be >= {MIN_SEEDS} finite numbers, one per seed, got {values!r}"
        )
    if count is not None and len(array) != count:
        raise ClaimError(f"{claim_id}: {name} has {len(array)} seeds, the effects have {count}")
    return array.tolist()


def payloads(nb: Mapping[str, Any], mime: str) -> list[Any]:
    """What the outputs of an executed notebook hold under a MIME type, in order."""
    outputs = [output for cell in nb["cells"] for output in cell.get("outputs", [])]
    return [output["data"][mime] for output in outputs if mime in output.get("data", {})]


def collect(paths: Iterable[str | Path], ledger: str | Path = LEDGER) -> list[Result]:
    """Read the measurements out of executed notebooks, in order.

    Raises:
        ClaimError: a file that is not a notebook, a measurement that is malformed or does not fit its row, or
            a second one of the same claim.
    """
    rows, found = load_ledger(ledger), {}
    for path in map(Path, paths):
        try:
            nb = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ClaimError(f"{path} is not a notebook: {error}") from error
        for payload in payloads(nb, MIME):
            measurement = read(payload, rows, path.name)
            claim_id = measurement.claim_id
            if first := found.get(claim_id):
                raise ClaimError(f"{claim_id!r} is measured twice: {first.notebook} and {path.name}")
            found[claim_id] = Result(measurement, path.name, nb["metadata"].get(STAMP, {}))
    return list(found.values())

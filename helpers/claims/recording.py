"""The claims in a notebook: `record` what was measured, `collect` it again from executed notebooks.

`reproduce/claims.yaml` lists the claims. A chapter calls `record`, which leaves the measurement in the
notebook as an output with its own MIME type. `collect` reads executed notebooks, `judge` compares them with
the ledger, `ledger_table` reports.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import display

from helpers.claims.ledger import (
    LEDGER,
    Claim,
    ClaimError,
    Measurement,
    Result,
    by_claim,
    is_text,
    judge,
    load_ledger,
    paired_interval,
)
from helpers.claims.report import claim_html, claim_lines, ledger_table
from helpers.provenance import STAMP

__all__ = [
    "LEDGER",
    "MIME",
    "ClaimError",
    "Measurement",
    "collect",
    "judge",
    "ledger_table",
    "load_ledger",
    "paired_interval",
    "record",
]

MIME = "application/vnd.closing-the-gap.claim+json"
MIN_SEEDS = 3


def record(
    claim_id: str,
    effects: Sequence[float] | None = None,
    *,
    setting: str,
    violation: float | None = None,
    summaries: Mapping[str, Sequence[float]] | None = None,
    controls: Mapping[str, Sequence[float]] | None = None,
    thesis_setting: bool = False,
    note: str = "",
    ledger: str | Path = LEDGER,
) -> Measurement:
    """Record a measurement for one row of the ledger and show it, with its verdict, in the notebook.

    Args:
        claim_id: id of the row.
        effects: (seeds,) method minus baseline, paired by seed, in the row's unit; for kind "effect".
        setting: the data, network and budget used here, in words.
        violation: largest absolute violation found, >= 0; for a row of kind "identity".
        summaries: what the effects came from, name -> (seeds,) values, such as baseline and method.
        controls: name of the control -> (seeds,) method minus control.
        thesis_setting: True only when data, network and budget are the thesis's own.

    Raises:
        ClaimError: unknown id, fewer than three seeds, non-finite numbers, or a refuting control left out.
    """
    rows = load_ledger(ledger)
    if claim_id not in rows:
        raise ClaimError(f"unknown claim {claim_id!r}; the ledger has: {', '.join(rows)}")
    row = rows[claim_id]
    if not is_text(setting):
        raise ClaimError(f"{claim_id}: setting must say what was run here, got {setting!r}")
    if (row.kind == "effect") != (violation is None) or (row.kind == "effect") != (effects is not None):
        wanted = "effects= (one per seed)" if row.kind == "effect" else "violation= (one number)"
        raise ClaimError(f"{claim_id} is of kind {row.kind!r}: pass {wanted} and nothing else")
    if row.kind == "identity" and (controls or summaries):
        raise ClaimError(f"{claim_id} is an identity: controls and summaries belong to effects")
    if left_out := sorted(set(row.refuting or ()) - set(controls or {})):
        raise ClaimError(
            f"{claim_id}: the ledger names the refuting control {left_out[0]!r}; pass it in controls="
        )
    per_seed = partial(_per_seed, claim_id)
    values = None if effects is None else per_seed("effects", effects)
    count = len(values or [])
    measurement = Measurement(
        claim_id,
        setting,
        effects=values,
        violation=None if violation is None else _violation(claim_id, violation),
        summaries={name: per_seed(f"summary {name!r}", v, count) for name, v in (summaries or {}).items()},
        controls={name: per_seed(f"control {name!r}", v) for name, v in (controls or {}).items()},
        thesis_setting=bool(thesis_setting),
        note=note,
    )
    _show(row, measurement)
    return measurement


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


def _violation(claim_id: str, value: float) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ClaimError(f"{claim_id}: violation must be a finite number >= 0, got {value!r}")
    return number


def _show(row: Claim, measurement: Measurement) -> None:
    lines = claim_lines(row, measurement)
    plain = f"Claim {row.id}\n" + "\n".join(f"  {name}: {text}" for name, text in lines)
    if get_ipython() is None:
        print(plain)
        return
    display({MIME: asdict(measurement), "text/html": claim_html(row, lines), "text/plain": plain}, raw=True)


def collect(paths: Iterable[str | Path], ledger: str | Path = LEDGER) -> list[Result]:
    """Read the measurements out of executed notebooks, in order.

    Raises:
        ClaimError: a file that is not a notebook, a measurement that is malformed or of an unknown claim, or
            a second one of the same claim.
    """
    results: list[Result] = []
    for path in map(Path, paths):
        try:
            nb = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ClaimError(f"{path} is not a notebook: {error}") from error
        provenance = nb["metadata"].get(STAMP, {})
        outputs = [out for cell in nb["cells"] for out in cell.get("outputs", [])]
        for payload in (out["data"][MIME] for out in outputs if MIME in out.get("data", {})):
            try:
                measurement = Measurement(**payload)
            except TypeError as error:
                raise ClaimError(f"{path.name} holds a malformed claim output: {error}") from error
            results.append(Result(measurement, path.name, provenance))
    by_claim(results, load_ledger(ledger))
    return results

"""The claims ledger and its judge: what the thesis says, and when a measurement agrees with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import stdtrit

from helpers import PROJECT_ROOT

LEDGER = PROJECT_ROOT / "reproduce" / "claims.yaml"
REPRODUCED, SAME_DIRECTION = "reproduced", "same direction"
NOT_REPRODUCED, NOT_RUN = "not reproduced", "not run here"
VERDICTS = (REPRODUCED, SAME_DIRECTION, NOT_REPRODUCED, NOT_RUN)


class ClaimError(ValueError):
    """A ledger row, a measurement or a set of measurements that cannot be used."""


@dataclass(frozen=True)
class Claim:
    """One row of the ledger; the fields are explained in the header of `reproduce/claims.yaml`.

    `tolerance` is in `unit`: for an effect the smallest mean effect that counts, for an identity the largest
    allowed violation. `refuting` names the controls that could explain the effect away; without it every
    recorded control counts as one.
    """

    id: str
    chapter: str
    claim: str
    source: str
    published: dict[str, Any] | None
    measure: str
    kind: str
    tolerance: float
    unit: str
    thesis_setting: str
    direction: str | None = None
    refuting: tuple[str, ...] | None = None

    @property
    def sign(self) -> int:
        """+1 when the claim says "greater", -1 when it says "less"."""
        return -1 if self.direction == "less" else 1


@dataclass(frozen=True)
class Measurement:
    """What one notebook measured for one claim: paired effects per seed, or the violation of an identity."""

    claim_id: str
    setting: str
    effects: list[float] | None = None
    violation: float | None = None
    summaries: dict[str, list[float]] = field(default_factory=dict)
    controls: dict[str, list[float]] = field(default_factory=dict)
    thesis_setting: bool = False
    note: str = ""

    def _ipython_display_(self) -> None:
        """Nothing: `record` has shown it, and a second output would count as a second measurement."""


@dataclass(frozen=True)
class Interval:
    """Mean of paired effects and its two-sided 95 % t confidence interval."""

    mean: float
    low: float
    high: float

    def supports(self, sign: int, tolerance: float) -> bool:
        """Whether the mean reaches `tolerance` in direction `sign` and the interval excludes 0."""
        nearest_to_zero = self.low if sign > 0 else self.high
        return sign * self.mean >= tolerance and sign * nearest_to_zero > 0


@dataclass(frozen=True)
class Verdict:
    """`verdict` is one of `VERDICTS`; `controls_beaten` is None when no control could refute the claim."""

    verdict: str
    sentence: str
    interval: Interval | None = None
    seeds: int = 0
    controls: dict[str, str] = field(default_factory=dict)
    controls_beaten: bool | None = None
    beaten: dict[str, bool] = field(default_factory=dict)  # by control


@dataclass(frozen=True)
class Result:
    """A measurement with the notebook it came from and that notebook's provenance stamp."""

    measurement: Measurement
    notebook: str
    provenance: dict[str, Any]


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice in one mapping (a forgotten dash would merge two rows)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key, count in Counter(map(str, keys)).items() if count > 1]
        if twice:
            raise ClaimError(f"line {node.start_mark.line + 1}: key {twice[0]!r} appears twice in one row")
        return super().construct_mapping(node, deep=deep)


def load_ledger(path: str | Path = LEDGER) -> dict[str, Claim]:
    """Read and validate the ledger; returns the rows by id, in file order.

    Raises:
        FileNotFoundError: there is no ledger at `path`.
        ClaimError: naming the row and the field that is missing, unknown or malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no claims ledger at {path}; expected a YAML list of claims")
    try:
        rows = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, ClaimError) as error:
        raise ClaimError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ClaimError(f"{path.name} must hold a non-empty YAML list of claims, got {type(rows).__name__}")
    ledger: dict[str, Claim] = {}
    for number, row in enumerate(rows, start=1):
        claim = _validated_row(row, number)
        if claim.id in ledger:
            raise ClaimError(f"row {number} ({claim.id}): field 'id' is already used by an earlier row")
        ledger[claim.id] = claim
    return ledger


def _validated_row(row: Any, number: int) -> Claim:
    if not isinstance(row, dict):
        raise ClaimError(f"row {number}: expected a mapping, got {row!r}")
    where = f"row {number} ({row.get('id', 'no id')})"

    def demand(condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ClaimError(f"{where}: field {name!r} must be {expected}, got {row.get(name)!r}")

    known = {f.name for f in fields(Claim)}
    if unknown := [str(key) for key in row if key not in known]:
        raise ClaimError(f"{where}: unknown field {unknown[0]!r}; known fields: {', '.join(sorted(known))}")
    if missing := sorted(known - {"direction", "refuting"} - set(row)):
        raise ClaimError(f"{where}: field {missing[0]!r} is missing")
    for name in ("id", "claim", "source", "measure", "unit", "thesis_setting"):
        demand(isinstance(row[name], str) and row[name].strip() != "", name, "non-empty text")
    chapter, tolerance, published = row["chapter"], row["tolerance"], row["published"]
    demand(
        isinstance(chapter, str) and len(chapter) == 2 and chapter.isdigit(), "chapter", "quoted, like '03'"
    )
    demand(row["kind"] in ("effect", "identity"), "kind", "'effect' or 'identity'")
    directions = ("greater", "less") if row["kind"] == "effect" else (None,)
    expected = "'greater' or 'less'" if row["kind"] == "effect" else "left out for an identity"
    demand(row.get("direction") in directions, "direction", expected)
    demand(
        _is_number(tolerance) and tolerance >= 0, "tolerance", "a number >= 0 (YAML wants 1.0e-6, not 1e-6)"
    )
    complete = isinstance(published, dict) and set(published) == {"value", "setting"}
    demand(published is None or complete, "published", "null or a mapping with exactly 'value' and 'setting'")
    if published is not None:
        value_ok = _is_number(published["value"]) or is_text(published["value"])
        demand(
            value_ok and is_text(published["setting"]), "published", "a value (number or text) and a setting"
        )
    refuting = row.get("refuting")
    demand(
        refuting is None or (isinstance(refuting, list) and all(map(is_text, refuting))), "refuting", "names"
    )
    return Claim(**{**row, "refuting": None if refuting is None else tuple(refuting)})


def is_text(value: Any) -> bool:
    """Whether `value` is text with more than white space in it."""
    return isinstance(value, str) and value.strip() != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def paired_interval(effects: Sequence[float]) -> Interval:
    """Mean and two-sided 95 % t interval of paired per-seed effects; equal effects give width 0."""
    values = np.asarray(effects, dtype=np.float64)
    mean = float(values.mean())
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def judge(row: Claim, measurement: Measurement | None) -> Verdict:
    """Compare a measurement with its row.

    An effect counts when its mean reaches the tolerance in the claimed direction and its two-sided 95 % t
    interval over seeds excludes 0: "reproduced" in the thesis's own setting, "same direction" elsewhere. An
    identity counts when its violation is at most the tolerance. A control is beaten by the same rule as an
    effect, with tolerance 0.
    """
    if measurement is None:
        return Verdict(NOT_RUN, "No measurement was made here.")
    if measurement.violation is not None:
        holds = measurement.violation <= row.tolerance
        relation = "at most" if holds else "above"
        sentence = (
            f"Violation {measurement.violation:.3g}, {relation} the tolerance {row.tolerance:g} ({row.unit})."
        )
        return Verdict(REPRODUCED if holds else NOT_REPRODUCED, sentence)
    interval = paired_interval(measurement.effects)
    found = interval.supports(row.sign, row.tolerance)
    verdict = (REPRODUCED if measurement.thesis_setting else SAME_DIRECTION) if found else NOT_REPRODUCED
    beaten = {n: paired_interval(v).supports(row.sign, 0.0) for n, v in measurement.controls.items()}
    sentences = {
        name: f"The method {'beats' if beaten[name] else 'does not beat'} {name}: {_effect_text(v, row)}."
        for name, v in measurement.controls.items()
    }
    refuting = [beaten[n] for n in (beaten if row.refuting is None else row.refuting)]
    wanted = f"claimed {row.direction}, smallest mean that counts {row.tolerance:g}"
    sentence = f"Mean effect {_effect_text(measurement.effects, row)}; {wanted}."
    seeds = len(measurement.effects)
    return Verdict(verdict, sentence, interval, seeds, sentences, all(refuting) if refuting else None, beaten)


def _effect_text(effects: Sequence[float], row: Claim) -> str:
    i = paired_interval(effects)
    return f"{i.mean:+.3g} [{i.low:+.3g}, {i.high:+.3g}] {row.unit} over {len(effects)} seeds"


def by_claim(results: Iterable[Result], rows: Mapping[str, Claim]) -> dict[str, Result]:
    """Results by claim id.

    Raises:
        ClaimError: a measurement of an unknown claim, or a second one of the same claim.
    """
    found: dict[str, Result] = {}
    for result in results:
        claim_id = result.measurement.claim_id
        if claim_id not in rows:
            raise ClaimError(f"{result.notebook} measures {claim_id!r}, which is not in the ledger")
        if claim_id in found:
            raise ClaimError(
                f"{claim_id!r} is measured twice: {found[claim_id].notebook} and {result.notebook}"
            )
        found[claim_id] = result
    return found

"""What a chapter measured for a claim, as it stands in an executed notebook or in kept evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from helpers.claims.ledger import Claim, ClaimError
from helpers.experiments.comparison import Gate, Paired

MIME = "application/vnd.closing-the-gap.claim+json"

Effects = Annotated[Paired, BeforeValidator(lambda v: Paired.of(v) if isinstance(v, list) else v)]
"""Paired differences; a plain list is one number per seed."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Measurement:
    """Paired effects with their controls, or the violation of an identity.

    Attributes:
        effects: method minus baseline, in the measure's own sign.
        violation: largest violation of an identity, >= 0.
        summaries: what the effects came from, name of the arm -> one value per seed.
        controls: name of the control -> method minus control.
        gate: the row's precondition, and whether it held; None when it was not measured.
    """

    claim_id: str
    setting: str
    effects: Effects | None = None
    violation: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    summaries: dict[str, list[float]] = Field(default_factory=dict)
    controls: dict[str, Effects] = Field(default_factory=dict)
    gate: Gate | None = None
    thesis_setting: bool = False
    note: str = ""

    def _ipython_display_(self) -> None:
        """Nothing: `record` has shown it, and a second output would count as a second measurement."""


@plain_dataclass(frozen=True)
class Result:
    """A measurement with the notebook it came from and that notebook's provenance stamp."""

    measurement: Measurement
    notebook: str
    provenance: dict[str, Any]


def read(payload: Mapping[str, Any], rows: Mapping[str, Claim], where: str) -> Measurement:
    """A stored measurement. Raises ClaimError where it is malformed or does not fit its row."""
    try:
        measurement = Measurement(**payload)
    except (TypeError, ValidationError) as error:
        raise ClaimError(f"{where} holds a malformed claim: {error}") from error
    if measurement.claim_id not in rows:
        raise ClaimError(f"{where} measures {measurement.claim_id!r}, which is not in the ledger")
    row = rows[measurement.claim_id]
    held = {"effect": measurement.effects is not None, "identity": measurement.violation is not None}
    if held != {kind: kind == row.kind for kind in held}:
        raise ClaimError(f"{where} measures {row.id!r} in another way than its kind, {row.kind}, asks for")
    return measurement

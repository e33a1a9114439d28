"""The ledger of claims, `reproduce/claims.yaml`: what the thesis says, and how this project measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from helpers import PROJECT_ROOT
from helpers.files import StrictLoader

LEDGER = PROJECT_ROOT / "reproduce" / "claims.yaml"

BELONGS = {
    "effect": {"direction", "smallest", "unit"},
    "identity": {"tolerance", "unit"},
    "composite": {"components"},
}
"""What a row of each kind must have, and rows of another kind must not."""


class ClaimError(ValueError):
    """A ledger row, a measurement or a set of measurements that cannot be used."""


Text = Annotated[str, StringConstraints(pattern=r"\S")]


def _field(expected: str, default: Any = ..., **rules: Any) -> Any:
    return Field(default, description=expected, **rules)


class Described(BaseModel):
    """A mapping from a YAML file, checked; the description of a field says what its value must be."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def read(cls, raw: dict[str, Any], noun: str = "field") -> Self:
        """`raw` checked; ValueError that names the field that is unknown, missing or malformed."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            wrong, known = error.errors()[0], cls.model_fields
        if unknown := [name for name in raw if name not in known]:
            raise ValueError(f"unknown {noun} {unknown[0]!r}; known {noun}s: {', '.join(sorted(known))}")
        if not wrong["loc"]:
            raise ValueError(str(wrong["ctx"]["error"]))  # of a validator of the whole
        name = wrong["loc"][0]
        if name not in raw:
            raise ValueError(f"{noun} {name!r} is missing")
        raise ValueError(f"{noun} {name!r} must be {known[name].description}, got {raw[name]!r}")


class Published(Described):
    """A verified figure of the thesis or a paper."""

    value: float | Text
    setting: Text


class Claim(Described):
    """One row of the ledger; the header of `reproduce/claims.yaml` explains the fields."""

    id: Text = _field("non-empty text")
    chapter: str = _field("quoted, like '03'", pattern=r"^(reading_list/)?\d\d$")
    claim: Text = _field("non-empty text")
    source: Text = _field("non-empty text")
    published: Published | None = _field("null or a mapping with exactly 'value' and 'setting'")
    measure: Text = _field("non-empty text")
    thesis_setting: Text = _field("non-empty text")
    kind: Literal["effect", "identity", "composite"] = _field("'effect', 'identity' or 'composite'")
    short: str = _field("a few words", "")
    unit: Text | None = _field("non-empty text", None)
    direction: Literal["greater", "less"] | None = _field("'greater' or 'less'", None)
    smallest: float | None = _field("a number > 0", None, gt=0, allow_inf_nan=False)
    tolerance: float | None = _field(
        "a number >= 0 (YAML wants 1.0e-6, not 1e-6)", None, ge=0, allow_inf_nan=False
    )
    items: Literal["images", "maps", "classes", "none"] = _field("images, maps, classes or none", "images")
    gate: Text | None = _field("the precondition in words, or null", None)
    components: tuple[Text, ...] = _field("ids of other rows", (), strict=False)
    plan: Text | None = _field("what will measure the row, in words, or null", None)
    synthetic: bool = _field("true or false", False)
    refuting: tuple[Text, ...] | None = _field("names of controls", None, strict=False)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Claim:
        for name in sorted(set().union(*BELONGS.values())):
            value, wanted = getattr(self, name), name in BELONGS[self.kind]
            if wanted == (value in (None, ())):
                expected = type(self).model_fields[name].description if wanted else "left out"
                raise ValueError(f"field {name!r} must be {expected} for kind {self.kind!r}, got {value!r}")
        return self

    @property
    def sign(self) -> int:
        """+1 when the claim says "greater", -1 when it says "less"."""
        return -1 if self.direction == "less" else 1

    @property
    def label(self) -> str:
        """A few words for figures and lists."""
        return self.short or self.id

    @property
    def of_thesis(self) -> bool:
        """Whether the thesis claims it, not a paper of the reading list."""
        return self.chapter.isdigit()

    @property
    def awaited(self) -> bool:
        """Whether the row says in `plan` that no chapter measures it yet."""
        return (self.plan or "").startswith("not yet")


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
        rows = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise ClaimError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ClaimError(f"{path.name} must hold a non-empty YAML list of claims, got {type(rows).__name__}")
    ledger: dict[str, Claim] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ClaimError(f"row {number}: expected a mapping, got {row!r}")
        try:
            claim = Claim.read(row)
        except ValueError as error:
            raise ClaimError(f"row {number} ({row.get('id', 'no id')}): {error}") from None
        if claim.id in ledger:
            raise ClaimError(f"row {number} ({claim.id}): field 'id' is already used by an earlier row")
        ledger[claim.id] = claim
    owner: dict[str, str] = {}
    for whole, part in ((claim.id, part) for claim in ledger.values() for part in claim.components):
        if part not in ledger or ledger[part].kind == "composite":
            raise ClaimError(f"{whole}: component {part!r} must be the id of an effect or an identity")
        if owner.setdefault(part, whole) != whole:
            raise ClaimError(f"{whole}: component {part!r} already belongs to {owner[part]}")
    return ledger

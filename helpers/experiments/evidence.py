"""Kept runs: what a long run of a chapter found, in one small file under `reproduce/evidence/`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from helpers import PROJECT_ROOT
from helpers.experiments.results import COLUMNS, Results
from helpers.files import write_atomically

MOST_BYTES = 1_000_000
Tier = Literal["laptop", "study", "real", "gpu"]


class Evidence(BaseModel):
    """One run of a chapter with one set of parameters: where it comes from, its claims and its tables.

    Attributes:
        grid: file name of the set of parameters.
        plan_committed: that file was unchanged since `commit` when the run started.
        claims: measurement of each claim, by the claim's id (schema in `helpers.claims`).
        tables: tidy table of each sweep, by name: columns arm, rate, seed, step, metric and value.
        best: rate chosen on validation for each arm, by sweep.
    """

    model_config = ConfigDict(extra="forbid")

    chapter: str = Field(pattern=r"^(reading_list/)?\d\d$")
    tier: Tier
    grid: str
    command: str
    parameters: dict[str, Any]
    commit: str
    plan_committed: bool
    source_hash: str
    numbers_hash: str
    code_hash: str
    device: str
    system: str
    versions: dict[str, str]
    wall_seconds: float = Field(ge=0)
    date: str
    claims: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, list]] = {}
    best: dict[str, dict[str, float | None]] = {}

    @field_validator("tables")
    @classmethod
    def _tables_are_tidy(cls, tables: dict[str, dict[str, list]]) -> dict[str, dict[str, list]]:
        for name, table in tables.items():
            if set(table) != set(COLUMNS):
                raise ValueError(f"table {name!r} has columns {sorted(table)}; expected {sorted(COLUMNS)}")
            if len({len(column) for column in table.values()}) != 1:
                raise ValueError(f"columns of table {name!r} differ in length")
        return tables

    def path(self, root: Path = PROJECT_ROOT) -> Path:
        return _path(self.chapter, self.tier, root)

    def write(self, root: Path = PROJECT_ROOT) -> Path:
        """Write the file, whole or not at all; numbers that are not finite become null.

        Raises ValueError when it would exceed 1 MB, OSError when it cannot be written.
        """
        facts = _finite(self.model_dump())
        columns = facts.pop("tables")
        text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
        tables = json.dumps(columns, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        content = f'{text[:-2]},\n "tables": {tables}\n}}\n'.encode()
        if len(content) > MOST_BYTES:
            largest = max(columns, key=lambda name: len(str(columns[name])), default="none")
            raise ValueError(
                f"evidence of chapter {self.chapter}, {self.tier}, takes {len(content):,} bytes; at most "
                f"{MOST_BYTES:,} are allowed: record fewer steps of the curves (largest table: {largest!r})"
            )
        write_atomically(self.path(root), content)
        return self.path(root)

    def results(self, name: str) -> Results:
        """The kept results of one sweep, without items; ValueError when the run has no such table."""
        if name not in self.tables:
            raise ValueError(f"no table {name!r} in {self.path().name}; it has {sorted(self.tables)}")
        return Results.of_table(name, self.tables[name], self.best.get(name, {}), source=self.tier)


def evidence(chapter: str | int, tier: Tier, root: Path = PROJECT_ROOT) -> Evidence | None:
    """The kept run of a chapter ("05", 5 or "reading_list/04") in a tier; None when there is none.

    Raises ValueError, naming the file, when it does not have the form of evidence.
    """
    path = _path(str(chapter).zfill(2), tier, root)
    return _read(path) if path.is_file() else None


def all_evidence(root: Path = PROJECT_ROOT) -> list[Evidence]:
    """All kept runs, by chapter and name of the tier."""
    return [_read(path) for path in sorted(_folder(root).glob("*.json"))]


def _folder(root: Path) -> Path:
    return Path(root) / "reproduce" / "evidence"


def _path(chapter: str, tier: str, root: Path) -> Path:
    return _folder(root) / f"{chapter.replace('/', '_')}_{tier}.json"


def _read(path: Path) -> Evidence:
    try:
        found = Evidence.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no evidence file: {error}") from error
    if found.path().name != path.name:
        raise ValueError(f"{path} holds chapter {found.chapter}, tier {found.tier}: rename or remove it")
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

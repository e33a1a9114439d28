"""Grids of chapter runs: `reproduce/grids/NAME.yaml` says which chapter runs with which parameters."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from helpers import PROJECT_ROOT
from helpers.chapters.declarations import defaults_of
from helpers.chapters.execution import read_notebook
from helpers.chapters.parameters import ParameterError, moved_paths, overrides
from helpers.claims.ledger import Described, Text
from helpers.experiments.parallel import worker_count
from helpers.files import ChapterError, find_chapter, read_yaml
from helpers.provenance import source_hash

Values = Annotated[list[Any], Field(min_length=1)]


class GridError(ValueError):
    """A grid file that cannot be used, or a grid that cannot start."""


@dataclass(frozen=True)
class Cell:
    """One run of a chapter: its seed, and the parameters that differ from the chapter's defaults."""

    id: str
    values: dict[str, Any]


class GridFile(Described):
    """What a grid file holds; `reproduce/grids/README.md` explains the keys."""

    chapter: Text = Field(description="text (quote a number)")
    about: Text = Field(description="text")
    seed: list[int] = Field(min_length=1, description="a list of first seeds, like [0, 100]")
    set: dict[str, Any] = Field({}, description="a mapping of parameters")
    vary: dict[str, Values] = Field({}, description="a mapping of non-empty lists")
    tier: Literal["study", "real", "gpu"] | None = Field(None, description="study, real or gpu")
    cpus: int | None = Field(None, ge=1, description="a whole number >= 1")
    gpus: int = Field(0, ge=0, le=1, description="0 or 1: a chapter uses one device")
    memory_gb: int = Field(4, ge=1, description="a whole number >= 1")
    hours: float = Field(24.0, gt=0, description="a number > 0")
    retries: int = Field(1, ge=0, description="a whole number >= 0")
    lacks: str = Field("", description="text")
    cost: str = Field("", description="text: training steps of the whole grid, and how they are counted")


class Grid(GridFile):
    """A grid file, read and checked by `load_grid`: with its path, the hash of the chapter, and its cells."""

    path: Path
    source: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def cores(self) -> int:
        """CPUs of a cell; a study takes all that this process may use."""
        return self.cpus or (worker_count() if self.tier else 1)

    def folder(self, root: str | Path = PROJECT_ROOT) -> Path:
        """Where results, logs and summary are."""
        return Path(root).resolve() / "build" / "grids" / self.name


def load_grid(name: str | Path, root: str | Path = PROJECT_ROOT) -> Grid:
    """Read a grid by name or path, and put every cell's parameters through the chapter's gate.

    Relative paths among the parameters start in the project's folder.

    Raises:
        GridError: no such grid, an unknown or malformed key, two equal cells, or seeds counted twice.
        ParameterError: a cell whose parameters the chapter refuses; the cell is named.
        ChapterError: there is no such chapter.
    """
    path = _find(name, Path(root).resolve())
    file = _read(path)
    chapter = find_chapter(file.chapter, root)
    nb = read_notebook(chapter)
    defaults = defaults_of(nb)
    cells: dict[str, Cell] = {}
    for wanted in _combinations(path.name, file):
        try:
            there = moved_paths(nb, wanted, Path(root).resolve(), chapter.parent)
            values = {"seed": wanted["seed"]} | overrides(nb, there)
        except ParameterError as error:
            raise ParameterError(f"{path.name}, cell {json.dumps(wanted)}: {error}") from error
        _refuse_shared_seeds(path.name, file, defaults | values)
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        cell = Cell(f"seed{wanted['seed']}-{digest}", values)
        if cell.id in cells:
            raise GridError(f"{path.name}: two cells have the parameters {values}; remove one of them")
        cells[cell.id] = cell
    return Grid(**dict(file), path=path, source=source_hash(nb), cells=tuple(cells.values()))


def _find(name: str | Path, root: Path) -> Path:
    if Path(name).suffix == ".yaml" and Path(name).is_file():
        return Path(name).resolve()
    folder = root / "reproduce" / "grids"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise GridError(f"no grid {str(name)!r} in reproduce/grids; there are: {there}")
    return path


def _read(path: Path) -> GridFile:
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise GridError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise GridError(f"{path.name} must hold a YAML mapping, got {type(raw).__name__}")
    try:
        return GridFile.read(raw, "key")
    except ValueError as error:
        raise GridError(f"{path.name}: {error}") from None


def _combinations(name: str, file: GridFile) -> Iterator[dict[str, Any]]:
    """Parameters of every cell; an element of `vary` that is a mapping sets several parameters together."""
    axes = [
        [value if isinstance(value, Mapping) else {axis: value} for value in values]
        for axis, values in file.vary.items()
    ]
    for *chosen, seed in itertools.product(*axes, file.seed):
        parts = [file.set, *chosen, {"seed": seed}]
        merged = {name: value for part in parts for name, value in part.items()}
        if len(merged) < sum(map(len, parts)):
            twice = next(n for n in merged if sum(n in part for part in parts) > 1)
            raise GridError(f"{name} sets {twice!r} twice (seed, set, vary); keep one of them")
        yield merged


def _refuse_shared_seeds(name: str, file: GridFile, values: Mapping[str, Any]) -> None:
    """A cell runs seed, seed + 1, ...: cells that share one would count it twice in the summary."""
    counts = {n: v for n, v in values.items() if n == "seeds" or n.endswith("_seeds")}
    span = max(counts.values(), default=1)
    for low, high in itertools.pairwise(sorted(file.seed)):
        if high - low < span:
            raise GridError(
                f"{name}: first seeds {low} and {high} overlap, a cell runs {span} seeds ({counts}); "
                f"set them at least {span} apart"
            )


def check_grids(root: Path) -> list[str]:
    """Load every grid and print its size; returns one line per grid that is refused."""
    problems = []
    for path in sorted((root / "reproduce" / "grids").glob("*.yaml")):
        try:
            grid = load_grid(path.stem, root)
        except (GridError, ParameterError, ChapterError) as error:
            problems.append(f"{path.stem}: {error}")
        else:
            cost = grid.cost or ("one GPU" if grid.gpus else "no GPU")
            print(f"{grid.name}: chapter {grid.chapter}, {len(grid.cells)} cells; {cost}")
    return problems

"""Grids of chapter runs on Snakemake: resumable, on one machine or on a cluster.

`reproduce/grids/NAME.yaml` says which chapter runs with which parameters; a cell is one such run.
`python -m helpers.chapters.grids run NAME` checks every cell's parameters, then hands the grid to Snakemake
(the `Snakefile`); what follows NAME goes to Snakemake as it stands. Results, logs and summary
are in `build/grids/NAME/`. `check` looks at grids without running them.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import yaml

from helpers import PROJECT_ROOT
from helpers.chapters.execution import read_notebook
from helpers.chapters.parameters import ParameterError, overrides, parameters_of
from helpers.files import ChapterError, find_chapter, write_atomically
from helpers.provenance import provenance, source_hash

THREAD_CAPS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "CTG_WORKERS",
)  # fmt: skip


class GridError(ValueError):
    """A grid file that cannot be used, or a grid that cannot start."""


@dataclass(frozen=True)
class Cell:
    """One run of a chapter: its seed, and the parameters that differ from the chapter's defaults."""

    id: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked; `reproduce/grids/README.md` explains the keys.

    Made by `load_grid`: `name`, `source` (hash of the chapter's cells) and `cells` come from there.
    """

    chapter: str
    about: str
    seed: list[int]
    set: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, list[Any]] = field(default_factory=dict)
    cpus: int = 1
    gpus: int = 0
    memory_gb: int = 4
    hours: float = 24.0
    retries: int = 1
    lacks: str = ""
    cost: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    source: str = ""
    cells: tuple[Cell, ...] = ()


def load_grid(name: str | Path, root: str | Path = PROJECT_ROOT) -> Grid:
    """Read a grid by name or path, and put every cell's parameters through the chapter's gate.

    Raises:
        GridError: no such grid, an unknown or malformed key, two equal cells, or seeds counted twice.
        ParameterError: a cell whose parameters the chapter refuses; the cell is named.
        ChapterError: there is no such chapter.
    """
    path = _find(name, Path(root))
    raw = _read(path)
    nb = read_notebook(find_chapter(raw["chapter"], root))
    grid = Grid(**raw, name=path.stem, source=source_hash(nb))
    defaults = {p.name: p.default for p in parameters_of(nb).values()}
    cells: dict[str, Cell] = {}
    for wanted in _combinations(grid):
        try:
            values = {"seed": wanted["seed"]} | overrides(nb, wanted)
        except ParameterError as error:
            raise ParameterError(f"{path.name}, cell {json.dumps(wanted)}: {error}") from error
        _refuse_shared_seeds(path, grid.seed, defaults | values)
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        cell = Cell(f"seed{wanted['seed']}-{digest}", values)
        if cell.id in cells:
            raise GridError(f"{path.name}: two cells have the parameters {values}; remove one of them")
        cells[cell.id] = cell
    return Grid(**raw, name=path.stem, source=grid.source, cells=tuple(cells.values()))


def _find(name: str | Path, root: Path) -> Path:
    if Path(name).suffix == ".yaml" and Path(name).is_file():
        return Path(name).resolve()
    folder = root / "reproduce" / "grids"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise GridError(f"no grid {str(name)!r} in reproduce/grids; there are: {there}")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise GridError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise GridError(f"{path.name} must hold a YAML mapping, got {type(raw).__name__}")

    def demand(good: bool, key: str, expected: str) -> None:
        if not good:
            raise GridError(f"{path.name}: {key!r} must be {expected}, got {raw.get(key)!r}")

    known = {f.name for f in fields(Grid)} - {"name", "source", "cells"}
    if unknown := sorted(set(map(str, raw)) - known):
        raise GridError(f"{path.name}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    for key in ("chapter", "about"):
        demand(isinstance(raw.get(key), str) and raw[key].strip() != "", key, "text (quote a number)")
    seeds = raw.get("seed")
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    demand(whole and len(seeds) > 0, "seed", "a list of first seeds, like [0, 100]")
    demand(isinstance(raw.get("set", {}), dict), "set", "a mapping of parameters")
    vary = raw.get("vary", {})
    lists = isinstance(vary, dict) and all(isinstance(v, list) and v for v in vary.values())
    demand(lists, "vary", "a mapping of non-empty lists")
    for key, least in (("cpus", 1), ("gpus", 0), ("memory_gb", 1), ("retries", 0)):
        value = raw.get(key, least)
        demand(type(value) is int and value >= least, key, f"a whole number >= {least}")
    demand(raw.get("gpus", 0) <= 1, "gpus", "0 or 1: a chapter uses one device")
    hours = raw.get("hours", 1)
    demand(isinstance(hours, int | float) and hours > 0, "hours", "a number > 0")
    cost = raw.get("cost", {})
    keys = {"steps", "formula", "seconds_per_step", "measured_on"} if raw.get("gpus") else set()
    demand(isinstance(cost, dict) and set(cost) == keys, "cost", f"a mapping with the keys {sorted(keys)}")
    return raw


def _combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    """Parameters of every cell; an element of `vary` that is a mapping sets several parameters together."""
    axes = [
        [value if isinstance(value, Mapping) else {axis: value} for value in values]
        for axis, values in grid.vary.items()
    ]
    for *chosen, seed in itertools.product(*axes, grid.seed):
        parts = [grid.set, *chosen, {"seed": seed}]
        merged = {name: value for part in parts for name, value in part.items()}
        if len(merged) < sum(map(len, parts)):
            twice = next(n for n in merged if sum(n in part for part in parts) > 1)
            raise GridError(f"grid {grid.name!r} sets {twice!r} twice (seed, set, vary); keep one of them")
        yield merged


def _refuse_shared_seeds(path: Path, first: Sequence[int], values: Mapping[str, Any]) -> None:
    """A cell runs seed, seed + 1, ...: cells that share one would count it twice in the summary."""
    counts = {n: v for n, v in values.items() if n == "seeds" or n.endswith("_seeds")}
    span = max(counts.values(), default=1)
    for low, high in itertools.pairwise(sorted(first)):
        if high - low < span:
            raise GridError(
                f"{path.name}: first seeds {low} and {high} overlap, a cell runs {span} seeds ({counts}); "
                f"set them at least {span} apart"
            )


# --- one cell --------------------------------------------------------------------------------------------


def run_cell(
    chapter: str, values: Mapping[str, Any], out: Path, *, cpus: int, gpus: int, source: str, root: Path
) -> None:
    """Run one cell and write `out`; a complete result of the same source and parameters is not run again.

    The result is kept in `work/` beside the folder of `out`, because Snakemake deletes a job's output before
    it starts the job. A lock per cell makes a second process wait for the first, so a cell that outlived a
    killed Snakemake is waited for, and its result taken. A failed run leaves `work/ID.error`.

    Raises:
        ChapterError: the run failed, or the chapter changed since the grid was read.
        GridError: a GPU is wanted and there is none.
    """
    from helpers.chapters.run import run_chapter  # papermill is slow to import, and reading a grid needs none

    for name in THREAD_CAPS:
        os.environ[name] = str(cpus)
    work = out.parent.parent / "work"
    kept, error = work / out.name, work / f"{out.stem}.error"
    path = find_chapter(chapter, root)
    with _locked(work / f"{out.stem}.lock", f"another process runs {out.stem}; waiting for it"):
        nb = read_notebook(path)
        if source_hash(nb) != source:
            raise ChapterError(f"{path.name} changed since this grid was started; start it again")
        changed = overrides(nb, values)
        wanted = {n: p.default for n, p in parameters_of(nb).items()} | changed
        if not holds_run(kept, source, wanted):
            for leftover in [error, *work.glob(f"{out.stem}.*.part.ipynb")]:
                leftover.unlink(missing_ok=True)
            try:
                with _device(gpus):
                    run_chapter(path, changed, out=kept, root=root)
            except Exception as problem:
                write_atomically(error, f"{problem}\n")
                raise
        write_atomically(out, kept.read_bytes())


def holds_run(path: Path, source: str, parameters: Mapping[str, Any]) -> bool:
    """Whether `path` is a complete run of this source with these parameters."""
    try:
        stamp = provenance(path)
    except (OSError, ValueError):
        return False
    return stamp.get("source_hash") == source and parameters.items() <= stamp["parameters"].items()


@contextmanager
def _locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file; it is free again when this process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if not _take(file):
            print(waiting, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _one_device() -> Iterator[None]:
    """Show this process one GPU that no other cell on this machine uses, waiting until one is free."""
    devices = gpu_devices()
    if not devices:
        raise GridError("this grid wants a GPU per cell and none is here; `--gpus 0` runs it on the CPU")
    told = False
    while True:
        for device in devices:
            with (Path(tempfile.gettempdir()) / f"ctg-gpu-{os.getuid()}-{device}.lock").open("a") as file:
                if _take(file):
                    os.environ["CUDA_VISIBLE_DEVICES"] = device
                    yield
                    return
        if not told:
            print(f"waiting for one of the GPUs {', '.join(devices)}", file=sys.stderr, flush=True)
        told = True
        time.sleep(1)


def _device(gpus: int) -> AbstractContextManager[None]:
    """On a cluster the scheduler gives out the devices. A cell without a GPU sees none."""
    if gpus and "SLURM_JOB_ID" not in os.environ:
        return _one_device()
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return nullcontext()


def gpu_devices() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i, line in enumerate(x for x in listed.splitlines() if x.startswith("GPU "))]


# --- a whole grid ----------------------------------------------------------------------------------------


def grid_folder(grid: Grid, root: str | Path = PROJECT_ROOT) -> Path:
    return Path(root).resolve() / "build" / "grids" / grid.name


def snakemake_command(
    name: str, grid: Grid, *, profile: str, gpus: int | None, more: Sequence[str], root: Path
) -> list[str]:
    """The command that runs a grid. The lock of `run_grid` replaces Snakemake's, which outlives a SIGKILL."""
    kept = PROJECT_ROOT / "reproduce" / "profiles" / profile
    config = [f"grid={_find(name, root)}", f"root={Path(root).resolve()}"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT_ROOT / "Snakefile")]
    command += ["--profile", str(kept if kept.is_dir() else Path(profile).resolve())]
    command += ["--directory", str(grid_folder(grid, root)), "--nolock"]
    command += ["--config", *config, *([] if gpus is None else [f"gpus={gpus}"])]
    if profile == "local":  # a cluster counts its own devices
        command += ["--resources", f"gpu={len(gpu_devices())}"]
    return [*command, *more]


def run_grid(
    name: str, *, profile: str = "local", gpus: int | None = None, more: Sequence[str] = (), root: Path
) -> None:
    """Become Snakemake on this grid; does not return.

    Raises:
        GridError, ParameterError, ChapterError: before anything runs, also when this grid is already running.
    """
    grid = load_grid(name, root)
    wanted = grid.gpus if gpus is None else gpus
    dry = {"-n", "--dry-run", "--dryrun"} & set(more)
    if wanted and profile == "local" and not dry and not gpu_devices():
        raise GridError(f"grid {grid.name!r} wants a GPU per cell and none is here; add --gpus 0 for the CPU")
    if find_spec("snakemake") is None:
        raise GridError("Snakemake is not installed; get it with: pip install -e '.[batch]'")
    folder = grid_folder(grid, root)
    folder.mkdir(parents=True, exist_ok=True)
    if not dry:
        lock = os.open(folder / ".running", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GridError(f"grid {grid.name!r} is already running; wait for it or stop it") from error
        os.set_inheritable(lock, True)  # Snakemake keeps it; Snakemake's own children do not get it
    command = snakemake_command(name, grid, profile=profile, gpus=gpus, more=more, root=root)
    os.execv(command[0], command)


def check_grids(names: Sequence[str], root: Path) -> list[str]:
    """Load grids (every one when none is named) and print their size; one line per grid that is refused."""
    found = names or sorted(p.stem for p in (root / "reproduce" / "grids").glob("*.yaml"))
    problems = []
    for name in found:
        try:
            grid = load_grid(name, root)
        except (GridError, ParameterError, ChapterError) as error:
            problems.append(f"{name}: {error}")
        else:
            print(f"{grid.name}: chapter {grid.chapter}, {len(grid.cells)} cells; {gpu_hours(grid)}")
    return problems


def gpu_hours(grid: Grid) -> str:
    """The hours of all cells: training steps times the measured seconds of a step."""
    if not grid.gpus:
        return "no GPU"
    steps, seconds = grid.cost["steps"], grid.cost["seconds_per_step"]
    if seconds is None:
        return f"{steps:,} training steps x seconds per step, which were not measured on a GPU yet"
    hours = steps * seconds / 3600
    return f"{steps:,} training steps, about {hours:,.0f} GPU hours ({grid.cost['measured_on']})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (1 failed, 2 refused)."""
    options, more = _parser().parse_known_args(arguments)
    root = Path(options.root).resolve()
    if more and options.command != "run":
        print(f"refused: unknown arguments {' '.join(more)}", file=sys.stderr)
        return 2
    try:
        if options.command == "run":
            run_grid(options.name, profile=options.profile, gpus=options.gpus, more=more, root=root)
        elif options.command == "cell":
            values = json.loads(options.values)
            out = Path(options.out).resolve()
            extra = {"cpus": options.cpus, "gpus": options.gpus, "source": options.source, "root": root}
            run_cell(options.chapter, values, out, **extra)
        elif options.command == "summary":
            from helpers.chapters.grid_summary import write_summary

            print(write_summary(load_grid(options.name, root), root))
        elif problems := check_grids(options.names, root):
            print("\n".join(problems), file=sys.stderr)
            return 1
    except (GridError, ParameterError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except ChapterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.chapters.grids", description="Run grids of chapter runs.", allow_abbrev=False
    )
    parser.add_argument("--root", default=PROJECT_ROOT, help="project folder (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="run a grid, or what is left of it; more arguments go to Snakemake", allow_abbrev=False
    )
    run.add_argument("name", help="svmax for reproduce/grids/svmax.yaml, or the path of a grid file")
    run.add_argument("--profile", default="local", help="local, slurm, or the folder of a Snakemake profile")
    run.add_argument("--gpus", type=int, choices=(0, 1), help="GPUs per cell, in place of the grid's own")
    cell = commands.add_parser("cell", help="run one cell (the Snakefile calls this)")
    cell.add_argument("chapter")
    cell.add_argument("values", help="parameters as JSON")
    cell.add_argument("out")
    cell.add_argument("--cpus", type=int, required=True)
    cell.add_argument("--gpus", type=int, required=True)
    cell.add_argument("--source", required=True, help="hash of the chapter that the grid was read with")
    summary = commands.add_parser("summary", help="write summary.json and summary.md of a grid as it stands")
    summary.add_argument("name")
    check = commands.add_parser("check", help="check grids, and print their size and cost")
    check.add_argument("names", nargs="*", help="grids (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

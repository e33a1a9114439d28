"""The command line, `python -m helpers.chapters`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from helpers import PROJECT_ROOT
from helpers.chapters.execution import read_notebook
from helpers.chapters.grid_run import run_cell, run_grid
from helpers.chapters.grids import GridError, check_grids, load_grid
from helpers.chapters.parameters import ParameterError, check_parameters, parse_values
from helpers.chapters.run import execute_chapter, reproduce, run_chapter, write_reports, write_stored_reports
from helpers.chapters.study import audit, study
from helpers.claims import ClaimError
from helpers.files import ChapterError, find_chapter, find_notebooks, read_yaml


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (1 a failed run or check, 2 a refused parameter or grid)."""
    parser = _parser()
    given, more = parser.parse_known_args(arguments)
    if more and given.command not in ("grid", "study"):
        parser.error(f"unrecognised arguments: {' '.join(more)}")
    given.more, given.root = more, Path(given.root).resolve()
    try:
        return given.function(given) or 0
    except (ParameterError, GridError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except (ChapterError, ClaimError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; no result was replaced", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> None:
    source = find_chapter(given.chapter, given.root)
    try:
        many = read_yaml(given.y)
    except yaml.YAMLError as error:
        raise ParameterError(f"-y {given.y!r} is not valid YAML") from error
    if not isinstance(many, dict):
        raise ParameterError(f"-y {given.y!r} is not a YAML mapping like '{{seed: 1}}'")
    values = many | parse_values(read_notebook(source), given.p)
    print(run_chapter(source, values, out=given.o, cell_timeout=given.cell_timeout, root=given.root))


def _execute(given: argparse.Namespace) -> None:
    for name in given.chapters:
        print(execute_chapter(name, cell_timeout=given.cell_timeout, root=given.root))
    write_stored_reports(given.root)


def _check(given: argparse.Namespace) -> int:
    paths = [Path(p) for p in given.paths] or find_notebooks(given.root)
    problems = [f"{path.name}: {text}" for path in paths for text in check_parameters(read_notebook(path))]
    print("\n".join(problems) or f"{len(paths)} notebooks: every parameter is declared, documented and read")
    return 1 if problems else 0


def _reproduce(given: argparse.Namespace) -> int:
    how = {name: getattr(given, name) for name in ("force", "jobs", "cell_timeout", "root")}
    failures = reproduce(given.only, **how)
    if failures:
        print("failed: " + ", ".join(line.split(":")[0] for line in failures), file=sys.stderr)
    return 1 if failures else 0


def _book(given: argparse.Namespace) -> int:
    problems = write_reports(root=given.root)
    print("\n".join(problems), file=sys.stderr, end="\n" * bool(problems))
    return 1 if problems else 0


def _report(given: argparse.Namespace) -> int:
    write_stored_reports(given.root)
    return _book(given)


def _grid(given: argparse.Namespace) -> int:
    if given.name:
        how = {name: getattr(given, name) for name in ("profile", "gpus", "more", "root")}
        return run_grid(load_grid(given.name, given.root), **how)
    problems = check_grids(given.root)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


def _cell(given: argparse.Namespace) -> None:
    how = {name: getattr(given, name) for name in ("cpus", "gpus", "source", "root")}
    run_cell(given.chapter, json.loads(given.values), Path(given.out).resolve(), **how)


def _study(given: argparse.Namespace) -> None:
    print(study(given.chapter, given.tier, profile=given.profile, more=given.more, root=given.root))
    write_stored_reports(given.root)


def _audit(given: argparse.Namespace) -> int:
    table, sound = audit(given.chapter, given.tier, seeds=given.seeds, first=given.first, root=given.root)
    print(table)
    return 0 if sound else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.chapters", allow_abbrev=False)
    parser.add_argument("--root", default=PROJECT_ROOT, help="project folder (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function: Callable[..., int | None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(function.__name__[1:], help=text, description=text, allow_abbrev=False)
        added.set_defaults(function=function)
        return added

    run = command(_run, "run one chapter with checked parameters")
    run.add_argument("chapter", help="03, 03_svmax, or the path of a notebook")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"
    )
    run.add_argument("-y", default="{}", metavar="YAML", help="several, such as '{seed: 1, sizes: [8, 16]}'")
    run.add_argument("-o", metavar="OUT.ipynb", help="where to write (default: build/chapters/)")
    execute = command(_execute, "run chapters at their defaults and store the outputs in them")
    execute.add_argument("chapters", nargs="+")
    check = command(_check, "check that every parameter is declared, documented and read")
    check.add_argument("paths", nargs="*", help="notebooks (default: every chapter)")
    every = command(_reproduce, "run what is out of date; write the book and the claims report")
    every.add_argument("--only", nargs="+", default=[], metavar="CHAPTER")
    every.add_argument("--force", action="store_true", help="run also what is up to date")
    jobs = "chapters side by side (default: 2 on a CPU; 1 leaves the timings undisturbed)"
    every.add_argument("--jobs", type=int, metavar="N", help=jobs)
    for one in (run, execute, every):
        one.add_argument("--cell-timeout", type=int, metavar="SECONDS", help="longest time one cell may take")
    command(_book, "write the book from what is stored, running nothing")
    command(_report, "the same, and what README and reproduce/ say of the claims")
    grid = command(_grid, "run a grid, or what is left of it; more arguments go to Snakemake")
    grid.add_argument(
        "name", nargs="?", help="svmax for reproduce/grids/svmax.yaml, or a path; none: check all"
    )
    grid.add_argument("--gpus", type=int, choices=(0, 1), help="GPUs per cell, in place of the grid's own")
    again = command(
        _study, "run a chapter in a tier of evidence, or what is left of it, and keep what it found"
    )
    fresh = command(_audit, "run a study again with a few fresh seeds and compare")
    for one in (again, fresh):
        one.add_argument("chapter", help="05, 05_two_head")
        one.add_argument("--tier", default="study", choices=("study", "real", "gpu"))
    for one in (grid, again):
        one.add_argument("--profile", default="local", help="local, slurm, or the folder of a profile")
    fresh.add_argument("--seeds", type=int, default=3, metavar="N", help="how many (default: 3)")
    fresh.add_argument(
        "--first", type=int, metavar="SEED", help="the first of them (default: far from the kept)"
    )
    cell = command(_cell, "run one cell of a grid (the Snakefile calls this)")
    for name in ("chapter", "values", "out"):
        cell.add_argument(name)
    for name, kind in (("--cpus", int), ("--gpus", int), ("--source", str)):
        cell.add_argument(name, type=kind, required=True)
    return parser

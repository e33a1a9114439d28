"""Tiers of evidence: run a chapter as planned, keep what it found, check that with fresh seeds.

The plan of chapter 05 in tier study is the grid `reproduce/grids/05_study.yaml`, of one cell; what it found
is kept in `reproduce/evidence/05_study.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from helpers import PROJECT_ROOT, claims
from helpers.chapters.execution import read_notebook
from helpers.chapters.grid_run import run_grid
from helpers.chapters.grid_summary import holds_run
from helpers.chapters.grids import Grid, GridError, load_grid
from helpers.chapters.run import run_chapter
from helpers.claims.ledger import Claim, load_ledger
from helpers.claims.measurement import Measurement
from helpers.claims.recording import payloads
from helpers.experiments import prediction_interval
from helpers.experiments.evidence import Evidence, evidence
from helpers.experiments.parallel import worker_count
from helpers.experiments.sweep import TABLE_MIME
from helpers.files import ChapterError, chapter_number, find_chapter, write_atomically
from helpers.provenance import STAMP, code_hash, stamp_of
from helpers.tables import aligned

FAR = 10_000
"""From the kept seeds to those of an audit."""
ALPHA = 0.05


def study(
    chapter: str | Path,
    tier: str = "study",
    *,
    run: Callable[..., int] = run_grid,
    root: Path = PROJECT_ROOT,
    **how: Any,
) -> Path:
    """Run what is left of a chapter's tier, and keep what it found; returns the evidence file.

    The chapter takes finished runs from its cache, so one that was killed ends with the same numbers.

    Args:
        run, how: what runs the grid, with `root` and these options; 0 is well. See `run_grid`.

    Raises:
        GridError, ParameterError: there is no such plan, or it cannot be run; before anything runs.
        ChapterError: it did not finish, or its results cannot be kept; the same command goes on.
    """
    path, grid = find_chapter(chapter, root), planned(chapter, tier, root)
    plan = first_plan(grid, root)
    out = grid.folder(root) / "cells" / f"{grid.cells[0].id}.ipynb"
    if stamp_of(out).get("code_hash") != code_hash(read_notebook(path), root):
        out.unlink(missing_ok=True)  # helpers changed since; runs that they do not touch come from the cache
    status = run(grid, root=root, **how)
    if status or not holds_run(out, grid.source, grid.cells[0].values):
        raise ChapterError(
            f"{grid.name} has no complete result; the same command goes on where it stopped. "
            f"What happened is in {grid.folder(root)}, summary.md and logs/"
        )
    try:
        return _evidence(grid, out, plan, root).write(root)
    except ValueError as error:
        raise ChapterError(f"the results of {grid.name} cannot be kept: {error}") from error


def planned(chapter: str | Path, tier: str, root: Path = PROJECT_ROOT) -> Grid:
    """The grid of one cell that is a chapter's plan for a tier; GridError when it is not that."""
    number = chapter_number(find_chapter(chapter, root))
    grid = load_grid(f"{number.replace('/', '_')}_{tier}", root)
    if grid.tier != tier or len(grid.cells) != 1:
        raise GridError(
            f"{grid.path.name} must say 'tier: {tier}' and have one cell, got tier {grid.tier!r} and "
            f"{len(grid.cells)} cells; more seeds are a matter of the chapter's own parameter"
        )
    return grid


def first_plan(grid: Grid, root: Path) -> dict[str, Any]:
    """The commit, and whether it held this plan, when these parameters were first run with this chapter."""
    path, run = grid.folder(root) / "plan.json", grid.cells[0].id
    with suppress(OSError, ValueError, KeyError):
        if (kept := json.loads(path.read_text(encoding="utf-8")))["run"] == run:
            return kept
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    plans = (grid.path, root / "reproduce" / "claims.yaml")  # the parameters, and what will count
    stored = [_git(root, "show", f"HEAD:./{os.path.relpath(path, root)}") for path in plans]
    plan = {"run": run, "commit": commit, "plan_committed": stored == [p.read_bytes() for p in plans]}
    write_atomically(path, json.dumps(plan))
    return plan


def _git(root: Path, *arguments: str) -> bytes:
    """What git says, or nothing where there is no git, no repository, or no such thing in it."""
    try:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def _evidence(grid: Grid, out: Path, plan: Mapping[str, Any], root: Path) -> Evidence:
    claims.collect([out], root / "reproduce" / "claims.yaml")  # refuses what is malformed or measured twice
    nb = json.loads(out.read_text(encoding="utf-8"))
    facts, tables = nb["metadata"][STAMP] | plan, payloads(nb, TABLE_MIME)
    names = [table["name"] for table in tables]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ChapterError(f"two sweeps of chapter {grid.chapter} are called {twice[0]!r}; rename one")
    return Evidence(
        chapter=grid.chapter,
        tier=grid.tier,
        grid=grid.path.name,
        command=f"make study CHAPTER={grid.chapter} TIER={grid.tier}",
        **{key: facts[key] for key in Evidence.model_fields if key in facts},
        claims={measured["claim_id"]: measured for measured in payloads(nb, claims.MIME)},
        tables={table["name"]: table["table"] for table in tables},
        best={table["name"]: table.get("best", {}) for table in tables},
    )


def audit(
    chapter: str | Path,
    tier: str = "study",
    *,
    seeds: int = 3,
    first: int | None = None,
    root: Path = PROJECT_ROOT,
) -> tuple[str, bool]:
    """Run a study again with a few fresh seeds, and see where its effects lie.

    Args:
        seeds: how many fresh seeds, in place of every number of seeds among the parameters.
        first: the first of them; None is far from the kept ones.

    Returns:
        A table for a terminal, and whether the kept evidence is borne out: all rows were measured again, all
        identities hold, and the effects lie outside their 95 % prediction intervals neither more often nor
        further out than chance explains.

    Raises:
        ChapterError: there is no such evidence, or the run failed.
        ParameterError: the chapter refuses so many seeds.
    """
    path = find_chapter(chapter, root)
    number = chapter_number(path)
    kept = evidence(number, tier, root)
    if kept is None:
        make = f"make study CHAPTER={number} TIER={tier}"
        raise ChapterError(f"no evidence of chapter {number} in tier {tier}: `{make}`")
    start = kept.parameters["seed"] + FAR if first is None else first
    counts = {n: seeds for n in kept.parameters if n == "seeds" or n.endswith("_seeds")}
    values = kept.parameters | counts | {"seed": start}
    out = root / "build" / "audit" / f"{path.stem}_{tier}.ipynb"
    run_chapter(path, values, out=out, typed_in=path.parent, workers=worker_count(), root=root)
    ledger = root / "reproduce" / "claims.yaml"
    fresh = {r.measurement.claim_id: r.measurement for r in claims.collect([out], ledger)}
    rows = [row for row in load_ledger(ledger).values() if row.id in kept.claims]
    lines = [_compared(row, Measurement(**kept.claims[row.id]), fresh.get(row.id)) for row in rows]
    return _verdict(lines, f"seeds {start} to {start + seeds - 1}")


def _compared(row: Claim, kept: Measurement, fresh: Measurement | None) -> tuple[list[str], float]:
    """A line of the table, and how likely so large a distance is by chance; 0 where it cannot be chance."""
    if fresh is None:
        return [row.id, "", "", "not measured again"], 0.0
    if kept.effects is None:
        chance, found = float(fresh.violation <= row.tolerance), f"{fresh.violation:.3g}"
        expected = f"at most {row.tolerance:g}"
    else:
        low, high = prediction_interval(kept.effects, len(fresh.effects.effects))
        mean, df = float(np.mean(fresh.effects.effects)), max(len(kept.effects.effects) - 1, 1)
        se = (high - low) / 2 / stats.t.ppf(1 - ALPHA / 2, df)  # infinite where the spread is not known
        chance = float(2 * stats.t.sf(abs(mean - np.mean(kept.effects.effects)) / se, df))
        expected, found = f"{low:+.3g} to {high:+.3g}", f"{mean:+.3g}"
    return [row.id, expected, found, "OUTSIDE" if chance < ALPHA else "inside"], chance


def _verdict(lines: Sequence[tuple[list[str], float]], seeds: str) -> tuple[str, bool]:
    """The table with its conclusion: neither more rows outside than chance allows, nor one too far out."""
    chances = [chance for _, chance in lines]
    outside = sum(chance < ALPHA for chance in chances)
    often = stats.binom.sf(outside - 1, len(lines), ALPHA) < ALPHA
    sound = not often and min(chances, default=1.0) * len(lines) >= ALPHA
    table = aligned([["claim", "95 % prediction", "fresh seeds", ""], *(line for line, _ in lines)])
    told = "which chance explains" if sound else "NOT what chance explains"
    return f"{table}\n\n{outside} of {len(lines)} rows lie outside with {seeds}: {told}.", sound

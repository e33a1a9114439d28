"""The summary of a grid: every claim that its cells measured, over all their seeds, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chapters.grids import Cell, Grid
from helpers.claims.ledger import load_ledger
from helpers.claims.measurement import Measurement
from helpers.claims.recording import collect
from helpers.claims.report import because_text, result_text, verdict_text
from helpers.claims.verdict import Run, judge_tier
from helpers.experiments.comparison import Paired
from helpers.files import write_atomically
from helpers.provenance import stamp_of
from helpers.tables import markdown_table


def write_summary(grid: Grid, root: Path) -> Path:
    """Write `summary.md` of the cells that are there; returns its path.

    Cells whose parameters differ in `seed` alone form one setting; for every claim a setting pools the
    per-seed effects of its cells.

    Raises:
        ClaimError: a cell's measurement is malformed or not in the ledger.
    """
    folder = grid.folder(root)
    text = "\n\n".join(_parts(grid, folder, Path(root) / "reproduce" / "claims.yaml")) + "\n"
    write_atomically(folder / "summary.md", text)
    return folder / "summary.md"


def holds_run(path: Path, source: str, parameters: Mapping[str, Any]) -> bool:
    """Whether `path` is a complete run of this source with these parameters."""
    stamp = stamp_of(path)
    return stamp.get("source_hash") == source and parameters.items() <= stamp["parameters"].items()


def _parts(grid: Grid, folder: Path, ledger: Path) -> Iterator[str]:
    yield f"# Grid {grid.name}, chapter {grid.chapter}"
    yield grid.about.strip()
    if grid.lacks:
        yield f"What keeps this from being the thesis's setting: {grid.lacks.strip()}"
    paths = {cell.id: folder / "cells" / f"{cell.id}.ipynb" for cell in grid.cells}
    done = [cell for cell in grid.cells if holds_run(paths[cell.id], grid.source, cell.values)]
    missing = [[c.id, _values(c.values), _status(c, folder)] for c in grid.cells if c not in done]
    yield f"{len(grid.cells)} cells: {len(done)} done, {len(missing)} without a result."
    if len({stamp_of(paths[cell.id]).get("code_hash") for cell in done}) > 1:
        yield (
            "**The cells ran under several versions of the code they reach.** To run all of them again, "
            "delete this grid's folder."
        )
    if missing:
        yield markdown_table(["Cell", "Parameters", "Why"], missing)
        yield "`cells/CELL.failed.ipynb` is what a failed cell left, `logs/` holds the full output."
    settings: dict[str, list[Path]] = {}
    for cell in grid.cells:
        setting = _values({n: v for n, v in cell.values.items() if n != "seed"})
        settings.setdefault(setting, []).extend([paths[cell.id]] if cell in done else [])
    for setting, found in settings.items():
        yield f"## {setting or 'The defaults'}"
        body = _claims(found, ledger)
        head = ["Claim", "Result", "Because of the method?", "Verdict"]
        yield markdown_table(head, body) if body else "Nothing was measured."


def _status(cell: Cell, folder: Path) -> str:
    """Why a cell has no result: its error, or that it was stopped, or nothing of it is there."""
    log = folder / "logs" / f"{cell.id}.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    if found := re.search(r"(?m)^(?:error|refused): (.*)", text):
        return found[1]
    stopped = "still runs, or was killed: by hand, or for its time or memory"
    return stopped if (folder / "cells" / f"{cell.id}.lock").is_file() else "not run"


def _values(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _claims(paths: Sequence[Path], ledger: Path) -> list[list[str]]:
    """Id, result, controls and verdict of every claim measured in these cells."""
    rows, measured = load_ledger(ledger), {}
    for path in paths:  # one by one: a claim may be measured once in a notebook, and once in every cell
        for result in collect([path], ledger):
            measured.setdefault(result.measurement.claim_id, []).append(result.measurement)
    pooled = {i: _pooled(found) for i, found in measured.items()}
    verdicts = judge_tier(rows, {i: Run(m) for i, m in pooled.items()})
    return [
        [i, result_text(rows[i], v, pooled.get(i)), because_text(v), verdict_text(v)]
        for i, v in verdicts.items()
        if i in pooled or set(rows[i].components) & set(pooled)
    ]


def _pooled(found: Sequence[Measurement]) -> Measurement:
    """What cells that differ in their seeds say together about one claim."""
    if found[0].effects is None:
        return replace(found[0], violation=max(m.violation for m in found))
    names = dict.fromkeys(name for m in found for name in m.controls)
    controls = {n: _together([m.controls[n] for m in found if n in m.controls]) for n in names}
    failed = next((m.gate for m in found if m.gate and not m.gate.passed), found[0].gate)
    thesis = all(m.thesis_setting for m in found)
    effects = _together([m.effects for m in found])
    return replace(
        found[0], effects=effects, controls=controls, gate=failed, thesis_setting=thesis, summaries={}
    )


def _together(parts: Sequence[Paired]) -> Paired:
    """Paired differences of several cells as one; their test items count as the same, which is cautious."""
    effects = [effect for part in parts for effect in part.effects]
    residual = float(np.mean([part.ms_res for part in parts]))
    of_items = float(np.mean([(p.ms_item - p.ms_res) / len(p.effects) for p in parts]))
    items, redrawn = min(p.items for p in parts), all(p.redrawn for p in parts)
    return Paired(effects, items, residual + len(effects) * of_items, residual, redrawn)

"""The summary of a grid: every claim that its cells measured, over all their seeds, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers.chapters.grids import Cell, Grid, grid_folder, holds_run
from helpers.claims.ledger import Claim, Measurement, judge, load_ledger, paired_interval
from helpers.claims.recording import collect
from helpers.files import write_atomically
from helpers.provenance import provenance
from helpers.tables import markdown_table

DONE, FAILED, STOPPED, MISSING = STATUS = ("done", "failed", "stopped", "not run")


def write_summary(grid: Grid, root: Path) -> Path:
    """Write `summary.json` and `summary.md` of the cells that are there; returns the Markdown file.

    Raises:
        ClaimError: a cell's measurement is malformed or not in the ledger.
    """
    folder = grid_folder(grid, root)
    summary = summarise(grid, folder, Path(root) / "reproduce" / "claims.yaml")
    write_atomically(folder / "summary.md", _markdown(summary))
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return folder / "summary.md"


def summarise(grid: Grid, folder: Path, ledger: Path) -> dict[str, Any]:
    """Everything that the summary says, as JSON data.

    Cells whose parameters differ in `seed` alone form one setting. For every claim a setting pools the
    per-seed effects of its cells; the intervals are 95 % t intervals over these seeds.
    """
    rows = load_ledger(ledger)
    cells = [_cell_record(cell, grid.source, folder) for cell in grid.cells]
    settings: dict[str, dict[str, Any]] = {}
    for record in cells:
        parameters = {n: v for n, v in record["parameters"].items() if n != "seed"}
        setting = settings.setdefault(json.dumps(parameters), {"parameters": parameters, "cells": []})
        if record["status"] == DONE:
            setting["cells"].append(record["id"])
    for setting in settings.values():
        setting["claims"] = _claims([folder / "cells" / f"{i}.ipynb" for i in setting["cells"]], rows, ledger)
    return {
        "grid": grid.name,
        "about": grid.about,
        "lacks": grid.lacks,
        "chapter": grid.chapter,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": {status: sum(c["status"] == status for c in cells) for status in STATUS},
        "settings": list(settings.values()),
        "cells": cells,
    }


def _cell_record(cell: Cell, source: str, folder: Path) -> dict[str, Any]:
    """A cell with its status; the result of an earlier version of the chapter does not count."""
    done, work = folder / "cells" / f"{cell.id}.ipynb", folder / "work" / cell.id
    error = work.with_suffix(".error")
    record: dict[str, Any] = {"id": cell.id, "parameters": cell.values}
    if holds_run(done, source, cell.values):
        stamp = provenance(done)
        keys = ("date", "device", "wall_seconds", "helpers_hash", "versions")
        return record | {"status": DONE, **{k: stamp.get(k) for k in keys}}
    if error.is_file():
        return record | {"status": FAILED, "error": error.read_text(encoding="utf-8")}
    return record | {"status": STOPPED if work.with_suffix(".lock").is_file() else MISSING}


def _claims(paths: Sequence[Path], rows: Mapping[str, Claim], ledger: Path) -> dict[str, Any]:
    measured: dict[str, list[Measurement]] = {}
    for path in paths:  # one by one: a claim may be measured once in a notebook, and once in every cell
        for result in collect([path], ledger):
            measured.setdefault(result.measurement.claim_id, []).append(result.measurement)
    return {i: _pooled(row, measured[i]) for i, row in rows.items() if i in measured}


def _pooled(row: Claim, found: Sequence[Measurement]) -> dict[str, Any]:
    """What cells that differ in their seeds say together about one claim."""
    if row.kind == "identity":
        together = replace(found[0], violation=max(m.violation for m in found))
        return {
            "verdict": judge(row, together).verdict, "violation": together.violation,
            "tolerance": row.tolerance, "unit": row.unit,
        }  # fmt: skip

    def pool(part: str) -> dict[str, list[float]]:
        names = dict.fromkeys(name for m in found for name in getattr(m, part))
        return {name: [v for m in found for v in getattr(m, part).get(name, [])] for name in names}

    together = replace(
        found[0],
        effects=[v for m in found for v in m.effects],
        controls=pool("controls"),
        summaries=pool("summaries"),
        thesis_setting=all(m.thesis_setting for m in found),
    )
    verdict = judge(row, together)
    return {
        "verdict": verdict.verdict,
        "effect": _interval(together.effects),
        "controls": {n: _interval(v) | {"beaten": verdict.beaten[n]} for n, v in together.controls.items()},
        "summaries": {n: _interval(v) for n, v in together.summaries.items()},
        "direction": row.direction,
        "tolerance": row.tolerance,
        "unit": row.unit,
    }


def _interval(values: Sequence[float]) -> dict[str, float]:
    return asdict(paired_interval(values)) | {"seeds": len(values)}


def _markdown(summary: Mapping[str, Any]) -> str:
    counts, cells = summary["counts"], summary["cells"]
    parts = [f"# Grid {summary['grid']}, chapter {summary['chapter']}", summary["about"].strip()]
    if summary["lacks"]:
        parts.append(f"**Against the thesis's setting:** {summary['lacks'].strip()}")
    parts.append(
        f"{len(cells)} cells: " + ", ".join(f"{n} {s}" for s, n in counts.items()) + f". {summary['date']}"
    )
    versions = {c["helpers_hash"] for c in cells if c["status"] == DONE}
    if len(versions) > 1:
        parts.append(
            f"**The cells ran under {len(versions)} versions of `helpers/`.** To run all of them again, "
            "delete this grid's folder."
        )
    if counts[FAILED]:
        body = [[c["id"], _values(c["parameters"]), _first_line(c["error"])] for c in cells if "error" in c]
        parts += ["## Failed cells", markdown_table(["Cell", "Parameters", "Error"], body)]
        parts.append("The partial notebooks are `work/CELL.failed.ipynb`, the full output is in `logs/`.")
    if counts[STOPPED] or counts[MISSING]:
        body = [
            [c["id"], _values(c["parameters"]), c["status"]]
            for c in cells
            if c["status"] in (STOPPED, MISSING)
        ]
        parts += ["## Cells without a result", markdown_table(["Cell", "Parameters", "Status"], body)]
        parts.append("A stopped cell still runs, or was killed: by hand, or for its time or memory.")
    for setting in summary["settings"]:
        parts.append(f"## {_values(setting['parameters']) or 'The defaults'}")
        body = [
            [i, _effect(c), "; ".join(_control(n, v) for n, v in c.get("controls", {}).items()), c["verdict"]]
            for i, c in setting["claims"].items()
        ]
        head = ["Claim", "Mean and 95 % interval", "Against its controls", "Verdict"]
        parts.append(markdown_table(head, body) if body else "Nothing was measured.")
    return "\n\n".join(parts) + "\n"


def _values(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


def _effect(claim: Mapping[str, Any]) -> str:
    if "violation" in claim:
        return f"violation {claim['violation']:.3g}, tolerance {claim['tolerance']:g} {claim['unit']}"
    return f"{_span(claim['effect'])} {claim['unit']}, {claim['effect']['seeds']} seeds"


def _control(name: str, value: Mapping[str, Any]) -> str:
    return f"{'beats' if value['beaten'] else 'does not beat'} {name}: {_span(value)}"


def _span(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.3g} ({interval['low']:+.3g} to {interval['high']:+.3g})"

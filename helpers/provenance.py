"""Where a notebook's outputs come from: hashes, versions, the stamp of a run, and what went wrong in it.

A complete run stamps its notebook (see `provenance`). Chapters import this room, so it loads nothing heavy.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import PROJECT_ROOT
from helpers.files import find_chapter
from helpers.tables import markdown_table

if TYPE_CHECKING:
    from nbformat import NotebookNode

STAMP = "closing_the_gap"
INJECTED = "injected-parameters"
PACKAGES = ("torch", "torchvision", "pytorch-metric-learning", "numpy")


def source_hash(nb: NotebookNode) -> str:
    """sha256 over type, source, tags and nbgrader metadata of every cell.

    Outputs, execution counts, ids, other metadata and the cell of injected parameters do not count.
    """
    cells = [
        (c.cell_type, c.source, sorted(c.metadata.get("tags", [])), c.metadata.get("nbgrader", {}))
        for c in nb.cells
    ]
    kept = [cell for cell in cells if INJECTED not in cell[2]]
    return hashlib.sha256(json.dumps(kept, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def helpers_hash() -> str:
    """sha256 over names and contents of `helpers/*.py`."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def claims_hash(root: Path = PROJECT_ROOT) -> str | None:
    """sha256 of `reproduce/claims.yaml`; None when there is no ledger."""
    path = Path(root) / "reproduce" / "claims.yaml"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def circumstances(nb: NotebookNode, root: Path = PROJECT_ROOT) -> dict[str, Any]:
    """What the results of a run at the defaults depend on: hashes of the sources, and versions."""
    return {
        "source_hash": source_hash(nb),
        "helpers_hash": helpers_hash(),
        "claims_hash": claims_hash(root),
        "versions": versions(),
    }


def system_name() -> str:
    """The operating system as people call it: Linux, macOS, Windows."""
    return {"Darwin": "macOS"}.get(platform.system(), platform.system())


def device_name(parameters: Mapping[str, Any]) -> str:
    """The accelerator that PyTorch finds here, or the CPU (also when the parameter `device` asks for it)."""
    import torch  # seconds to import, and nothing else here needs it

    if parameters.get("device") != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if parameters.get("device") != "cpu" and torch.backends.mps.is_available():
        return "Apple MPS"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def provenance(path: str | Path) -> dict[str, Any]:
    """The stamp of a notebook's last complete run; empty when it has none.

    Keys: source_hash, helpers_hash, claims_hash, versions, parameters, device, system, date (UTC),
    wall_seconds, section_seconds (pairs of `##` heading and wall seconds, in order; what precedes the first
    is "Set-up").

    Raises:
        OSError, ValueError: the file cannot be read, or is not a notebook.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))["metadata"].get(STAMP, {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook: {type(error).__name__}: {error}") from error


def section_times(chapter: str, root: Path = PROJECT_ROOT) -> str:
    """How long each section of a chapter took in the run that its stored notebook holds, as Markdown.

    Args:
        chapter: its number ("03"), stem or path.

    Returns:
        A table with a total, and where and when it was measured; one sentence when the chapter was never
        executed.

    Raises:
        ChapterError: there is no such chapter.
    """
    path = find_chapter(chapter, root)
    stamp = provenance(path)
    if not stamp:
        command = f"python -m helpers.chapters execute {path.stem.split('_')[0]}"
        return f"No times yet: once `{command}` has run this chapter, they stand here."
    sections = stamp["section_seconds"]
    rows = [[title, _duration(seconds)] for title, seconds in sections]
    rows.append(["**Total**", f"**{_duration(sum(seconds for _, seconds in sections))}**"])
    day = datetime.fromisoformat(stamp["date"]).astimezone(UTC).date()
    measured = f"Measured on {stamp['device']}, {stamp['system']}, on {day} (UTC)."
    return f"{markdown_table(['Section', 'Time'], rows)}\n\n{measured}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole > 90:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole} s" if whole else "< 1 s"


def is_executed_in_order(nb: NotebookNode) -> bool:
    """Whether the execution counts of the code cells that hold code are 1, 2, ..., n."""
    counts = [c.execution_count for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    return counts == list(range(1, len(counts) + 1))


def error_outputs(nb: NotebookNode) -> list[str]:
    """Errors in cell outputs and inside widgets, where neither papermill nor nbconvert look."""
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    state = (
        nb.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    )
    for model in state.values():
        if model.get("model_name") == "OutputModel":
            outputs += model["state"].get("outputs", [])
    return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


def stderr_outputs(nb: NotebookNode) -> list[str]:
    """Texts that code cells wrote to stderr (warnings, as a rule), each with its cell number."""
    streams = [(i, o) for i, c in enumerate(nb.cells) if c.cell_type == "code" for o in c.outputs]
    return [f"cell {i}: {o.text.strip()[:300]}" for i, o in streams if o.get("name") == "stderr"]


def is_current(path: str | Path) -> bool:
    """Whether the stored outputs belong to the present source: same hash, run in order, no errors."""
    import nbformat  # more than a second to import, and chapters import this room

    nb = nbformat.read(path, as_version=4)
    stamped = nb.metadata.get(STAMP, {}).get("source_hash")
    return stamped == source_hash(nb) and is_executed_in_order(nb) and not error_outputs(nb)

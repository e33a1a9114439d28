"""Execute one notebook with papermill: a complete stamped result, or the remains of the attempt beside it."""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode

from helpers.chapters.declarations import defaults_of
from helpers.files import ChapterError, write_atomically
from helpers.provenance import (
    INJECTED,
    STAMP,
    circumstances,
    device_name,
    error_outputs,
    source_hash,
    stderr_outputs,
    system_name,
)

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class _ThisInterpreter(AsyncKernelManager):
    """Starts the Python of this process, whatever kernelspec named python3 may shadow it."""

    kernel_environment: ClassVar[Mapping[str, str]] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        arguments = ["-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
        return KernelSpec(
            argv=[sys.executable, *arguments],
            env=dict(self.kernel_environment),
            **{k: KERNELSPEC[k] for k in ("display_name", "language")},
        )


def read_notebook(path: Path) -> NotebookNode:
    """A notebook as it is written by hand, or by a run at its defaults.

    Raises:
        ChapterError: it cannot be read, or it is the result of a run with other parameters.
    """
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise ChapterError(f"{path} cannot be read as a notebook: {error}") from error
    if any(INJECTED in c.metadata.get("tags", []) for c in nb.cells):
        raise ChapterError(
            f"{path} holds parameters injected by an earlier run; remove the cell tagged {INJECTED!r}"
        )
    return nb


def execute_notebook(
    source: Path,
    nb: NotebookNode,
    changed: Mapping[str, Any],
    target: Path,
    scratch: Path,
    *,
    cell_timeout: int | None,
    environment: Mapping[str, str],
    root: Path,
) -> Path:
    """Execute `nb`, read from `source`, into a part file beside `scratch`; the finished one goes to `target`.

    Args:
        changed: parameters that differ from the notebook's defaults, checked.
        environment: variables for the kernel beyond those of this process.

    Raises:
        ChapterError: the run failed; `target` is as it was, and partial output is kept as `*.failed.ipynb`.
    """
    scratch.parent.mkdir(parents=True, exist_ok=True)
    part = scratch.with_name(f"{scratch.stem}.{uuid.uuid4().hex[:8]}.part.ipynb")
    failed = scratch.with_name(f"{scratch.stem}.failed.ipynb")
    in_place, started = target == source, time.monotonic()
    stamp = circumstances(nb, root)
    try:
        executed = papermill.execute_notebook(
            _literal(source),
            _literal(part),
            parameters=dict(changed),
            kernel_name="python3",
            language="python",
            cwd=source.parent,
            progress_bar=False,
            execution_timeout=cell_timeout,
            kernel_manager_class=type("_Kernel", (_ThisInterpreter,), {"kernel_environment": environment}),
            coalesce_streams=True,
            on_cell_start=_progress(source.stem, nb, started),
        )
        wall_seconds = round(time.monotonic() - started, 1)
        finished = _restored(nb, executed)
        _refuse_silent_failures(finished, stderr_fails=in_place)
        finished.metadata[STAMP] = stamp | {
            "parameters": defaults_of(nb) | dict(changed),
            "device": device_name(changed),
            "system": system_name(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": wall_seconds,
            "section_seconds": _section_seconds(executed),
        }
        if source_hash(read_notebook(source)) != stamp["source_hash"]:
            raise ChapterError(f"{source.name} was edited while it ran; the outputs would not belong to it")
        write_atomically(target, nbformat.writes(finished).rstrip("\n") + "\n")
    except BaseException as error:
        with suppress(OSError):  # the run's own error is the one to tell
            os.replace(part, failed)
        if not isinstance(error, Exception):
            raise
        kept = f" Partial output: {failed}" if failed.exists() else ""
        raise ChapterError(f"{source.stem} failed: {_reason(error)}.{kept}") from error
    for leftover in (part, failed):
        leftover.unlink(missing_ok=True)
    return target


def _literal(path: Path) -> str:
    """papermill formats paths as templates: braces in a folder's name must be doubled."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _reason(error: Exception) -> str:
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell {error.cell_index}, {error.ename}: {error.evalue}\n" + "\n".join(error.traceback)
    return f"{type(error).__name__}: {error}" if not isinstance(error, ChapterError) else str(error)


def _sections(cells: Iterable[NotebookNode]) -> Iterator[tuple[str, NotebookNode]]:
    """Every code cell with the `##` heading above it, outside code fences."""
    section = "Set-up"
    for cell in cells:
        if cell.cell_type == "code":
            yield section, cell
        else:
            prose = re.sub(r"(?ms)^(```|~~~).*?^\1", "", cell.source)
            section = [section, *re.findall(r"(?m)^##\s+(.+?)\s*$", prose)][-1]


def _progress(stem: str, nb: NotebookNode, started: float) -> Callable[..., None]:
    places = {cell.id: (i, section) for i, (section, cell) in enumerate(_sections(nb.cells), start=1)}

    def cell_started(cell: NotebookNode, cell_index: int) -> None:
        if cell.get("id") in places:
            (count, section), elapsed = places[cell.id], time.monotonic() - started
            line = f"{stem} [{count:>3}/{len(places)}] {elapsed:7.1f} s  {section}"
            print(line, file=sys.stderr, flush=True)

    return cell_started


def _section_seconds(executed: NotebookNode) -> list[tuple[str, float]]:
    seconds = Counter[str]()
    for section, cell in _sections(executed.cells):
        seconds[section] += cell.metadata.get("papermill", {}).get("duration") or 0.0
    return [(title, round(value, 1)) for title, value in seconds.items()]


def _restored(nb: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The source notebook (ids, metadata) with the outputs of the executed one, without papermill's marks."""
    cells, originals = [], iter(nb.cells)
    for cell in executed.cells:
        injected = INJECTED in cell.metadata.get("tags", [])
        kept = nbformat.from_dict({**cell, "metadata": {"tags": [INJECTED]}} if injected else next(originals))
        if cell.cell_type == "code":
            kept.outputs = [o for o in map(_without_progress_bars, cell.outputs) if o]
            kept.execution_count = cell.execution_count
        cells.append(kept)
    metadata = {k: v for k, v in nb.metadata.items() if k not in ("widgets", "papermill", STAMP)}
    metadata |= {"kernelspec": KERNELSPEC, "language_info": executed.metadata.language_info}
    widgets = executed.metadata.get("widgets")
    if widgets != nb.metadata.get("widgets"):  # nbclient keeps the old state when a run shows no widget
        metadata["widgets"] = widgets
    return nbformat.from_dict({**nb, "cells": cells, "metadata": metadata})


def _without_progress_bars(output: NotebookNode) -> NotebookNode | None:
    """An output without tqdm's bars, whether text on stderr or a widget; None when nothing is left."""
    bar = re.compile(r"\d+%\|.*\||\d+(it|\S+)? \[\d+:\d+, ")
    if output.get("name") == "stderr":
        lines = [x for x in re.split(r"[\r\n]+", output.text) if x.strip() and not bar.search(x)]
        return nbformat.from_dict({**output, "text": "\n".join(lines)}) if lines else None
    data = output.get("data", {})
    widget = "application/vnd.jupyter.widget-view+json" in data
    return None if widget and bar.search(data.get("text/plain", "")) else output


def _refuse_silent_failures(nb: NotebookNode, stderr_fails: bool) -> None:
    if errors := error_outputs(nb):
        raise ChapterError("an error is hidden inside a widget: " + "; ".join(errors))
    if stderr_fails and (texts := stderr_outputs(nb)):
        raise ChapterError("a stored chapter may not write to stderr: " + "; ".join(texts))

"""The learner's edition: working copies without solutions, in a folder that git does not see.

A copy that somebody has worked in is never written again. When its notebook has changed since, the new
version gets a name of its own beside it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from helpers import PROJECT_ROOT
from helpers.files import chapter_number, find_notebooks, write_atomically
from helpers.provenance import STAMP

FOLDER = "learner"
WRITTEN = ".written.json"
ON_DEMAND = '# exercises.solution("{}", "{}")  # remove the first # and run this cell to see one answer'


def without_solutions(nb: NotebookNode, number: str) -> NotebookNode:
    """A notebook for somebody who solves its exercises: a line that shows the answer takes an answer's place.

    Cells that check answers are folded, as some of them name the right choice.
    """
    made = copy.deepcopy(nb)
    made.metadata.pop(STAMP, None)
    made.cells = [_for_a_learner(cell, number) for cell in made.cells]
    return made


def is_solution(cell: NotebookNode) -> bool:
    """Whether a cell is the answer to an exercise."""
    return "solution" in cell.metadata.get("tags", [])


def is_check(cell: NotebookNode) -> bool:
    """Whether a cell checks the answer to an exercise."""
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def _for_a_learner(cell: NotebookNode, number: str) -> NotebookNode:
    if is_solution(cell):
        exercise = cell.id.removesuffix("-solution")
        return new_code_cell(ON_DEMAND.format(number, exercise), id=cell.id)
    if is_check(cell):
        cell.metadata["jupyter"] = {"source_hidden": True}
    cell.metadata.pop("nbgrader", None)
    return cell


def write_copies(root: Path = PROJECT_ROOT) -> list[str]:
    """Bring `learner/` up to date; returns a sentence for each new version of a copy that holds work.

    Raises:
        OSError: the folder cannot be read or written.
    """
    folder = Path(root) / FOLDER
    notes = []
    for path in find_notebooks(root):
        nb = nbformat.read(path, as_version=4)
        text = nbformat.writes(without_solutions(nb, chapter_number(path))) + "\n"
        notes += _write(folder, path.relative_to(Path(root) / "notebooks"), text)
    return notes


def _write(folder: Path, name: Path, text: str) -> list[str]:
    """Write one copy under its name or the next free one, unless its newest copy is of this version."""
    numbered = (name.with_stem(f"{name.stem}_{n}") if n > 1 else name for n in itertools.count(1))
    newest = None
    for target in numbered:
        if not (folder / target).exists():
            break
        newest = target
    written, version = _written(folder), _digest(text.encode())
    if newest:
        known = written.get(newest.as_posix())
        if known == version:
            return []
        if known == _digest((folder / newest).read_bytes()):
            target, newest = newest, None  # nobody has worked in it
    write_atomically(folder / target, text)
    written[target.as_posix()] = version
    write_atomically(folder / WRITTEN, json.dumps(written, indent=1))
    new = f"{FOLDER}/{newest} holds your work and stays as it is; its new version is {FOLDER}/{target}."
    return [new] if newest else []


def _written(folder: Path) -> dict[str, str]:
    """The digest of every copy as it was written, by name; empty where that is not known."""
    try:
        found = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

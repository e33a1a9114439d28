"""Files of the project: a chapter is found by its number, and a file is written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

from helpers import PROJECT_ROOT


class ChapterError(RuntimeError):
    """A chapter that cannot be found or read, or whose run failed."""


def find_chapters(root: Path = PROJECT_ROOT) -> list[Path]:
    """`notebooks/NN_name.ipynb`, in order; `ChapterError` when there is none."""
    folder = Path(root) / "notebooks"
    found = sorted(
        p for p in folder.glob("[0-9][0-9]_*.ipynb") if not p.name.endswith((".part.ipynb", ".failed.ipynb"))
    )
    if not found:
        raise ChapterError(f"no chapter notebooks in {folder}; expected names like 03_svmax.ipynb")
    return found


def find_chapter(name: str | Path, root: Path = PROJECT_ROOT) -> Path:
    """A chapter by number ("3", "03"), by stem ("03_svmax") or by the path of a notebook."""
    if Path(name).suffix == ".ipynb" and Path(name).is_file():
        return Path(name).resolve()
    chapters = find_chapters(root)
    wanted = str(name).zfill(2) if str(name).isdigit() else str(name)
    matches = [p for p in chapters if wanted in (p.stem, p.name, p.stem.split("_")[0])]
    if len(matches) != 1:
        there = ", ".join(p.stem for p in chapters)
        raise ChapterError(f"chapter {str(name)!r} names {len(matches)} notebooks; there are: {there}")
    return matches[0]


def chapter_titles(paths: Iterable[Path]) -> dict[str, str]:
    """First heading of each notebook, or its name when it has none, by the number of the chapter ("03")."""
    titles = {}
    for path in map(Path, paths):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        heading = re.search(r"(?m)^# +(.+?) *$", prose)
        titles[path.name[:2]] = heading[1] if heading else path.stem
    return titles


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write `path` whole or not at all; text becomes UTF-8 with its line ends as they are.

    The content goes to a temporary file beside `path`, is flushed to the disk, and takes the name in one
    rename. When anything fails, `path` stays as it was and the temporary file is removed. Missing folders are
    made.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

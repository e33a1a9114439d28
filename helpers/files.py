"""Files of the project: chapters found by number, YAML read in decimal, files written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml

from helpers import PROJECT_ROOT

READING_LIST = "reading_list"
"""Folder in `notebooks/` of the notebooks that belong to no chapter of the thesis."""


class ChapterError(RuntimeError):
    """A chapter that cannot be found or read, or whose run failed."""


def find_chapters(root: Path = PROJECT_ROOT) -> list[Path]:
    """`notebooks/NN_name.ipynb`, in order; ChapterError when there is none, OSError when one cannot look."""
    folder = Path(root) / "notebooks"
    found = _numbered(folder)
    if not found:
        raise ChapterError(f"no chapter notebooks in {folder}; expected names like 03_svmax.ipynb")
    return found


def find_reading_list(root: Path = PROJECT_ROOT) -> list[Path]:
    """`notebooks/reading_list/NN_name.ipynb`, in order; there may be none."""
    return _numbered(Path(root) / "notebooks" / READING_LIST)


def find_notebooks(root: Path = PROJECT_ROOT) -> list[Path]:
    """The chapters and then the reading list; errors as `find_chapters`."""
    return [*find_chapters(root), *find_reading_list(root)]


def chapter_number(path: Path) -> str:
    """What a notebook is called in the ledger and on the command line: "03", or "reading_list/04"."""
    folder = f"{READING_LIST}/" if path.parent.name == READING_LIST else ""
    return f"{folder}{path.name[:2]}"


def _numbered(folder: Path) -> list[Path]:
    names = os.listdir(folder) if folder.exists() else []
    return sorted(folder / name for name in names if re.fullmatch(r"\d\d_[^.]*\.ipynb", name))


def find_chapter(name: str | Path, root: Path = PROJECT_ROOT) -> Path:
    """A chapter by number ("3", "03"), by stem ("03_svmax") or by the path of a notebook.

    Those of the reading list are named with their folder: "reading_list/04", "reading_list/04_losses".
    """
    if Path(name).suffix == ".ipynb" and Path(name).is_file():
        return Path(name).resolve()
    listed = str(name).startswith(f"{READING_LIST}/")
    chapters = find_reading_list(root) if listed else find_chapters(root)
    wanted = str(name).removeprefix(f"{READING_LIST}/")
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    matches = [p for p in chapters if wanted in (p.stem, p.name, p.stem.split("_")[0])]
    if len(matches) != 1:
        there = ", ".join(p.stem for p in chapters)
        raise ChapterError(f"chapter {str(name)!r} names {len(matches)} notebooks; there are: {there}")
    return matches[0]


def chapter_titles(paths: Iterable[Path]) -> dict[str, str]:
    """First heading of each notebook, or its name when it has none, by its number ("03")."""
    titles = {}
    for path in map(Path, paths):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        heading = re.search(r"(?m)^# +(.+?) *$", prose)
        titles[chapter_number(path)] = heading[1] if heading else path.stem
    return titles


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice in one mapping: a forgotten dash would merge two rows."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
            problem = f"line {node.start_mark.line + 1}: key {twice[0]!r} appears twice in one mapping"
            raise yaml.constructor.ConstructorError(problem=problem)
        return super().construct_mapping(node, deep)


class _DecimalLoader(StrictLoader):
    """YAML 1.2's core schema: `010` is ten, `1e-3` a number, `yes` and `1:30` text. No key twice."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


for kind, pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}.items():
    _DecimalLoader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})$"), None)
_DecimalLoader.add_constructor("tag:yaml.org,2002:int", _DecimalLoader.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """The data that YAML text holds, its numbers read in decimal as people write them; see `_DecimalLoader`.

    Raises:
        yaml.YAMLError: malformed text, or a mapping with the same key twice.
    """
    return yaml.load(text, Loader=_DecimalLoader)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write `path` whole or not at all; text becomes UTF-8 with its line ends as they are.

    The content goes to a temporary file beside `path`, is flushed to the disk, and takes the name in one
    rename. When anything fails, `path` stays as it was and the temporary file is removed. Missing folders are
    made. A symbolic link stays: the file that it names is written.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path).resolve()
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


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of the folder `path` when the block ends well, else nothing does.

    What else the block puts beside it is removed at the end. Missing folders above `path` are made.

    Raises:
        OSError: the folder above cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as around:
        made = Path(around) / "made"
        made.mkdir()
        yield made
        if path.exists():
            path.rename(made.with_name("old"))
        made.rename(path)

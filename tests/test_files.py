"""Chapters are found by any of their names; a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from small_notebooks import notebook, project

from helpers import files
from helpers.files import ChapterError


def test_chapters_are_found_by_number_stem_and_path(tmp_path: Path) -> None:
    with pytest.raises(ChapterError, match=r"no chapter notebooks in .*notebooks; expected names like"):
        files.find_chapters(tmp_path)
    root = project(tmp_path, c03=notebook(), c11=notebook())
    (root / "notebooks" / "03_c.1a2b.part.ipynb").write_text("{")
    third = root / "notebooks" / "03_c.ipynb"
    assert [p.name for p in files.find_chapters(root)] == ["03_c.ipynb", "11_c.ipynb"]
    for name in ("3", "03", "03_c", "03_c.ipynb", third):
        assert files.find_chapter(name, root) == third
    with pytest.raises(ChapterError, match="chapter '04' names 0 notebooks; there are: 03_c, 11_c"):
        files.find_chapter("04", root)


def test_titles_are_first_headings_outside_code(tmp_path: Path) -> None:
    titled = notebook("print(1)\n# not this", "## Section", "# One · *two*\n\n# Three")
    root = project(tmp_path, c03=titled, c04=notebook("## Section"))
    assert files.chapter_titles(files.find_chapters(root)) == {"03": "One · *two*", "04": "04_c"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ipynb"
    files.write_atomically(path, "old")

    def full_disk(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_atomically(path, b"old")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    for content, expected in [("é\n\r\n", b"\xc3\xa9\n\r\n"), (b"\x00\xff\n", b"\x00\xff\n"), ("", b"")]:
        files.write_atomically(path, content)
        assert path.read_bytes() == expected
    files.write_atomically(str(path), "by name")
    assert path.read_text() == "by name"
    with pytest.raises(TypeError):
        files.write_atomically(path, {"not": "text"})
    assert path.read_text() == "by name"
    assert list(path.parent.iterdir()) == [path]

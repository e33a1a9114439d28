"""Chapters found by any of their names; YAML in decimal; a file written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
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


def test_the_reading_list_has_numbers_of_its_own(tmp_path: Path) -> None:
    root = project(tmp_path, c03=notebook(), c04=notebook())
    assert files.find_reading_list(root) == []
    (folder := root / "notebooks" / "reading_list").mkdir()
    for name in ("04_losses.ipynb", "03_features.ipynb", "notes.ipynb", "04_losses.1a2b.part.ipynb"):
        (folder / name).write_text("{}")
    assert [p.name for p in files.find_reading_list(root)] == ["03_features.ipynb", "04_losses.ipynb"]
    assert [p.name for p in files.find_chapters(root)] == ["03_c.ipynb", "04_c.ipynb"]
    for name in ("reading_list/4", "reading_list/04", "reading_list/04_losses"):
        assert files.find_chapter(name, root) == folder / "04_losses.ipynb"
    assert files.find_chapter("04", root) == root / "notebooks" / "04_c.ipynb"
    assert [files.chapter_number(path) for path in files.find_notebooks(root)] == [
        "03", "04", "reading_list/03", "reading_list/04",
    ]  # fmt: skip
    with pytest.raises(ChapterError, match=r"'reading_list/05' names 0 .*: 03_features, 04_losses"):
        files.find_chapter("reading_list/05", root)


def test_a_folder_that_cannot_be_read_is_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, c03=notebook())

    def refuse(folder: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError, match="notebooks"):
        files.find_chapters(root)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-0100", -100),
        ("1e-3", 0.001),
        ("2.5E+1", 25.0),
        ("{seed: 012, rates: [.5, 1]}", {"seed": 12, "rates": [0.5, 1]}),
        ("[true, null, ~, '010', 0x1F, 0o17, 1:30, yes, 1_000, 2026-01-02]",
         [True, None, None, "010", "0x1F", "0o17", "1:30", "yes", "1_000", "2026-01-02"]),
        ("", None),
    ],
)  # fmt: skip
def test_yaml_numbers_are_decimal_and_nothing_else_is_a_number(text: str, value: Any) -> None:
    assert repr(files.read_yaml(text)) == repr(value)


def test_yaml_with_a_key_twice_is_refused() -> None:
    for text in ("{a: 1, a: 2}", "x:\n  b: 1\n  b: 1\n"):
        with pytest.raises(yaml.YAMLError, match="appears twice"):
            files.read_yaml(text)


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


def test_a_symbolic_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "a.pt", tmp_path / "disk" / "a.pt"
    link.symlink_to(target)
    for content in ("new", "newer"):  # first where the link leads to nothing yet
        files.write_atomically(link, content)
        assert link.is_symlink()
        assert target.read_text() == content
        assert list(target.parent.iterdir()) == [target]


def test_a_fresh_folder_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    site = tmp_path / "build" / "site"
    with files.fresh_folder(site) as made:
        (made / "first").touch()
        assert not site.exists()
    with pytest.raises(FileExistsError), files.fresh_folder(site) as made:
        made.mkdir()
    assert [p.name for p in site.iterdir()] == ["first"]
    with files.fresh_folder(site) as made:
        made.with_name("beside").mkdir()
        (made / "second").touch()
    assert [p.name for p in site.iterdir()] == ["second"]
    assert [p.name for p in site.parent.iterdir()] == ["site"]

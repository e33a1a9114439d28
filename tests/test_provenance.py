"""What identifies a notebook's source, the names in its stamp, and the times that a learner sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output
from small_notebooks import notebook, project

from helpers import provenance
from helpers.files import ChapterError


def test_source_hash_sees_sources_types_tags_and_nbgrader_only() -> None:
    nb = notebook("x = 1", "# Title")
    nb.cells[2].metadata["nbgrader"] = {"grade_id": "b", "points": 1}
    before = provenance.source_hash(nb)
    nb.cells[1].update(id="other", execution_count=3, outputs=[new_output("stream", text="x")])
    nb.cells[1].metadata.update(collapsed=True, editable=False)
    nb.cells[2].metadata["nbgrader"] = {"points": 1, "grade_id": "b"}
    nb.metadata["widgets"] = {}
    nb.cells.insert(1, new_code_cell("seed = 4", metadata={"tags": [provenance.INJECTED]}))
    assert provenance.source_hash(nb) == before
    for change in (
        lambda n: n.cells[2].update(source="x = 2"),
        lambda n: n.cells[2].update(cell_type="markdown"),
        lambda n: n.cells[2].metadata.update(tags=["hide"]),
        lambda n: n.cells[2].metadata.update(nbgrader={"grade_id": "a", "points": 1}),
        lambda n: n.cells.pop(),
    ):
        changed = nbformat.from_dict(nb)
        changed = nbformat.reads(nbformat.writes(changed), as_version=4)
        change(changed)
        assert provenance.source_hash(changed) != before


def test_the_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def torch(cuda: bool, mps: bool) -> SimpleNamespace:
        accelerator = SimpleNamespace(is_available=lambda: cuda, get_device_name=lambda: "NVIDIA H200")
        backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
        return SimpleNamespace(cuda=accelerator, backends=backends)

    for cuda, mps, parameters, expected in [
        (True, False, {}, "NVIDIA H200"),
        (False, True, {}, "Apple MPS"),
        (False, False, {}, "CPU ("),
        (True, True, {"device": "cpu"}, "CPU ("),
    ]:
        monkeypatch.setitem(sys.modules, "torch", torch(cuda, mps))
        assert provenance.device_name(parameters).startswith(expected)


def test_the_system_has_the_name_that_people_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for reported, expected in [("Darwin", "macOS"), ("Linux", "Linux"), ("Windows", "Windows")]:
        monkeypatch.setattr(provenance.platform, "system", lambda reported=reported: reported)
        assert provenance.system_name() == expected


def stamped(root: Path, sections: list[list[object]], date: str = "2026-01-02T03:04:05+00:00") -> Path:
    nb = notebook()
    stamp = {"section_seconds": sections, "device": "NVIDIA H200", "system": "Linux", "date": date}
    nb.metadata[provenance.STAMP] = stamp
    return project(root, c03=nb)


def test_section_times_are_a_table_with_a_total(tmp_path: Path) -> None:
    sections = [["Set-up", 0.2], ["1 Bounds of $|x|$", 90.4], ["2 Runs", 90.6], ["3 More", 3605.0]]
    table, measured = provenance.section_times("03", stamped(tmp_path, sections)).split("\n\n")
    assert table.splitlines() == [
        "| Section | Time |",
        "| --- | --- |",
        "| Set-up | < 1 s |",
        "| 1 Bounds of $\\|x\\|$ | 90 s |",
        "| 2 Runs | 1 min 31 s |",
        "| 3 More | 60 min 5 s |",
        "| **Total** | **63 min 6 s** |",
    ]
    assert measured == "Measured on NVIDIA H200, Linux, on 2026-01-02 (UTC)."


def test_section_times_give_the_day_in_utc(tmp_path: Path) -> None:
    root = stamped(tmp_path, [["Set-up", 1.0]], date="2026-01-02T23:30:00-02:00")
    assert "on 2026-01-03 (UTC)" in provenance.section_times("03", root)


def test_a_chapter_without_a_stamp_says_so_in_one_line(tmp_path: Path) -> None:
    sentence = provenance.section_times("3", project(tmp_path, c03=notebook()))
    assert "python -m helpers.chapters execute 03" in sentence
    assert "|" not in sentence
    assert "\n" not in sentence


def test_section_times_of_nothing(tmp_path: Path) -> None:
    root = project(tmp_path, c03=notebook())
    with pytest.raises(ChapterError, match="chapter '04' names 0 notebooks"):
        provenance.section_times("04", root)
    for text in ("{", "[]", '{"cells": []}'):
        (root / "notebooks" / "03_c.ipynb").write_text(text)
        with pytest.raises(ValueError, match=r"03_c.ipynb is not a notebook"):
            provenance.section_times("03", root)


def test_a_chapter_can_import_this_room_at_once() -> None:
    heavy = {"torch", "papermill", "nbconvert", "nbformat", "numpy"}
    code = f"import sys, helpers.provenance, helpers.files; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

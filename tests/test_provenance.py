"""What identifies a notebook's source, the names in its stamp, and the times that a learner sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output
from small_notebooks import notebook

from helpers import PROJECT_ROOT, provenance
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


HELPERS = {
    "__init__.py": "ROOT = 1",
    "alone.py": "def unused():\n    return 1",
    "metrics.py": "import helpers.deep.low\ndef recall(x):\n    return x",
    "lazy.py": "def late():\n    from helpers import late_room\n    return late_room",
    "late_room.py": "NUMBER = 3",
    "named.py": "from importlib import import_module\nroom = import_module('helpers.birds')",
    "birds.py": "WINGS = 2",
    "plotting.py": "COLOR = 'blue'",
    "figures/__init__.py": "from helpers.alone import unused",
    "deep/__init__.py": "",
    "deep/low.py": "from . import lower",
    "deep/lower.py": "LOW = 1",
    "losses/__init__.py": "from helpers.losses.triplet import triplet\nfrom .centre import centre",
    "losses/triplet.py": "def triplet(x):\n    return x",
    "losses/centre.py": "def centre(x):\n    return x",
    "experiments/__init__.py": "from helpers.experiments.comparison import paired",
    "experiments/comparison.py": "def paired(x):\n    return x",
}
CODE = """\
%matplotlib inline
from helpers import plotting, lazy
from helpers.figures import gap
from helpers.metrics import recall
from helpers.losses import triplet as loss
from helpers.experiments import paired
import helpers.named
recall(1)"""


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A project with helpers of its own."""
    for name, text in HELPERS.items():
        path = tmp_path / "helpers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


REACHED = ("metrics", "lazy", "late_room", "named", "birds", "deep/low", "deep/lower", "losses/triplet",
           "experiments/comparison")  # fmt: skip
APART = ("alone", "plotting", "figures/__init__", "losses/centre")


@pytest.mark.parametrize("name", REACHED)
def test_a_changed_module_that_is_reached_changes_the_code_hash(rooms: Path, name: str) -> None:
    before, path = provenance.code_hash(notebook(CODE), rooms), rooms / "helpers" / f"{name}.py"
    text = path.read_text()
    path.write_text(f'"""Documented now."""\n\n{text}  # and commented\n')
    assert provenance.code_hash(notebook(CODE), rooms) == before
    path.write_text(text + "more = 1\n")
    assert provenance.code_hash(notebook(CODE), rooms) != before


@pytest.mark.parametrize("name", APART)
def test_a_changed_module_that_moves_no_number_does_not(rooms: Path, name: str) -> None:
    before, path = provenance.code_hash(notebook(CODE), rooms), rooms / "helpers" / f"{name}.py"
    path.write_text(path.read_text() + "more = 1\n")
    assert provenance.code_hash(notebook(CODE), rooms) == before


def test_loading_a_set_here_reaches_the_birds_that_it_may_draw() -> None:
    nb = notebook("from helpers.data import load_dataset")
    reached = provenance._reached(provenance.code_of(nb.cells), PROJECT_ROOT / "helpers")
    assert {"helpers.data.load", "helpers.data.birds", "helpers.data.drawing"} <= set(reached)
    assert "helpers.retrieval" not in reached


def test_a_changed_function_body_changes_its_hash_and_a_docstring_does_not(rooms: Path) -> None:
    path = rooms / "helpers" / "metrics.py"
    path.write_text('def recall(x):\n    """Say."""\n    return x + 1\n')
    before = provenance.code_hash(notebook(CODE), rooms)
    path.write_text("# Moved.\n\n\ndef recall(x):\n    'Say more.'\n    return (x + 1)  # one\n")
    assert provenance.code_hash(notebook(CODE), rooms) == before
    path.write_text("def recall(x):\n    return x + 1.0\n")
    assert provenance.code_hash(notebook(CODE), rooms) != before


def test_numbers_hash_sees_code_alone() -> None:
    exercise = new_code_cell("answer = 1", metadata={"nbgrader": {"grade_id": "a"}})
    nb = notebook("# Title", 'def f(x):\n    """Half."""\n    return x / 2', "f(1)", exercise)
    before = provenance.numbers_hash(nb)
    nb.cells[0].source = nb.cells[0].source.replace("= 0.1", "= 0.2")  # a stamp keeps the parameters
    nb.cells[1].source = "# Another title"
    nb.cells[2].source = "def f(x):  # half of it\n    return x / 2"
    nb.cells[4].source = "answer = 2"
    nb.cells.insert(1, new_code_cell("seed = 4", metadata={"tags": [provenance.INJECTED]}))
    assert provenance.numbers_hash(nb) == before
    nb.cells[3].source = "def f(x):\n    return x / 3"
    assert provenance.numbers_hash(nb) != before
    with pytest.raises(ChapterError, match=r"cell 2 is not valid Python"):
        provenance.numbers_hash(notebook("# T", "x = ("))


def test_numbers_hash_passes_over_figures_and_sees_what_is_drawn() -> None:
    def of(*sources: str) -> str:
        return provenance.numbers_hash(notebook("# Title", *sources))

    plain = of("runs = sweep(3)")
    assert of("runs = sweep(3)", 'runs.show("accuracy", title="a finding")') == plain
    assert of("runs = sweep(3)", "plotting.show(*figure(runs))") == plain
    assert of('finding = "It helps"\nruns = sweep(3)', "plotting.show(*figure(runs, finding))") == plain
    assert of('found = "It helps"\nruns = sweep(3)') != plain
    assert of("runs = sweep(3)", "shown = runs.show(4)") != plain  # its value may be used
    assert of("runs = sweep(3)", "runs.drop(1)") != plain


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


def test_what_is_no_notebook_has_no_stamp(tmp_path: Path) -> None:
    path = tmp_path / "03_c.ipynb"
    assert provenance.stamp_of(path) == {}
    for text in ("{", "[]", '{"cells": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"03_c.ipynb is not a notebook"):
            provenance.provenance(path)
        assert provenance.stamp_of(path) == {}


def test_a_chapter_can_import_this_room_at_once() -> None:
    heavy = {"torch", "papermill", "nbconvert", "nbformat", "numpy"}
    code = f"import sys, helpers.provenance, helpers.files; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""One notebook keeps every house rule; each rule catches the notebook that breaks exactly that rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import notebook_hygiene as hygiene
import pytest
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_notebooks import KERNELSPEC, notebook, project

from helpers import provenance
from helpers.claims import recording as claims
from helpers.experiments import Evidence
from helpers.files import ChapterError

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def exercise(number: int) -> list[NotebookNode]:
    def meta(grade: bool) -> dict[str, Any]:
        kind = {"grade": grade, "solution": not grade, "locked": grade, "task": False, "schema_version": 3}
        more = {"points": 1} if grade else {}
        return {
            "nbgrader": kind | more | {"grade_id": f"exercise-{number}-{'check' if grade else 'solution'}"}
        }

    solution = f"### BEGIN SOLUTION\nanswer_{number} = {number}\n### END SOLUTION"
    return [
        new_code_cell(solution, metadata=meta(grade=False)),
        new_code_cell(f"assert answer_{number} == {number}", metadata=meta(grade=True)),
    ]


def good_notebook() -> NotebookNode:
    picture = {"image/png": PIXEL, "text/plain": "<Figure size 1x1>"}
    widget = {
        hygiene.WIDGET_VIEW: {"model_id": "a", "version_major": 2, "version_minor": 0},
        "text/plain": "w",
    }
    figure = [
        new_output("display_data", widget),
        new_output("display_data", picture, metadata={"image/png": {"alt": "one dot"}}),
    ]
    prose = "word " * 450 + "where $n!$ counts, `a != b` holds, and ![a dot](dot.png) is drawn."
    nb = new_notebook(
        cells=[
            new_markdown_cell(f"# A chapter\n\n{prose}\n\n```python\nassert x != 1  # so!\n```"),
            new_code_cell("seed: int = 0  # [0, 9] seed", metadata={"tags": ["parameters"]}),
            new_code_cell("show(seed)", outputs=figure),
            *(cell for number in (1, 2, 3) for cell in exercise(number)),
        ],
        metadata={"kernelspec": dict(KERNELSPEC)},
    )
    for count, cell in enumerate((c for c in nb.cells if c.cell_type == "code"), start=1):
        cell.execution_count = count
    return nb


def stamp(nb: NotebookNode) -> NotebookNode:
    hashes = {"source_hash": provenance.source_hash(nb)}
    with suppress(ChapterError):  # a chapter that is not valid Python has no other hash
        hashes |= {"numbers_hash": provenance.numbers_hash(nb), "code_hash": provenance.code_hash(nb)}
    nb.metadata[provenance.STAMP] = hashes
    return nb


def found(tmp_path: Path, nb: NotebookNode) -> list[tuple[str, str]]:
    path = tmp_path / "03_chapter.ipynb"
    path.write_text(json.dumps(nb), encoding="utf-8")
    return hygiene.problems(path)


def test_a_good_notebook_has_no_problems(tmp_path: Path) -> None:
    assert found(tmp_path, stamp(good_notebook())) == []


def output(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def set_metadata(index: int, **changes: Any) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[index].metadata["nbgrader"].update(changes)


def swap(index: int, old: str, new: str) -> Callable[[NotebookNode], None]:
    def change(nb: NotebookNode) -> None:
        assert old in nb.cells[index].source
        nb.cells[index].source = nb.cells[index].source.replace(old, new)

    return change


def append(index: int, text: str) -> Callable[[NotebookNode], None]:
    def change(nb: NotebookNode) -> None:
        nb.cells[index].source += text

    return change


def add_output(out: NotebookNode) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[2].outputs.append(out)


def widget_error(nb: NotebookNode) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "hidden", "traceback": []}
    model = {"model_name": "OutputModel", "model_module": "m", "state": {"outputs": [error]}}
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"id": model}}}


def assign(index: int, **values: Any) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[index].update(values)


def no_alt(nb: NotebookNode) -> None:
    nb.cells[2].outputs[1].metadata = {"image/png": {"alt": " "}}


def drop_output(index: int) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[2].outputs.pop(index) and None


ERROR = new_output("error", ename="ValueError", evalue="open", traceback=[])
BREAKS: list[tuple[str, Callable[[NotebookNode], None]]] = [
    ("valid", lambda nb: nb.cells[0].update(cell_type="prose")),
    ("executed", assign(3, execution_count=9)),
    ("executed", assign(1, execution_count=None)),
    ("errors", add_output(ERROR)),
    ("errors", widget_error),
    ("stderr", add_output(output("careful", "stderr"))),
    ("parameters", lambda nb: nb.cells[1].metadata.pop("tags") and None),
    ("parameters", swap(2, "seed", "7")),
    ("parameters", swap(1, "  # [0, 9] seed", "")),
    ("checked-output", lambda nb: nb.cells[3].outputs.append(output("Correct.\n"))),
    ("checked-output", lambda nb: nb.cells[2].metadata.update(tags=["nbval-check-output"])),
    ("cell-length", append(3, "\n# more" * 43)),
    ("prose", swap(0, "word " * 450, "word " * 300)),
    ("exercises", swap(3, "### END SOLUTION", "")),
    ("exercises", lambda nb: nb.cells[3].metadata.pop("nbgrader") and None),
    ("exercises", set_metadata(3, solution=False)),
    ("exercises", set_metadata(4, grade=False)),
    ("exercises", set_metadata(4, points=None)),
    ("exercises", set_metadata(5, grade_id="exercise-1-solution")),
    ("exercises", set_metadata(5, grade_id="")),
    ("exercises", set_metadata(6, schema_version=2)),
    ("exercises", lambda nb: nb.cells.__delitem__(slice(7, 9))),
    ("widget", drop_output(0)),
    ("widget", drop_output(1)),
    ("paths", add_output(output("read /home/ada/x"))),
    ("paths", append(3, "\n# see /work/elsewhere/data")),
    ("paths", append(0, "\nfiles in `/tmp`")),
    ("alt-text", no_alt),
    ("alt-text", append(0, "\n\n![](dot.png)")),
    ("alt-text", append(0, '\n\n<img src="dot.png" alt="">')),
    ("alt-text", add_output(new_output("display_data", {"text/html": '<img src="dot.png">'}))),
    ("alt-text", add_output(new_output("display_data", {"image/svg+xml": "<svg/>"}))),
    ("shared", append(0, f"\nsee {hygiene.SHARED}")),
    ("myst", append(0, "\n\n```{note}\nlisten\n```")),
    ("myst", append(0, "\n\n:::tip\nlisten\n:::")),
    ("kernelspec", lambda nb: nb.metadata.kernelspec.update(name="venv")),
    ("exclamation", append(0, "\n\nIt works!")),
    ("links", append(0, "\n\nSee [chapter 9](09_absent.ipynb#part).")),
    ("cell-ids", lambda nb: nb.cells[1].update(id=nb.cells[0].id)),
    ("cell-ids", lambda nb: nb.cells[1].pop("id") and None),
    ("size", add_output(output("x" * hygiene.MAX_BYTES))),
]


@pytest.mark.parametrize(("name", "change"), BREAKS)
def test_each_rule_catches_its_own_break(
    tmp_path: Path, name: str, change: Callable[[NotebookNode], None]
) -> None:
    nb = good_notebook()
    change(nb)
    assert {rule for rule, _ in found(tmp_path, stamp(nb))} == {name}


def test_the_stamp_must_fit_the_source(tmp_path: Path) -> None:
    nb = stamp(good_notebook())
    nb.cells[0].source += " More."
    assert {rule for rule, _ in found(tmp_path, nb)} == {"stamp"}
    assert {rule for rule, _ in found(tmp_path, good_notebook())} == {"stamp"}


@pytest.mark.parametrize("key", ["numbers_hash", "code_hash"])
def test_outputs_may_not_be_older_than_the_code_that_they_come_from(tmp_path: Path, key: str) -> None:
    nb = stamp(good_notebook())
    nb.metadata[provenance.STAMP][key] = "of earlier code"
    ((name, text),) = found(tmp_path, nb)
    assert name == "stamp"
    assert "changed since its numbers were made; use `python -m helpers.chapters execute`" in text


@pytest.mark.parametrize(
    ("text", "tags", "wanted"),
    [
        ("12 classes", [], True),
        ("12 classes", ["nbval-check-output"], False),
        ("12 classes", ["nbval-ignore-output"], False),
        ("accuracy 0.93", [], False),
        ("took 3 s", [], False),
        ("difference 9e-07", [], False),
    ],
)
def test_text_that_every_machine_prints_is_to_be_compared(
    tmp_path: Path, text: str, tags: list[str], wanted: bool
) -> None:
    nb = good_notebook()
    nb.cells[3].outputs = [output(text)]
    nb.cells[3].metadata["tags"] = tags
    assert ("checked-output" in dict(found(tmp_path, stamp(nb)))) == wanted


def test_no_committed_evidence_is_older_than_its_code_or_its_plan() -> None:
    lines = hygiene.evidence_problems()
    assert not lines, "\n".join(lines)


def test_evidence_is_outdated_when_code_or_plan_changed(tmp_path: Path) -> None:
    parameters = "seed: int = 0  # [0, 900] seed\nsteps: int = 5  # [1, 99] steps"
    nb = notebook("print(seed, steps)", parameters=parameters)
    root = project(tmp_path, c03=nb)
    plan = root / "reproduce" / "grids" / "03_study.yaml"
    plan.parent.mkdir()
    plan.write_text('chapter: "03"\nabout: A.\ntier: study\nseed: [100]\nset: {steps: 50}\n')
    known = {"numbers_hash": provenance.numbers_hash(nb), "code_hash": provenance.code_hash(nb)}
    facts = dict.fromkeys(("source_hash", "commit", "device", "system", "date"), "x") | {"versions": {}}
    facts |= {"chapter": "03", "tier": "study", "grid": plan.name, "wall_seconds": 1, "plan_committed": True}
    facts |= {"command": "make study CHAPTER=03", "parameters": {"seed": 100, "steps": 50}, **known}

    def problems(**changes: Any) -> list[str]:
        Evidence(**(facts | changes)).write(root)
        return hygiene.evidence_problems(root)

    assert problems() == []
    assert problems(parameters={"seed": 100, "steps": 40}) == [
        "03_study.json: its parameters steps changed since its numbers were made; use `make study CHAPTER=03`"
    ]
    assert "the chapter's code changed" in problems(numbers_hash="old")[0]
    assert "helpers/ that the chapter reaches changed" in problems(code_hash="old")[0]
    nb.cells[0].source = parameters.replace("= 5", "= 6")  # a default that the plan replaces
    nb.cells.append(new_markdown_cell("More words."))
    project(tmp_path, c03=nb)
    assert problems() == []
    assert "no grid '03_gone'" in problems(grid="03_gone.yaml")[0]
    (root / "reproduce" / "evidence" / "03_study.json").write_text("{}")
    assert "is no evidence file" in hygiene.evidence_problems(root)[0]


def test_every_rule_is_tested() -> None:
    assert {name for name, _ in BREAKS} | {"stamp"} == set(hygiene.RULES) | {
        "valid",
        "size",
        "cell-ids",
        "links",
    }


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    for text in ("", "{", "[]"):
        path = tmp_path / "x.ipynb"
        path.write_text(text)
        assert [name for name, _ in hygiene.problems(path)] == ["valid"]
    assert [name for name, _ in hygiene.problems(tmp_path / "absent.ipynb")] == ["valid"]


def test_pictures_and_addresses_are_not_machine_paths(tmp_path: Path) -> None:
    nb = good_notebook()
    html = '<img alt="x" src="data:image/png;base64,AA+/usr/home/AA==">'
    nb.cells[2].outputs.append(new_output("display_data", {"text/html": html}))
    nb.cells[0].source += " See https://example.org/home/usr/ and data/work/x, either/or."
    nb.cells[0].source += " [That](https://example.org/x), [this](03_chapter.ipynb), [top](#a)."
    assert found(tmp_path, stamp(nb)) == []


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(tmp_path, stamp(good_notebook())) == []
    path = tmp_path / "03_chapter.ipynb"
    assert hygiene.main([str(path)]) == 0
    assert "1 notebooks, no problems" in capsys.readouterr().out
    path.write_text("{")
    assert hygiene.main([str(path)]) == 1
    assert f"{path}: [valid]" in capsys.readouterr().out
    monkeypatch.setattr(hygiene, "committed_notebooks", lambda: [])
    assert hygiene.main([]) == 1
    assert "no notebooks" in capsys.readouterr().out


def row(claim_id: str, chapter: str) -> dict[str, Any]:
    texts = dict.fromkeys(("claim", "source", "measure", "unit", "thesis_setting"), "text")
    return {
        "id": claim_id,
        "chapter": chapter,
        "kind": "identity",
        "tolerance": 0,
        "published": None,
        **texts,
    }


def test_ledger_and_chapters_fit_together(tmp_path: Path) -> None:
    ledger = tmp_path / "claims.yaml"
    ledger.write_text(yaml.safe_dump([row("a", "03"), row("b", "03"), row("c", "04")]))

    def chapter(name: str, *claim_ids: str) -> Path:
        bundles = [{claims.MIME: {"claim_id": i, "setting": "x", "violation": 0.0}} for i in claim_ids]
        outputs = [new_output("display_data", bundle) for bundle in bundles]
        nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), tmp_path / name)
        return tmp_path / name

    third, fourth = chapter("03_a.ipynb", "a", "b"), chapter("04_b.ipynb", "c")
    assert hygiene.ledger_problems([third, fourth], ledger) == []
    assert hygiene.ledger_problems([third], ledger) == [
        "chapter 04, which is not there, does not measure 'c'"
    ]
    assert hygiene.ledger_problems([chapter("03_a.ipynb", "a"), fourth], ledger) == [
        "03_a.ipynb does not measure 'b'"
    ]
    wrong = hygiene.ledger_problems([chapter("03_a.ipynb", "a", "b", "c"), chapter("04_b.ipynb")], ledger)
    assert wrong == ["03_a.ipynb measures 'c', which belongs to chapter 04"]
    waits = row("a", "03") | {"plan": "not yet: chapter 3, some day"}
    parts = row("w", "03") | {"kind": "composite", "components": ["b"]}
    whole = {name: value for name, value in parts.items() if name not in ("tolerance", "unit")}
    ledger.write_text(yaml.safe_dump([waits, row("b", "03"), whole]))
    assert hygiene.ledger_problems([chapter("03_a.ipynb", "b")], ledger) == []
    assert hygiene.ledger_problems([chapter("03_a.ipynb", "a", "b")], ledger) == [
        "03_a.ipynb measures 'a', which 'plan' calls not yet measured"
    ]
    assert "not in the ledger" in hygiene.ledger_problems([chapter("03_a.ipynb", "z")], ledger)[0]
    assert "no claims ledger" in hygiene.ledger_problems([], tmp_path / "absent.yaml")[0]

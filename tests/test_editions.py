"""Editions of the notebooks: a learner's copies hold no answer, no work is lost, a course grades."""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from small_notebooks import notebook, project

from helpers import PROJECT_ROOT, exercises
from helpers.editions import CourseError
from helpers.editions.classroom import run_nbgrader, with_answers, write_assignment
from helpers.editions.learner import WRITTEN, is_solution, without_solutions, write_copies
from helpers.files import chapter_number, find_notebooks

CHECK = "exercises.check(double, lambda x: 2 * x, [(3,), (5,)])"
ANSWER = "### BEGIN SOLUTION\ndef double(x):\n    return x + x\n### END SOLUTION\n\n\n" + CHECK
CHOICE = 'exercises.choose(mine, {"a": "it is not.", "b": "it is."}, right="b")'


def cell(name: str, source: str, points: int = 0, **metadata: object) -> NotebookNode:
    graded = {"grade": bool(points), "locked": bool(points), "solution": not points} | {"grade_id": name}
    more = {"points": points} if points else {}
    metadata.setdefault("nbgrader", graded | more | {"schema_version": 3, "task": False})
    return new_code_cell(source, id=name, metadata=metadata)


def with_exercises() -> NotebookNode:
    """An exercise with an answer and a choice."""
    nb = notebook("from helpers import exercises")
    folded = {"tags": ["solution"], "jupyter": {"source_hidden": True}, "nbgrader": {}}
    nb.cells += [
        cell("ex-double", "def double(x):\n    ...  # your answer"),
        cell("ex-double-check", CHECK, 2),
        cell("ex-double-solution", ANSWER, **folded),
        cell("ex-choice", 'mine = ...  # "a" or "b"'),
        cell("ex-choice-check", CHOICE, 1),
    ]
    return nb


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_no_answer_is_left_in_a_learners_copy(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    made = without_solutions(nb, chapter_number(path))
    nbformat.validate(made)
    assert [c.id for c in made.cells] == [c.id for c in nb.cells]
    kept = {line.strip() for c in nb.cells if not is_solution(c) for line in c.source.splitlines()}
    answers = [c for c in nb.cells if is_solution(c)]
    assert answers, "the notebook has an exercise with an answer"
    shown = "\n".join(json.dumps(c, ensure_ascii=False) for c in made.cells)
    for answer in answers:
        between = answer.source.split("### BEGIN SOLUTION\n")[1].split("### END SOLUTION")[0]
        lines = [line for line in between.splitlines() if len(line.strip()) > 12 and line.strip() not in kept]
        assert [line for line in lines if json.dumps(line.strip(), ensure_ascii=False)[1:-1] in shown] == []
        exercise = answer.id.removesuffix("-solution")
        (own,) = (c for c in made.cells if c.id == answer.id)
        assert own.outputs == []
        asked = own.source.removeprefix("# ").split("  #")[0]
        told = eval(asked, {"exercises": exercises}).data  # what the line does without its first #
        assert all(line in told for line in lines), exercise
    assert not any(is_solution(c) for c in made.cells)
    assert "nbgrader" not in shown


def test_an_answer_that_is_not_written_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no answer to 'ex-none' is written; there are answers to ex-negative"
    ):
        exercises.solution("05", "ex-none")


def test_copies_are_renewed_until_somebody_works_in_them(tmp_path: Path) -> None:
    root = project(tmp_path, c03=with_exercises())
    (folder := root / "notebooks" / "reading_list").mkdir()
    nbformat.write(notebook("1"), folder / "04_c.ipynb")
    first, listed = root / "learner" / "03_c.ipynb", root / "learner" / "reading_list" / "04_c.ipynb"

    def change(text: str) -> None:
        nb = with_exercises()
        nb.cells[0].source = text
        nbformat.write(nb, root / "notebooks" / "03_c.ipynb")

    assert write_copies(root) == []
    assert listed.is_file()
    assert "return x + x" not in first.read_text()
    change("# second version")
    assert write_copies(root) == []  # nobody has touched it
    assert "second version" in first.read_text()

    work = nbformat.read(first, as_version=4)
    work.cells[-2].source = 'mine = "a"'
    nbformat.write(work, first)
    mine = first.read_bytes()
    assert write_copies(root) == []  # there is no newer version
    change("# third version")
    (note,) = write_copies(root)
    assert note == (
        "learner/03_c.ipynb holds your work and stays as it is; its new version is learner/03_c_2.ipynb."
    )
    assert write_copies(root) == []
    change("# fourth version")
    assert write_copies(root) == []
    assert "fourth version" in (root / "learner" / "03_c_2.ipynb").read_text()
    assert first.read_bytes() == mine
    assert len(list(first.parent.glob("*.ipynb"))) == 2

    (root / "learner" / WRITTEN).write_text("{")  # what was written is not known: nothing is overwritten
    before = {p: p.read_bytes() for p in first.parent.glob("*.ipynb")}
    assert len(write_copies(root)) == 2
    assert {p: p.read_bytes() for p in before} == before


def test_run_all_goes_on_in_a_learners_copy_and_a_grader_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(exercises.GRADING, raising=False)
    calls = [
        lambda: exercises.check(lambda x: None, lambda x: x, [(1,)]),
        lambda: exercises.choose(..., {"a": "no", "b": "yes"}, right="b"),
        lambda: exercises.order(None, {"one": 1.0, "two": 2.0}),
    ]
    for call in calls:
        call()
    monkeypatch.setenv(exercises.GRADING, "1")
    for call in calls:
        with pytest.raises(AssertionError, match=exercises.NOT_ANSWERED):
            call()


def test_a_wrong_answer_shows_a_sentence_and_no_traceback() -> None:
    shell = InteractiveShell()
    for call, first in (
        ("exercises.check(lambda x: x + 1.0, lambda x: x, [(1.0,)], hint='Count.')", "case 1: expected 1, "),
        ("exercises.choose('a', {'a': 'it is not.', 'b': 'it is.'}, right='b')", "Not 'a': it is not."),
        ("exercises.choose('c', {'a': 'no', 'b': 'yes'}, right='b')", "the answer is 'c'; expected "),
    ):
        with capture_output() as captured:
            shell.run_cell(f"from helpers import exercises\n{call}")
        shown = captured.stdout.strip()
        assert shown.startswith(first)
        assert "\n" not in shown


def test_an_answer_in_numpy_is_taken_where_no_gradient_is_asked() -> None:
    def total(x):
        return float(x.numpy().sum())

    exercises.check(total, lambda x: x.sum().item(), [(torch.ones(3),)])
    with pytest.raises(RuntimeError, match="grad"):
        exercises.check(total, lambda x: x.sum(), [(torch.ones(3),)])


def test_two_matrices_are_shown_below_each_other_and_the_hint_last() -> None:
    with pytest.raises(exercises.WrongAnswer) as caught:
        exercises.check(torch.abs, torch.neg, [(torch.ones(2, 2),)], hint="Think of the sign.")
    assert str(caught.value).splitlines() == [
        *("case 1: expected tensor([[-1., -1.],", "        [-1., -1.]]),"),
        *("you say tensor([[1., 1.],", "        [1., 1.]]).", "Think of the sign."),
    ]


def test_answers_stand_where_nbgrader_looks_for_them() -> None:
    made = with_answers(with_exercises())
    source = {c.id: c.source for c in made.cells}
    assert source["ex-double"].endswith(
        "your answer\n### BEGIN SOLUTION\ndef double(x):\n    return x + x\n### END SOLUTION"
    )
    assert "### BEGIN SOLUTION\nmine = 'b'\n### END SOLUTION" in source["ex-choice"]
    assert source["ex-choice-check"] == f"### BEGIN HIDDEN TESTS\n{CHOICE}\n### END HIDDEN TESTS"
    assert "ex-double-solution" not in source
    names: dict[str, object] = {"exercises": exercises}
    for name in ("ex-double", "ex-double-check", "ex-choice", "ex-choice-check"):
        exec(source[name], names)  # the source answers its own questions
    with pytest.raises(CourseError, match="no exercise"):
        with_answers(notebook("1"))


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_every_notebook_can_be_handed_out(path: Path) -> None:
    made = with_answers(nbformat.read(path, as_version=4))
    nbformat.validate(made)
    asked = [c for c in made.cells if c.metadata.get("nbgrader", {}).get("solution")]
    ids = {c.id for c in made.cells}
    assert asked
    for c in asked:
        assert c.source.count("### BEGIN SOLUTION") == c.source.count("### END SOLUTION") == 1
        assert f"{c.id}-check" in ids


def test_a_course_releases_grades_and_returns_an_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    root, name = project(tmp_path, c03=with_exercises()), "03_c"
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    assert "Hand out course/release/03_c" in write_assignment("03", root)[0]
    course = root / "course"
    released = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    shown = "\n".join(c.source for c in released.cells)
    assert "return x + x" not in shown
    assert "'b'" not in shown
    assert '"b"' in shown  # the options are told, the right one is not
    assert "right=" not in shown

    answers = {
        "right": {"ex-double": "def double(x):\n    return x * 2", "ex-choice": 'mine = "b"'},
        "wrong": {"ex-double": "def double(x):\n    return x * x", "ex-choice": 'mine = "b"'},
        "missing": {},
    }
    for student, given in answers.items():
        nb = copy.deepcopy(released)
        for c in nb.cells:
            c.source = given.get(c.id, c.source)
        (there := course / "submitted" / student / name).mkdir(parents=True)
        nbformat.write(nb, there / f"{name}.ipynb")
    run_nbgrader(course, "autograde", name)
    run_nbgrader(course, "generate_feedback", name)
    run_nbgrader(course, "export")
    with (course / "grades.csv").open() as file:
        scores = {row["student_id"]: float(row["score"] or 0) for row in csv.DictReader(file)}
    assert scores == {"right": 3.0, "wrong": 1.0, "missing": 0.0}
    page = (course / "feedback" / "wrong" / name / f"{name}.html").read_text()
    assert "case 1: expected 6, you say 9" in page

    source = course / "source" / name / f"{name}.ipynb"
    source.write_text(source.read_text().replace("your answer", "yours"))
    assert "differs from the chapter and stays as it is" in write_assignment("03", root)[0]
    assert "# yours" in (course / "release" / name / f"{name}.ipynb").read_text()


def test_the_command_line_says_what_cannot_be_done() -> None:
    command = [sys.executable, "-m", "helpers.editions", "assignment", "11"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("chapter '11' names 0 notebooks")

"""The teacher's edition: a chapter as an assignment of an nbgrader course.

nbgrader releases it without answers, collects, grades and returns it: https://nbgrader.readthedocs.io
"""

from __future__ import annotations

import ast
import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers import PROJECT_ROOT
from helpers.editions import CourseError
from helpers.editions.learner import is_check, is_solution
from helpers.exercises import GRADING
from helpers.files import find_chapter, write_atomically
from helpers.provenance import STAMP

FOLDER = "course"
CONFIGURATION = f'''"""An nbgrader course. Run nbgrader in this folder; `nbgrader --help` lists its steps."""
import os

os.environ["{GRADING}"] = "1"  # an exercise without an answer gets no points
c = get_config()
c.CourseDirectory.course_id = "closing-the-gap"
c.ClearSolutions.code_stub = {{"python": ""}}  # the stub stands above the answer
c.ExecutePreprocessor.timeout = 900
'''


def with_answers(nb: NotebookNode) -> NotebookNode:
    """A notebook as nbgrader wants its source: each answer in the cell where the student writes one.

    The answer of an exercise follows its stub, between nbgrader's marks. The answer to a choice is the right
    option; the cell that checks a choice tells it, and is hidden from students.

    Raises:
        CourseError: the notebook has no exercise.
    """
    made = copy.deepcopy(nb)
    made.metadata.pop(STAMP, None)
    cells = {cell.id: cell for cell in made.cells}
    exercises = [cell for cell in made.cells if cell.metadata.get("nbgrader", {}).get("solution")]
    if not exercises:
        raise CourseError("this notebook has no exercise to hand out")
    for cell in exercises:
        answer, check = (cells.get(f"{cell.id}{end}") for end in ("-solution", "-check"))
        choice = _choice(check.source) if check else None
        code = choice or (_between_marks(answer.source) if answer else "")
        cell.source = f"{cell.source}\n### BEGIN SOLUTION\n{code}\n### END SOLUTION"
        if choice:
            check.source = f"### BEGIN HIDDEN TESTS\n{check.source}\n### END HIDDEN TESTS"
    made.cells = [cell for cell in made.cells if not is_solution(cell)]
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs = [] if is_check(cell) else cell.outputs
    return made


def _choice(check: str) -> str | None:
    """`name = "right option"` for a cell that calls `exercises.choose(name, options, right="...")`."""
    for call in ast.walk(ast.parse(check)):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "choose":
            right = next(k.value for k in call.keywords if k.arg == "right")
            return f"{ast.unparse(call.args[0])} = {ast.unparse(right)}"
    return None


def _between_marks(source: str) -> str:
    _, _, rest = source.partition("### BEGIN SOLUTION\n")
    return rest.partition("\n### END SOLUTION")[0]


def write_assignment(chapter: str, root: Path = PROJECT_ROOT) -> Sequence[str]:
    """Add a chapter to the course in `course/` and release it; returns sentences on what to do next.

    A source that a teacher has changed stays as it is, and is released.

    Raises:
        CourseError: the chapter has no exercise, or nbgrader is not installed or refuses the source.
        ChapterError: there is no such chapter.
        OSError: the folder cannot be written.
    """
    path, course = find_chapter(chapter, root), Path(root) / FOLDER
    name = path.stem
    source = course / "source" / name / path.name
    text = nbformat.writes(with_answers(nbformat.read(path, as_version=4))) + "\n"
    notes = [] if not source.exists() or source.read_text(encoding="utf-8") == text else [
        f"{source.relative_to(root)} differs from the chapter and stays as it is; remove it to start anew."
    ]  # fmt: skip
    if not source.exists():
        write_atomically(source, text)
    if not (configuration := course / "nbgrader_config.py").exists():
        write_atomically(configuration, CONFIGURATION)
    run_nbgrader(course, "generate_assignment", name, "--force")
    return [
        *notes,
        f"Hand out {FOLDER}/release/{name}; put answers in {FOLDER}/submitted/STUDENT/{name}.",
        f"Then, in {FOLDER}/:",
        f"  nbgrader autograde {name}",
        f"  nbgrader generate_feedback {name}",
        "  nbgrader export",
    ]


def run_nbgrader(course: Path, *arguments: str) -> str:
    """What nbgrader prints when it runs in a course. Raises CourseError with that when it fails."""
    tools = Path(sys.executable).parent  # nbgrader starts alembic by its name
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CourseError(f"nbgrader {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout + done.stderr

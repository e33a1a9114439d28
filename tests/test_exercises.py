"""Exercises: each check fails on the empty stub, passes on the solution, and fails on plausible mistakes."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
from notebook_hygiene import committed_notebooks

REGION = re.compile(r"(?ms)^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION$")

# (notebook, cell id) -> mistake -> code that stands in place of the solution
WRONG: dict[tuple[str, str], dict[str, str]] = {
    ("06_closing_the_gap", "ex-budget"): {
        "one generation for the long run": """
            return {
                "long run": steps,
                "slim, equal steps": generations * steps,
                "one restart": steps,
                "slim, equal operations": math.floor(generations * steps / share),
            }
        """,
        "multiplies by the share": """
            total = generations * steps
            return {
                "long run": total,
                "slim, equal steps": total,
                "one restart": steps,
                "slim, equal operations": math.floor(total * share),
            }
        """,
        "rounds up": """
            total = generations * steps
            return {
                "long run": total,
                "slim, equal steps": total,
                "one restart": steps,
                "slim, equal operations": math.ceil(total / share),
            }
        """,
        "forgets a control": """
            total = generations * steps
            return {"long run": total, "slim, equal steps": total, "one restart": steps}
        """,
    },
    ("06_closing_the_gap", "ex-factorial"): {
        "main effects instead of each alone": """
            alone = np.stack([np.diff(values, axis=axis).squeeze(axis).mean((0, 1)) for axis in range(3)])
            left_out = values[1, 1, 1] - np.stack([values[0, 1, 1], values[1, 0, 1], values[1, 1, 0]])
            return alone, left_out, values[1, 1, 1] - values[0, 0, 0] - alone.sum(0)
        """,
        "the sign of left out": """
            alone = np.stack([values[1, 0, 0], values[0, 1, 0], values[0, 0, 1]]) - values[0, 0, 0]
            left_out = np.stack([values[0, 1, 1], values[1, 0, 1], values[1, 1, 0]]) - values[1, 1, 1]
            return alone, left_out, values[1, 1, 1] - values[0, 0, 0] - alone.sum(0)
        """,
        "the surplus forgets what there was without tools": """
            alone = np.stack([values[1, 0, 0], values[0, 1, 0], values[0, 0, 1]]) - values[0, 0, 0]
            left_out = values[1, 1, 1] - np.stack([values[0, 1, 1], values[1, 0, 1], values[1, 1, 0]])
            return alone, left_out, values[1, 1, 1] - alone.sum(0)
        """,
        "means over seeds": """
            alone = np.stack([values[1, 0, 0], values[0, 1, 0], values[0, 0, 1]]) - values[0, 0, 0]
            left_out = values[1, 1, 1] - np.stack([values[0, 1, 1], values[1, 0, 1], values[1, 1, 0]])
            surplus = values[1, 1, 1] - values[0, 0, 0] - alone.sum(0)
            return alone.mean(1), left_out.mean(1), surplus.mean()
        """,
    },
    ("06_closing_the_gap", "ex-margin"): {
        "not significantly worse": """
            interval = paired_interval(differences)
            return "as good" if interval.high > 0 else "worse"
        """,
        "the mean alone": """
            return "as good" if np.mean(differences) > -delta else "worse"
        """,
        "must be better than dense": """
            interval = paired_interval(differences)
            if interval.low > 0:
                return "as good"
            return "worse" if interval.high < 0 else "open"
        """,
        "never open": """
            return "as good" if paired_interval(differences).low > -delta else "worse"
        """,
    },
    ("06_closing_the_gap", "ex-supcon"): {
        "an image competes with itself": """
            similar = embeddings @ embeddings.T / temperature
            positive = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
            has = positive.any(1)
            chosen = torch.where(positive, similar.log_softmax(1), 0)
            return -(chosen.sum(1)[has] / positive.sum(1)[has]).mean()
        """,
        "an image is its own positive": """
            same = labels[:, None] == labels
            log_share = (embeddings @ embeddings.T / temperature).log_softmax(1)
            return -((log_share * same).sum(1) / same.sum(1)).mean()
        """,
        "sums over the positives": """
            itself = torch.eye(len(labels), dtype=torch.bool)
            similar = (embeddings @ embeddings.T / temperature).masked_fill(itself, -torch.inf)
            positive = (labels[:, None] == labels) & ~itself
            chosen = torch.where(positive, similar.log_softmax(1), 0)
            return -chosen.sum(1)[positive.any(1)].mean()
        """,
        "infinity times zero": """
            itself = torch.eye(len(labels), dtype=torch.bool)
            similar = (embeddings @ embeddings.T / temperature).masked_fill(itself, -torch.inf)
            positive = (labels[:, None] == labels) & ~itself
            return -((similar.log_softmax(1) * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()
        """,
        "the right value without a gradient": """
            value = losses.SupConLoss(temperature=temperature)(embeddings.detach(), labels)
            return value + 0 * embeddings.sum()
        """,
    },
}


@dataclass(frozen=True)
class Exercise:
    """A solution cell, the check after it, and the code cells before it."""

    notebook: str
    cell_id: str
    earlier: list[str]
    solution: str
    check: str

    def grade(self, solution: str) -> None:
        """Run the check with `solution` in the solution's cell; raises what the cells raise."""
        with plt.rc_context():
            names = definitions(self.earlier)
            run(solution, self.cell_id, names)
            run(self.check, f"{self.cell_id}-check", names)

    def with_region(self, code: str) -> str:
        """The solution's cell with other code between the markers."""
        body = textwrap.dedent(code).strip()
        return REGION.sub(lambda m: textwrap.indent(body, m[1]), self.solution)


def exercises() -> Iterator[Exercise]:
    """The exercises of every notebook whose solutions stand in place."""
    for path in committed_notebooks():
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        if any("solution" in c.metadata.get("tags", []) for c in cells):
            continue  # empty stubs with folded solutions: test_folded_exercises.py
        for i, cell in enumerate(cells[:-1]):
            if "### BEGIN SOLUTION" in cell.source:
                earlier = [c.source for c in cells[:i]]
                yield Exercise(path.stem, cell.id, earlier, cell.source, cells[i + 1].source)


def run(source: str, name: str, names: dict[str, Any]) -> None:
    exec(compile(source, name, "exec"), names)


def definitions(cells: list[str]) -> dict[str, Any]:
    """The set-up cell's names, and the imports, functions, classes and constants of the other cells.

    No experiment runs: what computes its value is left out, and so is what needs such a value to be defined.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    run(cells[0], "setup", names)
    for node in (node for cell in cells[1:] for node in ast.parse(cell).body):
        if is_definition(node):
            with suppress(NameError):
                run(ast.unparse(node), "definitions", names)
    return names


def is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        with suppress(ValueError):
            ast.literal_eval(node.value)
            return True
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


EXERCISES = {(e.notebook, e.cell_id): e for e in exercises()}


def label(key: tuple[str, str]) -> str:
    return "-".join(key)


@pytest.mark.parametrize("key", EXERCISES, ids=label)
def test_the_empty_stub_fails(key: tuple[str, str]) -> None:
    exercise = EXERCISES[key]
    stub = exercise.with_region("raise NotImplementedError")
    assert stub.count("raise NotImplementedError") == 1
    assert "SOLUTION" not in stub
    with pytest.raises(NotImplementedError):
        exercise.grade(stub)


@pytest.mark.parametrize("key", EXERCISES, ids=label)
def test_the_solution_passes(key: tuple[str, str]) -> None:
    EXERCISES[key].grade(EXERCISES[key].solution)


@pytest.mark.parametrize("key", EXERCISES, ids=label)
def test_mistakes_fail_and_the_check_says_why(key: tuple[str, str]) -> None:
    mistakes = WRONG.get(key, {})
    assert len(mistakes) >= 2, f"write at least two plausible mistakes for {key} into WRONG"
    accepted, silent = [], []
    for name, code in mistakes.items():
        try:
            EXERCISES[key].grade(EXERCISES[key].with_region(code))
        except AssertionError as error:
            if not str(error):
                silent.append(name)
        else:
            accepted.append(name)
    assert not accepted, f"the check accepts: {accepted}"
    assert not silent, f"the check does not say what is wrong with: {silent}"


def test_the_table_names_only_exercises_that_exist() -> None:
    assert WRONG.keys() <= EXERCISES.keys()

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
    ("01_introduction", "ex-recall"): {
        "an image finds itself": """
            nearest = torch.cdist(embeddings, embeddings).topk(k, largest=False).indices
            return (labels[nearest] == labels[:, None]).any(1).float().mean().item()
        """,
        "the share of neighbours that are right": """
            distances = torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf)
            nearest = distances.topk(k, largest=False).indices
            return (labels[nearest] == labels[:, None]).float().mean().item()
        """,
        "all neighbours must be right": """
            distances = torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf)
            nearest = distances.topk(k, largest=False).indices
            return (labels[nearest] == labels[:, None]).all(1).float().mean().item()
        """,
        "cosine in the place of the distance": """
            unit = F.normalize(embeddings)
            nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k).indices
            return (labels[nearest] == labels[:, None]).any(1).float().mean().item()
        """,
        "the farthest": """
            nearest = torch.cdist(embeddings, embeddings).topk(k).indices
            return (labels[nearest] == labels[:, None]).any(1).float().mean().item()
        """,
    },
    ("01_introduction", "ex-split"): {
        "half of the images": """
            trains = torch.arange(len(labels)) < len(labels) // 2
            return trains, ~trains
        """,
        "half of the largest label": """
            trains = labels < (labels.max() + 1) // 2
            return trains, ~trains
        """,
        "rounds up": """
            kinds = labels.unique()
            trains = torch.isin(labels, kinds[: (len(kinds) + 1) // 2])
            return trains, ~trains
        """,
        "the second half trains": """
            kinds = labels.unique()
            trains = torch.isin(labels, kinds[: len(kinds) // 2])
            return ~trains, trains
        """,
        "positions, not masks": """
            kinds = labels.unique()
            trains = torch.isin(labels, kinds[: len(kinds) // 2])
            return trains.nonzero()[:, 0], (~trains).nonzero()[:, 0]
        """,
    },
    ("01_introduction", "ex-bar"): {
        "the first look above the bar": """
            above = curves >= bar
            return np.where(above.any(1), (above.argmax(1) + 1) / curves.shape[1], 1.0)
        """,
        "counts from 0": """
            above = curves >= bar
            twice = above[:, :-1] & above[:, 1:]
            return np.where(twice.any(1), twice.argmax(1) / curves.shape[1], 1.0)
        """,
        "never reached counts as reached at once": """
            above = curves >= bar
            twice = above[:, :-1] & above[:, 1:]
            return (twice.argmax(1) + 1) / curves.shape[1]
        """,
        "the second of the two looks": """
            above = curves >= bar
            twice = above[:, :-1] & above[:, 1:]
            return np.where(twice.any(1), (twice.argmax(1) + 2) / curves.shape[1], 1.0)
        """,
        "above, but not at, the bar": """
            above = curves > bar
            twice = above[:, :-1] & above[:, 1:]
            return np.where(twice.any(1), (twice.argmax(1) + 1) / curves.shape[1], 1.0)
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

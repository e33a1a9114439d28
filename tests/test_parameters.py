"""The gate: what a parameters cell declares, which values pass, and which parameters do nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from small_notebooks import GOOD, ONE, notebook

from helpers.chapters import parameters
from helpers.chapters.parameters import ParameterError


def test_parameters_are_read_with_types_limits_and_meaning() -> None:
    found = parameters.parameters_of(notebook())
    assert list(found) == [line.split(":")[0] for line in GOOD.splitlines()]
    assert (found["seed"].default, found["seed"].bounds, found["seed"].help) == (
        0,
        (0, 100),
        "seed of everything",
    )
    assert (found["arm"].choices, found["size"].choices) == (("a", "b"), (8, 16))
    assert found["rates"].type_name == "list[float]"
    assert (found["dataset"].bounds, found["dataset"].choices, found["limit"].default) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("seed", 3, 3),
        ("seed", np.int64(3), 3),
        ("rate", 1, 1.0),
        ("rate", "1e-3", 1e-3),
        ("rate", np.float32(0.5), 0.5),
        ("dataset", Path("sets") / "birds", "sets/birds"),
        ("rates", (1, "1e-2"), [1.0, 0.01]),
        ("rates", np.array([0.5, 2.0]), [0.5, 2.0]),
        ("rates", [], []),
        ("fast", False, False),
        ("fast", np.bool_(False), False),
        ("limit", None, None),
        ("limit", 10, 10),
        ("size", 16, 16),
        ("note", "x", "x"),
    ],
)
def test_accepted_values_have_the_annotated_type(name: str, value: Any, accepted: Any) -> None:
    got = parameters.parameters_of(notebook())[name].accept(value)
    assert got == accepted
    assert type(got) is type(accepted)
    assert not isinstance(got, np.generic)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "abc", "parameter 'seed': 'abc' has the wrong type; expected int \\[0, 100\\]"),
        ("seed", 1.0, "wrong type"),
        ("seed", True, "wrong type"),
        ("seed", None, "wrong type"),
        ("seed", 101, "parameter 'seed': 101 is out of range; expected int \\[0, 100\\]"),
        ("seed", -1, "out of range"),
        ("rate", "fast", "wrong type"),
        ("rate", True, "wrong type"),
        ("rate", float("nan"), "wrong type"),
        ("rate", "inf", "wrong type"),
        ("rate", 10**400, "wrong type"),
        ("arm", "c", "parameter 'arm': 'c' is not one of the choices; expected str \\{a, b\\}"),
        ("arm", 1, "wrong type"),
        ("size", 9, "not one of the choices"),
        ("rates", 0.1, "wrong type"),
        ("rates", [0.1, 1000], "out of range"),
        ("rates", [0.1, None], "wrong type"),
        ("folds", [1.5], "wrong type"),
        ("fast", 1, "wrong type"),
        ("fast", "yes", "wrong type"),
        ("limit", 0, "out of range"),
        ("limit", "none", "wrong type"),
    ],
)
def test_refused_values_name_parameter_value_and_expectation(name: str, value: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parameters.overrides(notebook(), {name: value})


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(ParameterError, match=r"unknown parameter 'sed': did you mean 'seed'\?") as caught:
        parameters.overrides(notebook(), {"sed": 1})
    assert "rates: list[float] = [0.1, 1.0] [1e-05, 100]" in str(caught.value)


def test_defaults_are_not_overrides() -> None:
    assert parameters.overrides(notebook(), {"seed": 0, "rate": "0.1", "rates": (0.1, 1)}) == {}
    assert parameters.overrides(notebook(), {"seed": 1, "limit": None}) == {"seed": 1}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("seed = 0  # seed", "may hold only"),
        ("import os", "may hold only"),
        ("seed: int  # seed", "may hold only"),
        ("seed: int = 0", "'seed' needs a comment"),
        ("seed: int = 0  # [0, 9]", "'seed' needs a comment"),
        ("seed: int = 1 + 1  # seed", "must be a literal"),
        ("seed: tuple = ()  # seed", "annotation 'tuple'"),
        ("seed: int | str = 0  # seed", "annotation 'int | str'"),
        ("seed: int = 'a'  # seed", "wrong type"),
        ("seed: int = 10  # [0, 9] seed", "out of range"),
        ("seed: int = 1  # [9, 0] seed", "low <= high"),
        ("seed: int = 1  # [a, b] seed", "low <= high"),
        ("arm: str = 'a'  # [0, 1] arm", "low <= high"),
        ("arm: str = 'c'  # {a, b} arm", "not one of the choices"),
        ("size: int = 8  # {8, x} size", "are not all int"),
        ("seed: int = 0  # one\nseed: int = 1  # two", "declared twice"),
        ("seed: int = (", "not valid Python"),
    ],
)
def test_a_sloppy_parameters_cell_is_refused(source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        parameters.parameters_of(notebook(parameters=source))


def test_exactly_one_parameters_cell() -> None:
    with pytest.raises(ParameterError, match="found 0"):
        parameters.parameters_of(new_notebook(cells=[new_code_cell("x = 1")]))
    nb = notebook()
    nb.cells.append(nb.cells[0])
    with pytest.raises(ParameterError, match="found 2"):
        parameters.parameters_of(nb)


def test_command_line_values_follow_the_annotation() -> None:
    pairs = [("arm", "yes"), ("dataset", "3"), ("rate", "1e-3"), ("rates", "[1, 2]"), ("limit", "null")]
    values = parameters.parse_values(notebook(), [*pairs, ("note", "null"), ("fast", "false")])
    assert values == {
        "arm": "yes",
        "dataset": "3",
        "rate": "1e-3",
        "rates": [1, 2],
        "limit": None,
        "note": None,
        "fast": False,
    }
    assert parameters.parse_values(notebook(), [("note", "12")]) == {"note": "12"}
    with pytest.raises(ParameterError, match=r"'rates': .* is not valid YAML"):
        parameters.parse_values(notebook(), [("rates", "[1,")])


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["print(seed)"], None),
        (["%matplotlib inline\nprint(seed)"], None),
        (["def f():\n    return seed\nf()"], None),
        (["class A:\n    x = seed"], None),
        (["f = lambda: [seed for _ in range(2)]"], None),
        (["print(f'{seed}')"], None),
        (["seed = int(seed)"], None),
        (["seed += 1"], None),
        (["if seed is None:\n    seed = 3"], None),
        (["for i in range(seed):\n    pass"], None),
        (["x = 1"], "never read"),
        (["# only words about seed"], "never read"),
        (["def f(seed):\n    return seed"], "never read"),
        (["def f():\n    seed = 1\n    return seed"], "never read"),
        (["print([seed for seed in range(3)])"], "never read"),
        (["d = dict(seed=1)"], "never read"),
        (["seed = 1\nprint(seed)"], "overwritten"),
        (["seed = 1", "print(seed)"], "overwritten"),
        (["for seed in range(3):\n    print(seed)"], "overwritten"),
        (["for i, (seed, j) in []:\n    print(seed)"], "overwritten"),
        (["with open('x') as seed:\n    print(seed)"], "overwritten"),
        (["import random as seed\nprint(seed)"], "overwritten"),
        (["try:\n    seed = 1\nexcept ValueError:\n    pass\nprint(seed)"], "overwritten"),
        (["def seed():\n    pass\nseed()"], "overwritten"),
        (["x = ("], "not valid Python"),
    ],
)
def test_parameters_that_do_nothing_are_named(cells: list[str], problem: str | None) -> None:
    problems = parameters.check_parameters(notebook(*cells, parameters=ONE))
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])
    assert problem in (None, "not valid Python") or "'seed'" in problems[0]

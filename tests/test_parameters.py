"""The gate: what a parameters cell declares, which values pass, and which parameters do nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import numpy as np
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from small_notebooks import GOOD, ONE, notebook, project, texts

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
    assert (found["dataset"].bounds, found["dataset"].choices, found["limit"].default) == ((), (), None)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("seed", 3, 3),
        ("seed", np.int64(3), 3),
        ("rate", 1, 1.0),
        ("rate", np.float32(0.5), 0.5),
        ("dataset", Path("sets") / "birds", "sets/birds"),
        ("rates", (1, 1e-2), [1.0, 0.01]),
        ("rates", np.array([0.5, 2.0]), [0.5, 2.0]),
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
        ("rate", "1e-3", "wrong type"),
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
        ("rates", [], r"parameter 'rates': \[\] is empty; expected list\[float\] \[1e-5, 100\]"),
        ("rates", [0.1, 1, 0.1], "names one value twice"),
        ("folds", [], "is empty"),
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
    assert "rates: list[float] = [0.1, 1.0] [1e-5, 100]" in str(caught.value)


def test_defaults_are_not_overrides() -> None:
    assert parameters.overrides(notebook(), {"seed": 0, "rate": 0.1, "rates": (0.1, 1)}) == {}
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
        ("rates: list[float] = []  # rates", "is empty"),
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
        "rate": 1e-3,
        "rates": [1, 2],
        "limit": None,
        "note": None,
        "fast": False,
    }
    assert parameters.parse_values(notebook(), [("note", "12")]) == {"note": "12"}
    with pytest.raises(ParameterError, match=r"'rates': .* is not valid YAML"):
        parameters.parse_values(notebook(), [("rates", "[1,")])


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0100", 100), ("1e-3", 1e-3), ("1E2", 100.0), ("[010, 08]", [10, 8]), ("-7", -7)],
)
def test_numbers_are_decimal(text: str, value: Any) -> None:
    got = parameters.parse_values(notebook(), [("seed", text)])["seed"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("text", ["0x10", "0b1", "1:30", "1_000", "0o17", "1e3", ".inf", "yes"])
def test_what_is_no_whole_decimal_number_is_refused_as_one(text: str) -> None:
    values = parameters.parse_values(notebook(), [("seed", text)])
    with pytest.raises(ParameterError, match=r"parameter 'seed': .* has the wrong type"):
        parameters.overrides(notebook(), values)


def test_a_vector_may_repeat_a_number_and_alternatives_may_not() -> None:
    lines = "mean: list[float] = [0.5, 0.5]  # [0, 1] per channel"
    assert parameters.parameters_of(notebook(parameters=lines))["mean"].default == [0.5, 0.5]
    with pytest.raises(ParameterError, match="names one value twice"):
        parameters.parameters_of(notebook(parameters=lines.replace("mean", "rates")))


PATHS = """\
dataset: str = "birds"  # birds, cub, or folder:PATH
photo: str = ""  # path of a photograph
checkpoints: str = ""  # folder for checkpoints
title: str = "a"  # what the folder is called"""


def test_paths_start_where_they_are_typed(tmp_path: Path) -> None:
    nb, typed, home = (
        notebook(parameters=PATHS),
        tmp_path / "project" / "mine",
        tmp_path / "project" / "notebooks",
    )

    def moved(**values: Any) -> dict[str, Any]:
        return parameters.moved_paths(nb, values, typed, home)

    assert moved(dataset="folder:photos", photo=Path("a.png")) == {
        "dataset": "folder:../mine/photos",
        "photo": "../mine/a.png",
    }
    assert moved(checkpoints="../../out") == {"checkpoints": str(tmp_path / "out")}  # outside the project
    assert moved(photo="/a/b.png", checkpoints="~/c") == {
        "photo": "/a/b.png",
        "checkpoints": str(Path.home() / "c"),
    }
    for untouched in ({"dataset": "cub"}, {"title": "mine"}, {"photo": ""}, {"photo": 3}, {"unknown": "x"}):
        assert moved(**untouched) == untouched
    once = moved(dataset="folder:photos")
    assert parameters.moved_paths(nb, once, home, home) == once


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


# --- the gate in a notebook ------------------------------------------------------------------------------

GATED = """\
species: int = 6  # [2, 30] classes
groups: int = 2  # [1, 30] groups of them
rates: list[float] = [0.1]  # [1e-5, 1] learning rates"""
GATE = """\
from helpers.chapters.parameters import gate
gate("03", "species >= 2 * groups", ("len(rates) < 9", "at most eight rates"))"""


def namespace(history: list[str], **values: Any) -> dict[str, Any]:
    return {"In": history, "species": 6, "groups": 2, "rates": [0.1]} | values


@pytest.mark.parametrize(
    ("values", "more", "message"),
    [
        ({"species": "many"}, "", "parameter 'species': 'many' has the wrong type; expected int [2, 30]"),
        ({"species": 1}, "", "parameter 'species': 1 is out of range; expected int [2, 30]"),
        ({"rates": []}, "", "parameter 'rates': [] is empty; expected list[float] [1e-5, 1]"),
        ({"groups": 4}, "", "species >= 2 * groups is needed (species is 6, groups is 4)"),
        ({"rates": [i / 10 for i in range(1, 10)]}, "", "at most eight rates (rates is [0.1, "),
        ({"specis": 9}, "# Parameters\nspecis = 9\n", "unknown parameter 'specis': did you mean 'species'?"),
    ],
)
def test_the_gate_refuses_as_the_command_line_does(values: dict[str, Any], more: str, message: str) -> None:
    user = namespace([GATED, more, GATE], **values)
    with pytest.raises(ParameterError) as caught:
        exec(GATE, user)
    assert str(caught.value).startswith(message)
    if not more and "needed" not in message and "eight" not in message:
        with pytest.raises(ParameterError, match=re.escape(str(caught.value))):
            parameters.overrides(notebook(parameters=GATED), values)


def test_the_gate_leaves_values_of_the_declared_types(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user = namespace(["", GATED], rates=(np.float64(1),), other="free")
    exec(GATE, user)
    assert user["rates"] == [1.0]
    assert type(user["rates"][0]) is float
    older = GATED.replace("[2, 30]", "[7, 30]")
    exec(GATE, namespace([older, "# Parameters\nold = 1", GATED]))  # the cell that was run last counts
    with pytest.raises(ParameterError, match=r"6 is out of range; expected int \[7, 30\]"):
        exec(GATE, namespace([GATED, older, "mine: int = 'x'  # a note of one's own"]))

    project(tmp_path, c03=notebook(parameters=GATED))
    monkeypatch.chdir(tmp_path / "notebooks")
    for history in ([], ["species = 'many'", "x: int = 3"]):  # nothing declared: the stored chapter says it
        with pytest.raises(ParameterError, match="'many' has the wrong type"):
            exec(GATE, namespace(history, species="many"))
    user = namespace([GATED])
    del user["groups"]
    with pytest.raises(ParameterError, match="'groups' has no value: run the parameters cell first"):
        exec(GATE, user)


def test_the_command_line_knows_the_relations_of_the_gate() -> None:
    nb = notebook("x = 1", GATE + "\nprint(species, groups, rates)", parameters=GATED)
    assert parameters.overrides(nb, {"groups": 3}) == {"groups": 3}
    with pytest.raises(
        ParameterError, match=r"species >= 2 \* groups is needed \(species is 6, groups is 4\)"
    ):
        parameters.overrides(nb, {"groups": 4})
    nb.cells[2].source = "gate('03', (groups < 3, 'few groups'))"  # only the notebook can tell
    assert parameters.overrides(nb, {"groups": 4}) == {"groups": 4}


def test_a_notebook_shows_one_sentence(tmp_path: Path) -> None:
    """In a real kernel, as JupyterLab and nbval run it, and with plain papermill."""
    root = project(tmp_path, c03=notebook(GATE, "print('on', species, groups, rates)", parameters=GATED))
    source = root / "notebooks" / "03_c.ipynb"
    light = "import sys\nassert not {'torch', 'papermill', 'nbformat'} & set(sys.modules)"
    nb = notebook(GATE, light, "print('on', species, rates)", parameters=GATED)
    nbclient.NotebookClient(nb, kernel_name="python3").execute()
    assert texts(nb) == "on 6 [0.1]\n"
    nb.cells[0].source = GATED.replace("= 6", "= 'many'")
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        nbclient.NotebookClient(nb, kernel_name="python3").execute()
    error = nb.cells[1].outputs[0]
    sentence = "parameter 'species': 'many' has the wrong type; expected int [2, 30]"
    assert (error.ename, error.evalue) == ("ParameterError", sentence)
    assert error.traceback == [f"ParameterError: {sentence}"]

    for given, message in [({"specis": 9}, "unknown parameter 'specis': did you mean 'species'"),
                           ({"rates": []}, "'rates': [] is empty")]:  # fmt: skip
        with pytest.raises(papermill.PapermillExecutionError, match=re.escape(message)) as caught:
            papermill.execute_notebook(source, tmp_path / "out.ipynb", given, progress_bar=False)
        assert len(caught.value.traceback) == 1
    done = papermill.execute_notebook(source, tmp_path / "out.ipynb", {"species": 8}, progress_bar=False)
    assert texts(done) == "on 8 2 [0.1]\n"

"""The parameter gate: values given to a chapter are checked alike on a command line and in a notebook."""

from __future__ import annotations

import ast
import difflib
import dis
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import yaml

from helpers import PROJECT_ROOT
from helpers.chapters.declarations import Parameter, ParameterError, declared, parameters_of
from helpers.files import ChapterError, find_chapter, read_yaml
from helpers.provenance import code_of

if TYPE_CHECKING:
    from nbformat import NotebookNode


def overrides(nb: NotebookNode, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` checked against the notebook's parameters and reduced to those that differ from the defaults.

    Raises:
        ParameterError: unknown name (the nearest valid one is named), wrong type, out of range, not a choice,
            an empty list, a value named twice, or values that the notebook's gate does not take together.
    """
    parameters = parameters_of(nb)
    accepted = _accepted(parameters, values)
    _relate(_relations(nb), {p.name: p.default for p in parameters.values()} | accepted)
    return {name: value for name, value in accepted.items() if value != parameters[name].default}


def _accepted(parameters: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1, cutoff=0.0)
            known = "; ".join(
                f"{p.name}: {p.type_name} = {p.default!r} {p.limits}".strip() for p in parameters.values()
            )
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ParameterError(f"unknown parameter {name!r}: {hint}The parameters are {known}")
    return {name: parameters[name].accept(value) for name, value in values.items()}


def moved_paths(nb: NotebookNode, values: Mapping[str, Any], folder: Path, home: Path) -> dict[str, Any]:
    """`values` with every path typed in `folder` as a notebook that runs in `home` must write it."""
    parameters = parameters_of(nb)
    return {n: parameters[n].moved(v, folder, home) if n in parameters else v for n, v in values.items()}


def parse_values(nb: NotebookNode, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Command-line texts as YAML values; a parameter annotated `str` takes its text as it stands."""
    parameters = parameters_of(nb)
    values: dict[str, Any] = {}
    for name, text in pairs:
        try:
            value = read_yaml(text)
        except yaml.YAMLError as error:
            raise ParameterError(f"parameter {name!r}: {text!r} is not valid YAML") from error
        kind = parameters[name].type_name if name in parameters else ""
        values[name] = text if kind == "str" or (kind == "str | None" and value is not None) else value
    return values


def gate(chapter: str, *relations: str | tuple[str | bool, str]) -> None:
    """Check the parameters of the notebook that calls this, right after its parameters cell.

    The values now in the notebook are put through the checks of the command line, and take the annotated
    types. What papermill injected must be declared. The declarations are those of the parameters cell as it
    was run last; where the session's history has none, those of the stored chapter.

    Args:
        chapter: its number, "05".
        relations: what must hold between parameters, as text, `"species >= 2 * plumages"`, or as a pair of
            such a text and the sentence to show. The command line checks these too, before anything runs.
            A truth value in the place of the text is checked here alone.

    Raises:
        ParameterError: one sentence that says what is wrong.
    """
    namespace = sys._getframe(1).f_globals
    history = list(namespace.get("In", []))
    at, parameters = _declared_in(history)
    parameters = parameters or _stored(chapter)
    for source in history[at + 1 :]:
        if source.startswith("# Parameters\n"):  # papermill's cell
            targets = [t for node in ast.parse(source).body for t in getattr(node, "targets", [])]
            _accepted(parameters, {t.id: namespace[t.id] for t in targets if t.id not in parameters})
    if missing := [name for name in parameters if name not in namespace]:
        raise ParameterError(f"parameter {missing[0]!r} has no value: run the parameters cell first")
    values = _accepted(parameters, {name: namespace[name] for name in parameters})
    _relate(relations, values)
    namespace.update(values)


def _declared_in(history: Sequence[str]) -> tuple[int, dict[str, Parameter]]:
    """Place and content of the parameters cell: the longest of the cells that only declare, and the last."""
    found = [(-1, {})]
    for i, source in enumerate(history):
        with suppress(ParameterError):
            found.append((i, declared(source)))
    return max(found, key=lambda cell: (len(cell[1]), cell[0]))


def _stored(chapter: str) -> dict[str, Parameter]:
    for root in (Path.cwd().parent, PROJECT_ROOT):
        with suppress(ChapterError, OSError, ValueError):
            return parameters_of(json.loads(find_chapter(chapter, root).read_text(encoding="utf-8")))
    raise ParameterError(f"chapter {chapter!r} was not found: run its parameters cell before the gate")


def _relate(relations: Iterable[str | tuple[str | bool, str]], values: Mapping[str, Any]) -> None:
    known = {f.__name__: f for f in (abs, all, any, len, max, min, set, sorted, sum)}
    for relation in relations:
        condition, said = (relation, f"{relation} is needed") if isinstance(relation, str) else relation
        if not (eval(condition, known | dict(values)) if isinstance(condition, str) else condition):
            named = {node.id for node in ast.walk(ast.parse(str(condition))) if isinstance(node, ast.Name)}
            there = ", ".join(f"{name} is {values[name]!r}" for name in values if name in named)
            raise ParameterError(f"{said}{there and f' ({there})'}")


def _relations(nb: NotebookNode) -> list[Any]:
    """The relations that a notebook's gate states as text; others only the notebook can judge."""
    nodes = [node for tree in code_of(nb.cells) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = []
    for argument in (a for node in nodes if ast.unparse(node.func) == "gate" for a in node.args[1:]):
        with suppress(ValueError):
            found.append(ast.literal_eval(argument))
    return found


def check_parameters(nb: NotebookNode) -> list[str]:
    """What is wrong with the parameters: a rule broken, never read later, or overwritten before read."""
    try:
        names = parameters_of(nb)
    except ParameterError as error:
        return [str(error)]
    start = next(i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", []))
    try:
        later = ast.Module([s for tree in code_of(nb.cells[start + 1 :]) for s in tree.body], [])
    except ChapterError as error:
        return [f"after the parameters, {error}"]
    uses = list(_uses(compile(later, "cells", "exec")))
    first = {name: next((kind for kind, used in uses if used == name), None) for name in names}
    problems = {None: "never read after the parameters cell", "STORE": "overwritten before it is read"}
    return [f"parameter {name!r} is {problems[kind]}" for name, kind in first.items() if kind in problems]


def _uses(code: CodeType, nested: bool = False) -> Iterator[tuple[str, str]]:
    """("LOAD" | "STORE", name) of global names, in the order of the compiled code."""
    for instruction in dis.get_instructions(code):
        kind, _, scope = instruction.opname.partition("_")
        if isinstance(instruction.argval, CodeType):
            yield from _uses(instruction.argval, nested=True)
        elif scope in ("NAME", "GLOBAL", "FROM_DICT_OR_GLOBALS") and not (nested and kind == "STORE"):
            yield kind, instruction.argval

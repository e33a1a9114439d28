"""The parameter gate: what a chapter's parameters cell declares, and the checks of values given to it."""

from __future__ import annotations

import ast
import difflib
import io
import math
import os
import re
import symtable
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from helpers.provenance import INJECTED


class ParameterError(ValueError):
    """A parameters cell that breaks the rules, or a value that a chapter does not accept."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `steps: int = 150  # [10, 100000] training steps per run`."""

    name: str
    annotation: ast.expr
    default: Any
    help: str
    bounds: tuple[float, float] | None = None
    choices: tuple[Any, ...] | None = None

    @property
    def type_name(self) -> str:
        return ast.unparse(self.annotation)

    @property
    def limits(self) -> str:
        """The range or the choices as the notebook writes them, or an empty string."""
        if self.choices is not None:
            return "{" + ", ".join(map(str, self.choices)) + "}"
        return "" if self.bounds is None else f"[{self.bounds[0]:g}, {self.bounds[1]:g}]"

    def accept(self, value: Any) -> Any:
        """`value` as the annotated Python type; `ParameterError` when its type or the limits do not fit."""
        try:
            accepted = _conform(_plain(value), self.annotation)
            self._within_limits(accepted)
        except ValueError as error:
            expected = f"{self.type_name} {self.limits}".strip()
            raise ParameterError(
                f"parameter {self.name!r}: {value!r} {error}; expected {expected}"
            ) from error
        return accepted

    def _within_limits(self, accepted: Any) -> None:
        for element in accepted if isinstance(accepted, list) else [accepted]:
            if isinstance(element, list):
                self._within_limits(element)
            elif element is not None and self.choices is not None and element not in self.choices:
                raise ValueError("is not one of the choices")
            elif element is not None and self.bounds and not self.bounds[0] <= element <= self.bounds[1]:
                raise ValueError("is out of range")


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, tuples and paths as what papermill can write into a cell."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _conform(value: Any, annotation: ast.expr) -> Any:
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            try:
                return _conform(value, left)
            except ValueError:
                return _conform(value, right)
        case ast.Constant(value=None) if value is None:
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=element) if isinstance(value, list):
            return [_conform(v, element) for v in value]
        case ast.Name(id="bool") if isinstance(value, bool):
            return value
        case ast.Name(id="int") if isinstance(value, int) and not isinstance(value, bool):
            return value
        case ast.Name(id="float") if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = _finite(value)
            if number is not None:
                return number
        case ast.Name(id="str") if isinstance(value, str):
            return value
    raise ValueError("has the wrong type")


def _finite(value: int | float | str) -> float | None:
    """A finite float; text counts because YAML reads 1e-3 as text."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _scalar(annotation: ast.expr) -> str:
    """`float` for float, list[float] and float | None; any other form of annotation is refused."""
    match annotation:
        case ast.Name(id="int" | "float" | "bool" | "str" as name):
            return name
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return _scalar(inner)
        case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _scalar(inner)
    raise ParameterError(
        f"annotation {ast.unparse(annotation)!r} is not int, float, bool, str, list[X] or X | None"
    )


def parameters_of(nb: NotebookNode) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name, in order.

    Raises:
        ParameterError: not exactly one cell tagged `parameters`, or a line in it that is not annotated,
            documented, a literal, and within its own limits.
    """
    tagged = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise ParameterError(f"expected exactly one code cell tagged 'parameters', found {len(tagged)}")
    source = tagged[0].source
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell is not valid Python: {error}") from error
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
    parameters: dict[str, Parameter] = {}
    for node in tree.body:
        text = ast.unparse(node)
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            raise ParameterError(
                f"the parameters cell may hold only 'name: type = value  # meaning', got {text!r}"
            )
        if node.target.id in parameters:
            raise ParameterError(f"parameter {node.target.id!r} is declared twice")
        try:
            default = ast.literal_eval(node.value)
        except ValueError as error:
            raise ParameterError(
                f"{text!r}: the default must be a literal; derive values in a later cell"
            ) from error
        parameters[node.target.id] = _documented(
            node, default, comments.get(node.end_lineno or node.lineno, "")
        )
    return parameters


def _documented(node: ast.AnnAssign, default: Any, comment: str) -> Parameter:
    name, scalar, bounds, choices, meaning = node.target.id, _scalar(node.annotation), None, None, comment
    if found := re.match(r"\[([^,\]]+),([^,\]]+)\]\s*(.*)", comment):
        low, high = _finite(found[1]), _finite(found[2])
        if low is None or high is None or low > high or scalar not in ("int", "float"):
            raise ParameterError(
                f"parameter {name!r}: {comment!r} must begin with numbers [low, high], low <= high"
            )
        bounds, meaning = (low, high), found[3]
    elif found := re.match(r"\{([^}]*)\}\s*(.*)", comment):
        texts = [text.strip() for text in found[1].split(",")]
        try:
            values = texts if scalar == "str" else map(yaml.safe_load, texts)
            choices, meaning = tuple(_conform(v, ast.Name(scalar)) for v in values), found[2]
        except ValueError as error:
            raise ParameterError(
                f"parameter {name!r}: the choices {found[1]!r} are not all {scalar}"
            ) from error
    if not meaning:
        raise ParameterError(f"parameter {name!r} needs a comment on its line that says what it means")
    parameter = Parameter(name, node.annotation, default, meaning, bounds, choices)
    parameter.accept(default)
    return parameter


def overrides(nb: NotebookNode, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` checked against the notebook's parameters and reduced to those that differ from the defaults.

    Raises:
        ParameterError: unknown name (the nearest valid one is named), wrong type, out of range, not a choice.
    """
    parameters = parameters_of(nb)
    for name in values:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1, cutoff=0.0)
            known = "; ".join(
                f"{p.name}: {p.type_name} = {p.default!r} {p.limits}".strip() for p in parameters.values()
            )
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ParameterError(f"unknown parameter {name!r}: {hint}The parameters are {known}")
    accepted = {name: parameters[name].accept(value) for name, value in values.items()}
    return {name: value for name, value in accepted.items() if value != parameters[name].default}


def parse_values(nb: NotebookNode, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Command-line texts as YAML values; a parameter annotated `str` takes its text as it stands."""
    parameters = parameters_of(nb)
    values: dict[str, Any] = {}
    for name, text in pairs:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ParameterError(f"parameter {name!r}: {text!r} is not valid YAML") from error
        kind = parameters[name].type_name if name in parameters else ""
        values[name] = text if kind == "str" or (kind == "str | None" and value is not None) else value
    return values


def check_parameters(nb: NotebookNode) -> list[str]:
    """What is wrong with the parameters: a rule broken, never read later, or overwritten before read."""
    try:
        names = parameters_of(nb)
    except ParameterError as error:
        return [str(error)]
    cells = [c for c in nb.cells if c.cell_type == "code"]
    start = next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
    transform = TransformerManager().transform_cell
    later = "\n".join(
        transform(c.source) for c in cells[start + 1 :] if INJECTED not in c.metadata.get("tags", [])
    )
    try:
        events = list(_events(ast.parse(later).body))
    except SyntaxError as error:
        return [f"a later code cell is not valid Python: {error}"]
    problems = []
    for name in names:
        first = next((kind for kind, found in events if found == name), None)
        if first is None:
            problems.append(f"parameter {name!r} is never read after the parameters cell")
        elif first == "store":
            problems.append(f"parameter {name!r} is overwritten before it is read")
    return problems


def _events(statements: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """("load" | "store", name) of global names in the order in which the statements run."""
    for node in statements:
        match node:
            case ast.For(target=target, iter=head, body=body, orelse=orelse):
                yield from _names(head)
                yield from _names(target)
                yield from _events(body + orelse)
            case ast.If(test=head, body=body, orelse=orelse) | ast.While(test=head, body=body, orelse=orelse):
                yield from _names(head)
                yield from _events(body + orelse)
            case ast.With(items=items, body=body):
                for item in items:
                    yield from _names(item.context_expr)
                    yield from _names(item.optional_vars) if item.optional_vars else ()
                yield from _events(body)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                yield from _events([*body, *(s for h in handlers for s in h.body), *orelse, *final])
            case ast.AugAssign(target=ast.Name(id=name)):
                yield "load", name
                yield from _names(node)
            case _:
                yield from _names(node)


def _names(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Global names that one simple statement, definition or expression loads, then those that it stores."""
    table = symtable.symtable(ast.unparse(node), "cell", "exec")

    def nested(scope: symtable.SymbolTable) -> Iterator[symtable.Symbol]:
        for child in scope.get_children():
            yield from (s for s in child.get_symbols() if s.is_global())
            yield from nested(child)

    own = table.get_symbols()
    if isinstance(getattr(node, "ctx", None), ast.Store):  # the target of a loop or of a with statement
        yield from (("store", s.get_name()) for s in own)
        return
    yield from (("load", s.get_name()) for s in [*own, *nested(table)] if s.is_referenced())
    yield from (("store", s.get_name()) for s in own if s.is_assigned() or s.is_imported())

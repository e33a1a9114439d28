"""What a chapter's parameters cell declares, and whether a value fits.

A line of a parameters cell is `steps: int = 150  # [10, 100000] training steps of one run`: a name, a type
(int, float, bool, str, list[X] or X | None), a literal default and a comment that may begin with a range
`[low, high]` or choices `{a, b}`. Three conventions add meaning. A list whose name is a plural holds
alternatives, so it names none twice. A comment that begins with "file", "folder" or "path" declares a path.
One that offers `folder:PATH` lets a value name a folder in this way. A path on a command line starts where
the command is typed.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from helpers.files import read_yaml

if TYPE_CHECKING:
    from nbformat import NotebookNode

SCALARS = {"int": int, "float": float, "bool": bool, "str": str}
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
REASONS = {
    "greater_than_equal": "is out of range",
    "less_than_equal": "is out of range",
    "too_short": "is empty",
    "choice": "is not one of the choices",
    "twice": "names one value twice",
}


class ParameterError(ValueError):
    """A parameters cell that breaks the rules, or a value that a chapter does not accept."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of this error: its sentence is all that a reader can act on."""
        return [f"ParameterError: {self}"]


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `limits` is the range or the choices as the cell writes them."""

    name: str
    annotation: ast.expr
    default: Any
    help: str
    limits: str = ""
    bounds: tuple[float, ...] = ()
    choices: tuple[Any, ...] = ()

    @property
    def type_name(self) -> str:
        return ast.unparse(self.annotation)

    @cached_property
    def _adapter(self) -> TypeAdapter:
        return TypeAdapter(self._type(self.annotation), config=STRICT)

    def _type(self, annotation: ast.expr) -> Any:
        """The annotation for pydantic, with the limits on its scalars and on its lists."""
        match annotation:
            case ast.Name(id=name):
                limits = [Field(ge=self.bounds[0], le=self.bounds[1])] if self.bounds else [Field()]
                return Annotated[SCALARS[name], *limits, AfterValidator(self._chosen)]
            case ast.Subscript(slice=inner):
                return Annotated[list[self._type(inner)], Field(min_length=1), AfterValidator(self._distinct)]
            case ast.BinOp(left=inner):
                return self._type(inner) | None

    def _chosen(self, value: Any) -> Any:
        if self.choices and value not in self.choices:
            raise PydanticCustomError("choice", "")
        return value

    def _distinct(self, values: list[Any]) -> list[Any]:
        if self.name.endswith("s") and len(set(map(repr, values))) < len(values):
            raise PydanticCustomError("twice", "")
        return values

    def accept(self, value: Any) -> Any:
        """`value` as the annotated Python type; `ParameterError` when its type or the limits do not fit."""
        try:
            return self._adapter.validate_python(_plain(value))
        except ValidationError as error:
            reason = REASONS.get(error.errors()[0]["type"], "has the wrong type")
        expected = f"{self.type_name} {self.limits}".strip()
        raise ParameterError(f"parameter {self.name!r}: {value!r} {reason}; expected {expected}")

    def moved(self, value: Any, folder: Path, home: Path) -> Any:
        """A path typed in `folder` as a notebook in `home` must write it, relative inside the project."""
        prefix = "folder:" if "folder:PATH" in self.help else ""
        name = str(value).removeprefix(prefix)
        is_path = str(value).startswith("folder:") if prefix else re.match(r"(file|folder|path)\b", self.help)
        if not (isinstance(value, str | os.PathLike) and is_path and name):
            return value
        path = os.path.abspath(folder / Path(name).expanduser())
        return prefix + (os.path.relpath(path, home) if Path(path).is_relative_to(home.parent) else path)


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers and arrays, tuples and paths as what papermill can write into a cell."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def parameters_of(nb: NotebookNode) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name, in order.

    Raises:
        ParameterError: not exactly one cell tagged `parameters`, or a line in it that is not annotated,
            documented, a literal, and within its own limits.
    """
    tagged = [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
        raise ParameterError(f"expected exactly one code cell tagged 'parameters', found {len(tagged)}")
    parameters = declared("".join(tagged[0]["source"]))
    for parameter in parameters.values():
        parameter.accept(parameter.default)
    return parameters


def defaults_of(nb: NotebookNode) -> dict[str, Any]:
    """The default of every parameter that a notebook declares; errors as `parameters_of`."""
    return {name: parameter.default for name, parameter in parameters_of(nb).items()}


def declared(source: str) -> dict[str, Parameter]:
    """The parameters that the source of a cell declares; their defaults are not checked."""
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
            wanted = "name: type = value  # meaning"
            raise ParameterError(f"the parameters cell may hold only {wanted!r}, got {text!r}")
        if node.target.id in parameters:
            raise ParameterError(f"parameter {node.target.id!r} is declared twice")
        try:
            default = ast.literal_eval(node.value)
        except ValueError as error:
            wanted = "the default must be a literal; derive values in a later cell"
            raise ParameterError(f"{text!r}: {wanted}") from error
        comment = comments.get(node.end_lineno or node.lineno, "")
        parameters[node.target.id] = _documented(node.target.id, node.annotation, default, comment)
    return parameters


def _documented(name: str, annotation: ast.expr, default: Any, comment: str) -> Parameter:
    limits, inside, meaning = re.match(r"(\[([^,\]]+,[^,\]]+)\]|\{[^}]*\}|)\s*(.*)", comment).groups()
    texts = [text.strip() for text in limits[1:-1].split(",")]
    scalar = _scalar(annotation)
    try:
        convert = TypeAdapter(SCALARS[scalar], config=STRICT).validate_python
        values = texts if scalar == "str" or not limits else [convert(read_yaml(text)) for text in texts]
    except (ValidationError, yaml.YAMLError):
        values = []
    if inside and not (scalar in ("int", "float") and values and values[0] <= values[1]):
        raise ParameterError(
            f"parameter {name!r}: {comment!r} must begin with numbers [low, high], low <= high"
        )
    if limits and not values:
        raise ParameterError(f"parameter {name!r}: the choices {limits[1:-1]!r} are not all {scalar}")
    if not meaning:
        raise ParameterError(f"parameter {name!r} needs a comment on its line that says what it means")
    kept = {} if not limits else {"bounds" if inside else "choices": tuple(values)}
    return Parameter(name, annotation, default, meaning, limits, **kept)


def _scalar(annotation: ast.expr) -> str:
    """`float` for float, list[float] and float | None; any other form of annotation is refused."""
    match annotation:
        case ast.Name(id=name) if name in SCALARS:
            return name
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return _scalar(inner)
        case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _scalar(inner)
    wanted = "int, float, bool, str, list[X] or X | None"
    raise ParameterError(f"annotation {ast.unparse(annotation)!r} is not {wanted}")

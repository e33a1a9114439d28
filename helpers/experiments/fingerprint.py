"""What a function depends on, in one short text: its code and everything that the code reaches.

Followed are the functions, classes, modules and values that a function names: globals, closures, default
arguments, attributes of modules, methods, what a `functools.partial` or a decorator wraps. Own code (the
project, the notebook) counts by its bytecode, so that docstrings, comments and line numbers do not matter;
installed packages count by name here, and by version in the cache. Values count by content.
"""

from __future__ import annotations

import builtins
import copyreg
import dis
import functools
import hashlib
import importlib
import inspect
import itertools
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers import PROJECT_ROOT
from helpers.experiments.arms import Arm

LAYER = tuple(
    f"helpers.experiments.{name}" for name in ("cache", "fingerprint", "parallel", "progress", "sweep")
)
"""Modules that run experiments and do not change their numbers: counted by name only."""
PROGRESS = {"tqdm"}
"""Packages whose classes are other ones in a notebook than in a process, and change no number."""
_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range)
_CODE = (types.FunctionType, type, types.ModuleType)
_KINDS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE
_BOOKKEEPING = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__static_attributes__", "__match_args__"),
    *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__type_params__"),
    *("__dataclass_fields__", "__slotnames__"),
}
"""Names in a class that Python fills in, or that say nothing about what it does."""
_GENERATED = {
    *("__init__", "__repr__", "__eq__", "__hash__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__setattr__", "__delattr__", "__replace__", "__getstate__", "__setstate__"),
}
"""Methods that a dataclass writes."""


def fingerprint(value: Any, name: str = "value") -> str:
    """A text that changes when the value, or code that it reaches, changes; the same in every process.

    Raises TypeError, naming the variable, for a value without content to compare (an open file, a generator).
    """
    tokens: list[str] = []
    _Walk(tokens).visit(value, name)
    return hashlib.sha256("\0".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()


class _Walk:
    """Writes down a value and what it reaches as tokens.

    A function, class or module that was met before is written as its number; so is an object inside itself.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.numbers = itertools.count()
        self.met: dict[int, tuple[int, Any]] = {}  # holding the object keeps its id from being given again
        self.arrays: dict[int, tuple[str, Any]] = {}

    def write(self, *words: Any) -> None:
        self.tokens += map(str, words)

    def visit(self, value: Any, where: str) -> None:
        if type(value) in _PLAIN:
            self.write(type(value).__name__, repr(value))
        elif id(value) in self.met:
            self.write("met", self.met[id(value)][0])
        else:
            self.met[id(value)] = next(self.numbers), value
            self.write(type(value).__name__)
            self.describe(value, where)
            if not isinstance(value, _CODE):  # equal values count alike, be they one object or two
                del self.met[id(value)]

    def visit_all(self, values: Iterable[Any], where: str) -> None:
        values = list(values)
        self.write(len(values))
        for i, value in enumerate(values):
            self.visit(value, f"{where}[{i}]")

    def describe(self, value: Any, where: str) -> None:
        if isinstance(value, types.FunctionType):
            self.function(value, where)
        elif isinstance(value, type):
            self.a_class(value, where)
        elif isinstance(value, types.ModuleType):
            self.module(value, where)
        elif isinstance(value, types.MethodType | types.BuiltinMethodType):
            self.write(value.__name__)
            self.visit(getattr(value, "__func__", None), where)
            self.visit(value.__self__, f"{where}.__self__")
        elif isinstance(value, property):
            self.visit_all((value.fget, value.fset, value.fdel), where)
        elif isinstance(value, staticmethod | classmethod):
            self.visit(value.__func__, where)
        elif isinstance(value, functools.cached_property):
            self.visit(value.func, where)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.visit(value.__wrapped__, where)
        elif type(value) in (list, tuple):
            self.visit_all(value, where)
        elif type(value) in (dict, types.MappingProxyType):
            self.mapping(value, where)
        elif type(value) in (set, frozenset):
            self.write(*sorted(fingerprint(v, where) for v in value))
        elif isinstance(value, Arm):
            self.visit_all((value.name, value.settings), where)  # its colour changes no number
        else:
            self.content(value, where)

    def mapping(self, value: Mapping, where: str) -> None:
        self.write(len(value))
        for key, item in value.items():
            self.visit(key, f"a key of {where}")
            self.visit(item, f"{where}[{key!r}]" if isinstance(key, str | int) else where)

    def content(self, value: Any, where: str) -> None:
        """Of an array by its bytes, of any other object as pickle would take it apart."""
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        if kind in ("torch.Tensor", "torch.Parameter"):
            self.write(kind, value.dtype, tuple(value.shape), self.bytes_of(value))
        elif kind == "numpy.ndarray" and not value.dtype.hasobject:
            self.write(value.dtype.str, value.shape, self.bytes_of(value))
        elif kind == "torch.Generator":
            self.visit(value.get_state(), where)
        elif kind in ("torch.device", "torch.dtype"):
            self.write(value)
        else:
            self.parts(value, where)

    def bytes_of(self, value: Any) -> str:
        """Hash of an array's content; each is read once."""
        if id(value) not in self.arrays:
            array = value
            if hasattr(value, "detach"):
                array = value.detach().cpu().contiguous().flatten().view(sys.modules["torch"].uint8).numpy()
            self.arrays[id(value)] = hashlib.sha256(array.tobytes()).hexdigest(), value
        return self.arrays[id(value)][0]

    def parts(self, value: Any, where: str) -> None:
        try:
            parts = copyreg.dispatch_table.get(type(value), lambda v: v.__reduce_ex__(4))(value)
        except Exception as error:
            raise TypeError(
                f"cannot tell whether `{where}` has changed: it is a {type(value).__qualname__}, which has "
                "no content to compare. Make it inside the function, or pass what it is made from"
            ) from error
        if isinstance(value, Path) and value.is_relative_to(PROJECT_ROOT):  # a copy elsewhere is the same
            parts = (type(value), value.relative_to(PROJECT_ROOT).parts)
        if isinstance(parts, str):
            self.write(type(value).__module__, parts)
            return
        for part in parts:
            self.visit(list(part) if isinstance(part, Iterator) else part, where)

    def function(self, value: types.FunctionType, where: str) -> None:
        where = value.__qualname__ if value.__name__ != "<lambda>" else where
        if value.__module__ in LAYER:
            self.write(value.__module__, value.__qualname__)
        elif _is_installed_code(value):
            self.write(value.__module__, value.__qualname__, value.__code__.co_name)
            cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
            for name, cell in cells.items():  # a decorator of a package: what it wraps may be ours
                if callable(content := _content(cell)):
                    self.visit(content, f"{name} in {where}")
        else:
            self.code(value.__code__, value.__globals__, where)
            self.visit(value.__defaults__, f"defaults of {where}")
            self.visit(value.__kwdefaults__, f"defaults of {where}")
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                self.visit(_content(cell), f"{name} in {where}")
            self.mapping({k: v for k, v in vars(value).items() if k != "__wrapped__"}, where)

    def a_class(self, value: type, where: str) -> None:
        if value.__module__.partition(".")[0] in PROGRESS:
            return
        self.write(value.__module__ if _is_installed(value) else "", value.__qualname__)
        if _is_installed(value):
            return
        self.visit_all((type(value), *value.__bases__), where)
        for field in getattr(value, "__dataclass_fields__", {}).values():
            self.write(field.name)
            self.visit_all((field.default, field.default_factory), f"{value.__qualname__}.{field.name}")
        members = vars(value).items()
        if value.__module__ == "__main__":
            members = sorted(members)  # the order in which cloudpickle brings a notebook's class to a worker
        for name, attribute in members:
            if name not in _BOOKKEEPING and not _is_generated(value, name, attribute):
                self.write(name)
                if not isinstance(attribute, types.MemberDescriptorType | types.GetSetDescriptorType):
                    self.visit(attribute, f"{value.__qualname__}.{name}")

    def module(self, value: types.ModuleType, where: str) -> None:
        """All of an own module: taken as a value, anything in it may be used."""
        self.write(value.__name__)
        if value is not builtins and not _is_installed(value) and value.__name__ not in LAYER:
            self.mapping({k: v for k, v in vars(value).items() if not k.startswith("__")}, value.__name__)

    def code(self, code: types.CodeType, names: Mapping[str, Any], where: str) -> None:
        """The instructions without what does not count, each followed by what it names."""
        self.write(code.co_flags & _KINDS, code.co_argcount, code.co_kwonlyargcount, *code.co_varnames)
        self.write(code.co_exceptiontable.hex())
        steps: list[dis.Instruction] = []
        places = {}  # where a jump leads, counted in steps
        for step in dis.get_instructions(code):
            places[step.offset] = len(steps)
            if step.opname not in ("NOP", "EXTENDED_ARG"):
                steps.append(step)
        for place, step in enumerate(steps):
            following = steps[place + 1] if place + 1 < len(steps) else step
            if following.opname == "STORE_NAME" and following.argval in _BOOKKEEPING:
                continue
            self.write(step.opname)
            if step.opcode in dis.hasconst:
                self.constant(step.argval, names, where)
            elif step.opcode in dis.hasjrel:
                self.write(places[step.argval])
            else:
                self.write(step.argrepr or step.arg)
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                self.named(step.argval, steps[place + 1 :], names, where)
            elif step.opname == "IMPORT_NAME":
                self.imported(step.argval, steps[place - 2 :], names, where)

    def constant(self, value: Any, names: Mapping[str, Any], where: str) -> None:
        if isinstance(value, types.CodeType):
            self.code(value, names, where)
        elif isinstance(value, frozenset):
            self.write(*sorted(map(repr, value)))
        else:
            self.write(repr(value))

    def named(self, name: str, following: list, names: Mapping[str, Any], where: str) -> None:
        """What a global name stands for; of an own module, only the attribute that is taken from it."""
        if name not in names:
            self.write("built in" if hasattr(builtins, name) else "missing")
            return
        value = names[name]
        for step in following:
            is_own = isinstance(value, types.ModuleType) and not _is_installed(value)
            if not is_own or step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                break
            name, value = f"{name}.{step.argval}", getattr(value, step.argval, None)
        self.visit(value, f"{name} in {where}")

    def imported(self, name: str, steps: list, names: Mapping[str, Any], where: str) -> None:
        """What an import inside a function brings, when it is our own."""
        level, wanted = steps[0].argval, steps[1].argval
        package = names.get("__package__") if level else None
        module = importlib.import_module("." * level + name, package)
        if _is_installed(module):
            return
        for attribute in wanted or ():
            found = getattr(module, attribute, None)
            if found is None:
                found = importlib.import_module(f"{module.__name__}.{attribute}")
            self.visit(found, f"{attribute} in {where}")
        if not wanted:
            self.visit(module, f"{name} in {where}")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "not assigned yet"


def _is_generated(owner: type, name: str, attribute: Any) -> bool:
    """Whether a dataclass wrote this method; its fields say the same."""
    code = getattr(inspect.unwrap(attribute), "__code__", None) if callable(attribute) else None
    written = hasattr(owner, "__dataclass_fields__") and name in _GENERATED and code is not None
    return written and code.co_filename == "<string>"


@functools.cache
def _is_installed_file(file: str) -> bool:
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _INSTALLED)


def _is_installed_code(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    if not file.startswith("<"):
        return _is_installed_file(file)
    return file.startswith("<frozen") or _is_installed_module(function.__module__)


def _is_installed(value: type | types.ModuleType) -> bool:
    if isinstance(value, types.ModuleType):
        return _is_installed_module(value.__name__)
    if value.__module__ == "builtins":  # which classes executed without a module's name also say
        return not value.__flags__ & _HEAP_TYPE
    return _is_installed_module(value.__module__)


def _is_installed_module(name: str | None) -> bool:
    """Whether a module belongs to Python or to an installed package."""
    module = sys.modules.get(name or "")
    if module is None or name in ("builtins", "__main__"):
        return False
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or getattr(module, "__file__", None)
    if origin is None:  # part of a compiled module, a folder without a file of its own, or made by hand
        folders = list(getattr(module, "__path__", []))
        return _is_installed_file(folders[0]) if folders else _is_installed_module(name.rpartition(".")[0])
    return origin in ("built-in", "frozen") or _is_installed_file(origin)

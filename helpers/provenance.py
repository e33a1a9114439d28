"""Where a notebook's outputs come from: hashes, versions, the stamp of a run, and what went wrong in it.

A complete run stamps its notebook (see `provenance`). Three hashes tie stored numbers to their code:
`source_hash` to the notebook as it reads, `numbers_hash` to its code alone, `code_hash` to the rooms of
`helpers/` that this code reaches. Chapters import this room, so it loads nothing heavy.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import PROJECT_ROOT
from helpers.files import ChapterError

if TYPE_CHECKING:
    from nbformat import NotebookNode

STAMP = "closing_the_gap"
SHOWS = {"show", "curve", "dumbbells", "explorer", "verdicts"}
"""Calls that draw: on a line of their own they move no number."""
TITLE = "finding"
"""The name of a figure's title in the notebooks."""
INJECTED = "injected-parameters"
PACKAGES = ("torch", "torchvision", "pytorch-metric-learning", "numpy")
MOVES_NO_NUMBER = {
    "plotting", "figures", "widgets", "tables", "files", "provenance", "claims", "chapters", "exercises",
    "experiments.cache", "experiments.drawing", "experiments.evidence", "experiments.fingerprint",
    "experiments.parallel", "experiments.progress", "__main__",
}  # fmt: skip
"""Rooms that show, judge and file results, and what runs an experiment without a part in its numbers; what
they import counts only where it is reached without them."""


def source_hash(nb: NotebookNode) -> str:
    """sha256 over type, source, tags and nbgrader metadata of every cell.

    Outputs, execution counts, ids, other metadata and the cell of injected parameters do not count.
    """
    cells = [(c.cell_type, c.source, sorted(_tags(c)), c.metadata.get("nbgrader", {})) for c in nb.cells]
    return _digest([cell for cell in cells if INJECTED not in cell[2]])


def numbers_hash(nb: NotebookNode) -> str:
    """sha256 over the code that a notebook's numbers come from, as the compiler sees it.

    Comments, docstrings, figures (SHOWS), their titles and Markdown do not count, nor do exercises, their
    solutions and the parameters cell: a stamp keeps the parameters themselves. Errors as `code_of`.
    """
    statements = [statement for tree in code_of(nb.cells) for statement in tree.body]
    return _digest(_essence(statements))


def code_hash(nb: NotebookNode, root: str | Path = PROJECT_ROOT) -> str:
    """sha256 over the modules of `helpers/` that this code reaches, each as in `numbers_hash`.

    Imports are followed through modules, sub-packages and re-exports, also from inside functions; rooms of
    MOVES_NO_NUMBER are left out. A project without helpers of its own is measured with these. Errors as
    `code_of`.
    """
    package = Path(root) / "helpers"
    modules = _reached(code_of(nb.cells), package if package.is_dir() else PROJECT_ROOT / "helpers")
    return _digest({name: _essence(tree) for name, tree in modules.items()})


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def code_of(cells: Iterable[NotebookNode]) -> list[ast.Module]:
    """The code of cells, magics as calls, without exercises, parameters and what was injected for them.

    Raises:
        ChapterError: a code cell is not valid Python.
    """
    from IPython.core.inputtransformer2 import TransformerManager  # a gate in a notebook needs none

    trees = []
    for i, cell in enumerate(cells):
        apart = _tags(cell) & {INJECTED, "parameters", "solution"} or "nbgrader" in cell.metadata
        if cell.cell_type != "code" or apart:
            continue
        try:
            trees.append(ast.parse(TransformerManager().transform_cell(cell.source)))
        except SyntaxError as error:
            raise ChapterError(f"cell {i} is not valid Python: {error}") from error
    return trees


def _essence(node: Any) -> Any:
    """A syntax tree as lists, alike in every Python: no docstrings, figures, positions or empty fields."""
    if isinstance(node, list):
        return [_essence(n) for n in node if not _only_shows(n)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *([name, _essence(value)] for name, value in fields)]


def _only_shows(node: Any) -> bool:
    """A docstring, a title (`finding = ...`), or a call such as `plotting.show(...)` on a line of its own."""
    if isinstance(node, ast.Assign):
        return [getattr(target, "id", "") for target in node.targets] == [TITLE]
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Attribute) and value.func.attr in SHOWS
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _reached(code: list[ast.Module], package: Path) -> dict[str, ast.Module]:
    """The modules of `package` that `code` needs, by dotted name."""
    found: dict[str, ast.Module] = {}
    wanted = [target for tree in code for target, _ in _imports(tree)]
    for module, name in wanted:  # grows while it is read
        if name and _file(f"{module}.{name}", package):
            module, name = f"{module}.{name}", ""
        path = _file(module, package)
        rooms = module.split(".")[1:]
        if path is None or {".".join(rooms[:1]), ".".join(rooms[:2])} & MOVES_NO_NUMBER:
            continue
        tree = found.get(module) or ast.parse(path.read_text(encoding="utf-8"))
        inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imports = list(_imports(tree, inside))
        passed_on = [target for target, bound in imports if name and bound == name]
        if not passed_on:
            found[module] = tree
        wanted += [target for target in passed_on or [t for t, _ in imports] if target not in wanted]
    return found


def _file(module: str, package: Path) -> Path | None:
    first, *rest = module.split(".")
    path = package.joinpath(*rest)
    places = (path.with_suffix(".py"), path / "__init__.py") if first == "helpers" else ()
    return next((place for place in places if place.is_file()), None)


def _imports(tree: ast.Module, inside: str = "") -> Iterator[tuple[tuple[str, str], str]]:
    """((module, name or "" for the whole of it), the name that it gets here) of every import of helpers.

    A text that is a module's name counts too: `import_module("helpers.data.birds")`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"helpers(\.\w+)+", str(node.value)):
            yield (node.value, ""), ""
        elif isinstance(node, ast.Import):
            yield from (((alias.name, ""), "") for alias in node.names if alias.name.startswith("helpers"))
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = resolve_name(relative, inside) if node.level else relative
            for alias in node.names if module.split(".")[0] == "helpers" else ():
                yield (module, "" if alias.name == "*" else alias.name), alias.asname or alias.name


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def circumstances(nb: NotebookNode, root: Path = PROJECT_ROOT) -> dict[str, Any]:
    """What the results of a run at the defaults depend on: hashes of sources and ledger, and versions."""
    ledger = Path(root) / "reproduce" / "claims.yaml"
    return {
        "source_hash": source_hash(nb),
        "numbers_hash": numbers_hash(nb),
        "code_hash": code_hash(nb, root),
        "claims_hash": hashlib.sha256(ledger.read_bytes()).hexdigest() if ledger.is_file() else None,
        "versions": versions(),
    }


def system_name() -> str:
    """The operating system as people call it: Linux, macOS, Windows."""
    return {"Darwin": "macOS"}.get(platform.system(), platform.system())


def device_name(parameters: Mapping[str, Any]) -> str:
    """The accelerator that PyTorch finds here, or the CPU (also when the parameter `device` asks for it)."""
    import torch  # seconds to import, and nothing else here needs it

    if parameters.get("device") != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if parameters.get("device") != "cpu" and torch.backends.mps.is_available():
        return "Apple MPS"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def provenance(path: str | Path) -> dict[str, Any]:
    """The stamp of a notebook's last complete run; empty when it has none.

    Keys: source_hash, numbers_hash, code_hash, claims_hash, versions, parameters, device, system, date (UTC),
    wall_seconds, section_seconds (pairs of `##` heading and wall seconds, in order; what precedes the first
    is "Set-up").

    Raises:
        OSError, ValueError: the file cannot be read, or is not a notebook.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))["metadata"].get(STAMP, {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook: {type(error).__name__}: {error}") from error


def stamp_of(path: Path) -> dict[str, Any]:
    """`provenance`; empty also where no notebook can be read."""
    try:
        return provenance(path)
    except (OSError, ValueError):
        return {}


def is_executed_in_order(nb: NotebookNode) -> bool:
    """Whether the execution counts of the code cells that hold code are 1, 2, ..., n."""
    counts = [c.execution_count for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    return counts == list(range(1, len(counts) + 1))


def error_outputs(nb: NotebookNode) -> list[str]:
    """Errors in cell outputs and inside widgets, where neither papermill nor nbconvert look."""
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    widgets = nb.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    for model in widgets.get("state", {}).values():
        if model.get("model_name") == "OutputModel":
            outputs += model["state"].get("outputs", [])
    return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


def stderr_outputs(nb: NotebookNode) -> list[str]:
    """Texts that code cells wrote to stderr (warnings, as a rule), each with its cell number."""
    streams = [(i, o) for i, c in enumerate(nb.cells) if c.cell_type == "code" for o in c.outputs]
    return [f"cell {i}: {o.text.strip()[:300]}" for i, o in streams if o.get("name") == "stderr"]

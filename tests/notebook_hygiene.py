"""What every committed notebook satisfies: `python tests/notebook_hygiene.py [paths]`; tests use it."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from helpers import PROJECT_ROOT, provenance
from helpers.chapters import parameters
from helpers.chapters.declarations import defaults_of
from helpers.chapters.grids import GridError, load_grid
from helpers.claims import recording as claims
from helpers.experiments import Evidence, all_evidence
from helpers.files import READING_LIST, ChapterError, chapter_number, find_chapter

MAX_CODE_LINES = 45
MIN_WORDS_PER_CODE_CELL = 50
MIN_EXERCISES = 3
MAX_BYTES = 2_000_000
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|home|tmp|work|usr|opt)(?=[/\s\"'`)<>,;:]|$)")
SHARED = "../" + "shared"
OF_THIS_MACHINE = re.compile(
    r"\d\.\d|\de[-+]?\d|\d ?(s|ms|min|h|[KMG]i?B|cores?|threads?|seconds?|minutes?|hours?)\b|0x[0-9a-f]{6}"
)
CHECKED = {"nbval-check-output", "nbval-ignore-output"}

Rule = Callable[[NotebookNode], Iterable[str]]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register a rule: a function of a notebook that yields one sentence per problem."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def problems(path: str | Path) -> list[tuple[str, str]]:
    """(rule, sentence) for everything that is wrong with the notebook at `path`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("expected a JSON object")
        with warnings.catch_warnings(action="ignore"):  # reading repairs cell ids; they are checked here
            nb = nbformat.reads(text, as_version=4)
        ids = list(_id_problems(raw))  # first: a notebook without ids is not valid either
        if not ids:
            nbformat.validate(raw)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        return [("valid", f"not a valid notebook: {str(error).splitlines()[0]}")]
    found = [("cell-ids", problem) for problem in ids]
    if path.stat().st_size >= MAX_BYTES:
        found.append(("size", f"{path.stat().st_size} bytes; a notebook stays under {MAX_BYTES}"))
    found += [("links", problem) for problem in _dead_links(nb, path.parent)]
    return found + [(name, problem) for name, function in RULES.items() for problem in function(nb)]


def _dead_links(nb: NotebookNode, folder: Path) -> Iterator[str]:
    """Links of the prose to files that are not there, seen from the notebook's folder."""
    for i, cell in _cells(nb, "markdown"):
        for target in re.findall(r"\]\(([^)#\s]+)", re.sub(r"!\[[^\]]*\]\([^)]*\)", "", cell.source)):
            if not re.match(r"\w+:", target) and not (folder / target).exists():
                yield f"cell {i} links to {target!r}, which is not there"


def _id_problems(raw: dict[str, Any]) -> Iterator[str]:
    ids = [cell.get("id") for cell in raw.get("cells", [])]
    if (missing := ids.count(None)) > 0:
        yield f"{missing} cells have no id"
    yield from (f"id {i!r} is used {n} times" for i, n in Counter(ids).items() if i is not None and n > 1)


def _cells(nb: NotebookNode, kind: str) -> list[tuple[int, NotebookNode]]:
    return [(i, c) for i, c in enumerate(nb.cells) if c.cell_type == kind]


def _outputs(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, out) for i, c in _cells(nb, "code") for out in c.outputs]


def _prose(source: str) -> str:
    """Markdown without code, formulas, pictures, comments and link targets."""
    for pattern in (
        r"(?ms)^\s*(```|~~~).*?^\s*\1",
        r"`[^`\n]*`",
        r"(?s)\$\$.*?\$\$",
        r"\$[^$\n]+\$",
        r"(?s)\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
        r"(?s)<!--.*?-->",
        r"!\[[^\]]*\]\([^)]*\)",
        r"(?<=\])\([^)]*\)",
        r"<[^>]+>",
        r"!=",
    ):
        source = re.sub(pattern, " ", source)
    return source


@rule("executed")
def _executed(nb: NotebookNode) -> Iterator[str]:
    if not provenance.is_executed_in_order(nb):
        yield "the cells were not executed once, from top to bottom; use `python -m helpers.chapters execute`"


@rule("stamp")
def _stamp(nb: NotebookNode) -> Iterator[str]:
    stamp = nb.metadata.get(provenance.STAMP, {})
    if stamp.get("source_hash") != provenance.source_hash(nb):
        yield "the outputs belong to another source; use `python -m helpers.chapters execute`"
    elif reason := _outdated(stamp, nb):
        yield f"{reason}; use `python -m helpers.chapters execute`"


def _outdated(stamp: Mapping[str, Any], nb: NotebookNode) -> str:
    """Why numbers with this stamp may differ from what the present code gives; empty when they may not."""
    try:
        present = {"numbers_hash": provenance.numbers_hash(nb), "code_hash": provenance.code_hash(nb)}
    except ChapterError as error:
        return str(error)
    names = {
        "numbers_hash": "the chapter's code",
        "code_hash": "the code in helpers/ that the chapter reaches",
    }
    changed = [names[key] for key, value in present.items() if stamp.get(key) != value]
    return f"{' and '.join(changed)} changed since its numbers were made" if changed else ""


@rule("errors")
def _errors(nb: NotebookNode) -> Iterator[str]:
    yield from provenance.error_outputs(nb)


@rule("stderr")
def _stderr(nb: NotebookNode) -> Iterator[str]:
    yield from provenance.stderr_outputs(nb)


@rule("parameters")
def _parameters(nb: NotebookNode) -> Iterator[str]:
    yield from parameters.check_parameters(nb)


@rule("checked-output")
def _checked_output(nb: NotebookNode) -> Iterator[str]:
    """nbval compares what a cell prints where its tag says so: wherever no machine prints anything else."""
    missing = []
    for i, cell in _cells(nb, "code"):
        data = [out.get("data", {out.get("name", "error"): out.get("text", "")}) for out in cell.outputs]
        text = "\n".join(value for bundle in data for value in bundle.values() if isinstance(value, str))
        plain = bool(data) and all(set(d) <= {"stdout", "text/plain", "text/markdown"} for d in data)
        if plain and not OF_THIS_MACHINE.search(text) and not CHECKED & set(cell.metadata.get("tags", [])):
            missing.append(i)
        if "nbval-check-output" in cell.metadata.get("tags", []) and any(WIDGET_VIEW in d for d in data):
            yield f"cell {i} shows a widget, which nbval cannot compare: drop its tag nbval-check-output"
    if missing:
        yield (
            f"{len(missing)} cells print text that looks the same on every machine: tag {missing} "
            "nbval-check-output, or nbval-ignore-output where it does not"
        )


@rule("cell-length")
def _cell_length(nb: NotebookNode) -> Iterator[str]:
    for i, cell in _cells(nb, "code"):
        if (lines := len(cell.source.splitlines())) > MAX_CODE_LINES:
            yield f"cell {i} has {lines} lines; a code cell has at most {MAX_CODE_LINES}"


@rule("prose")
def _enough_prose(nb: NotebookNode) -> Iterator[str]:
    words = sum(len(c.source.split()) for _, c in _cells(nb, "markdown"))
    mean = words / max(1, len(_cells(nb, "code")))
    if mean < MIN_WORDS_PER_CODE_CELL:
        yield f"{mean:.0f} words of Markdown per code cell; at least {MIN_WORDS_PER_CODE_CELL} are wanted"


@rule("exercises")
def _exercises(nb: NotebookNode) -> Iterator[str]:
    graded = [(i, c.metadata["nbgrader"]) for i, c in enumerate(nb.cells) if "nbgrader" in c.metadata]
    for i, meta in graded:
        if meta.get("schema_version") != 3 or not meta.get("grade_id"):
            yield f"cell {i}: nbgrader metadata needs schema_version 3 and a grade_id"
        if meta.get("grade") and not isinstance(meta.get("points"), int | float):
            yield f"cell {i}: a cell with nbgrader's 'grade' needs a number of points"
    ids = Counter(meta.get("grade_id") for _, meta in graded)
    yield from (f"grade_id {i!r} is used {n} times" for i, n in ids.items() if n > 1)
    yield from _folded_solutions(nb) if _tagged(nb, "solution") else _solutions_in_place(nb)


def _tagged(nb: NotebookNode, tag: str) -> list[tuple[int, NotebookNode]]:
    return [(i, cell) for i, cell in _cells(nb, "code") if tag in cell.metadata.get("tags", [])]


def _folded_solutions(nb: NotebookNode) -> Iterator[str]:
    """An empty stub, its check somewhere below, and a folded cell with a solution right after the check."""
    code = _cells(nb, "code")
    nbgrader = {i: cell.metadata.get("nbgrader", {}) for i, cell in code}
    checks = {meta.get("grade_id"): i for i, meta in nbgrader.items() if meta.get("grade")}
    stubs = {i: meta.get("grade_id") for i, meta in nbgrader.items() if meta.get("solution")}
    if stubs.keys() != {i for i, _ in _tagged(nb, "exercise")}:
        yield "the cells with nbgrader's 'solution' and those tagged 'exercise' must be the same"
    for i, name in stubs.items():
        if checks.get(f"{name}-check", -1) < i:
            yield f"cell {i}: no check with the grade_id '{name}-check' below it"
    if strange := checks.keys() - {f"{name}-check" for name in stubs.values()}:
        yield f"checks without an exercise: {sorted(map(str, strange))}"
    for (before, _), (i, cell) in itertools.pairwise(code):
        markers = [f"### {end} SOLUTION" in cell.source for end in ("BEGIN", "END")]
        if "solution" not in cell.metadata.get("tags", []):
            if any(markers):
                yield f"cell {i}: solution markers belong in a cell with the tag 'solution'"
        elif not all(markers) or not cell.metadata.get("jupyter", {}).get("source_hidden"):
            yield f"cell {i}: a solution stands between its markers, in a cell that is folded"
        elif before not in checks.values():
            yield f"cell {i}: the code cell above a solution must be its check"
    if len(stubs) < MIN_EXERCISES:
        yield f"{len(stubs)} exercises; at least {MIN_EXERCISES} are wanted"


def _solutions_in_place(nb: NotebookNode) -> Iterator[str]:
    """A cell with the solution between markers, followed by its check."""
    code, complete = _cells(nb, "code"), 0
    for position, (i, cell) in enumerate(code):
        markers = "### BEGIN SOLUTION" in cell.source and "### END SOLUTION" in cell.source
        declared = bool(cell.metadata.get("nbgrader", {}).get("solution"))
        if markers != declared:
            yield f"cell {i}: solution markers and nbgrader's 'solution' belong together"
        if not (markers and declared):
            continue
        check = code[position + 1][1].metadata.get("nbgrader", {}) if position + 1 < len(code) else {}
        if check.get("grade"):
            complete += 1
        else:
            yield f"cell {i}: the next code cell must be its check, with nbgrader's 'grade' true"
    if complete < MIN_EXERCISES:
        yield f"{complete} complete exercises; at least {MIN_EXERCISES} are wanted"


@rule("widget")
def _widget(nb: NotebookNode) -> Iterator[str]:
    data = [out.get("data", {}) for _, out in _outputs(nb)]
    if not any(WIDGET_VIEW in d for d in data):
        yield "no interactive part (a widget view among the outputs)"
    if not any(mime in d for d in data for mime in IMAGES):
        yield "no static figure among the outputs"


@rule("paths")
def _machine_paths(nb: NotebookNode) -> Iterator[str]:
    for where, text in _texts(nb):
        text = re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", text)
        if found := MACHINE_PATH.search(text):
            yield f"{where} holds a path of one machine: {text[found.start() : found.end() + 40]!r}"


@rule("shared")
def _shared(nb: NotebookNode) -> Iterator[str]:
    yield from (f"{where} mentions {SHARED}" for where, text in _texts(nb) if SHARED in text)


def _texts(nb: NotebookNode) -> Iterator[tuple[str, str]]:
    """Every string in the notebook, pictures aside, with the cell that holds it."""

    def strings(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            for key, value in node.items():
                yield from () if key in IMAGES[:2] and isinstance(value, str) else strings(value)
        elif isinstance(node, list):
            for value in node:
                yield from strings(value)

    for i, cell in enumerate(nb.cells):
        yield from ((f"cell {i}", text) for text in strings(cell))
    yield from (("the metadata", text) for text in strings(nb.metadata))


@rule("alt-text")
def _alt_text(nb: NotebookNode) -> Iterator[str]:
    for i, out in _outputs(nb):
        data, html = out.get("data", {}), "".join(out.get("data", {}).get("text/html", ""))
        described = any(alt.strip() for alt in re.findall(r"<img\b[^>]*\balt=[\"']([^\"']*)", html))
        for mime in (m for m in IMAGES if m in data):
            if not described and not str(out.metadata.get(mime, {}).get("alt", "")).strip():
                yield f"cell {i}: an {mime} output has no alt text in its metadata"
        yield from (f"cell {i}: {tag[:60]} has no alt text" for tag in _undescribed(html))
    for i, cell in _cells(nb, "markdown"):
        yield from (f"cell {i}: {tag[:60]} has no alt text" for tag in _undescribed(cell.source))
        yield from (f"cell {i}: {m} has no alt text" for m in re.findall(r"!\[\s*\]\([^)]*\)", cell.source))


def _undescribed(html: str) -> list[str]:
    tags = re.findall(r"(?is)<img\b[^>]*>", html)
    return [tag for tag in tags if not re.search(r"(?i)\balt=([\"'])\s*[^\"'\s]", tag)]


@rule("myst")
def _myst(nb: NotebookNode) -> Iterator[str]:
    for i, cell in _cells(nb, "markdown"):
        if re.search(r"(?m)^\s*(```+\s*\{|:::+)", cell.source):
            yield f"cell {i} holds a MyST directive, which JupyterLab shows raw"


@rule("kernelspec")
def _kernelspec(nb: NotebookNode) -> Iterator[str]:
    if (name := nb.metadata.get("kernelspec", {}).get("name")) != "python3":
        yield f"kernelspec is {name!r}, expected 'python3'"


@rule("exclamation")
def _exclamation(nb: NotebookNode) -> Iterator[str]:
    for i, cell in _cells(nb, "markdown"):
        if found := re.search(r".{0,30}!", _prose(cell.source)):
            yield f"cell {i} has an exclamation mark: {found[0]!r}"


def ledger_problems(paths: Sequence[Path], ledger: str | Path = claims.LEDGER) -> list[str]:
    """Measurements outside the ledger or in the wrong chapter, and rows their chapter does not measure.

    A composite row is judged from its components; one that is "not yet" measured must say what will.
    """
    try:
        rows, results = claims.load_ledger(ledger), claims.collect(paths, ledger)
    except (claims.ClaimError, FileNotFoundError) as error:
        return [str(error)]
    measured = {r.measurement.claim_id: r.notebook for r in results}
    present = {chapter_number(path): path.name for path in paths}
    wrong = [
        f"{notebook} measures {i!r}, which belongs to chapter {rows[i].chapter}"
        for i, notebook in measured.items()
        if present.get(rows[i].chapter) != notebook
    ]
    wrong += [f"{measured[i]} measures {i!r}, which 'plan' calls not yet measured"
              for i, row in rows.items() if row.awaited and i in measured]  # fmt: skip
    return wrong + [
        f"{present.get(row.chapter, f'chapter {row.chapter}, which is not there,')} does not measure {i!r}"
        for i, row in rows.items()
        if i not in measured and row.kind != "composite" and not row.awaited
    ]


def evidence_problems(root: Path = PROJECT_ROOT) -> list[str]:
    """Kept evidence that the present code, or the present plan, might not give, and how to renew it."""
    try:
        return [problem for kept in all_evidence(root) if (problem := _evidence_problem(kept, root))]
    except ValueError as error:
        return [str(error)]


def _evidence_problem(kept: Evidence, root: Path) -> str:
    try:
        grid = load_grid(kept.grid.removesuffix(".yaml"), root)
        nb = nbformat.read(find_chapter(kept.chapter, root), as_version=4)
        wanted = defaults_of(nb) | grid.cells[0].values
    except (GridError, ChapterError, parameters.ParameterError) as error:
        return f"{kept.path().name}: {error}"
    reason = _outdated(kept.model_dump(), nb)
    if not reason and kept.parameters != wanted:
        changed = sorted(n for n in wanted | kept.parameters if wanted.get(n) != kept.parameters.get(n))
        reason = f"its parameters {', '.join(changed)} changed since its numbers were made"
    return f"{kept.path().name}: {reason}; use `{kept.command}`" if reason else ""


def committed_notebooks(root: Path = PROJECT_ROOT) -> list[Path]:
    """Every notebook under `notebooks/`, leaving out checkpoints and unfinished runs."""
    found = sorted((root / "notebooks").rglob("*.ipynb"))
    return [p for p in found if ".ipynb_checkpoints" not in p.parts and not p.name.endswith(".part.ipynb")]


def committed_chapters(root: Path = PROJECT_ROOT) -> list[Path]:
    """The notebooks whose measurements count in the ledger."""
    return [p for p in committed_notebooks(root) if p.parent.name in ("notebooks", READING_LIST)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every problem; the exit status is 1 when there is one."""
    parser = argparse.ArgumentParser(description="Check notebooks against the house rules.")
    parser.add_argument(
        "paths", nargs="*", type=Path, help="notebooks (default: all, with the claims ledger)"
    )
    paths = parser.parse_args(arguments).paths
    checked = paths or committed_notebooks()
    lines = [f"{p}: [{name}] {text}" for p in checked for name, text in problems(p)]
    if not checked:
        lines = ["no notebooks under notebooks/"]
    elif not paths:
        lines += [f"ledger: {text}" for text in ledger_problems(committed_chapters())]
        lines += [f"evidence: {text}" for text in evidence_problems()]
    print("\n".join(lines) or f"{len(checked)} notebooks, no problems")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

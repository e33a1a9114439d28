"""Run chapters in batch: checked parameters in, a complete stamped notebook out, or nothing.

`python -m helpers.chapters run 03 -p seed 1` runs one chapter with papermill behind a strict gate; `execute`
writes a chapter's own outputs back into it; `check` inspects parameters cells; `reproduce` runs whatever is
out of date and writes HTML copies and the claims report; `report` writes it from the stored notebooks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from joblib import Parallel, delayed

from helpers import PROJECT_ROOT, claims
from helpers.chapters.execution import execute_notebook, read_notebook
from helpers.chapters.parameters import (
    ParameterError,
    check_parameters,
    overrides,
    parameters_of,
    parse_values,
)
from helpers.claims.report import ledger_summary, results_markdown
from helpers.experiments.parallel import worker_count
from helpers.files import ChapterError, chapter_titles, find_chapter, find_chapters, write_atomically
from helpers.provenance import STAMP, circumstances, device_name, error_outputs, provenance


def run_chapter(
    name: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    cell_timeout: int | None = None,
    recompute: bool = False,
    workers: int | None = None,
    root: Path = PROJECT_ROOT,
) -> Path:
    """Run a chapter with checked parameters; returns the executed notebook's path.

    The result appears under its name (`build/chapters/03_svmax.ipynb`; a hash of the parameters follows the
    stem when they are not the defaults) only when the run is complete. A failed run leaves its partial output
    as `*.failed.ipynb`, and any earlier result as it was.

    Args:
        parameters: values by name; numpy scalars and paths are converted.
        out: another place for the result.
        cell_timeout: seconds that one cell may take.
        recompute: take no result from `data/cache/` (`helpers/cache.py`).
        workers: processes that the chapter may start for its runs, each with one thread; None leaves both as
            the environment has them.

    Raises:
        ParameterError: before anything runs.
        ChapterError: the run failed.
    """
    source = find_chapter(name, root)
    nb = read_notebook(source)
    changed = overrides(nb, parameters or {})
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    stem = f"{source.stem}__{digest}" if changed else source.stem
    target = Path(out).resolve() if out else Path(root).resolve() / "build" / "chapters" / f"{stem}.ipynb"
    if target == source:
        raise ChapterError(f"{target} is the chapter itself; 'execute' writes outputs back, 'run' does not")
    return execute_notebook(
        source,
        nb,
        changed,
        target,
        scratch=target,
        cell_timeout=cell_timeout,
        environment=_kernel_environment(recompute, workers),
        root=root,
    )


def _kernel_environment(recompute: bool, workers: int | None) -> dict[str, str]:
    """With one thread in every process, the numbers of a CPU do not depend on how many cores it has."""
    fresh = {"CTG_CACHE": "off"} if recompute else {}
    return fresh | ({"CTG_WORKERS": str(workers), "OMP_NUM_THREADS": "1"} if workers else {})


def execute_chapter(name: str | Path, *, cell_timeout: int | None = None, root: Path = PROJECT_ROOT) -> Path:
    """Run a chapter at its defaults and write the outputs back into it; cells and their ids stay as they are.

    Nothing comes from `data/cache/`: every result is computed again.

    Raises:
        ParameterError, ChapterError: as `run_chapter`; text on stderr, except progress bars, fails too.
    """
    source = find_chapter(name, root)
    return execute_notebook(
        source,
        read_notebook(source),
        {},
        source,
        scratch=Path(root).resolve() / "build" / "chapters" / source.name,
        cell_timeout=cell_timeout,
        environment=_kernel_environment(True, worker_count()),
        root=root,
    )


def up_to_date(source: Path, root: Path = PROJECT_ROOT) -> bool:
    """Whether `build/chapters` holds this chapter run with the present defaults, source and helpers."""
    built = _built(source, root)
    if not built.is_file():
        return False
    try:
        nb, stored = read_notebook(source), nbformat.read(built, as_version=4)
        stamp, parameters = stored.metadata.get(STAMP, {}), parameters_of(nb)
    except (ValueError, AttributeError, ChapterError):
        return False
    present = circumstances(nb, root) | {"parameters": {n: p.default for n, p in parameters.items()}}
    return all(stamp.get(key) == value for key, value in present.items()) and not error_outputs(stored)


def reproduce(
    only: Sequence[str] = (),
    *,
    force: bool = False,
    jobs: int | None = None,
    cell_timeout: int | None = None,
    root: Path = PROJECT_ROOT,
) -> list[str]:
    """Run every chapter that is out of date, write the reading copies and the claims report.

    What runs takes nothing from `data/cache/`: every result is computed again. `build/RESULTS.md` and
    `build/html/claims.html` tell of this run, `reproduce/RESULTS.md` and the README of the stored notebooks.

    Args:
        jobs: chapters that run side by side and share the cores (`CTG_WORKERS` if set, else all); by default
            two on a CPU, one on an accelerator or a single core.

    Returns:
        One line for each chapter that failed, to run or to be written as HTML; the others are complete.
    """
    chapters = find_chapters(root)
    wanted = [find_chapter(name, root) for name in dict.fromkeys(only)] or chapters
    stale = [source for source in wanted if force or not up_to_date(source, root)]
    for source in wanted:
        print(f"{source.stem}: {'running' if source in stale else 'up to date'}", flush=True)
    cores = worker_count()
    if jobs is None:
        jobs = 2 if cores > 1 and stale and device_name({}).startswith("CPU") else 1
    jobs = max(1, min(jobs, len(stale)))
    order = sorted(wanted, key=_seconds, reverse=True)  # what takes long must not be the last and alone
    done = Parallel(n_jobs=jobs, batch_size=1)(
        delayed(_bring_up_to_date)(source, source in stale, cell_timeout, max(1, cores // jobs), root)
        for source in order
    )
    errors = dict(zip(order, done, strict=True))
    write_claims([_built(source, root) for source in chapters if up_to_date(source, root)], root)
    write_stored_reports(root)
    return [f"{source.stem}: {errors[source]}" for source in wanted if errors[source]]


def _seconds(source: Path) -> float:
    """What the stored run took; 0 where there is none."""
    try:
        return provenance(source).get("wall_seconds", 0.0)
    except (OSError, ValueError):
        return 0.0


def _built(source: Path, root: Path) -> Path:
    return Path(root) / "build" / "chapters" / source.name


def _bring_up_to_date(source: Path, stale: bool, cell_timeout: int | None, workers: int, root: Path) -> str:
    """Run a stale chapter and write its reading copy; returns what went wrong."""
    from helpers.chapters.reading_copies import (
        reading_copy,  # nbconvert is slow to import and no other command needs it
    )

    try:
        if stale:
            run_chapter(source, cell_timeout=cell_timeout, recompute=True, workers=workers, root=root)
        built, page = _built(source, root), Path(root) / "build" / "html" / f"{source.stem}.html"
        if not page.is_file() or page.stat().st_mtime < built.stat().st_mtime:
            write_atomically(
                page, reading_copy(nbformat.read(built, as_version=4), source.parent, source.stem)
            )
    except Exception as error:  # whatever stops one chapter must not stop the others
        print(f"{source.stem}: {error}", file=sys.stderr, flush=True)
        return str(error)
    return ""


def write_claims(notebooks: Sequence[Path], root: Path = PROJECT_ROOT) -> None:
    """Print the claims table of executed notebooks, write `build/RESULTS.md` and `build/html/claims.html`."""
    from helpers.claims.page import claims_page  # matplotlib is slow to import

    build, ledger = Path(root) / "build", Path(root) / "reproduce" / "claims.yaml"
    results, titles = claims.collect(notebooks, ledger), chapter_titles(notebooks)
    pages = {page.name[:2]: page.name for page in (build / "html").glob("[0-9][0-9]_*.html")}
    print(claims.ledger_table(results, ledger=ledger))
    write_atomically(build / "RESULTS.md", results_markdown(results, titles, ledger=ledger))
    page = build / "html" / "claims.html"
    write_atomically(page, claims_page(results, titles=titles, pages=pages, ledger=ledger))
    print(f"Each claim with its plot: {page}")


def stored_reports(root: Path = PROJECT_ROOT) -> dict[Path, str]:
    """What the README and `reproduce/RESULTS.md` must say, made anew from the stored notebooks, by path."""
    root, chapters = Path(root), find_chapters(root)
    ledger, readme = root / "reproduce" / "claims.yaml", root / "README.md"
    results = claims.collect(chapters, ledger)
    reports = {
        ledger.with_name("RESULTS.md"): results_markdown(results, chapter_titles(chapters), ledger=ledger)
    }
    return reports | ({readme: readme_with_claims(root)} if readme.is_file() else {})


def write_stored_reports(root: Path = PROJECT_ROOT) -> None:
    """Write what `stored_reports` says."""
    for path, text in stored_reports(root).items():
        write_atomically(path, text)


def readme_with_claims(root: Path = PROJECT_ROOT) -> str:
    """The README with the table between its `claims` markers made anew from the stored notebooks.

    A README without both markers comes back as it is.
    """
    text = (Path(root) / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not (begin and end):
        return text
    ledger = Path(root) / "reproduce" / "claims.yaml"
    table = ledger_summary(claims.collect(find_chapters(root), ledger), ledger=ledger)
    return f"{before}{begin}{table.rstrip()}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (1 a failed run or check, 2 a refused parameter)."""
    options = _parser().parse_args(arguments)
    root = Path(options.root)
    try:
        return {
            "run": _main_run,
            "execute": _main_execute,
            "check": _main_check,
            "reproduce": _main_reproduce,
            "report": _main_report,
        }[options.command](options, root)
    except ParameterError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except (ChapterError, claims.ClaimError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; no result was replaced", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.chapters", description="Run the chapters in batch."
    )
    parser.add_argument("--root", default=PROJECT_ROOT, help="project folder (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one chapter with checked parameters")
    run.add_argument("chapter", help="03, 03_svmax, or the path of a notebook")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="one parameter"
    )
    run.add_argument(
        "-y", default="{}", metavar="YAML", help="several parameters, such as '{seed: 1, sizes: [8, 16]}'"
    )
    run.add_argument("-o", metavar="OUT.ipynb", help="where to write (default: build/chapters/)")
    execute = commands.add_parser(
        "execute", help="run chapters at their defaults and store the outputs in them"
    )
    execute.add_argument("chapters", nargs="+")
    check = commands.add_parser("check", help="check that every declared parameter is valid and read")
    check.add_argument("paths", nargs="*", help="notebooks (default: every chapter)")
    every = commands.add_parser(
        "reproduce", help="run what is out of date; write HTML copies and the claims report"
    )
    commands.add_parser("report", help="write the claims report from the stored notebooks, running nothing")
    every.add_argument("--only", nargs="+", default=[], metavar="CHAPTER")
    every.add_argument("--force", action="store_true", help="run also what is up to date")
    every.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="chapters side by side (default: 2 on a CPU; 1 leaves the timings undisturbed)",
    )
    for command in (run, execute, every):
        command.add_argument(
            "--cell-timeout", type=int, metavar="SECONDS", help="longest time one cell may take"
        )
    return parser


def _main_run(options: argparse.Namespace, root: Path) -> int:
    source = find_chapter(options.chapter, root)
    try:
        many = yaml.safe_load(options.y)
    except yaml.YAMLError as error:
        raise ParameterError(f"-y {options.y!r} is not valid YAML") from error
    if not isinstance(many, dict):
        raise ParameterError(f"-y {options.y!r} is not a YAML mapping like '{{seed: 1}}'")
    values = many | parse_values(read_notebook(source), options.p)
    print(run_chapter(source, values, out=options.o, cell_timeout=options.cell_timeout, root=root))
    return 0


def _main_execute(options: argparse.Namespace, root: Path) -> int:
    for name in options.chapters:
        print(execute_chapter(name, cell_timeout=options.cell_timeout, root=root))
    write_stored_reports(root)
    return 0


def _main_check(options: argparse.Namespace, root: Path) -> int:
    paths = [Path(p) for p in options.paths] or find_chapters(root)
    problems = [f"{path.name}: {text}" for path in paths for text in check_parameters(read_notebook(path))]
    print("\n".join(problems) or f"{len(paths)} notebooks: every parameter is declared, documented and read")
    return 1 if problems else 0


def _main_reproduce(options: argparse.Namespace, root: Path) -> int:
    failures = reproduce(
        options.only, force=options.force, jobs=options.jobs, cell_timeout=options.cell_timeout, root=root
    )
    if failures:
        print("failed: " + ", ".join(line.split(":")[0] for line in failures), file=sys.stderr)
    return 1 if failures else 0


def _main_report(options: argparse.Namespace, root: Path) -> int:
    write_claims(find_chapters(root), root)
    write_stored_reports(root)
    return 0

"""Run chapters: checked parameters in, a complete stamped notebook out, or nothing; then the reports."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from helpers import PROJECT_ROOT, claims
from helpers.chapters.declarations import defaults_of
from helpers.chapters.execution import execute_notebook, read_notebook
from helpers.chapters.parameters import ParameterError, moved_paths, overrides
from helpers.claims.report import claims_page, ledger_table, provenance_rows, readme_block, results_markdown
from helpers.claims.standing import Standing, standings
from helpers.experiments.evidence import all_evidence
from helpers.experiments.parallel import worker_count
from helpers.files import (
    ChapterError,
    chapter_number,
    chapter_titles,
    find_chapter,
    find_notebooks,
    write_atomically,
)
from helpers.provenance import circumstances, device_name, stamp_of


def run_chapter(
    name: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    typed_in: str | Path = "",
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
        typed_in: folder where relative paths among the parameters start; by default the current one.
        cell_timeout: seconds that one cell may take.
        recompute: take no result from `data/cache/`.
        workers: processes that the chapter may start for its runs, each with one thread; None leaves both as
            the environment has them.

    Raises:
        ParameterError: before anything runs.
        ChapterError: the run failed.
    """
    source = find_chapter(name, root)
    nb = read_notebook(source)
    changed = overrides(nb, moved_paths(nb, parameters or {}, Path(typed_in).resolve(), source.parent))
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    stem = f"{source.stem}__{digest}" if changed else source.stem
    target = Path(out).resolve() if out else _built(source, root).resolve().with_name(f"{stem}.ipynb")
    if target == source:
        raise ChapterError(f"{target} is the chapter itself; 'execute' writes outputs back, 'run' does not")
    environment = _kernel_environment(recompute, workers)
    how = {"cell_timeout": cell_timeout, "environment": environment, "root": root}
    return execute_notebook(source, nb, changed, target, scratch=target, **how)


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
    environment, scratch = _kernel_environment(True, worker_count()), _built(source, root).resolve()
    how = {"cell_timeout": cell_timeout, "environment": environment, "root": root}
    return execute_notebook(source, read_notebook(source), {}, source, scratch=scratch, **how)


def up_to_date(source: Path, root: Path = PROJECT_ROOT) -> bool:
    """Whether `build/chapters` holds this chapter run with the present defaults, source and code."""
    try:
        nb = read_notebook(source)
        present = circumstances(nb, root) | {"parameters": defaults_of(nb)}
    except (ParameterError, ChapterError):
        return False
    return present.items() <= stamp_of(_built(source, root)).items()


def reproduce(
    only: Sequence[str] = (),
    *,
    force: bool = False,
    jobs: int | None = None,
    cell_timeout: int | None = None,
    root: Path = PROJECT_ROOT,
) -> list[str]:
    """Run every notebook that is out of date, write the book and the claims report.

    What runs takes nothing from `data/cache/`: every result is computed again. `build/RESULTS.md` and the
    book in `build/html` set this run beside the kept evidence; `reproduce/RESULTS.md` and the README tell of
    the stored notebooks and the evidence alone.

    Args:
        jobs: chapters that run side by side and share the cores (`CTG_WORKERS` if set, else all); by default
            two on a CPU, one on an accelerator or a single core.

    Returns:
        One line for each chapter that failed, to run or to be shown in the book; the others are complete.
    """
    chapters = find_notebooks(root)
    wanted = [find_chapter(name, root) for name in dict.fromkeys(only)] or chapters
    stale = [source for source in wanted if force or not up_to_date(source, root)]
    for source in wanted:
        print(f"{source.stem}: {'running' if source in stale else 'up to date'}", flush=True)
    cores = worker_count()
    if jobs is None:
        jobs = 2 if cores > 1 and stale and device_name({}).startswith("CPU") else 1
    jobs = max(1, min(jobs, len(stale)))
    # what takes long must not be the last and alone
    order = sorted(stale, key=lambda source: stamp_of(source).get("wall_seconds", 0.0), reverse=True)
    done = Parallel(n_jobs=jobs, batch_size=1)(
        delayed(_attempt)(source, cell_timeout, max(1, cores // jobs), root) for source in order
    )
    problems = write_reports([source for source in chapters if up_to_date(source, root)], root)
    write_stored_reports(root)
    return sorted(filter(None, done)) + problems


def _built(source: Path, root: Path) -> Path:
    """A notebook of the reading list keeps its folder, so that links between notebooks hold."""
    return Path(root) / "build" / "chapters" / Path(chapter_number(source)).with_name(source.name)


def _attempt(source: Path, cell_timeout: int | None, workers: int, root: Path) -> str:
    """Run a chapter; returns a line that says what went wrong."""
    try:
        run_chapter(source, cell_timeout=cell_timeout, recompute=True, workers=workers, root=root)
    except Exception as error:  # whatever stops one chapter must not stop the others
        line = f"{source.stem}: {error}"
        print(line, file=sys.stderr, flush=True)
        return line
    return ""


def write_reports(ran: Sequence[Path] = (), root: Path = PROJECT_ROOT) -> list[str]:
    """Print the claims table, write `build/RESULTS.md` and the book in `build/html`.

    Args:
        ran: chapters whose run in `build/chapters` the reports tell of, as this copy's own beside the kept
            evidence; of the others the book shows what is stored.

    Returns:
        A line for each thing that the book could not show.
    """
    from helpers.editions.book import write_book  # slow to import

    root, (stand, titles, runs) = Path(root), _known(root, ran)
    print(ledger_table(stand))
    write_atomically(root / "build" / "RESULTS.md", results_markdown(stand, titles, runs))
    shown = {source: _built(source, root) if source in ran else source for source in find_notebooks(root)}
    names = {source: source.relative_to(root / "notebooks").with_suffix("").as_posix() for source in shown}
    pages = {chapter_number(source): f"{name}.ipynb" for source, name in names.items()}
    problems = write_book(
        {name: shown[source] for source, name in names.items()},
        claims_page(stand, titles, runs, pages),
        root / "build" / "html",
        texts=root / "notebooks",
    )
    print(f"The book: {root / 'build' / 'html' / 'index.html'}")
    return problems


def stored_reports(root: Path = PROJECT_ROOT) -> dict[Path, str]:
    """What README, RESULTS.md and forest plot must say of stored notebooks and kept evidence, by path."""
    from helpers.claims.figure import forest_svg  # matplotlib is slow to import

    root, (stand, titles, runs) = Path(root), _known(root)
    reports = {
        root / "reproduce" / "RESULTS.md": results_markdown(stand, titles, runs),
        root / "reproduce" / "forest.svg": forest_svg(stand, titles),
    }
    readme = root / "README.md"
    return reports | ({readme: readme_with_claims(root)} if readme.is_file() else {})


def write_stored_reports(root: Path = PROJECT_ROOT) -> None:
    """Write what `stored_reports` says."""
    for path, text in stored_reports(root).items():
        write_atomically(path, text)


def readme_with_claims(root: Path = PROJECT_ROOT) -> str:
    """The README with what stands between its `claims` markers made anew; without both markers as it is."""
    text = (Path(root) / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not (begin and end):
        return text
    stand, titles, _ = _known(root)
    return f"{before}{begin}{readme_block(stand, titles).rstrip()}\n{end}{after}"


def _known(root: Path, ran: Sequence[Path] = ()) -> tuple[list[Standing], dict[str, str], list[list[str]]]:
    """How every claim stands, also in this copy's own run of the chapters `ran`; titles; provenance."""
    chapters, ledger = find_notebooks(root), Path(root) / "reproduce" / "claims.yaml"
    stored, kept = claims.collect(chapters, ledger), all_evidence(root)
    own = claims.collect([_built(source, root) for source in ran], ledger)
    stand = standings(stored, kept, own=own, ledger=ledger)
    return stand, chapter_titles(chapters), provenance_rows(stored, kept, own)

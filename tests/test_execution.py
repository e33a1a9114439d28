"""A run that fails, is killed or warns leaves the old result alone; a good one goes back into the chapter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from small_notebooks import ONE, notebook, project, texts

from helpers import PROJECT_ROOT, provenance
from helpers.chapters import execution
from helpers.chapters import run as chapters
from helpers.files import ChapterError, write_atomically


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def _kill_a_run(root: Path) -> tuple[bool, bool]:
    """Whether a run reached its cell before it was killed, and whether its kernel ended then."""
    cell = (
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(120 + seed)"
    )
    project(root, c03=notebook(cell, parameters=ONE))
    command = [sys.executable, "-m", "helpers.chapters", "--root", str(root), "run", "03"]
    runner = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = root / "notebooks" / "pid"
    try:
        started = _wait(lambda: pid.is_file() and pid.read_text() != "", 60)
    finally:
        runner.send_signal(signal.SIGKILL)
        runner.wait()
    return started, started and _wait(lambda: not psutil.pid_exists(int(pid.read_text())), 15)


@pytest.fixture(scope="module", autouse=True)
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Future[tuple[bool, bool]]]]:
    """A run that is killed while the other tests here run: it takes seconds, and most of them are waiting."""
    root = tmp_path_factory.mktemp("killed")
    with ThreadPoolExecutor(1) as pool:
        yield root, pool.submit(_kill_a_run, root)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(execution, "device_name", lambda parameters: "a device")  # torch loads slowly


HIDDEN = """\
import ipywidgets
out = ipywidgets.Output()
with out:
    raise ValueError("hidden in a widget")
out"""


@pytest.mark.parametrize(
    ("cell", "timeout", "message"),
    [
        ("raise ValueError('as seed', seed)", None, r"03_c failed: cell 2, ValueError: \('as seed', 0\)"),
        ("import time; time.sleep(60 + seed)", 1, "CellTimeoutError"),
        (HIDDEN + "\nseed", None, "inside a widget: ValueError: hidden in a widget"),
    ],
)
def test_a_failed_run_keeps_the_old_result_and_its_own_remains(
    tmp_path: Path, cell: str, timeout: int | None, message: str
) -> None:
    root = project(tmp_path, c03=notebook("# T", cell, parameters=ONE))
    folder = root / "build" / "chapters"
    write_atomically(folder / "03_c.ipynb", "an earlier result")
    with pytest.raises(ChapterError, match=message) as caught:
        chapters.run_chapter("03", cell_timeout=timeout, root=root)
    assert (folder / "03_c.ipynb").read_text() == "an earlier result"
    assert {p.name for p in folder.iterdir()} == {"03_c.ipynb", "03_c.failed.ipynb"}
    assert "03_c.failed.ipynb" in str(caught.value)


def belongs(path: Path) -> bool:
    """Whether the outputs stored at `path` are those of its source, run once from top to bottom."""
    nb = nbformat.read(path, as_version=4)
    stamped = nb.metadata.get(provenance.STAMP, {}).get("source_hash")
    return stamped == provenance.source_hash(nb) and provenance.is_executed_in_order(nb)


NOISE = """\
import sys
sys.stderr.write("\\r 50%|#####     | 1/2 [00:00<00:00, 9.1it/s]")
sys.stderr.write("\\r100%|##########| 2/2 [00:00<00:00, 9.1it/s]\\n")
print("seed", seed)"""
SLIDER = """\
import os, ipywidgets
print("CTG_CACHE:", os.environ.get("CTG_CACHE"))
ipywidgets.IntSlider(value=7 + seed)"""
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def test_execute_writes_back_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTG_CACHE", "on")
    nb = notebook("# T", NOISE, "## Look", SLIDER, parameters=ONE)
    nb.metadata["widgets"] = {WIDGET_STATE: {"version_major": 2, "version_minor": 0, "state": {"stale": {}}}}
    nb.cells[2].metadata["nbgrader"] = {"grade_id": "kept"}
    root = project(tmp_path, c03=nb)
    path = root / "notebooks" / "03_c.ipynb"
    failed = root / "build" / "chapters" / "03_c.failed.ipynb"
    write_atomically(failed, "an earlier failure")
    assert not belongs(path)
    assert provenance.provenance(path) == {}
    assert chapters.execute_chapter("03", root=root) == path
    assert not failed.exists()
    done = nbformat.read(path, as_version=4)
    assert belongs(path)
    assert [(c.id, c.source, c.cell_type) for c in done.cells] == [
        (c.id, c.source, c.cell_type) for c in nb.cells
    ]
    assert [dict(c.metadata) for c in done.cells] == [dict(c.metadata) for c in nb.cells]
    assert [out.text for out in done.cells[2].outputs] == ["seed 0\n"]
    slider = done.cells[4].outputs[-1].data["application/vnd.jupyter.widget-view+json"]["model_id"]
    state = done.metadata.widgets[WIDGET_STATE]["state"]
    assert state[slider]["state"]["value"] == 7
    assert "stale" not in state
    assert texts(done).endswith("CTG_CACHE: off\n")
    assert os.environ["CTG_CACHE"] == "on"
    assert [title for title, _ in provenance.provenance(path)["section_seconds"]] == ["Set-up", "Look"]
    assert list(path.parent.iterdir()) == [path]
    done.cells[2].source += "\n"
    nbformat.write(done, path)
    assert not belongs(path)


def test_execute_refuses_warnings(tmp_path: Path) -> None:
    root = project(
        tmp_path, c03=notebook("import warnings\nwarnings.warn(f'careful {seed}')", parameters=ONE)
    )
    path = root / "notebooks" / "03_c.ipynb"
    before = path.read_bytes()
    with pytest.raises(ChapterError, match=r"may not write to stderr: cell 1: .*careful 0"):
        chapters.execute_chapter("03", root=root)
    assert path.read_bytes() == before
    assert (root / "build" / "chapters" / "03_c.failed.ipynb").is_file()


def test_a_killed_run_leaves_no_result_and_no_kernel(
    killed: tuple[Path, Future[tuple[bool, bool]]],
) -> None:
    root, outcome = killed
    assert outcome.result(timeout=90) == (True, True)
    left = [p.name for p in (root / "build" / "chapters").iterdir()]
    assert all(name.endswith(".part.ipynb") for name in left)

"""Grids: refused before they start, finished after every kind of stop, summed up over seeds; and Slurm."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
import yaml
from nbformat.v4 import new_output
from small_notebooks import notebook, project

from helpers import PROJECT_ROOT
from helpers.chapters import grids as grid
from helpers.chapters import run as chapters
from helpers.chapters.grid_summary import write_summary
from helpers.chapters.grids import GridError, load_grid
from helpers.chapters.parameters import ParameterError
from helpers.claims import MIME
from helpers.claims.ledger import paired_interval
from helpers.files import ChapterError, find_chapters
from helpers.provenance import STAMP, source_hash

PARAMETERS = """\
seed: int = 0  # [0, 1000] first seed
seeds: int = 3  # [3, 9] seeds
rate: float = 0.1  # [0, 1] rate
wait: bool = False  # wait for a file"""
CELL = """\
import json, os, time
from pathlib import Path
def note(what):
    line = {"what": what, "seed": seed, "rate": rate, "time": time.time(), "env": dict(os.environ)}
    with open(f"ran{seed}.txt", "a") as file:
        print(json.dumps(line), file=file)
note("start")
if seed < 100 and Path("bad").exists():
    Path("bad").rename(f"bad{seed}")
if Path(f"bad{seed}").exists():
    raise ValueError(f"seed {seed} is bad")
if Path(f"once{seed}").exists():
    Path(f"once{seed}").unlink()
    raise ValueError("only once")
while wait and not (Path("go").exists() or Path(f"go{seed}").exists()):
    time.sleep(0.05)
note("end")
print(seeds)"""
LEDGER_ROW = {
    "id": "better", "chapter": "03", "claim": "c", "source": "s", "published": None, "measure": "m",
    "kind": "effect", "direction": "greater", "tolerance": 0.1, "unit": "u", "thesis_setting": "t",
    "refuting": ["rival"],
}  # fmt: skip


def stub(root: Path, **grids: dict[str, Any]) -> Path:
    """A project whose chapters 03 and 04 note when they run, with some grids."""
    chapter = notebook("# T", CELL, parameters=PARAMETERS)
    project(root, c03=chapter, c04=chapter)
    folder = root / "reproduce" / "grids"
    folder.mkdir(parents=True)
    for name, keys in grids.items():
        complete = {"chapter": "03", "about": "A test.", "seed": [0, 10]} | keys
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(complete))
    return root


def ran(root: Path, what: str = "end") -> list[dict[str, Any]]:
    """What the cells noted, by seed, then in order."""
    files = sorted((root / "notebooks").glob("ran*.txt"), key=lambda p: int(re.sub(r"\D", "", p.name)))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line["what"] == what]


def seeds_of(root: Path, what: str = "end") -> list[int]:
    return [line["seed"] for line in ran(root, what)]


def results(root: Path, name: str) -> list[str]:
    return sorted(p.name.split("-")[0] for p in (root / "build" / "grids" / name / "cells").glob("*"))


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found, "waited in vain"
    return found


@pytest.fixture
def light(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes without torch and a grammar of IRIs: both take seconds to load, neither matters here."""
    folder = tmp_path_factory.mktemp("light")
    no = "class {0}:\n    is_available = staticmethod(lambda: False)\n"
    (folder / "torch.py").write_text(
        no.format("cuda") + "class backends:\n" + no.format("mps").replace("\n", "\n    ").join(["    ", ""])
    )
    (folder / "rfc3987_syntax.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{PROJECT_ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a cell must not take this from its surroundings


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts grids; ends what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def run(root: Path, name: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "helpers.chapters.grids", "--root", str(root), "run", name, *more]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=PROJECT_ROOT, start_new_session=True, **both))
        return started[-1]

    yield run
    for process in started:
        for member in psutil.process_iter():
            if member.pid != os.getpid() and _session(member.pid) == process.pid:
                member.kill()
        process.communicate()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def finish(process: subprocess.Popen[str], status: int) -> str:
    output = process.communicate(timeout=90)[0]
    assert process.returncode == status, output
    return output


# --- grid files ------------------------------------------------------------------------------------------


def test_cells_are_all_combinations_and_refused_by_the_chapter_s_own_check(tmp_path: Path) -> None:
    vary = {"rate": [0.1, 0.5], "size": [{"wait": True}, {"seeds": 4}]}
    root = stub(tmp_path, good={"vary": vary}, bad={"set": {"rat": 0.2}})
    found = [cell.values for cell in load_grid("good", root).cells]
    assert len(found) == 8
    assert {"seed": 0, "wait": True} in found  # a default is left out
    assert {"seed": 10, "rate": 0.5, "seeds": 4} in found
    assert len({cell.id for cell in load_grid("good", root).cells}) == 8
    with pytest.raises(
        ParameterError, match=r"bad\.yaml, cell .*unknown parameter 'rat': did you mean 'rate'"
    ):
        load_grid("bad", root)
    assert grid.main(["--root", str(root), "run", "bad"]) == 2
    assert not (root / "build").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": [1]}, "unknown key 'seeds'; known keys: about, chapter"),
        ({"chapter": 3}, r"'chapter' must be text \(quote a number\), got 3"),
        ({"seed": 0}, r"'seed' must be a list of first seeds, like \[0, 100\], got 0"),
        ({"seed": []}, "'seed' must be a list"),
        ({"vary": {"rate": 0.1}}, "'vary' must be a mapping of non-empty lists"),
        ({"cpus": 0}, "'cpus' must be a whole number >= 1, got 0"),
        ({"gpus": 2}, "'gpus' must be 0 or 1: a chapter uses one device, got 2"),
        ({"hours": 0}, "'hours' must be a number > 0"),
        ({"gpus": 1}, "'cost' must be a mapping with the keys"),
        ({"seed": [0, 2]}, "first seeds 0 and 2 overlap, a cell runs 3 seeds"),
        ({"seed": [0, 10], "vary": {"seeds": [3, 9]}, "set": {"seeds": 4}}, "sets 'seeds' twice"),
        ({"vary": {"rate": [0.1, 0.1]}}, "two cells have the parameters"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(GridError, match=message):
        load_grid("g", stub(tmp_path, g=keys))


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = stub(tmp_path, g={}, h={"chapter": "07"})
    with pytest.raises(GridError, match="no grid 'x' in reproduce/grids; there are: g, h"):
        load_grid("x", root)
    assert grid.main(["--root", str(root), "check"]) == 1
    output = capsys.readouterr()
    assert "g: chapter 03, 2 cells; no GPU" in output.out
    assert "h: chapter '07' names 0 notebooks" in output.err


def test_the_project_s_own_grids_pass_and_their_cost_is_what_they_say() -> None:
    names = [p.stem for p in (PROJECT_ROOT / "reproduce" / "grids").glob("*.yaml")]
    chapters_of_thesis = set()
    for loaded in map(load_grid, names):
        if loaded.name.startswith("thesis_"):
            chapters_of_thesis.add(loaded.chapter)
        if loaded.gpus:
            formula = re.sub(r"[^\d+*() ]", "", loaded.cost["formula"].replace("x", "*"))
            assert eval(formula) == loaded.cost["steps"], loaded.name
            assert f"{len(loaded.cells)} cells" in loaded.cost["formula"]
            assert f"{loaded.cost['steps']:,}" in (PROJECT_ROOT / "reproduce/grids/README.md").read_text()
    assert chapters_of_thesis == {path.name[:2] for path in find_chapters()}


def test_gpu_hours_follow_from_measured_steps(tmp_path: Path) -> None:
    cost = {"formula": "f", "steps": 7200, "seconds_per_step": None, "measured_on": "a GPU"}
    root = stub(
        tmp_path, g={"gpus": 1, "cost": cost}, h={"gpus": 1, "cost": cost | {"seconds_per_step": 0.5}}
    )
    assert "not measured on a GPU yet" in grid.gpu_hours(load_grid("g", root))
    assert grid.gpu_hours(load_grid("h", root)) == "7,200 training steps, about 1 GPU hours (a GPU)"


# --- cells -----------------------------------------------------------------------------------------------


def test_a_complete_result_is_taken_and_any_other_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stub(tmp_path)
    source = source_hash(nbformat.read(root / "notebooks" / "03_c.ipynb", as_version=4))
    out, calls = root / "build" / "grids" / "g" / "cells" / "seed1-x.ipynb", []

    def run_chapter(path: Path, values: dict[str, Any], *, out: Path, root: Path) -> None:
        calls.append(values)
        if len(calls) == 3:
            raise ChapterError("broken")
        parameters = {"seed": 0, "seeds": 3, "rate": 0.1, "wait": False} | values
        stamp = {"source_hash": source, "parameters": parameters}
        out.write_text(json.dumps({"cells": [], "metadata": {STAMP: stamp}}))

    monkeypatch.setattr(chapters, "run_chapter", run_chapter)
    for name in (*grid.THREAD_CAPS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")

    def cell(source: str = source, **values: Any) -> None:
        grid.run_cell("03", values, out, cpus=2, gpus=0, source=source, root=root)

    cell(seed=1)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["CTG_WORKERS"] == "2"
    out.unlink()  # as Snakemake does before it starts a job again
    cell(seed=1)
    assert out.is_file()
    assert calls == [{"seed": 1}]
    cell(seed=2)
    assert calls == [{"seed": 1}, {"seed": 2}]
    leftover = out.parent.parent / "work" / "seed1-x.12345678.part.ipynb"
    leftover.write_text("{")
    with pytest.raises(ChapterError, match="broken"):
        cell(seed=3)
    assert not leftover.exists()
    assert (out.parent.parent / "work" / "seed1-x.error").read_text() == "broken\n"
    nb = nbformat.read(root / "notebooks" / "03_c.ipynb", as_version=4)
    nb.cells[2].source += "\n1"
    nbformat.write(nb, root / "notebooks" / "03_c.ipynb")
    with pytest.raises(ChapterError, match=r"03_c\.ipynb changed since this grid was started"):
        cell(seed=2)
    source = source_hash(nb)
    cell(source, seed=2)
    assert calls == [{"seed": 1}, {"seed": 2}, {"seed": 3}, {"seed": 2}]  # kept for the earlier chapter
    assert not (out.parent.parent / "work" / "seed1-x.error").exists()


def test_each_cell_has_a_device_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(grid, "gpu_devices", lambda: ["0", "3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    seen: list[str] = []

    def third() -> None:
        with grid._device(1):
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])

    with grid._device(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        with grid._device(1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
            waiting = threading.Thread(target=third)
            waiting.start()
            time.sleep(0.3)
            assert seen == []
        waiting.join(timeout=10)
        assert seen == ["3"]
    with grid._device(0):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setattr(grid, "gpu_devices", lambda: [])
    with pytest.raises(GridError, match="wants a GPU per cell and none is here; `--gpus 0`"), grid._device(1):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # the scheduler gave this job its device
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with grid._device(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_gpu_grid_without_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = {"formula": "f", "steps": 1, "seconds_per_step": None, "measured_on": "no"}
    root = stub(tmp_path, g={"gpus": 1, "cost": cost})
    commands: list[list[str]] = []
    monkeypatch.setattr(grid.os, "execv", lambda path, command: commands.append(command))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert grid.main(["--root", str(root), "run", "g"]) == 2
    assert "wants a GPU per cell and none is here; add --gpus 0" in capsys.readouterr().err
    assert commands == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 4")
    assert grid.main(["--root", str(root), "run", "g", "--cores", "8"]) == 0
    assert commands[0][-4:] == ["--resources", "gpu=2", "--cores", "8"]
    assert grid.main(["--root", str(root), "run", "g", "--profile", "slurm", "-n"]) == 0
    assert "--resources" not in commands[1]
    assert str(PROJECT_ROOT / "reproduce" / "profiles" / "slurm") in commands[1]


# --- the summary -----------------------------------------------------------------------------------------


def test_the_summary_pools_seeds_and_names_what_is_missing(tmp_path: Path) -> None:
    root = stub(tmp_path, g={"seed": [0, 10, 20, 30], "vary": {"rate": [0.1, 0.5]}})
    identity = {k: v for k, v in LEDGER_ROW.items() if k not in ("direction", "refuting")}
    rows = [LEDGER_ROW, identity | {"id": "equal", "kind": "identity"}]
    (root / "reproduce" / "claims.yaml").write_text(yaml.safe_dump(rows))
    loaded = load_grid("g", root)
    folder = grid.grid_folder(loaded, root)
    for part in ("cells", "work"):
        (folder / part).mkdir(parents=True)
    effects = {0: [0.2, 0.3, 0.4], 10: [0.6, 0.4, 0.2], 20: [9.0, 9.0, 9.0]}
    for cell in loaded.cells:
        seed, rate = cell.values["seed"], cell.values.get("rate", 0.1)
        if rate == 0.1 and seed in effects:
            found = effects[seed]
            controls = {"rival": [-v for v in found]}
            measured = [
                {"claim_id": "better", "setting": "s", "effects": found, "controls": controls},
                {"claim_id": "equal", "setting": "s", "violation": 0.01 * (seed + 1)},
            ]  # fmt: skip
            nb = notebook("1", parameters=PARAMETERS)
            nb.cells[1].outputs = [new_output("display_data", {MIME: m}) for m in measured]
            stamp = {"source_hash": loaded.source, "parameters": cell.values, "helpers_hash": str(seed)}
            stamp |= {"source_hash": "of an earlier chapter"} if seed == 20 else {}
            nb.metadata[STAMP] = stamp
            nbformat.write(nb, folder / "cells" / f"{cell.id}.ipynb")
        elif rate == 0.5 and seed == 0:
            (folder / "work" / f"{cell.id}.error").write_text("03_c failed: cell | 2\nTraceback")
        elif rate == 0.5 and seed == 10:
            (folder / "work" / f"{cell.id}.lock").touch()
    text = write_summary(loaded, root).read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["counts"] == {"done": 2, "failed": 1, "stopped": 1, "not run": 4}
    first, second = summary["settings"]
    assert (first["parameters"], second["parameters"]) == ({}, {"rate": 0.5})
    pooled = paired_interval([0.2, 0.3, 0.4, 0.6, 0.4, 0.2])
    better = first["claims"]["better"]
    assert better["effect"] == {"mean": pooled.mean, "low": pooled.low, "high": pooled.high, "seeds": 6}
    assert better["controls"]["rival"]["mean"] == pytest.approx(-pooled.mean)
    assert better["controls"]["rival"]["beaten"] is False
    assert better["verdict"] == "same direction"
    assert (first["claims"]["equal"]["violation"], first["claims"]["equal"]["verdict"]) == (
        0.11,
        "not reproduced",
    )
    assert second["claims"] == {}
    assert "8 cells: 2 done, 1 failed, 1 stopped, 4 not run." in text
    assert "| +0.35 (+0.191 to +0.509) u, 6 seeds | does not beat rival: -0.35 (-0.509 to -0.191) |" in text
    assert "| seed 0, rate 0.5 | 03_c failed: cell \\| 2 |" in text
    assert "| seed 10, rate 0.5 | stopped |" in text
    assert "ran under 2 versions of `helpers/`" in text


# --- Snakemake, for real ---------------------------------------------------------------------------------


def test_two_grids_at_once_a_failing_cell_a_retry_and_a_changed_notebook(
    tmp_path: Path, light: None, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = {"formula": "f", "steps": 1, "seconds_per_step": None, "measured_on": "no"}
    root = stub(
        tmp_path / "a b",
        g={"vary": {"rate": [0.5]}, "retries": 0},
        h={"seed": [100, 110], "chapter": "04", "gpus": 1, "cost": cost},
    )
    for name in ("once100", "bad"):  # the first cell of g is bad
        (root / "notebooks" / name).touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    both = start(root, "g", "--cores", "1"), start(root, "h", "--cores", "2")
    wait_for((root / "build" / "grids" / "g" / ".snakemake").is_dir)
    assert "refused: grid 'g' is already running" in finish(start(root, "g"), 2)
    finish(both[0], 1)
    finish(both[1], 0)
    (bad,) = (int(p.name.removeprefix("bad")) for p in (root / "notebooks").glob("bad*"))
    assert results(root, "g") == [f"seed{10 - bad}"]
    assert seeds_of(root) == [10 - bad, 100, 110]
    assert seeds_of(root, "start") == [0, 10, 100, 100, 110]  # h tries again, g does not
    for line in ran(root):
        assert all(line["env"][name] == "1" for name in grid.THREAD_CAPS)
        assert line["env"]["CUDA_VISIBLE_DEVICES"] == ("5" if line["seed"] >= 100 else "")
    (_, end), (begin, _) = sorted(
        (s["time"], e["time"]) for s, e in zip(ran(root, "start")[-2:], ran(root)[-2:], strict=True)
    )
    assert end < begin  # one device: one after the other
    folder = root / "build" / "grids" / "g"
    text = (folder / "summary.md").read_text()
    named = f"seed {bad}, rate 0.5"
    assert f"| {named} | 03_c failed: cell 3, ValueError: seed {bad} is bad |" in text
    assert json.loads((folder / "summary.json").read_text())["counts"]["done"] == 1

    (root / "notebooks" / f"bad{bad}").unlink()
    finish(start(root, "g"), 0)
    assert seeds_of(root) == [0, 10, 100, 110]
    assert "2 done, 0 failed" in (folder / "summary.md").read_text()

    path = root / "notebooks" / "03_c.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[2].outputs = [new_output("stream", text="other outputs")]
    nbformat.write(nb, path)
    assert "Nothing to be done" in finish(start(root, "g", "-n"), 0)
    nb.cells[2].source += "\n1"
    nbformat.write(nb, path)
    changed, other = start(root, "g", "-n"), start(root, "h", "-n")
    assert re.search(r"cell +2\n", finish(changed, 0))
    assert "Nothing to be done" in finish(other, 0)


def test_nothing_is_lost_or_done_twice_after_sigterm_and_sigkill(
    tmp_path: Path, light: None, start: Callable[..., subprocess.Popen[str]]
) -> None:
    root = stub(tmp_path, g={"seed": [10, 20, 30, 40], "set": {"wait": True}})
    go, folder = root / "notebooks" / "go", root / "build" / "grids" / "g"
    process = start(root, "g", "--cores", "1")
    (first,) = wait_for(lambda: seeds_of(root, "start"))
    process.send_signal(signal.SIGTERM)
    go.touch()
    finish(process, 1)  # the running cell came to its end, no other began
    assert seeds_of(root) == seeds_of(root, "start") == [first]
    assert results(root, "g") == [f"seed{first}"]
    assert "1 done, 0 failed, 0 stopped, 3 not run" in (folder / "summary.md").read_text()

    go.unlink()
    process = start(root, "g", "--cores", "3")
    wait_for(lambda: seeds_of(root, "start") == [10, 20, 30, 40])
    dies, ends, survives = sorted({10, 20, 30, 40} - {first})
    below = psutil.Process(process.pid).children(recursive=True)
    dead = [p for p in below if f"cells/seed{dies}" in " ".join(p.cmdline())]
    process.kill()
    for victim in [q for p in dead for q in (p, *p.children(recursive=True))]:
        victim.kill()
    process.wait()
    assert len(list((folder / "work").glob("*.part.ipynb"))) == 3  # all were in the middle
    assert results(root, "g") == [f"seed{first}"]
    (root / "notebooks" / f"go{ends}").touch()  # it survives Snakemake, and ends before the next begins
    wait_for(lambda: results(root, "g") == sorted([f"seed{first}", f"seed{ends}"]))

    again = start(root, "g", "--cores", "3")
    wait_for(lambda: any("waiting for it" in p.read_text() for p in folder.glob(f"logs/seed{survives}-*")))
    go.touch()
    finish(again, 0)
    assert results(root, "g") == ["seed10", "seed20", "seed30", "seed40"]
    assert seeds_of(root) == [10, 20, 30, 40]
    assert seeds_of(root, "start") == sorted([10, 20, 30, 40, dies])
    assert list((folder / "work").glob("*.part.ipynb")) == []


def test_the_thesis_grids_pass_a_dry_run(light: None, start: Callable[..., subprocess.Popen[str]]) -> None:
    names = sorted(p.stem for p in (PROJECT_ROOT / "reproduce" / "grids").glob("thesis_*.yaml"))
    for name, process in [(name, start(PROJECT_ROOT, name, "-n")) for name in names]:
        assert re.search(rf"cell +{len(load_grid(name).cells)}\n", finish(process, 0)), name


# --- Slurm -----------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real Slurm of one node, for this test alone."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(
            f"no Slurm here ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.getuid() != 0:
        pytest.skip("only root can start a Slurm of its own")
    if os.path.exists("/etc/slurm/slurm.conf"):
        pytest.skip("/etc/slurm/slurm.conf is there: this machine belongs to a cluster")
    folder = tmp_path_factory.mktemp("slurm")
    script = str(PROJECT_ROOT / "tests" / "mini_slurm.sh")
    try:
        begun = subprocess.run([script, "start", str(folder)], capture_output=True, text=True, timeout=60)
        if begun.returncode:
            pytest.skip(f"Slurm does not start here: {begun.stdout[-2000:]}{begun.stderr[-500:]}")
        yield
    finally:
        subprocess.run([script, "stop", str(folder)], check=True)


def test_a_grid_on_slurm(
    tmp_path: Path, light: None, slurm: None, start: Callable[..., subprocess.Popen[str]]
) -> None:
    root = stub(tmp_path, g={"retries": 0, "memory_gb": 1, "hours": 0.1})
    (root / "notebooks" / "bad10").touch()
    options = ["--slurm-status-command", "squeue", "--slurm-no-account", "--latency-wait", "5"]
    options += ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
    output = finish(start(root, "g", "--profile", "slurm", *options), 1)
    assert results(root, "g") == ["seed0"], output
    text = (root / "build" / "grids" / "g" / "summary.md").read_text()
    assert "2 cells: 1 done, 1 failed" in text
    assert "ValueError: seed 10 is bad" in text
    for line in ran(root, "start"):
        assert line["env"]["SLURM_JOB_ID"]
        assert all(line["env"][name] == "1" for name in grid.THREAD_CAPS)
    assert seeds_of(root, "start") == [0, 10]

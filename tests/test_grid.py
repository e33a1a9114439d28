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
import numpy as np
import psutil
import pytest
import yaml
from nbformat.v4 import new_output
from small_notebooks import notebook, project

from helpers import PROJECT_ROOT
from helpers.chapters import grid_run
from helpers.chapters.command_line import main
from helpers.chapters.grid_summary import _together, write_summary
from helpers.chapters.grids import GridError, load_grid
from helpers.chapters.parameters import ParameterError
from helpers.claims import MIME
from helpers.experiments import Paired
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
    "kind": "effect", "direction": "greater", "smallest": 0.1, "unit": "u", "thesis_setting": "t",
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
    """The cells that are complete."""
    found = (root / "build" / "grids" / name / "cells").glob("*.ipynb")
    return sorted(p.name.split("-")[0] for p in found if not p.stem.endswith((".part", ".failed")))


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found, "waited in vain"
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts grids; ends what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def run(root: Path, name: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "helpers.chapters", "--root", str(root), "grid", name, *more]
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
    assert main(["--root", str(root), "grid", "bad"]) == 2
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
        ({"cpus": True}, "'cpus' must be a whole number >= 1, got True"),
        ({"tier": "laptop"}, "'tier' must be study, real or gpu, got 'laptop'"),
        ({"gpus": 2}, "'gpus' must be 0 or 1: a chapter uses one device, got 2"),
        ({"hours": 0}, "'hours' must be a number > 0"),
        ({"about": " "}, "'about' must be text, got ' '"),
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
    (root / "reproduce" / "grids" / "not_a_mapping.yaml").write_text("[1]")
    with pytest.raises(GridError, match="no grid 'x' in reproduce/grids; there are: g, h, not_a_mapping"):
        load_grid("x", root)
    assert main(["--root", str(root), "grid"]) == 1
    output = capsys.readouterr()
    assert "g: chapter 03, 2 cells; no GPU" in output.out
    assert "h: chapter '07' names 0 notebooks" in output.err
    assert "not_a_mapping.yaml must hold a YAML mapping, got list" in output.err


def test_numbers_of_a_grid_are_decimal_and_its_paths_start_in_the_project(tmp_path: Path) -> None:
    root = stub(tmp_path)
    parameters = PARAMETERS + '\ndataset: str = "birds"  # birds, or folder:PATH'
    project(root, c03=notebook("print(dataset)", parameters=parameters))
    text = 'chapter: "03"\nabout: A.\nseed: [010]\nset: {seeds: 07, rate: 1e-2, dataset: folder:data/mine}\n'
    (root / "reproduce" / "grids" / "g.yaml").write_text(text)
    (cell,) = load_grid("g", root).cells
    assert cell.values == {"seed": 10, "seeds": 7, "rate": 0.01, "dataset": "folder:../data/mine"}


def test_the_project_s_own_grids_pass_and_their_cost_is_what_they_say() -> None:
    readme = (PROJECT_ROOT / "reproduce" / "grids" / "README.md").read_text(encoding="utf-8")
    of_thesis = set()
    for path in (PROJECT_ROOT / "reproduce" / "grids").glob("*.yaml"):
        loaded = load_grid(path.stem)
        if loaded.tier:
            assert loaded.name == f"{loaded.chapter.replace('/', '_')}_{loaded.tier}"
            assert len(loaded.cells) == 1
            assert loaded.seed[0] >= 100  # pilots have the seeds below
        if loaded.name.startswith("thesis_"):
            of_thesis.add(loaded.chapter)
            assert bool(loaded.cost) == bool(loaded.gpus)
        if loaded.cost:
            formula, steps = re.match(r"(.*) = ([\d,]+) training steps", loaded.cost).groups()
            product = re.sub(r"[^\d+*() ]", "", formula.replace("x", "*"))
            assert eval(product) == int(steps.replace(",", "")), loaded.name
            assert f"{len(loaded.cells)} cells" in formula
            assert steps in readme
    assert of_thesis == {path.name[:2] for path in find_chapters()}


# --- cells -----------------------------------------------------------------------------------------------


def test_a_complete_result_is_taken_and_any_other_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stub(tmp_path)
    source = source_hash(nbformat.read(root / "notebooks" / "03_c.ipynb", as_version=4))
    out, calls = root / "build" / "grids" / "g" / "cells" / "seed1-x.ipynb", []

    def run_chapter(path: Path, values: dict[str, Any], *, out: Path, typed_in: Path, root: Path) -> None:
        assert typed_in == path.parent
        calls.append(values)
        if len(calls) == 3:
            raise ChapterError("broken")
        parameters = {"seed": 0, "seeds": 3, "rate": 0.1, "wait": False} | values
        stamp = {"source_hash": source, "parameters": parameters}
        out.write_text(json.dumps({"cells": [], "metadata": {STAMP: stamp}}))

    monkeypatch.setattr(grid_run, "run_chapter", run_chapter)
    for name in (*grid_run.THREAD_CAPS, "CTG_WORKERS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(grid_run, "gpu_devices", lambda: ["0"])

    def cell(source: str = source, gpus: int = 0, **values: Any) -> None:
        grid_run.run_cell("03", values, out, cpus=2, gpus=gpus, source=source, root=root)

    cell(seed=1)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["CTG_WORKERS"]) == ("1", "2")
    os.utime(out, (0, 0))
    cell(seed=1)
    assert out.stat().st_mtime > 0  # Snakemake must see that this attempt has a result
    assert calls == [{"seed": 1}]
    cell(seed=2, gpus=1)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["CTG_WORKERS"] == "2"
    assert calls == [{"seed": 1}, {"seed": 2}]
    leftover = out.with_name("seed1-x.12345678.part.ipynb")
    leftover.write_text("{")
    with pytest.raises(ChapterError, match="broken"):
        cell(seed=3)
    assert not leftover.exists()
    nb = nbformat.read(root / "notebooks" / "03_c.ipynb", as_version=4)
    nb.cells[2].source += "\n1"
    nbformat.write(nb, root / "notebooks" / "03_c.ipynb")
    with pytest.raises(ChapterError, match=r"03_c\.ipynb changed since this grid was started"):
        cell(seed=2)
    source = source_hash(nb)
    cell(source, seed=2)
    assert calls == [{"seed": 1}, {"seed": 2}, {"seed": 3}, {"seed": 2}]  # kept for the earlier chapter


def test_each_cell_has_a_device_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_run.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(grid_run, "gpu_devices", lambda: ["0", "3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    seen: list[str] = []

    def third() -> None:
        with grid_run._device(1):
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])

    with grid_run._device(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        with grid_run._device(1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
            waiting = threading.Thread(target=third)
            waiting.start()
            time.sleep(0.3)
            assert seen == []
        waiting.join(timeout=10)
        assert seen == ["3"]
    with grid_run._device(0):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setattr(grid_run, "gpu_devices", lambda: [])
    with (
        pytest.raises(GridError, match="wants a GPU per cell and none is here; `--gpus 0`"),
        grid_run._device(1),
    ):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # the scheduler gave this job its device
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with grid_run._device(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_gpu_grid_without_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, given = stub(tmp_path, g={"gpus": 1}), []
    monkeypatch.setattr(grid_run, "_snakemake", lambda arguments: given.append(arguments) or 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["--root", str(root), "grid", "g"]) == 2
    assert "wants a GPU per cell and none is here; add --gpus 0" in capsys.readouterr().err
    assert given == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 4")
    assert main(["--root", str(root), "grid", "g", "--cores", "8"]) == 0
    assert given[0][-4:] == ["--resources", "gpu=2", "--cores", "8"]
    assert main(["--root", str(root), "grid", "g", "--profile", "slurm", "-n"]) == 0
    assert "--resources" not in given[1]
    assert str(PROJECT_ROOT / "reproduce" / "profiles" / "slurm") in given[1]


# --- the summary -----------------------------------------------------------------------------------------


def test_the_summary_pools_seeds_and_names_what_is_missing(tmp_path: Path) -> None:
    root = stub(tmp_path, g={"seed": [0, 10, 20, 30], "vary": {"rate": [0.1, 0.5]}})
    identity = {k: v for k, v in LEDGER_ROW.items() if k not in ("direction", "refuting", "smallest")}
    rows = [LEDGER_ROW, identity | {"id": "equal", "kind": "identity", "tolerance": 0.1}]
    (root / "reproduce" / "claims.yaml").write_text(yaml.safe_dump(rows))
    loaded = load_grid("g", root)
    folder = loaded.folder(root)
    for part in ("cells", "logs"):
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
            stamp = {"source_hash": loaded.source, "parameters": cell.values, "code_hash": str(seed)}
            stamp |= {"source_hash": "of an earlier chapter"} if seed == 20 else {}
            nb.metadata[STAMP] = stamp
            nbformat.write(nb, folder / "cells" / f"{cell.id}.ipynb")
        elif rate == 0.5 and seed == 0:
            (folder / "logs" / f"{cell.id}.log").write_text("x\nerror: 03_c failed: cell | 2\nTraceback")
        elif rate == 0.5 and seed == 10:
            (folder / "cells" / f"{cell.id}.lock").touch()
    text = write_summary(loaded, root).read_text()
    pooled = Paired.of([0.2, 0.3, 0.4, 0.6, 0.4, 0.2]).interval()
    first, second = text.split("## ")[1:]
    assert first.startswith("The defaults\n")
    assert f"{pooled.mean:+.3f} [{pooled.low:+.3f}, {pooled.high:+.3f}] u, 6 seeds" in first
    (better,) = (line for line in first.splitlines() if "| better |" in line)
    assert "supported" in better
    assert "rival explains it" in better
    (equal,) = (line for line in first.splitlines() if "| equal |" in line)
    assert "violation 0.11" in equal
    assert equal.endswith("| contradicted |")
    assert second == "rate 0.5\n\nNothing was measured.\n"
    assert "8 cells: 2 done, 6 without a result." in text
    assert "| seed 0, rate 0.5 | 03_c failed: cell \\| 2 |" in text
    assert "| seed 10, rate 0.5 | still runs, or was killed" in text
    assert text.count("| not run |") == 4
    assert "ran under several versions" in text


def test_cells_that_share_their_test_items_are_pooled_as_one_study() -> None:
    rng = np.random.default_rng(0)
    of_items, of_seeds = rng.normal(0, 1, 400), rng.normal(0, 0.3, 60)
    differences = of_items + of_seeds[:, None] + rng.normal(0, 0.5, (60, 400))
    whole = Paired.of(differences)
    pooled = _together([Paired.of(differences[i : i + 20]) for i in (0, 20, 40)])
    assert pooled.effects == whole.effects
    assert pooled.items == whole.items
    assert pooled.ms_res == pytest.approx(whole.ms_res, rel=0.02)
    assert pooled.ms_item == pytest.approx(whole.ms_item, rel=0.02)
    assert pooled.interval().se == pytest.approx(whole.interval().se, rel=0.02)


# --- Snakemake, for real ---------------------------------------------------------------------------------


def test_two_grids_at_once_a_failing_cell_a_retry_and_a_changed_notebook(
    tmp_path: Path,
    light_processes: None,
    start: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = stub(
        tmp_path / "a 'b' C #1" / "k: v",
        g={"vary": {"rate": [0.5]}, "retries": 0},
        h={"seed": [100, 110], "chapter": "04", "gpus": 1},
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
        assert all(line["env"][name] == "1" for name in grid_run.THREAD_CAPS)
        assert line["env"]["CUDA_VISIBLE_DEVICES"] == ("5" if line["seed"] >= 100 else "")
    (_, end), (begin, _) = sorted(
        (s["time"], e["time"]) for s, e in zip(ran(root, "start")[-2:], ran(root)[-2:], strict=True)
    )
    assert end < begin  # one device: one after the other
    folder = root / "build" / "grids" / "g"
    text = (folder / "summary.md").read_text()
    named = f"seed {bad}, rate 0.5"
    assert f"| {named} | 03_c failed: cell 3, ValueError: seed {bad} is bad |" in text
    assert "2 cells: 1 done, 1 without a result." in text

    (root / "notebooks" / f"bad{bad}").unlink()
    finish(start(root, "g"), 0)
    assert seeds_of(root) == [0, 10, 100, 110]
    assert "2 done, 0 without a result" in (folder / "summary.md").read_text()

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
    tmp_path: Path, light_processes: None, start: Callable[..., subprocess.Popen[str]]
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
    assert "4 cells: 1 done, 3 without a result." in (folder / "summary.md").read_text()

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
    assert len(list((folder / "cells").glob("*.part.ipynb"))) == 3  # all were in the middle
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
    assert list((folder / "cells").glob("*.part.ipynb")) == []


def test_the_thesis_grids_pass_a_dry_run(
    light_processes: None, start: Callable[..., subprocess.Popen[str]]
) -> None:
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
    tmp_path: Path, light_processes: None, slurm: None, start: Callable[..., subprocess.Popen[str]]
) -> None:
    root = stub(tmp_path, g={"retries": 0, "memory_gb": 1, "hours": 0.1})
    (root / "notebooks" / "bad10").touch()
    options = ["--slurm-status-command", "squeue", "--slurm-no-account", "--latency-wait", "5"]
    options += ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
    output = finish(start(root, "g", "--profile", "slurm", *options), 1)
    assert results(root, "g") == ["seed0"], output
    text = (root / "build" / "grids" / "g" / "summary.md").read_text()
    assert "2 cells: 1 done, 1 without a result." in text
    assert "ValueError: seed 10 is bad" in text
    for line in ran(root, "start"):
        assert line["env"]["SLURM_JOB_ID"]
        assert all(line["env"][name] == "1" for name in grid_run.THREAD_CAPS)
    assert seeds_of(root, "start") == [0, 10]

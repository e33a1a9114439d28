"""What runs where there is a GPU: its plan, its runner, its packages, its costs; and all of it on a CPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import PROJECT_ROOT
from helpers.chapters.grids import load_grid

BENCHMARKS = PROJECT_ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import _gpu_plan  # noqa: E402
import gpu  # noqa: E402
import gpu_study  # noqa: E402
import gpu_wheels  # noqa: E402
from _gpu_plan import Step  # noqa: E402
from _gpu_runner import Runner  # noqa: E402


def step(name: str, code: str, minutes: float = 1.0, **more: str) -> Step:
    return Step(name, "a test", minutes, (sys.executable, "-c", code), minutes, **more)


# --------------------------------------------------------------------------------------------------- plan


def test_the_plan_takes_25_minutes_and_every_part_is_there() -> None:
    steps = _gpu_plan.plan(quick=False, device="cuda")
    assert sum(step.minutes for step in steps) == pytest.approx(25)
    assert len({step.name for step in steps}) == len(steps)
    assert all(Path(step.command[1]).is_file() for step in steps)
    for one in steps:
        assert one.minutes < one.limit <= 2 * one.minutes
    listed = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--list"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[0] for line in listed.splitlines()[:-1]] == [step.name for step in steps]
    assert listed.splitlines()[-1].split() == ["in", "all", "25.0", "min"]


def test_the_studies_are_plans_for_a_gpu_with_parameters_that_their_chapters_take() -> None:
    for chapter in _gpu_plan.QUICK_STUDIES:
        grid = load_grid(f"{chapter}_gpu")
        assert (grid.tier, grid.gpus, grid.cells[0].values["device"]) == ("gpu", 1, "cuda")
        assert grid.cells[0].values["seeds"] >= 6  # fewer make provisional verdicts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "cpu"], "add --quick"),
        (["--quick", "--device", "cpu", "nonsense"], "the steps are cuda_tests, two_head_resnet18"),
    ],
)
def test_what_cannot_run_is_refused_with_the_remedy(options: list[str], told: str) -> None:
    ended = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", *options], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert told in ended.stderr


# ------------------------------------------------------------------------------------------------- runner


def test_a_fault_or_a_hang_takes_nothing_with_it_and_a_second_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    count = (
        "from pathlib import Path; p = Path('{0}'); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    )
    good, late = step("good", count.format("good")), step("late", count.format("late"))
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    hangs = step("hangs", child, 0.03)
    fails = step("fails", "print('why it failed'); raise SystemExit(3)")
    lacking = step("lacking", "", needs="data/none")
    assert Runner(tmp_path, "cpu", 600).run([good, hangs, fails, lacking, late]) == 1
    said = capsys.readouterr().out
    assert "why it failed" in said
    assert "left: hangs, fails, lacking, about 2.0 minutes; the same command goes on" in said
    assert "data/none is not there" in said
    ended = {
        name: json.loads((tmp_path / "build" / "gpu" / f"{name}.json").read_text())["ended"]
        for name in ("good", "hangs", "fails", "late")
    }
    assert ended == {
        "good": "well", "hangs": "stopped at its limit", "fails": "with status 3", "late": "well"
    }  # fmt: skip
    assert not [p for p in psutil.Process().children(recursive=True) if "time.sleep(60)" in str(p.cmdline())]
    assert Runner(tmp_path, "cpu", 600).run([good, step("fails", "pass"), late]) == 0
    assert (tmp_path / "good").read_text() == (tmp_path / "late").read_text() == "x"
    with tarfile.open(tmp_path / "build" / "gpu.tar.gz") as archive:
        assert {"build/gpu/good.json", "build/gpu/good.log", "build/gpu/fails.json"} <= {*archive.getnames()}


def test_a_step_with_other_arguments_is_not_done(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "cpu", 600)
    runner.run([step("one", "a = 1")])
    assert runner.done(step("one", "a = 1"))
    assert not runner.done(step("one", "a = 2"))


def test_no_step_begins_when_the_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert Runner(tmp_path, "cpu", 1).run([step("one", "raise SystemExit(1)")]) == 1
    assert "one: no time left" in capsys.readouterr().out
    assert not list((tmp_path / "build" / "gpu").iterdir())


def test_a_runner_that_is_told_to_stop_leaves_no_process_and_whole_files(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = [{str(BENCHMARKS)!r}, {str(PROJECT_ROOT)!r}]
from pathlib import Path
from _gpu_plan import Step
from _gpu_runner import Runner
slow = "from pathlib import Path; import time; Path('began').touch(); time.sleep(60)"
steps = [Step(n, "", 1, (sys.executable, "-c", c), 1) for n, c in (("short", "pass"), ("slow", slow))]
Runner(Path({str(tmp_path)!r}), "cpu", 600).run(steps)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "began").exists():
            break
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=60)[1]
    assert family
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    assert json.loads((tmp_path / "build" / "gpu" / "short.json").read_text())["ended"] == "well"
    assert not (tmp_path / "build" / "gpu" / "slow.json").exists()


# ----------------------------------------------------------------------------------------------- packages


def test_wheels_are_complete_with_what_is_there() -> None:
    """Whatever a package there needs is packed too, expected of the machine, or named as unused."""
    packages = gpu_wheels.wanted([])
    assert {
        "papermill",
        "pydantic-core",
        "pytorch-metric-learning",
        "torch-pruning",
        "grad-cam",
    } <= packages.keys()
    assert not packages.keys() & (gpu_wheels.THERE | gpu_wheels.UNUSED | {"snakemake", "jupyterlab"})
    known = packages.keys() | gpu_wheels.THERE | gpu_wheels.UNUSED
    for name in packages:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in known
    assert "tzdata" not in packages
    assert "hypothesis" in gpu_wheels.wanted(["hypothesis"])


def test_only_packages_that_are_missing_are_unpacked(tmp_path: Path) -> None:
    for name, version in (("numpy", "9.9"), ("not_there", "1.0")):
        with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "found = True")
            wheel.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\nVersion: {version}\n")
    for _ in range(2):
        gpu.missing_packages_unpacked(tmp_path, tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == [
        "not_there",
        "not_there-1.0.dist-info",
    ]
    code = "import importlib.metadata as m, not_there; print(not_there.found, m.version('not_there'))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["True", "1.0"]


@pytest.mark.parametrize("changed", [False, True])
def test_a_plan_that_was_packed_counts_where_there_is_no_git_unless_it_changed(
    tmp_path: Path, changed: bool
) -> None:
    for folder in ("notebooks", "reproduce"):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("evidence"))
    grid = load_grid("05_gpu", tmp_path)
    plan = {"run": grid.cells[0].id, "commit": "abc", "plan_committed": True}
    (tmp_path / "wheels").mkdir()
    packed = {"05_gpu": {"digest": gpu_study.digest(grid, tmp_path), "plan": plan}}
    (tmp_path / "wheels" / "plans.json").write_text(json.dumps(packed))
    if changed:
        grid.path.write_text(grid.path.read_text().replace("steps: 160", "steps: 161"))
    gpu_study.take_plan(grid, tmp_path)
    kept = grid.folder(tmp_path) / "plan.json"
    assert (not kept.exists()) if changed else (json.loads(kept.read_text()) == plan)


# -------------------------------------------------------------------------------------------------- costs


def test_costs_are_written_and_written_again(tmp_path: Path) -> None:
    import seconds_per_step

    shutil.copytree(PROJECT_ROOT / "reproduce" / "grids", tmp_path / "reproduce" / "grids")
    shutil.copytree(PROJECT_ROOT / "notebooks", tmp_path / "notebooks")
    for seconds in (0.5, 0.01):
        rows = [{"grid": name, "measured": seconds} for name in seconds_per_step.RECIPES]
        seconds_per_step.write_costs(rows, "a GPU (2030-01-01)", tmp_path)
    for name in seconds_per_step.RECIPES:
        cost, before = load_grid(name, tmp_path).cost, load_grid(name).cost
        assert cost.partition(";")[0] == before.partition(";")[0]
        steps = int(re.search(r"= ([\d,]+) training", cost)[1].replace(",", ""))
        said = f"0.0100 s per step on a GPU (2030-01-01), so {steps / 360000:,.0f} GPU hours"
        assert cost.endswith(f"training steps; {said}")
        page = (tmp_path / "reproduce" / "grids" / "README.md").read_text()
        assert re.search(rf"(?m)^\| `{name}` \|.*\| {re.escape(said)} \|$", page)
    gpus = {
        path.stem
        for path in (tmp_path / "reproduce" / "grids").glob("thesis_*")
        if "gpus: 1" in path.read_text()
    }
    assert gpus == seconds_per_step.RECIPES.keys()


# -------------------------------------------------------------------------------------------------- whole


@pytest.mark.notebook
def test_a_trial_on_the_cpu_runs_every_step_and_touches_no_result(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    kept = subprocess.run(["git", "-C", PROJECT_ROOT, "ls-files"], capture_output=True, text=True, check=True)
    for name in kept.stdout.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT_ROOT / name, copy / name)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    command = [sys.executable, copy / "benchmarks" / "gpu.py", "--device", "cpu", "--quick"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CTG_GPU_READY")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "all done"
    root = copy / "build" / "gpu" / "trial_cpu"
    steps = _gpu_plan.plan(quick=True, device="cpu", root=root)
    for one in steps:
        chapter = one.name.removeprefix("study_")
        place = f"evidence/{chapter}_gpu.json" if chapter != one.name else f"results/{one.name}_gpu.json"
        found = json.loads((root / "reproduce" / place).read_text())
        assert found["device"].lower().startswith("cpu")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert again.count("done before") == len(steps)
    changed = [p for p, content in before.items() if p.suffix != ".pyc" and p.read_bytes() != content]
    assert changed == []

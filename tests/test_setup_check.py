"""The setup check `python -m helpers`: its table, its advice where something is off, its exit status."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from helpers import __main__ as check

SOUND = "All good: every chapter runs here."


@pytest.fixture(autouse=True)
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with room to spare, whatever this one has."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * 2**30))


def advice(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The advice that the command prints below its table, after a look at the table and the exit status."""
    status = check.main()
    shown = capsys.readouterr()
    assert shown.err == ""
    table, below = shown.out.removesuffix("\n").split("\n\n")
    rows = table.splitlines()
    column = {re.match(r".+?  +(?=\S)", row).end() for row in rows}
    assert len(column) == 1, "the values stand in one column"
    assert rows[0].startswith("Python  ")
    lines = below.splitlines()
    assert status == (0 if lines == [SOUND] else 1)
    return [] if lines == [SOUND] else lines


def test_nothing_is_off_in_the_locked_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert advice(capsys) == []
    rows, problems = check.setup_check()
    assert problems == []
    facts = dict(rows)
    assert facts.keys() == {"Python", "System", *check.SHOWN, "Device", "Free memory", "Free disk"}
    assert facts["torch"] == importlib.metadata.version("torch")
    assert re.match(r"(cuda|mps|cpu): \S", facts["Device"])
    assert (facts["Free memory"], facts["Free disk"]) == ("8.0 GiB", "50.0 GiB")


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("jupyterlab", None, "jupyterlab is missing: run `make lab`, or activate the environment."),
        ("papermill", "2.1", "papermill 2.1 is not >=2.6: install the locked set."),
    ],
)
def test_a_package_is_missing_or_old(
    name: str,
    version: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.metadata.version

    def pretended(package: str) -> str:
        if package != name:
            return real(package)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(importlib.metadata, "version", pretended)
    assert advice(capsys) == [expected]
    assert dict(check.setup_check()[0])[name] == (version or "missing")


def test_memory_and_disk_are_low(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5 * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.5 * 2**30))
    assert advice(capsys) == [
        "Only 1.5 GiB of memory is free: close other programs or kernels.",
        "Only 0.5 GiB of disk is free: caches and outputs may not fit.",
    ]


@pytest.mark.parametrize(("version", "supported"), [("3.10.14", False), ("3.11.0", True), ("3.14.0", False)])
def test_python_is_unsupported(
    version: str, supported: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "sys", SimpleNamespace(version_info=tuple(map(int, version.split(".")))))
    monkeypatch.setattr(check.platform, "python_version", lambda: version)
    expected = f"Python {version} is not supported: use 3.11, 3.12 or 3.13."
    assert advice(capsys) == ([] if supported else [expected])


def test_torch_does_not_load(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (line,) = advice(capsys)
    assert line.startswith("torch and torchvision do not load together (")
    assert line.endswith("): install both from requirements.lock.")
    assert "Device" not in dict(check.setup_check()[0])


def test_torchvision_belongs_to_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (line,) = advice(capsys)
    assert "(operator torchvision::nms does not exist)" in line


ROOMY = """
import psutil, shutil
from types import SimpleNamespace
psutil.virtual_memory = lambda: SimpleNamespace(available=8 * 2**30)
shutil.disk_usage = lambda path: SimpleNamespace(free=50 * 2**30)
"""


@pytest.mark.parametrize("broken", [False, True])
def test_the_command(tmp_path: Path, broken: bool) -> None:
    """On a machine with room to spare, with a sound torchvision and with one that does not load."""
    (tmp_path / "sitecustomize.py").write_text(ROOMY)
    if broken:
        (tmp_path / "torchvision.py").write_text("raise RuntimeError('no such operator')")
    done = subprocess.run(
        [sys.executable, "-m", "helpers"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    last = (
        "torch and torchvision do not load together (no such operator): install both from requirements.lock."
    )
    assert (done.returncode, done.stderr) == (int(broken), "")
    assert done.stdout.startswith("Python ")
    assert done.stdout.splitlines()[-2:] == ["", last if broken else SOUND]

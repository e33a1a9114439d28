"""The environment: one set of packages in three files, the commands that install it, and the repository."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers import PROJECT_ROOT
from helpers.files import find_notebooks

PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
LOCK = (PROJECT_ROOT / "requirements.lock").read_text(encoding="utf-8")
DEPENDENCIES = PROJECT["project"]["dependencies"]
NEEDED = [
    *DEPENDENCIES,
    *(text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra),
    *PROJECT["build-system"]["requires"],
]
SHARED = "../" + "shared"
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home)/[\w.~-]+")
MENTIONS_PATHS = "tests/test_hygiene.py"  # gives the hygiene rules paths to find

SYSTEMS = {
    "linux": ("linux", "Linux", "posix", "x86_64"),
    "linux-arm": ("linux", "Linux", "posix", "aarch64"),
    "macos": ("darwin", "Darwin", "posix", "arm64"),
    "windows": ("win32", "Windows", "nt", "AMD64"),
}
PYTHONS = ("3.11.9", "3.12.7", "3.13.1")


def environment(system: str, python: str) -> dict[str, str]:
    """The values of PEP 508's environment markers on one kind of machine."""
    keys = ("sys_platform", "platform_system", "os_name", "platform_machine")
    versions = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    return dict(zip(keys, SYSTEMS[system], strict=True)) | versions | cpython


def lock_entries() -> Iterator[tuple[str, list[str]]]:
    """(requirement, its options) for every logical line of the lock."""
    for line in LOCK.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *options = re.split(r"\s+(?=--)", line.strip())
            yield requirement, options


PINS = [Requirement(text) for text, _ in lock_entries()]


def pins_on(machine: dict[str, str]) -> dict[str, str]:
    """What the lock installs on a machine: version by name; a name that is pinned twice there fails."""
    pins: dict[str, str] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(machine):
            assert pin.name not in pins, f"{pin.name} is pinned twice for {machine}"
            pins[pin.name] = str(pin.specifier).removeprefix("==")
    return pins


def unmet(machine: dict[str, str]) -> Iterator[str]:
    """What the project needs on a machine, directly or through a package, and the lock does not give.

    The needs of a package are read where the pinned version is installed here.
    """
    pins, done = pins_on(machine), set()
    todo = [(Requirement(text), "pyproject.toml") for text in NEEDED]
    while todo:
        requirement, wanted_by = todo.pop()
        name = canonicalize_name(requirement.name)
        pinned = pins.get(name)
        if pinned is None or not requirement.specifier.contains(pinned, prereleases=True):
            yield f"{wanted_by} needs {requirement}, the lock has {pinned}"
        for extra in {"", *requirement.extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                todo += [(r, name) for r in needs_of(name, pinned, machine | {"extra": extra})]


def needs_of(name: str, version: str | None, machine: dict[str, str]) -> list[Requirement]:
    try:
        installed = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    found = map(Requirement, (installed.requires or []) if installed.version == version else [])
    return [r for r in found if r.marker is None or r.marker.evaluate(machine)]


# --- environment.yml -------------------------------------------------------------------------------------


def test_environment_yml_adds_only_python_and_pip_to_the_dependencies() -> None:
    found = yaml.safe_load((PROJECT_ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert found.keys() == {"name", "channels", "dependencies"}
    assert found["name"] == PROJECT["project"]["name"]
    assert found["channels"] == ["conda-forge"]
    python, pip, section = found["dependencies"]
    assert python.split()[0] == "python"
    assert SpecifierSet(python.split()[1]) == SpecifierSet(PROJECT["project"]["requires-python"])
    assert pip == "pip"
    assert section == {"pip": [*DEPENDENCIES, "-e ."]}


# --- requirements.lock -----------------------------------------------------------------------------------


def test_every_entry_of_the_lock_is_one_hashed_version() -> None:
    for requirement, options in lock_entries():
        assert re.match(r"[a-z0-9-]+==[\w.+]+(?= ;|$)", requirement), requirement
        assert options, f"{requirement} has no hash"
        for option in options:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option), (requirement, option)
    assert "://" not in LOCK
    assert "index" not in LOCK


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_lock_is_complete_on(system: str, python: str) -> None:
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(python)
    assert list(unmet(environment(system, python))) == []


@pytest.mark.parametrize("chapter", find_notebooks(), ids=lambda path: path.stem)
def test_the_lock_gives_the_versions_that_stored_outputs_were_made_with(chapter: Path) -> None:
    stamp = json.loads(chapter.read_text(encoding="utf-8"))["metadata"]["closing_the_gap"]
    made_with = dict(stamp["versions"])
    system = next(name for name, markers in SYSTEMS.items() if markers[1] == stamp["system"])
    pins = pins_on(environment(system, made_with.pop("python")))
    assert {"torch", "torchvision", "numpy"} <= made_with.keys()
    assert made_with == {name: pins[name] for name in made_with}


def test_what_only_one_system_needs_is_installed_only_there() -> None:
    pins = {system: pins_on(environment(system, "3.12.7")) for system in SYSTEMS}
    everywhere = set.intersection(*map(set, pins.values()))
    assert {"appnope", "pywinpty", "colorama", "triton", "nvidia-cublas"}.isdisjoint(everywhere)
    assert "appnope" in pins["macos"]
    assert {"pywinpty", "colorama"} <= pins["windows"].keys()
    assert {"triton", "nvidia-cublas"} <= pins["linux"].keys()
    assert not any(name.startswith("nvidia-") for name in pins["macos"].keys() | pins["windows"].keys())


# --- Makefile and .ci/run --------------------------------------------------------------------------------


def test_make_keeps_what_its_help_promises() -> None:
    promised = set(re.findall(r'echo "make ([\w-]+)', MAKEFILE))
    phony = set(re.search(r"(?m)^\.PHONY: (.+)$", MAKEFILE)[1].split())
    targets = set(re.findall(r"(?m)^([\w-]+):", MAKEFILE))
    assert promised | {"help"} == phony == targets
    if make := shutil.which("make"):  # a dry run; the environment counts as installed
        for target in sorted(targets):
            command = [make, "-n", "-o", ".venv/.ready", target]
            done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout, target


def test_ci_runs_lint_and_tests() -> None:
    script = PROJECT_ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert {"set -euo pipefail", "make lint", "make test"} <= set(lines)


# --- the repository --------------------------------------------------------------------------------------


def test_no_tracked_file_depends_on_where_it_was_written() -> None:
    git = shutil.which("git")
    if not git or not (PROJECT_ROOT / ".git").exists():
        pytest.skip("no git here, or this is not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0")[:-1]:
        path = PROJECT_ROOT / name
        text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        assert SHARED not in text or name == ".ci/run", f"{name} mentions {SHARED}"
        found = MACHINE_PATH.search(text)
        assert not found or name == MENTIONS_PATHS, f"{name} holds a path of one machine: {found[0]}"

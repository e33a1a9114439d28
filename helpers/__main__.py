"""Setup check: ``python -m helpers`` prints what this machine offers and advises where something is off."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import tomllib

import psutil
from packaging.requirements import Requirement

from helpers import PROJECT_ROOT

LOW_MEMORY_GIB = 2.0
LOW_DISK_GIB = 1.0
SHOWN = ("torch", "torchvision", "pytorch-metric-learning", "jupyterlab", "papermill", "matplotlib")


def setup_check() -> tuple[list[tuple[str, str]], list[str]]:
    """Facts about this set-up as (name, value) rows, and advice: one sentence per thing that is off."""
    rows = [("Python", platform.python_version()), ("System", f"{platform.system()} {platform.machine()}")]
    problems = _package_problems(rows)
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problems.append(f"Python {platform.python_version()} is not supported: use 3.11, 3.12 or 3.13.")
    problems += _device_problems(rows)
    memory = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(PROJECT_ROOT).free / 2**30
    rows += [("Free memory", f"{memory:.1f} GiB"), ("Free disk", f"{disk:.1f} GiB")]
    if memory < LOW_MEMORY_GIB:
        problems.append(f"Only {memory:.1f} GiB of memory is free: close other programs or kernels.")
    if disk < LOW_DISK_GIB:
        problems.append(f"Only {disk:.1f} GiB of disk is free: caches and outputs may not fit.")
    return rows, problems


def _package_problems(rows: list[tuple[str, str]]) -> list[str]:
    problems = []
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
            problems.append(f"{requirement.name} is missing: run `make lab`, or activate the environment.")
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                problems.append(
                    f"{requirement.name} {version} is not {requirement.specifier}: install the locked set."
                )
        if requirement.name in SHOWN:
            rows.append((requirement.name, version))
    return problems


def _device_problems(rows: list[tuple[str, str]]) -> list[str]:
    try:
        import torch
        import torchvision  # noqa: F401
    except Exception as error:
        return [f"torch and torchvision do not load together ({error}): install both from requirements.lock."]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    elif torch.backends.mps.is_available():
        device = "mps: Apple GPU"
    else:
        device = f"cpu: {torch.get_num_threads()} threads"
    rows.append(("Device", device))
    return []


def format_check(rows: list[tuple[str, str]], problems: list[str]) -> str:
    """The check as one aligned text table followed by its advice."""
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, "", *(problems or ["All good: every chapter runs here."])])


def main() -> int:
    """Print the setup check; the exit status is 1 when something is off."""
    rows, problems = setup_check()
    print(format_check(rows, problems))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Everything that needs a GPU: tests, benchmarks, seconds per step and studies, one after the other.

    python benchmarks/gpu.py [--list] [--device cuda] [--quick] [--minutes 30] [NAME ...]

It needs neither `make` nor this project's environment: packages that are not installed are taken from the
folder wheels/, which `make gpu-wheels` fills. Each step is a process of its own with a time limit and leaves
complete files; what is done is not done again. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu" / "site"
"""Where packages from wheels/ are unpacked."""
NOT_HERE = {"jupyterlab", "latex2mathml", "nbconvert"}
"""Of the project's packages those for its web pages."""


def main() -> int:
    given = arguments().parse_args()
    if not os.environ.get("CTG_GPU_READY"):  # once more, with packages and project on the path
        missing_packages_unpacked(ROOT / "wheels", SITE)
        path = os.pathsep.join([str(ROOT), str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "CTG_GPU_READY": "1", "PYTHONUNBUFFERED": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    from _gpu_plan import plan, table

    root = ROOT / "build" / "gpu" / f"trial_{given.device}" if given.quick else ROOT
    steps = plan(given.quick, given.device, root)
    if given.list:
        print(table(steps))
        return 0
    refuse_what_cannot_run(given, [step.name for step in steps])
    from _gpu_runner import Runner

    if given.quick:
        make_trial(root, given.device)
    chosen = [step for step in steps if not given.names or step.name in given.names]
    return Runner(root, given.device, 60 * given.minutes).run(chosen)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="steps to run; all by default")
    parser.add_argument("--list", action="store_true", help="print the steps with their minutes, run nothing")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of the whole run; it stops in time")
    return parser


def refuse_what_cannot_run(given: argparse.Namespace, names: list[str]) -> None:
    """SystemExit with the remedy, before anything runs."""
    if unknown := sorted(set(given.names) - set(names)):
        raise SystemExit(f"no step is called {unknown[0]!r}; the steps are {', '.join(names)}")
    if given.device == "cpu" and not given.quick:
        raise SystemExit("on a CPU this takes days: add --quick (make gpu DEVICE=cpu QUICK=1) for a trial")
    if missing := [name for name in dependencies() if not is_installed(name)]:
        names = " ".join(missing)
        raise SystemExit(
            f"not installed: {names}. Where there is a connection, run `make gpu-wheels ARGS='{names}'`, and "
            "bring the folder wheels/ here"
        )
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no CUDA device; is a driver there (nvidia-smi)?")


def dependencies() -> list[str]:
    """The packages that the project names and that are used here."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = [re.match(r"[\w.-]+", line)[0] for line in tomllib.loads(text)["project"]["dependencies"]]
    return [name for name in [*named, "pytest"] if name not in NOT_HERE]


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def missing_packages_unpacked(wheels: Path, site: Path) -> None:
    """Unpack every wheel whose package is not installed; a wheel of Python code is a zip file."""
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        if not is_installed(name) and not (site / f"{name}-{version}.dist-info").is_dir():
            with zipfile.ZipFile(wheel) as file:
                file.extractall(site)


def make_trial(root: Path, device: str) -> None:
    """A small copy of the project, so that no number of a trial is taken for evidence.

    It has the notebooks, the ledger and the grids; those of the studies ask for next to nothing.
    """
    from _gpu_plan import QUICK_STUDIES

    for folder, pattern in (
        ("notebooks", "0*.ipynb"),
        ("reproduce/grids", "*.*"),
        ("reproduce", "claims.yaml"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file in (ROOT / folder).glob(pattern):
            shutil.copy2(file, root / folder)
    for chapter, values in QUICK_STUDIES.items():
        grid = root / "reproduce" / "grids" / f"{chapter}_gpu.yaml"
        settings = ", ".join(f"{name}: {value}" for name, value in (values | {"device": device}).items())
        small = f"set: {{{settings}}}\n"
        text = re.sub(r"(?ms)^set:\n(?:  .*\n)+", small, grid.read_text(encoding="utf-8"))
        grid.write_text(text.replace("gpus: 1", f"gpus: {int(device == 'cuda')}"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

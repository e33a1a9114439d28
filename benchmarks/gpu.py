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
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu" / "site"
"""Where packages from wheels/ are unpacked."""


def main() -> int:
    given = arguments().parse_args()
    if not os.environ.get("CTG_GPU_READY"):  # once more, with packages and project on the path
        missing_packages_unpacked(ROOT / "wheels", SITE)
        path = os.pathsep.join([str(ROOT), str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "CTG_GPU_READY": "1", "PYTHONUNBUFFERED": "1"}
        return subprocess.call([sys.executable, *sys.argv], env=environment)
    from _gpu_plan import plan, table
    from _gpu_runner import Runner

    if given.list:
        print(table(plan(given.quick, given.device)))
        return 0
    root = ROOT if given.device == "cuda" and not given.quick else trial_root()
    steps = plan(given.quick, given.device, root)
    if unknown := sorted(set(given.names) - {step.name for step in steps}):
        known = ", ".join(step.name for step in steps)
        raise SystemExit(f"no step is called {unknown[0]!r}; the steps are {known}")
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


def missing_packages_unpacked(wheels: Path, site: Path) -> None:
    """Unpack every wheel whose package is not installed; a wheel of Python code is a zip file."""
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not (site / f"{name}-{version}.dist-info").is_dir():
                with zipfile.ZipFile(wheel) as file:
                    file.extractall(site)


def trial_root() -> Path:
    """A small copy of the project for a trial, so that no number of it is taken for evidence.

    It has the notebooks, the ledger and the grids; the studies' grids ask for next to nothing in it.
    """
    from _gpu_plan import QUICK_STUDIES

    root = ROOT / "build" / "gpu" / "trial"
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
        small = f"set: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}\n"
        text = re.sub(r"(?ms)^set:\n(?:  .*\n)+", small, grid.read_text(encoding="utf-8"))
        grid.write_text(re.sub(r"(?m)^gpus: 1\n", "", text), encoding="utf-8")
    return root


if __name__ == "__main__":
    sys.exit(main())

"""Fetch the packages that a machine with Python 3.12, PyTorch and the usual scientific packages lacks.

    python benchmarks/gpu_wheels.py [NAME ...]

Wheels of the installed versions for Linux on x86-64 go to wheels/, with the names given and all that they
need in turn; and plans.json, which says of the studies' plans that they were committed before they ran.
`gpu.py` takes both from there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys

from gpu import ROOT, dependencies
from gpu_study import digest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.chapters.study import first_plan, planned

WHEELS = ROOT / "wheels"
MOST_MIB = 64
THERE = {
    "aiohttp", "anyio", "attrs", "certifi", "click", "cloudpickle", "filelock", "jinja2", "joblib",
    "markupsafe", "matplotlib", "numpy", "opencv-python-headless", "packaging", "pandas", "pillow", "psutil",
    "pygments", "pytest", "python-dateutil", "pyyaml", "requests", "safetensors", "scikit-image",
    "scikit-learn", "scipy", "seaborn", "setuptools", "six", "timm", "torch", "torchvision", "tqdm",
    "triton", "typing-extensions", "urllib3",
}  # fmt: skip
"""What is expected of the machine."""
UNUSED = {"debugpy", "jedi", "jupyterlab-widgets", "widgetsnbextension"}
"""Needed by what is used, but not for what it is used for: debugging, completion, pages in a browser."""
FOR = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
FOR += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 17, 12, 5)]
FOR += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]


def wanted(names: list[str]) -> dict[str, str]:
    """Version of every package to fetch, by name: what the project needs there, and the names given."""
    found: dict[str, str] = {}
    todo = [canonicalize_name(name) for name in names] + [n for n in dependencies() if n not in THERE]
    for name in todo:  # grows
        if name in found or name in UNUSED:
            continue
        package = importlib.metadata.distribution(name)
        found[name] = package.version
        for requirement in map(Requirement, package.requires or []):
            there = requirement.marker is None or requirement.marker.evaluate(
                {"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"}
            )
            if there and canonicalize_name(requirement.name) not in THERE:
                todo.append(canonicalize_name(requirement.name))
    return dict(sorted(found.items()))


def fetch(packages: dict[str, str]) -> None:
    """Download the wheels; where there is none for download, as of plain Python code, build it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for name, version in packages.items():
        if not list(WHEELS.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
            one = ["--no-deps", f"{name}=={version}"]
            if subprocess.run(
                [*pip, "download", *FOR, f"--dest={WHEELS}", *one], capture_output=True
            ).returncode:
                subprocess.run([*pip, "wheel", f"--wheel-dir={WHEELS}", *one], check=True)


def write_plans() -> None:
    """What git says of the plans here, for a machine without it."""
    plans = {}
    for path in sorted((ROOT / "reproduce" / "grids").glob("*_gpu.yaml")):
        grid = planned(path.stem.removesuffix("_gpu"), "gpu")
        plan = first_plan(grid, ROOT)
        if not plan["plan_committed"]:
            kept = grid.folder(ROOT) / "plan.json"
            raise SystemExit(
                f"{path.name} or claims.yaml is not committed, and evidence counts only when planned before: "
                f"commit both, delete {kept.relative_to(ROOT)}, and try again"
            )
        plans[grid.name] = {"digest": digest(grid, ROOT), "plan": plan}
    (WHEELS / "plans.json").write_text(json.dumps(plans, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="packages besides, which that machine lacks")
    WHEELS.mkdir(exist_ok=True)
    packages = wanted(parser.parse_args().names)
    fetch(packages)
    write_plans()
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    tree = sum((ROOT / name).stat().st_size for name in listed.split("\0") if (ROOT / name).is_file())
    wheels = sum(path.stat().st_size for path in WHEELS.iterdir())
    print(f"{len(packages)} packages in wheels/: {size(wheels)} MiB; with the tree {size(tree + wheels)} MiB")
    if tree + wheels > MOST_MIB * 2**20:
        raise SystemExit(f"more than {MOST_MIB} MiB: leave out what a machine with a GPU does not need")


def size(count: int) -> float:
    return round(count / 2**20, 1)


if __name__ == "__main__":
    main()

"""Run a chapter's `gpu` study in this process, or what is left of it, and keep what it found.

    python benchmarks/gpu_study.py 05

As `make study CHAPTER=05 TIER=gpu`, without Snakemake. Every finished run is in data/cache/; the evidence
appears when all are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from helpers import PROJECT_ROOT
from helpers.chapters.declarations import defaults_of
from helpers.chapters.execution import read_notebook
from helpers.chapters.grid_run import run_cell
from helpers.chapters.grids import Grid
from helpers.chapters.study import planned, study
from helpers.data import seen_and_unseen
from helpers.experiments.parallel import worker_count
from helpers.files import find_chapter, write_atomically


def digest(grid: Grid, root: Path) -> str:
    """Of a plan and of what will count."""
    plans = (grid.path, root / "reproduce" / "claims.yaml")
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in plans)).hexdigest()


def take_plan(grid: Grid, root: Path) -> None:
    """Where there is no git: what `gpu_wheels.py` saw of this very plan, unless a run knows better."""
    packed, kept = root / "wheels" / "plans.json", grid.folder(root) / "plan.json"
    if kept.is_file() or not packed.is_file() or (shutil.which("git") and (root / ".git").exists()):
        return
    known = json.loads(packed.read_text(encoding="utf-8")).get(grid.name, {})
    if known.get("digest") == digest(grid, root):
        write_atomically(kept, json.dumps(known["plan"]))


def draw_birds(values: dict[str, Any]) -> None:
    """Draw what chapter 5 will read of every seed, on all cores: else the GPU waits for one of them."""
    images = (values["per_species"], 8, values["per_test"], 12)
    more = {"seen": values["species"], "unseen": values["unseen"], "siblings": values["siblings"]}
    seeds = range(values["seed"], values["seed"] + values["seeds"])
    Parallel(n_jobs=min(len(seeds), worker_count()))(
        delayed(seen_and_unseen)("birds", s, size=values["image_size"], images=images, **more) for s in seeds
    )


def run_here(grid: Grid, *, root: Path) -> int:
    """Run the one cell of a plan; 0, since what goes wrong is raised."""
    (cell,) = grid.cells
    values = defaults_of(read_notebook(find_chapter(grid.chapter, root))) | cell.values
    if grid.chapter == "05" and values["dataset"] == "birds":
        draw_birds(values)
    out = grid.folder(root) / "cells" / f"{cell.id}.ipynb"
    run_cell(grid.chapter, cell.values, out, cpus=grid.cores, gpus=grid.gpus, source=grid.source, root=root)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapter")
    parser.add_argument("--root", type=Path, default=PROJECT_ROOT, help="the project, or a copy for a trial")
    given = parser.parse_args()
    take_plan(planned(given.chapter, "gpu", given.root), given.root)
    print(study(given.chapter, "gpu", run=run_here, root=given.root))


if __name__ == "__main__":
    main()

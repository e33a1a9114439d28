"""Run a chapter's `gpu` study in this process, or what is left of it, and keep what it found.

    python benchmarks/gpu_study.py 05

As `make study CHAPTER=05 TIER=gpu`, without Snakemake. Every finished run is in data/cache/; the evidence
appears when all are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from helpers import PROJECT_ROOT
from helpers.chapters.grid_run import run_cell
from helpers.chapters.grids import Grid
from helpers.chapters.study import study


def run_here(grid: Grid, *, root: Path) -> int:
    """Run the one cell of a plan; 0, since what goes wrong is raised."""
    (cell,) = grid.cells
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
    print(study(given.chapter, "gpu", run=run_here, root=given.root))


if __name__ == "__main__":
    main()

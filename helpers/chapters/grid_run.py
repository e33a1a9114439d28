"""Run a grid on Snakemake (the `Snakefile`): resumable, on one machine or on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from helpers import PROJECT_ROOT
from helpers.chapters.declarations import defaults_of
from helpers.chapters.execution import read_notebook
from helpers.chapters.grid_summary import holds_run, write_summary
from helpers.chapters.grids import Grid, GridError
from helpers.chapters.run import run_chapter
from helpers.files import ChapterError, find_chapter
from helpers.provenance import source_hash

THREAD_CAPS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def run_grid(
    grid: Grid, *, profile: str = "local", gpus: int | None = None, more: Sequence[str] = (), root: Path
) -> int:
    """Run Snakemake on a grid, in this process, and sum up what is there; returns Snakemake's exit status.

    A lock on the grid's folder takes the place of Snakemake's own, which outlives a SIGKILL. `more` goes to
    Snakemake as it stands.

    Raises:
        GridError: before anything runs, also when this grid is already running.
    """
    dry = {"-n", "--dry-run", "--dryrun"} & set(more)
    gpus = grid.gpus if gpus is None else gpus
    if gpus and profile == "local" and not dry and not gpu_devices():
        raise GridError(f"grid {grid.name!r} wants a GPU per cell and none is here; add --gpus 0 for the CPU")
    if find_spec("snakemake") is None:
        raise GridError("Snakemake is not installed; get it with: pip install -e '.[batch]'")
    folder, kept = grid.folder(root), PROJECT_ROOT / "reproduce" / "profiles" / profile
    arguments = ["--snakefile", str(PROJECT_ROOT / "Snakefile"), "--directory", str(folder), "--nolock"]
    arguments += ["--profile", str(kept if kept.is_dir() else Path(profile).resolve())]
    # Snakemake takes these values for YAML, twice
    arguments += ["--config", f"grid={quote(str(grid.path))}", f"root={quote(str(root))}", f"gpus={gpus}"]
    if profile == "local":  # a cluster counts its own devices
        arguments += ["--resources", f"gpu={len(gpu_devices())}"]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".running")
    if not dry and not _taken(lock):
        raise GridError(f"grid {grid.name!r} is already running; wait for it or stop it")
    try:
        return _snakemake([*arguments, *more])
    finally:
        if not dry:
            print(write_summary(grid, root))
        lock.release()


def _snakemake(arguments: Sequence[str]) -> int:
    from snakemake.cli import main  # seconds to import, and optional

    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_cell(
    chapter: str, values: Mapping[str, Any], out: Path, *, cpus: int, gpus: int, source: str, root: Path
) -> None:
    """Run one cell and write `out`; a complete result of the same source and parameters is not run again.

    A lock per cell makes a second process wait for the first, so a cell that outlived a killed Snakemake is
    waited for, and its result taken. A CPU cell has `cpus` processes with one thread each: then its numbers
    do not depend on how many cores there are.

    Raises:
        ChapterError: the run failed, or the chapter changed since the grid was read.
        GridError: a GPU is wanted and there is none.
    """
    os.environ |= dict.fromkeys(THREAD_CAPS, str(cpus if gpus else 1)) | {"CTG_WORKERS": str(cpus)}
    path = find_chapter(chapter, root)
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.with_suffix(".lock"))
    if not _taken(lock):
        print(f"another process runs {out.stem}; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        nb = read_notebook(path)
        if source_hash(nb) != source:
            raise ChapterError(f"{path.name} changed since this grid was started; start it again")
        if not holds_run(out, source, defaults_of(nb) | dict(values)):
            for leftover in out.parent.glob(f"{out.stem}.*.part.ipynb"):
                leftover.unlink()
            with _device(gpus):
                run_chapter(path, values, out=out, typed_in=path.parent, root=root)
        out.touch()
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    """Whether this process has the lock now; it is free again when the process ends, however it ends."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


@contextmanager
def _device(gpus: int) -> Iterator[None]:
    """Show this process one GPU that no other cell on this machine uses, waiting until one is free.

    On a cluster the scheduler gives out the devices. A cell without a GPU sees none.
    """
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not gpus or "SLURM_JOB_ID" in os.environ:
        yield
        return
    folder = Path(tempfile.gettempdir())
    locks = {d: FileLock(folder / f"ctg-gpu-{os.getuid()}-{d}.lock") for d in gpu_devices()}
    if not locks:
        raise GridError("this grid wants a GPU per cell and none is here; `--gpus 0` runs it on the CPU")
    print(f"taking the first free one of the GPUs {', '.join(locks)}", file=sys.stderr, flush=True)
    while (device := next((d for d, lock in locks.items() if _taken(lock)), None)) is None:
        time.sleep(1)
    try:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
        yield
    finally:
        locks[device].release()


def gpu_devices() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i, line in enumerate(x for x in listed.splitlines() if x.startswith("GPU "))]

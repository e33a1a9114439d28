"""Independent runs side by side: one process per core on a CPU, one after another on an accelerator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed

if TYPE_CHECKING:
    import torch

_PARTS_PER_WORKER = 4  # coarse enough to send the data few times, fine enough to keep every core busy


def run_all(
    function: Callable[..., Any], plan: Sequence[tuple], *, device: torch.device | str = "cpu"
) -> list[Any]:
    """``[function(*arguments) for arguments in plan]``, in that order.

    Runs on a CPU are spread over the cores, each with one thread, which suits small networks better than one
    run with many threads. The function and what it refers to are copied to the workers, so it may stand in a
    notebook; it must return its result and not change shared state. The first error stops the rest and is
    raised here. Environment variable ``CTG_WORKERS`` sets the number of processes; 1 means none.
    """
    import torch  # seconds to import, and who only asks for the number of workers does not need it

    workers = min(worker_count(), len(plan))
    if workers < 2 or torch.device(device).type != "cpu":
        return [function(*arguments) for arguments in plan]
    parts = min(len(plan), workers * _PARTS_PER_WORKER)
    done = Parallel(n_jobs=workers)(delayed(_run_part)(function, plan[i::parts]) for i in range(parts))
    results: list[Any] = [None] * len(plan)
    for i, part in enumerate(done):
        results[i::parts] = part
    return results


def worker_count() -> int:
    """How many processes may run side by side: ``CTG_WORKERS``, or as many as there are cores."""
    return int(os.environ.get("CTG_WORKERS", os.cpu_count() or 1))


def _run_part(function: Callable[..., Any], plan: Sequence[tuple]) -> list[Any]:
    import torch

    torch.set_num_threads(1)
    return [function(*arguments) for arguments in plan]

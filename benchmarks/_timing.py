"""What the benchmarks share: calls timed in turn, figures with their targets, and a report."""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from helpers.experiments import timing
from helpers.files import write_atomically
from helpers.tables import aligned
from helpers.training import pick_device

Calls = dict[str, Callable[[], object]]
Times = dict[str, list[float]]
Row = dict[str, Any]


in_turn = functools.partial(timing.in_turn, warm_up=2)


def rounds_within(seconds: float, calls: Calls, device: torch.device, least: int, most: int) -> int:
    """How many rounds of all calls take so long, by one round after another that does not count."""
    one = sum(taken[0] for taken in timing.in_turn(calls, 1, device, warm_up=1).values())
    return max(least, min(most, int(seconds / max(one, 1e-9))))


def ratio(times: Times, name: str, base: str, scale: float = 1.0) -> float:
    """Median over the rounds of how many times longer `name` took than `base`, times `scale`."""
    return scale * statistics.median(n / b for n, b in zip(times[name], times[base], strict=True))


def row(what: str, unit: str, measured: float | None, target: str = "", **more: Any) -> Row:
    """One figure, None if it was not measured; `target` is "" or "<= 10" or ">= 5"."""
    met = None
    if target and measured is not None:
        sign, limit = target.split()
        met = measured <= float(limit) if sign == "<=" else measured >= float(limit)
    return {"what": what, "unit": unit, "target": target, "measured": measured, "met": met, **more}


def table(rows: list[Row]) -> str:
    """The rows aligned; a row that was not measured says why, under `skipped`."""
    body = [
        [
            r["what"],
            r["target"],
            f"skipped: {r['skipped']}" if r["measured"] is None else f"{r['measured']:.2f} {r['unit']}",
            {True: "met", False: "MISSED"}.get(r["met"], ""),
        ]
        for r in rows
    ]
    return aligned([["what", "target", "measured", ""], *body])


def arguments_of(text: str, repeats: int | None, rounds: str = "rounds of every call") -> ArgumentParser:
    """The options all benchmarks have; `text` is their help. Read them with `started`."""
    parser = ArgumentParser(description=text, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None, help="cuda, mps or cpu; the best present one by default")
    parser.add_argument("--repeats", type=int, default=repeats, help=rounds)
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's choice by default")
    parser.add_argument("--quick", action="store_true", help="a trial run of tiny sizes")
    parser.add_argument("--json", type=Path, help="also write the figures, with device and versions, here")
    return parser


def started(parser: ArgumentParser) -> tuple[Namespace, torch.device]:
    """The arguments, with threads and seed set, and the device they name."""
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments, pick_device(arguments.device)


def circumstances(packages: list[str], device: torch.device) -> Row:
    """Device, load, versions and date; of a GPU also what decides how fast and how exact it is."""
    threads = torch.get_num_threads()
    name, more = f"{threads} thread{'s' if threads > 1 else ''}", {}
    if device.type == "cuda":
        name, more = torch.cuda.get_device_name(device), _of_cuda(device)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "device": f"{device.type}: {name}",
        "load": f"{load} at the end, on {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **more,
        **{package: version(package) for package in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _of_cuda(device: torch.device) -> Row:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
        driver = said.splitlines()[0].strip()
    except (OSError, IndexError, subprocess.SubprocessError):
        driver = "unknown"
    facts = torch.cuda.get_device_properties(device)
    return {
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "capability": f"{facts.major}.{facts.minor}",
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "tf32": f"convolutions {torch.backends.cudnn.allow_tf32}, "
        f"matrix products {torch.backends.cuda.matmul.allow_tf32}",
    }


def write(path: Path, head: Row, packages: list[str], device: torch.device, **body: Any) -> None:
    """Write `head`, then the `circumstances`, then `body`; whole or not at all."""
    report = head | circumstances(packages, device) | body
    write_atomically(path, json.dumps(report, indent=1) + "\n")

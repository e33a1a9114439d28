"""What the benchmarks share: calls timed in turn, figures with their targets, and a report."""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from helpers.experiments import timing
from helpers.tables import aligned
from helpers.training import pick_device

Calls = dict[str, Callable[[], object]]
Times = dict[str, list[float]]
Row = dict[str, Any]


in_turn = functools.partial(timing.in_turn, warm_up=2)


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
    """Device, load, versions and date."""
    threads = torch.get_num_threads()
    name = f"{threads} thread{'s' if threads > 1 else ''}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "device": f"{device.type}: {name}",
        "load": f"{load} at the end, on {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(path: Path, head: Row, packages: list[str], device: torch.device, **body: Any) -> None:
    """Write `head`, then the `circumstances`, then `body`."""
    report = head | circumstances(packages, device) | body
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

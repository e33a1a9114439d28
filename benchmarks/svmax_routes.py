"""Time value + gradient of the mean singular value by each route, as ratios to SVD within one run.

    python benchmarks/svmax_routes.py [--device cpu] [--json reproduce/results/svmax_routes_cpu.json]

A ratio above 1 means faster than SVD. `GRAM_FROM` in helpers/svmax.py is read off the CPU table.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from helpers.svmax import mean_singular_value, unit_rows
from helpers.training import pick_device

SHAPES = [
    *((144, 2), (144, 4), (144, 8), (144, 16), (48, 32), (144, 64), (144, 128), (64, 128), (32, 256)),
    *((256, 256), (512, 512), (2048, 512), (1024, 1024)),
]
ROUTES = ("svd", "gram", "polar")


def seconds(route: str, embeddings: torch.Tensor, repeats: int) -> list[float]:
    """Wall seconds of forward + backward, one entry per repeat, after two warm-up rounds."""
    times = []
    for round_number in range(repeats + 2):
        leaf = embeddings.clone().requires_grad_()
        _synchronise(leaf.device)
        start = time.perf_counter()
        mean_singular_value(leaf, route).backward()
        _synchronise(leaf.device)
        if round_number >= 2:
            times.append(time.perf_counter() - start)
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: torch.device, repeats: int) -> list[dict[str, float | int]]:
    """One row per shape: median SVD milliseconds, and how many times faster each other route is."""
    rows = []
    for b, d in SHAPES:
        embeddings = unit_rows(torch.randn(b, d, generator=torch.Generator().manual_seed(0))).to(device)
        median = {route: statistics.median(seconds(route, embeddings, repeats)) for route in ROUTES}
        ratios = {f"{route}_ratio": median["svd"] / median[route] for route in ROUTES[1:]}
        rows.append({"B": b, "D": d, "svd_ms": 1e3 * median["svd"], **ratios})
        print(
            f"B={b:4d} D={d:4d}  svd {rows[-1]['svd_ms']:8.3f} ms  "
            f"gram x{ratios['gram_ratio']:.2f}  polar x{ratios['polar_ratio']:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=None, help="cuda, mps or cpu; the best present one by default")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the figures, with device and versions, here")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    rows = measure(device, arguments.repeats)
    if arguments.json:
        name = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        report = {
            "what": "median time of forward + backward; ratios to SVD in the same run",
            "device": f"{device.type}: {name}",
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "date": datetime.now(UTC).date().isoformat(),
            "repeats": arguments.repeats,
            "rows": rows,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

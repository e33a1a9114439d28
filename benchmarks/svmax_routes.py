"""Time value + gradient of the mean singular value by each route, as ratios to SVD within one run.

    python benchmarks/svmax_routes.py [--device cpu] [--json reproduce/results/svmax_routes_cpu.json]

A ratio above 1 means faster than SVD. `GRAM_FROM` in helpers/svmax.py is read off the CPU table.
"""

from __future__ import annotations

import statistics

import torch
from _timing import arguments_of, in_turn, ratio, started, write

from helpers.svmax import mean_singular_value, unit_rows

SHAPES = [
    *((144, 2), (144, 4), (144, 8), (144, 16), (48, 32), (144, 64), (144, 128), (64, 128), (32, 256)),
    *((256, 256), (512, 512), (2048, 512), (1024, 1024)),
]
QUICK_SHAPES = [(12, 3), (3, 12)]
ROUTES = ("svd", "gram", "polar")


def measure(
    shapes: list[tuple[int, int]], device: torch.device, repeats: int
) -> list[dict[str, float | int]]:
    """One row per shape: median SVD milliseconds, and how many times faster each other route is."""
    rows = []
    for b, d in shapes:
        embeddings = unit_rows(torch.randn(b, d, generator=torch.Generator().manual_seed(0))).to(device)
        embeddings.requires_grad_()
        calls = {
            route: lambda e=embeddings, r=route: mean_singular_value(e, r).backward() for route in ROUTES
        }
        times = in_turn(calls, repeats, device)
        ratios = {f"{route}_ratio": ratio(times, "svd", route) for route in ROUTES[1:]}
        rows.append({"B": b, "D": d, "svd_ms": 1e3 * statistics.median(times["svd"]), **ratios})
        print(
            f"B={b:4d} D={d:4d}  svd {rows[-1]['svd_ms']:8.3f} ms  "
            f"gram x{ratios['gram_ratio']:.2f}  polar x{ratios['polar_ratio']:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    arguments, device = started(arguments_of(__doc__, repeats=20))
    shapes, repeats = (QUICK_SHAPES, 1) if arguments.quick else (SHAPES, arguments.repeats)
    rows = measure(shapes, device, repeats)
    if arguments.json:
        head = {
            "what": "forward + backward: median milliseconds of SVD, and how many times faster the other "
            "routes are, in calls that ran in turn"
        }
        write(arguments.json, head, [], device, repeats=repeats, quick=arguments.quick, rows=rows)


if __name__ == "__main__":
    main()

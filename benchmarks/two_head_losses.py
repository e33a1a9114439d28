"""Time the ranking losses of the two-head architecture and measure their memory.

    python benchmarks/two_head_losses.py [--device cpu] [--json reproduce/results/two_head_losses_cpu.json]

Forward + backward on random unit vectors, D = 256, against pytorch-metric-learning (PML, its miner
included) and against the same definition on B x B x B tensors, as the released code computes it, once with
the gradient through those tensors, as there, and once with them used for the selection only. Peak memory is
what one call allocates over what was allocated before it: on a CPU from every allocation that torch.profiler
records, on CUDA by torch.cuda.max_memory_allocated. Its exponent is the slope of log memory over log B on the
three largest batches measured.

What is compared runs in turn, round after round, and a ratio is the median of the rounds' ratios, so that
other work on the machine counts on both sides. On a CPU whose cores are shared, --threads 1 is quieter.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from _timing import Calls, Row, arguments_of, in_turn, ratio, row, started, table, write
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tables import aligned
from helpers.two_head import BatchHardTripletLoss, SemiHardTripletLoss

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]

DIM, MARGIN, IMAGES_EACH, FEW_CLASSES = 256, 0.2, 4, 8
GIB = 2**30
OURS, PML, CUBE, CUBE_LEAN = "ours", "PML", "B^3", "B^3, selection only"
TARGETS = {(512, PML): ">= 5", (512, CUBE): ">= 50"}


def cubed(embeddings: Tensor, labels: Tensor, through: bool = True) -> Tensor:
    """The definition of `SemiHardTripletLoss` on (anchor, positive, negative) tensors.

    With `through` False they give only the index of the negative, and keep nothing for the gradient.
    """
    distances = LpDistance(power=2)(embeddings)
    differ = labels[:, None] != labels
    same = ~differ & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    with torch.set_grad_enabled(through):
        farther = differ[:, None, :] & (distances[:, None, :] > distances[:, :, None])
        outside = torch.where(farther, distances[:, None, :], torch.inf)
        inside = torch.where(differ, distances, -torch.inf)
        if through:
            negative = torch.where(farther.any(2), outside.amin(2), inside.amax(1, keepdim=True))
        else:
            index = torch.where(farther.any(2), outside.argmin(2), inside.argmax(1, keepdim=True))
    if not through:
        negative = distances.gather(1, index)
    counts = same & differ.any(1, keepdim=True)
    return torch.where(counts, F.relu(distances - negative + MARGIN), 0.0).sum() / counts.sum().clamp(min=1)


def mined(miner: nn.Module) -> Loss:
    """PML's triplet loss on what a miner of PML keeps."""
    loss = TripletMarginLoss(MARGIN, distance=LpDistance(power=2))
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def batch(classes: int, each: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """Random unit vectors, as at the start of training, `each` of every class."""
    points = torch.randn(classes * each, DIM, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return F.normalize(points).to(device), torch.arange(classes, device=device).repeat_interleave(each)


def both_ways(loss: Loss, data: Batch) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    leaf = data[0].clone().requires_grad_()
    value = loss(leaf, data[1])
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def assert_equal() -> None:
    """The rival on B x B x B tensors is the same function as ours, also in its gradient."""
    for classes, each in ((32, IMAGES_EACH), (FEW_CLASSES, 9), (2, 2)):
        data = batch(classes, each, torch.device("cpu"), torch.float64)
        ours = both_ways(SemiHardTripletLoss(MARGIN), data)
        for through in (True, False):
            theirs = both_ways(lambda e, n, t=through: cubed(e, n, t), data)
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """The most that one call allocates on the device at a time; None where nothing records it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    allocations = sorted(
        (e["ts"], e["args"]["Ev Idx"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"
    )
    held = peak = 0
    for *_, size in allocations:
        held += size
        peak = max(peak, held)
    return peak


def most_bytes(device: torch.device) -> int:
    """What a rival may need: a quarter of a GPU's memory, 2 GiB elsewhere."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return 2 * GIB


def least_bytes(route: str, classes: int, each: int) -> int:
    """What a route must hold at one time, at the least; 0 for a route on B x B matrices."""
    b = classes * each
    if route == CUBE:
        return 13 * b**3  # float: where, its gradient, amin's; bool: the mask
    if route == CUBE_LEAN:
        return 5 * b**3
    if route != PML:
        return 0
    triplets = b * (each - 1) * (b - each)
    mask = b**3 if b**3 < 2**31 else 24 * triplets  # or, above, the lists before they are joined
    return mask + 24 * triplets  # three indices


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """Slope of log y over log x on the last three points."""
    if len(points) < 2:
        return None
    x, y = ([math.log(point[axis]) for point in points[-3:]] for axis in (0, 1))
    return statistics.linear_regression(x, y).slope


def losses(sizes: list[int], largest: int, repeats: int, device: torch.device) -> tuple[list[Row], list[Row]]:
    """Ratios of time, and the curve: milliseconds and MiB of each route by batch."""
    families: dict[str, dict[str, Loss]] = {
        "semi-hard": {
            OURS: SemiHardTripletLoss(MARGIN),
            PML: mined(TripletMarginMiner(MARGIN, "semihard", distance=LpDistance(power=2))),
            CUBE: cubed,
            CUBE_LEAN: lambda e, n: cubed(e, n, through=False),
        },
        "batch-hard": {
            OURS: BatchHardTripletLoss(MARGIN),
            "PML": mined(BatchHardMiner(distance=LpDistance(power=2))),
        },
    }
    rows, curve = [], []
    for family, routes in families.items():
        shapes = [(b // IMAGES_EACH, IMAGES_EACH) for b in (*sizes, largest)]
        if family == "semi-hard":
            shapes += [(FEW_CLASSES, b // FEW_CLASSES) for b in sizes]
        for classes, each in shapes:
            chosen = routes if each == IMAGES_EACH else {n: routes[n] for n in (OURS, PML)}
            new_rows, new_points = _compare(family, chosen, classes, each, repeats, device)
            rows, curve = rows + new_rows, curve + new_points
    return rows + _exponents(curve), curve


def _compare(
    family: str, routes: dict[str, Loss], classes: int, each: int, repeats: int, device: torch.device
) -> tuple[list[Row], list[Row]]:
    size, data = classes * each, batch(classes, each, device)
    needs = {n: least_bytes(n, classes, each) if family == "semi-hard" else 0 for n in routes}
    most = most_bytes(device)
    skipped = {n: f"at least {need / GIB:.1f} GiB" for n, need in needs.items() if need > most}
    calls: Calls = {n: lambda f=f: both_ways(f, data) for n, f in routes.items() if n not in skipped}
    for name in [n for n in calls if n != OURS]:
        try:
            calls[name]()
        except RuntimeError as error:  # out of memory, or an index beyond 32 bits: a rival's, not ours
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            del calls[name]
    if CUBE in calls:
        torch.testing.assert_close(calls[CUBE]()[0], calls[OURS]()[0], rtol=1e-4, atol=1e-6)
    rounds = repeats if size < 512 else max(2, repeats // 4)
    times = in_turn(calls, rounds, device, warm_up=2 if size < 512 else 1)
    rows, curve = [], []
    for name in routes:
        place = {"family": family, "route": name, "B": size, "classes": classes}
        if name in skipped:
            curve.append(place | {"ms": None, "mib": None, "skipped": skipped[name]})
        else:
            memory = peak_bytes(calls[name], device)
            mib = None if memory is None else memory / 2**20
            curve.append(place | {"ms": 1e3 * statistics.median(times[name]), "mib": mib})
        if name != OURS:
            what = f"{family}, B = {size}, {classes} classes of {each}: ours against {name}"
            target = TARGETS.get((size, name), "") if (family, each) == ("semi-hard", IMAGES_EACH) else ""
            faster = None if name in skipped else ratio(times, name, OURS)
            more = {"skipped": skipped[name]} if name in skipped else {}
            rows.append(row(what, "x faster", faster, target, **more))
    return rows, curve


def _exponents(curve: list[Row]) -> list[Row]:
    groups: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for point in curve:
        shape = f"classes of {IMAGES_EACH}"
        if point["B"] != IMAGES_EACH * point["classes"]:
            shape = f"{FEW_CLASSES} classes"
        if point["mib"]:
            groups.setdefault((point["family"], shape, point["route"]), []).append((point["B"], point["mib"]))
    rows = []
    for (family, shape, route), points in groups.items():
        slope = exponent(points)
        if slope is not None:
            batches = [b for b, _ in points[-3:]]
            what = (
                f"{family}, {shape}, {route}: memory grows as B to the power (B = {batches[0]}-{batches[-1]})"
            )
            rows.append(row(what, "", slope))
    return rows


def curve_table(curve: list[Row]) -> str:
    """Milliseconds and peak MiB, one line for each batch, one column for each route."""
    routes = list(dict.fromkeys(point["route"] for point in curve))
    lines: dict[tuple[str, int, int], dict[str, str]] = {}
    for point in curve:
        memory = "?" if point["mib"] is None else f"{point['mib']:.4g}"
        cell = "skipped" if point["ms"] is None else f"{point['ms']:.4g} ms, {memory} MiB"
        lines.setdefault((point["family"], point["B"], point["classes"]), {})[point["route"]] = cell
    body = [
        [f, str(b), str(c), *(cells.get(route, "") for route in routes)] for (f, b, c), cells in lines.items()
    ]
    return aligned([["loss", "B", "classes", *routes], *body])


def main() -> None:
    rounds = "rounds; 12 by default, a quarter from B = 512 up"
    arguments, device = started(arguments_of(__doc__, None, rounds))
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    assert_equal()
    cuda = device.type == "cuda"
    sizes, largest = [64, 128, 256, 512, 1024, *[2048, 4096] * cuda], 8192 if cuda else 4096
    if arguments.quick:
        sizes, largest = [16, 64], 128
    repeats = arguments.repeats or (2 if arguments.quick else 12)
    rows, curve = losses(sizes, largest, repeats, device)
    print(curve_table(curve), end="\n\n")
    print(table(rows))
    if arguments.json:
        head = {
            "what": "ranking losses, forward + backward: medians of ratios between calls that ran in turn, "
            "and of milliseconds; peak memory of one call",
            "data": f"random unit vectors, D = {DIM}",
            "memory": "torch.cuda.max_memory_allocated" if cuda else "torch.profiler",
            "quick": arguments.quick,
        }
        packages = ["pytorch-metric-learning"]
        write(arguments.json, head, packages, device, repeats=repeats, rows=rows, curve=curve)


if __name__ == "__main__":
    main()

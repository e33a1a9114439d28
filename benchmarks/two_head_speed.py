"""Time the ranking losses of the two-head architecture and what its second head adds to a training step.

    python benchmarks/two_head_speed.py [--device cpu] [--json reproduce/results/two_head_speed_cpu.json]

Losses: forward + backward on random unit vectors, D = 256, against pytorch-metric-learning (PML, its miner
included) and against the same definition on B x B x B tensors, as the released code computes it, once with
the gradient through those tensors, as there, and once with them used for the selection only. Peak memory is
what one call allocates over what was allocated before it: on a CPU from every allocation that torch.profiler
records, on CUDA by torch.cuda.max_memory_allocated. Its exponent is the slope of log memory over log B on the
three largest batches measured.

Steps: forward + backward + SGD of TwoHead against the plain backbone with cross-entropy, random weights. The
row "a second plain backbone" is the noise of the figure.

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
from typing import Any

import torch
import torchvision
from _timing import Calls, Row, Times, arguments_of, in_turn, ratio, row, started, table, write
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tables import aligned
from helpers.two_head import BatchHardTripletLoss, CentreLoss, SemiHardTripletLoss, TwoHead, TwoHeadLoss

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]

DIM, MARGIN, IMAGES_EACH, FEW_CLASSES, CLASSES = 256, 0.2, 4, 8, 200
GIB = 2**30
MOST = 2 * GIB  # a rival that would need more is not run
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
    calls: Calls = {n: lambda f=f: both_ways(f, data) for n, f in routes.items() if needs[n] <= MOST}
    if CUBE in calls:
        torch.testing.assert_close(calls[CUBE]()[0], calls[OURS]()[0], rtol=1e-4, atol=1e-6)
    rounds = repeats if size < 512 else max(2, repeats // 4)
    times = in_turn(calls, rounds, device, warm_up=2 if size < 512 else 1)
    rows, curve = [], []
    for name in routes:
        skipped = "" if name in calls else f"at least {needs[name] / GIB:.1f} GiB"
        place = {"family": family, "route": name, "B": size, "classes": classes}
        if skipped:
            curve.append(place | {"ms": None, "mib": None, "skipped": skipped})
        else:
            memory = peak_bytes(calls[name], device)
            mib = None if memory is None else memory / 2**20
            curve.append(place | {"ms": 1e3 * statistics.median(times[name]), "mib": mib})
        if name != OURS:
            what = f"{family}, B = {size}, {classes} classes of {each}: ours against {name}"
            target = TARGETS.get((size, name), "") if (family, each) == ("semi-hard", IMAGES_EACH) else ""
            faster = None if skipped else ratio(times, name, OURS)
            more = {"skipped": skipped} if skipped else {}
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


def step(
    model: nn.Module, loss: Callable[[Any, Tensor], Tensor], data: Batch, autocast: bool
) -> Callable[[], None]:
    """A call that trains the network on the batch once."""
    images, labels = data
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            value = loss(model(images), labels)
        value.backward()
        optimizer.step()

    return call


def plain_loss(output: Any, labels: Tensor) -> Tensor:
    """Cross-entropy of the logits, and of auxiliary logits at the weight that `TwoHeadLoss` gives them."""
    logits, *aux = output if isinstance(output, tuple) else (output,)
    return F.cross_entropy(logits, labels) + sum(0.4 * F.cross_entropy(a, labels) for a in aux)


def steps(
    network: str, side: int, count: int, repeats: int, device: torch.device, autocast: bool = False
) -> list[Row]:
    """What each ranking loss and each head adds to a step of the plain network."""
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    data = images, torch.arange(count // IMAGES_EACH, device=device).repeat_interleave(IMAGES_EACH)
    extra = {"init_weights": False} if network == "inception_v3" else {}

    def backbone() -> nn.Module:
        return torchvision.models.get_model(network, weights=None, num_classes=CLASSES, **extra).to(device)

    rankings = {
        "semi-hard": TwoHeadLoss(SemiHardTripletLoss(MARGIN)),
        "batch-hard soft": TwoHeadLoss(BatchHardTripletLoss("soft")),
        "centre": TwoHeadLoss(CentreLoss(CLASSES, DIM).to(device), 0.003),
    }
    two, pooled = (
        TwoHead(backbone(), CLASSES, DIM, image_size=side, pooled=p).train() for p in (False, True)
    )
    calls: Calls = {"plain": step(backbone().train(), plain_loss, data, autocast)}
    calls |= {f"{n}, unpooled head": step(two, loss, data, autocast) for n, loss in rankings.items()}
    calls["semi-hard, pooled head"] = step(pooled, rankings["semi-hard"], data, autocast)
    calls["a second plain backbone"] = step(backbone().train(), plain_loss, data, autocast)
    kind = "bf16" if autocast else "fp32"
    place = f"step, {network}, {side} px, batch {count}, {kind}"
    try:
        times = in_turn(calls, repeats, device, warm_up=1 if device.type == "cpu" else 3)
    except torch.OutOfMemoryError:
        return [row(place, "% over plain", None, skipped="out of memory")]
    target = "<= 2" if network == "resnet50" and side == 224 else ""
    heads = {"unpooled_weights": _weights(two), "pooled_weights": _weights(pooled)}
    return [_overhead(place, times, name, "" if "plain" in name else target, heads) for name in [*calls][1:]]


def _weights(model: TwoHead) -> int:
    return sum(p.numel() for p in model.embedding_head.parameters())


def _overhead(place: str, times: Times, name: str, target: str, more: Row) -> Row:
    over = [100 * (a / b - 1) for a, b in zip(times[name], times["plain"], strict=True)]
    spread = {"least": min(over), "most": max(over), "plain_ms": 1e3 * statistics.median(times["plain"])}
    return row(f"{place}: {name}", "% over plain", statistics.median(over), target, **spread, **more)


def all_steps(device: torch.device, repeats: int, quick: bool) -> list[Row]:
    if quick:
        return steps("resnet18", 32, 8, repeats, device)
    if device.type != "cuda":
        return [
            r for n in ("resnet18", "mobilenet_v2", "resnet50") for r in steps(n, 224, 8, repeats, device)
        ]
    rows = []
    for network in ("resnet50", "densenet161", "inception_v3"):
        for count in (32, 128):
            for autocast in (False, True):
                side = 299 if network == "inception_v3" else 224
                rows += steps(network, side, count, repeats, device, autocast)
                torch.cuda.empty_cache()
    return rows


def main() -> None:
    rounds = "rounds; 12 for the losses (a quarter from B = 512 up), 5 (CUDA: 20) for steps"
    parser = arguments_of(__doc__, None, rounds)
    parser.add_argument("--quick", action="store_true", help="a trial run: small batches, one small network")
    arguments, device = started(parser)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    assert_equal()
    quick, cuda = arguments.quick, device.type == "cuda"
    sizes, largest = ([16, 64], 128) if quick else ([64, 128, 256, 512, 1024], 4096)
    losses_rounds, steps_rounds = (2, 1) if quick else (12, 20 if cuda else 5)
    rounds = {"losses": arguments.repeats or losses_rounds, "steps": arguments.repeats or steps_rounds}
    rows, curve = losses(sizes, largest, rounds["losses"], device)
    print(curve_table(curve), end="\n\n", flush=True)
    rows += all_steps(device, rounds["steps"], quick)
    print(table(rows))
    if arguments.json:
        recorder = "torch.cuda.max_memory_allocated" if cuda else "torch.profiler"
        head = {
            "what": "ranking losses, forward + backward, and training steps: medians of ratios between calls "
            "that ran in turn, and of milliseconds; peak memory of one call",
            "data": f"random unit vectors, D = {DIM}; networks with random weights on random images",
            "memory": recorder,
            "quick": quick,
        }
        packages = ["torchvision", "pytorch-metric-learning"]
        write(arguments.json, head, packages, device, repeats=rounds, rows=rows, curve=curve)


if __name__ == "__main__":
    main()

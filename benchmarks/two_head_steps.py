"""Time what the second head and each ranking loss add to a training step of a plain network.

    python benchmarks/two_head_steps.py [NETWORK ...] [--device cpu] [--json FILE]

Forward + backward + SGD of TwoHead against the plain backbone with cross-entropy, random weights, un-pooled
and pooled. The row "a second plain backbone" is the noise of the figure. What is compared runs in turn, round
after round, and a figure is the median over the rounds. On CUDA a batch of 32 and of 128, fp32 and bf16
autocast, in as many rounds as a quarter of a minute holds; elsewhere a batch of 8.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from _timing import Calls, Row, Times, arguments_of, in_turn, rounds_within, row, started, table, write
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.two_head import BatchHardTripletLoss, CentreLoss, SemiHardTripletLoss, TwoHead, TwoHeadLoss

Batch = tuple[Tensor, Tensor]

DIM, MARGIN, IMAGES_EACH, CLASSES, SIDE = 256, 0.2, 4, 200, 224
SECONDS, LEAST, MOST = 15.0, 5, 200
"""Of the rounds of one network, batch and precision on CUDA, and between how many rounds."""
OF_A_CPU = ("resnet18", "mobilenet_v2", "resnet50")
OF_CUDA = ("resnet50", "densenet161", "inception_v3")


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
    network: str, side: int, count: int, repeats: int | None, device: torch.device, autocast: bool = False
) -> list[Row]:
    """What each ranking loss and each head adds to a step of the plain network; None: rounds for SECONDS."""
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    data = images, torch.arange(count // IMAGES_EACH, device=device).repeat_interleave(IMAGES_EACH)
    # an auxiliary classifier of Inception needs images of 299 px
    extra = {"init_weights": False, "aux_logits": False} if network == "inception_v3" else {}

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
        if repeats is None:
            repeats = rounds_within(SECONDS, calls, device, LEAST, MOST)
        times = in_turn(calls, repeats, device, warm_up=1)
    except torch.OutOfMemoryError:
        return [row(place, "% over plain", None, skipped="out of memory")]
    target = "<= 2" if side == SIDE and network in OF_CUDA else ""
    heads = {"unpooled_weights": _weights(two), "pooled_weights": _weights(pooled), "rounds": repeats}
    return [_overhead(place, times, name, "" if "plain" in name else target, heads) for name in [*calls][1:]]


def _weights(model: TwoHead) -> int:
    return sum(p.numel() for p in model.embedding_head.parameters())


def _overhead(place: str, times: Times, name: str, target: str, more: Row) -> Row:
    over = [100 * (a / b - 1) for a, b in zip(times[name], times["plain"], strict=True)]
    spread = {"least": min(over), "most": max(over), "plain_ms": 1e3 * statistics.median(times["plain"])}
    return row(f"{place}: {name}", "% over plain", statistics.median(over), target, **spread, **more)


def all_steps(networks: list[str], device: torch.device, repeats: int | None, quick: bool) -> list[Row]:
    """Every network, by batch and precision; a trial has small images."""
    if quick:
        return [r for n in networks or ["resnet18"] for r in steps(n, 64, 8, repeats or 1, device)]
    if device.type != "cuda":
        return [r for n in networks or OF_A_CPU for r in steps(n, SIDE, 8, repeats or 5, device)]
    rows = []
    for network in networks or OF_CUDA:
        for count in (32, 128):
            for autocast in (False, True):
                rows += steps(network, SIDE, count, repeats, device, autocast)
                torch.cuda.empty_cache()
    return rows


def main() -> None:
    parser = arguments_of(__doc__, None, "rounds; 5 by default, on CUDA as many as the time allows")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="of torchvision; some by default")
    arguments, device = started(parser)
    rows = all_steps(arguments.networks, device, arguments.repeats, arguments.quick)
    print(table(rows))
    if arguments.json:
        head = {
            "what": "training steps: medians of how much longer than the plain backbone's they took",
            "data": "networks with random weights on random images that stay on the device",
            "quick": arguments.quick,
        }
        write(arguments.json, head, ["torchvision", "pytorch-metric-learning"], device, rows=rows)


if __name__ == "__main__":
    main()

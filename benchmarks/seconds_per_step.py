"""Time a training step of each of the thesis's grids, and write the GPU hours into their `cost`.

    python benchmarks/seconds_per_step.py [--device cuda] [--json reproduce/results/seconds_per_step_gpu.json]

A step as the chapter takes it: its network, loss, optimiser, batch and image size, on random images; with the
chapter's own batches, and with one batch that stays on the device. What the first takes longer is time in
which the input keeps the device waiting. The grids' `cost` and the table in reproduce/grids/README.md get the
first, of a GPU alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import torch
from _timing import Row, arguments_of, circumstances, row, started, table, write
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

from helpers import contest, training, trunks
from helpers.data import ImageSet
from helpers.files import write_atomically
from helpers.small_data import RandomViews
from helpers.svmax import svmax_loss
from helpers.two_head import SemiHardTripletLoss, TwoHead, TwoHeadLoss

SIDE, CLASSES, IMAGES_EACH, STEPS, WARM_UP = 224, 100, 4, 100, 3
NOT_YET = "seconds per step not measured on a GPU yet"


@dataclass(frozen=True)
class Recipe:
    """A chapter's training step: `make` gives network and loss for so many classes and such images."""

    make: Callable[[int, int], tuple[nn.Module, Callable[[Any, Tensor], Tensor]]]
    batch: int = 32
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    mixed: bool = False  # bfloat16 and channels last on CUDA, as `fit` has it


def two_heads(network: str, mirrored: bool) -> Callable[[int, int], tuple[nn.Module, nn.Module]]:
    def make(classes: int, side: int) -> tuple[nn.Module, nn.Module]:
        model = TwoHead(get_model(network, weights=None, num_classes=classes), classes, image_size=side)
        views = [RandomViews(max(1, side // 24), mirror=True)] if mirrored else []
        return nn.Sequential(*views, model), TwoHeadLoss(SemiHardTripletLoss())

    return make


def evolving(classes: int, side: int) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    network = get_model("resnet18", weights=None, num_classes=classes)
    return nn.Sequential(RandomViews(max(1, side // 12), mirror=True), network), F.cross_entropy


def spread_out(classes: int, side: int) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    loss = SemiHardTripletLoss()
    return trunks.embedder(32, 0), lambda rows, labels: loss(rows, labels) + svmax_loss(rows)


RECIPES = {
    "thesis_introduction": Recipe(
        lambda classes, side: (contest.network(0, 3, 64), SemiHardTripletLoss()), 48, torch.optim.SGD
    ),
    "thesis_ke": Recipe(evolving, optimizer=torch.optim.SGD, mixed=True),
    "thesis_svmax": Recipe(spread_out, 64, torch.optim.SGD),
    "thesis_two_head": Recipe(two_heads("resnet50", mirrored=False)),
    "thesis_closing_the_gap": Recipe(two_heads("resnet18", mirrored=True)),
}


def random_images(side: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8 * CLASSES) % CLASSES
    pixels = torch.randint(256, (len(labels), 3, side, side), generator=generator, dtype=torch.uint8)
    return ImageSet("random", pixels, labels, [str(c) for c in range(CLASSES)])


def stepping(recipe: Recipe, side: int, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """A call that trains a fresh network of the recipe on a batch."""
    mixed = recipe.mixed and device.type == "cuda"
    layout = torch.channels_last if mixed else torch.preserve_format
    model, loss = recipe.make(CLASSES, side)
    model.to(device, memory_format=layout).train()
    optimizer = recipe.optimizer(model.parameters(), lr=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            outputs = model(images.contiguous(memory_format=layout) if mixed else images)
        value = loss(outputs.float() if isinstance(outputs, Tensor) else outputs, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def seconds(
    step: Callable[[Tensor, Tensor], None], batches: Iterator, count: int, warm_up: int, device: torch.device
) -> float:
    """Mean of `count` steps in a row, after `warm_up` that do not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for images, labels in islice(batches, warm_up):
        step(images, labels)
    wait()
    start = time.perf_counter()
    for images, labels in islice(batches, count):
        step(images, labels)
    wait()
    return (time.perf_counter() - start) / count


def measured(images: ImageSet, count: int, warm_up: int, side: int, device: torch.device) -> list[Row]:
    rows = []
    for grid, recipe in RECIPES.items():
        step = stepping(recipe, side, device)
        drawn = training.draw_batches(
            images, recipe.batch // IMAGES_EACH, IMAGES_EACH, count + warm_up, device=device
        )
        own = seconds(step, drawn, count, warm_up, device)
        stays = next(
            training.draw_batches(images, recipe.batch // IMAGES_EACH, IMAGES_EACH, 1, device=device)
        )
        there = seconds(step, repeat(stays), count, warm_up, device)
        more = {"on_device": there, "waits_for_input": max(0.0, 1 - there / own), "batch": recipe.batch}
        rows.append(row(grid, "s", own, grid=grid, **more))
    return rows


def write_costs(rows: list[Row], where: str, root: Path) -> None:
    """Seconds per step and GPU hours into each grid's `cost` in `root`, and into their README's table."""
    readme = root / "reproduce" / "grids" / "README.md"
    page = readme.read_text(encoding="utf-8")
    for each in rows:
        path = root / "reproduce" / "grids" / f"{each['grid']}.yaml"
        text = path.read_text(encoding="utf-8")
        line = re.search(r"(?m)^cost: .* = ([\d,]+) training steps; (.*)$", text)
        hours = int(line[1].replace(",", "")) * each["measured"] / 3600
        said = f"{each['measured']:.4f} s per step on {where}, so {hours:,.0f} GPU hours"
        write_atomically(path, text[: line.start(2)] + said + text[line.end(2) :])
        page = re.sub(rf"(?m)^(\| `{each['grid']}` \|.*\| )[^|]*( \|)$", rf"\g<1>{said}\g<2>", page)
    write_atomically(readme, page)


def main() -> None:
    parser = arguments_of(__doc__, STEPS, "steps of every grid")
    parser.add_argument("--root", type=Path, help="project whose grids get the cost")
    arguments, device = started(parser)
    side, count, warm_up = (64, 1, 1) if arguments.quick else (SIDE, arguments.repeats, WARM_UP)
    rows = measured(random_images(side), count, warm_up, side, device)
    print(table(rows))
    if arguments.json:
        head = {
            "what": "mean seconds of a training step, with the chapter's own batches",
            "quick": arguments.quick,
        }
        write(arguments.json, head, ["torchvision"], device, steps=count, rows=rows)
    facts = circumstances([], device)
    if arguments.root is not None:
        write_costs(rows, f"{facts['device'].partition(': ')[2]} ({facts['date']})", arguments.root)


if __name__ == "__main__":
    main()

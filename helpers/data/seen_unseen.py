"""Does a network know new images of its classes, and does it retrieve classes that it has never seen?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from helpers.data.birds import MAX_SPECIES
from helpers.data.image_set import ImageSet
from helpers.data.load import load_dataset
from helpers.data.photographs import DatasetError

GENERA = MAX_SPECIES // 4


class SeenUnseen(NamedTuple):
    """Training, validation and test images of the same classes, and images of classes in none of them."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    unseen: ImageSet
    new: torch.Tensor  # (classes of `unseen`,) their places among all classes, the same for every seed
    total: int  # number of all classes


def seen_and_unseen(
    dataset: str,
    seed: int,
    *,
    size: int,
    seen: int = 40,
    unseen: int = 100,
    siblings: int = 2,
    images: tuple[int, int, int, int] = (24, 4, 24, 10),
) -> SeenUnseen:
    """Split a set into seen and unseen classes; every seed draws the classes, and for birds the images, anew.

    Args:
        dataset: "birds", or what `load_dataset` takes; of those the classes are dealt into two halves.
        size: side of the images in pixels.
        seen, unseen: numbers of bird species; no genus has species in both.
        siblings: species of a genus, 1 to 4: how fine-grained the set is.
        images: images of a species to train, validate and test on, and of an unseen species.

    Raises:
        DatasetError: too few genera or classes, or what `load_dataset` raises.
    """
    generator = torch.Generator().manual_seed(seed)
    if dataset == "birds":
        return _birds(generator, seed, size, seen, unseen, siblings, images)
    parts = load_dataset(dataset, size=size, seed=seed)
    count = parts.train.num_classes
    if count < 4:
        raise DatasetError(f"{dataset} has {count} classes; expected at least 4, to see two and not two")
    if parts.val is None:
        raise DatasetError(f"{dataset} has too few images of a class to hold some out for validation")
    order = torch.randperm(count, generator=generator)
    known, new = order[: count // 2].sort().values, order[count // 2 :].sort().values
    dealt = [part.select_classes(known) for part in parts]
    return SeenUnseen(*dealt, parts.test.select_classes(new), new, count)


def _birds(
    generator: torch.Generator,
    seed: int,
    size: int,
    seen: int,
    unseen: int,
    siblings: int,
    images: tuple[int, int, int, int],
) -> SeenUnseen:
    """A run of genera is seen; of all others, species are drawn for the unseen part."""
    if not 1 <= siblings <= MAX_SPECIES // GENERA:
        raise DatasetError(f"siblings is {siblings}; expected 1 to {MAX_SPECIES // GENERA}")
    genera, total = math.ceil(seen / siblings), GENERA * siblings
    left = total - genera * siblings
    if unseen > left:
        raise DatasetError(
            f"{unseen} unseen species, but {seen} seen ones leave {left} of {total}; lower either, or "
            f"raise siblings, which is {siblings} of 4"
        )
    first = siblings * int(torch.randint(0, GENERA - genera + 1, (), generator=generator))
    train, val, test, new = images
    every, drawn = train + val + test, {"size": size, "siblings": siblings, "seed": seed, "draw_seed": seed}
    known = load_dataset(
        "birds", num_species=seen, per_species=every, first_species=first,
        test_share=test / every, val_share=val / (train + val), **drawn,
    )  # fmt: skip
    others = load_dataset(
        "birds", num_species=total, per_species=new + 1, test_share=new / (new + 1), val_share=0, **drawn
    ).test
    species = torch.arange(total)
    species = species[(species < first) | (species >= first + genera * siblings)]
    order = torch.randperm(len(species), generator=generator)[:unseen]
    chosen = species[order].sort().values
    return SeenUnseen(*known, others.select_classes(chosen), chosen, total)

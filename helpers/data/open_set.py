"""Classes to train on, others to choose learning rates with, and again others to retrieve."""

from __future__ import annotations

from typing import NamedTuple

import torch

from helpers.data.image_set import ImageSet
from helpers.data.load import load_dataset
from helpers.data.photographs import DatasetError
from helpers.data.seen_unseen import seen_and_unseen

FEWEST = 8
"""With fewer classes there are not two to train, two to validate and four to test on."""


class OpenClasses(NamedTuple):
    """Images to train, validate and test on, of different classes where there are enough."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    places: torch.Tensor  # (classes of `test`,) their places among all classes, the same for every seed
    total: int  # number of all classes
    is_open: bool  # the classes of `test` are in neither of the others


def open_classes(
    dataset: str,
    seed: int,
    *,
    size: int,
    species: int = 78,
    unseen: int = 100,
    siblings: int = 3,
    images: tuple[int, int] = (40, 10),
) -> OpenClasses:
    """Split a set by class: half trains, a fifth of that half is held out to validate, half is the test.

    Of the birds every seed draws species and images anew. Of other sets a seed draws the classes that
    validate; with fewer than `FEWEST` classes, the three parts are different images of the same classes.

    Args:
        dataset: "birds", or what `load_dataset` takes.
        size: side of the images in pixels.
        species, unseen: numbers of bird species to train and validate on, and to test on.
        siblings: species of a genus, which differ in one small part.
        images: images of each bird species, for training and for the test.

    Raises:
        DatasetError: one class, too few images, or what the loaders raise.
    """
    if dataset == "birds":
        own = (images[0], 1, 1, images[1])
        drawn = seen_and_unseen(
            "birds", seed, size=size, seen=species, unseen=unseen, siblings=siblings, images=own
        )
        train, val = _held_out(drawn.train, torch.arange(species))
        return OpenClasses(train, val, drawn.unseen, drawn.new, drawn.total, True)
    parts = load_dataset(dataset, setting="open", size=size, seed=seed, channels=3)
    total = parts.train.num_classes + parts.test.num_classes
    if total < FEWEST:
        return _closed(dataset, seed, size)
    generator = torch.Generator().manual_seed(seed)
    train, val = _held_out(parts.train, torch.randperm(parts.train.num_classes, generator=generator))
    places = torch.arange(parts.train.num_classes, total)
    return _with_mates(OpenClasses(train, val, parts.test, places, total, True), dataset)


def _held_out(part: ImageSet, order: torch.Tensor) -> tuple[ImageSet, ImageSet]:
    """The last fifth of the classes in this order, two at least, apart from the others."""
    kept = len(order) - max(2, len(order) // 5)
    if kept < 2:
        raise DatasetError(
            f"{part.name} has {len(order)} classes to train and validate on; expected 4 or more"
        )
    return tuple(part.select_classes(classes.sort().values) for classes in (order[:kept], order[kept:]))


def _closed(dataset: str, seed: int, size: int) -> OpenClasses:
    parts = load_dataset(dataset, size=size, seed=seed, channels=3, val_share=0.25)
    if parts.val is None:
        raise DatasetError(f"{dataset} has too few images of a class to hold some out for validation")
    count = parts.train.num_classes
    return _with_mates(OpenClasses(*parts, torch.arange(count), count, False), dataset)


def _with_mates(parts: OpenClasses, dataset: str) -> OpenClasses:
    """The parts, if every one can tell something: two classes at least, one of them with two images."""
    for name in ("train", "val", "test"):
        counts = torch.bincount(getattr(parts, name).labels)
        if (counts > 0).sum() < 2 or counts.max() < 2:
            raise DatasetError(
                f"{dataset}: the {name} part has {int((counts > 0).sum())} classes, the largest of "
                f"{int(counts.max())} images; expected two classes, and one with two images or more"
            )
    return parts

"""Few images of each class to learn from: the problem of small data, drawn anew by every seed."""

from __future__ import annotations

import torch

from helpers.data.image_set import ImageSet
from helpers.data.load import load_dataset
from helpers.data.seen_unseen import seen_and_unseen
from helpers.data.splits import Splits

VALIDATION = 4
LEAST_CLASSES = 4
"""To learn to retrieve: two classes to train on and two that the network has never seen."""


def few_images(
    dataset: str, seed: int, *, size: int, per_class: int, classes: int = 20, per_test: int = 20
) -> Splits:
    """Training images of a set, at most `per_class` of a class, and all its validation and test images.

    With one seed a smaller `per_class` gives a subset of the images of a larger one.

    Args:
        dataset: "birds", "digits", or what `load_dataset` takes.
        seed: draws species and images of birds, the split of other sets without one, and the few images.
        size: side of the images in pixels; digits always have 8.
        per_class: 0 takes all.
        classes, per_test: number of bird species, and test images of each.

    Raises:
        DatasetError: what `load_dataset` raises.
    """
    if dataset == "birds":
        drawn = (max(per_class, 12), VALIDATION, per_test, 1)
        parts = seen_and_unseen("birds", seed, size=size, seen=classes, unseen=1, siblings=1, images=drawn)[
            :3
        ]
    elif dataset == "digits":
        parts = load_dataset("digits", seed=seed, test_share=0.7, val_share=0.3)
    else:
        parts = load_dataset(dataset, size=size, seed=seed, channels=3, val_share=0.15)
    train, val, test = parts
    return Splits(_at_most(train, per_class, seed), val, test)


def _at_most(part: ImageSet, per_class: int, seed: int) -> ImageSet:
    """The first images of every class in an order given by the seed."""
    if not per_class:
        return part
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    labels = part.labels[order]
    rows = torch.cat([order[labels == c][:per_class] for c in range(part.num_classes)])
    return part.subset(rows)


def seen_and_new(
    dataset: str,
    seed: int,
    *,
    size: int,
    seen: int = 20,
    unseen: int = 40,
    images: tuple[int, int] = (16, 12),
) -> tuple[ImageSet, ImageSet, torch.Tensor, int] | None:
    """Images of classes to train a retrieval network on, and of classes that it never sees.

    Returns:
        training images; images of new classes; the places (C,) of these among all classes, and the number
        of all. None where the set has fewer than four classes, or a new class fewer than two test images.

    Args:
        seen, unseen: numbers of bird species, one of a genus; other sets are dealt into halves.
        images: of a species seen, and of a new one.

    Raises:
        DatasetError: what `seen_and_unseen` raises.
    """
    if dataset == "birds":
        each = (images[0], 1, 1, images[1])
        parts = seen_and_unseen("birds", seed, size=size, seen=seen, unseen=unseen, siblings=1, images=each)
        return parts.train, parts.unseen, parts.new, parts.total
    parts = load_dataset(dataset, size=size, seed=seed, channels=3, val_share=0)
    count = parts.train.num_classes
    if count < LEAST_CLASSES:
        return None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    known, new = order[: count // 2].sort().values, order[count // 2 :].sort().values
    held = parts.test.select_classes(new)
    if torch.bincount(held.labels, minlength=len(new)).min() < 2:
        return None
    return parts.train.select_classes(known), held, new, count

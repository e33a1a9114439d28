"""Parts of an image set: closed and open splits, few shots, long tails. Every draw is by a seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from helpers.data.image_set import ImageSet
from helpers.data.photographs import DatasetError
from helpers.data.sources import TEST, TRAIN, VAL


class Splits(NamedTuple):
    """Parts of a set. `val` is None when nothing was held out. Open setting: the parts share no class."""

    train: ImageSet
    val: ImageSet | None
    test: ImageSet


def split_closed(
    dataset: ImageSet,
    own: torch.Tensor | None,
    test_share: float,
    val_share: float,
    generator: torch.Generator,
) -> Splits:
    """Every class in every part. `own` (N,) is the set's own split in TRAIN, VAL, TEST, or None."""
    labels = dataset.labels
    split = torch.where(_held_out(labels, test_share, generator), TEST, TRAIN) if own is None else own.clone()
    if val_share and not (split == VAL).any():
        train = (split == TRAIN).nonzero().flatten()
        split[train[_held_out(labels[train], val_share, generator)]] = VAL
    members = [(split == code).nonzero().flatten() for code in (TRAIN, VAL, TEST)]
    if not len(members[TRAIN]) or not len(members[TEST]):
        raise DatasetError(f"{dataset.name}: too few images per class to train on some and test on others")
    train, val, test = (
        dataset.subset(rows, f"{dataset.name}/{part}")
        for rows, part in zip(members, Splits._fields, strict=True)
    )
    return Splits(train, val if len(val) else None, test)


def split_open(
    dataset: ImageSet, trains: torch.Tensor | None, val_share: float, generator: torch.Generator
) -> Splits:
    """Split classes. `trains` (C,) is True for the classes that train; None: the first half, rounded down."""
    name, total = dataset.name, dataset.num_classes
    if trains is None:
        trains = torch.arange(total) < total // 2
    train, test = trains.nonzero().flatten(), (~trains).nonzero().flatten()
    held = max(1, round(val_share * len(train))) if val_share else 0
    if not len(test) or len(train) <= held:
        raise DatasetError(
            f"{name}: {total} classes are too few for the open setting with val_share={val_share}"
        )
    shuffled = train[torch.randperm(len(train), generator=generator)]
    val, train = shuffled[:held].sort().values, shuffled[held:].sort().values
    return Splits(
        dataset.select_classes(train, f"{name}/open-train"),
        dataset.select_classes(val, f"{name}/open-val") if held else None,
        dataset.select_classes(test, f"{name}/open-test"),
    )


def few_shot(dataset: ImageSet, per_class: int, seed: int = 0) -> ImageSet:
    """`per_class` images of every class, drawn by `seed`, in the order of the set.

    Raises DatasetError when a class has fewer; names it.
    """
    counts = _class_sizes(dataset)
    if not 1 <= per_class <= counts.min():
        scarce = dataset.class_names[int(counts.argmin())]
        raise DatasetError(
            f"few_shot: per_class={per_class}, expected 1 to {counts.min()}, the number of images of "
            f"{scarce!r} in {dataset.name}"
        )
    rank = _rank_within_class(dataset.labels, torch.Generator().manual_seed(seed))
    return dataset.subset((rank < per_class).nonzero().flatten(), f"{dataset.name}, {per_class} per class")


def long_tail(dataset: ImageSet, imbalance: float, seed: int = 0) -> ImageSet:
    """Class sizes that decay exponentially from class 0 (head) to class C-1 (tail), in the order of the set.

    Class c keeps n_max * imbalance^(-c / (C - 1)) images drawn by `seed`, rounded, at least 1 and at most
    what it has; n_max is the size of the largest class. The profile is that of long-tailed CIFAR
    (Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019).

    Raises DatasetError: imbalance below 1 or not finite; a class without images.
    """
    if not 1 <= imbalance < math.inf:
        raise DatasetError(f"long_tail: imbalance={imbalance}, expected a finite ratio of at least 1")
    counts = _class_sizes(dataset)
    if counts.min() < 1:
        empty = dataset.class_names[int(counts.argmin())]
        raise DatasetError(f"long_tail: {dataset.name} has no image of {empty!r}")
    place = torch.arange(len(counts), dtype=torch.float64) / max(len(counts) - 1, 1)
    sizes = (counts.max() * imbalance**-place).round().long().clamp(min=1)
    rank = _rank_within_class(dataset.labels, torch.Generator().manual_seed(seed))
    keep = (rank < sizes[dataset.labels]).nonzero().flatten()
    return dataset.subset(keep, f"{dataset.name}, long tail {imbalance:g}")


def _class_sizes(dataset: ImageSet) -> torch.Tensor:
    return torch.bincount(dataset.labels, minlength=dataset.num_classes)


def _rank_within_class(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Place (N,) of each item, 0 first, in a random order of its own class."""
    shuffled = torch.randperm(len(labels), generator=generator)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return rank


def _held_out(labels: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """True (N,) for a share of every class: at least one image, never all of them."""
    counts = torch.bincount(labels)
    sizes = (counts * share).round().long().clamp(min=1).minimum(counts - 1)
    return _rank_within_class(labels, generator) < sizes[labels]

"""Batches for training: P classes with K images each, or every image once, the same for the same seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence, Sized

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as pml
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler


class EpochBatches(Sampler[list[int]]):
    """Batches of indices that depend on (seed, epoch) alone; every pass counts as an epoch, from 0."""

    def __init__(
        self,
        draw: Callable[[np.random.Generator], Sequence[int]],
        num_items: int,
        batch_size: int,
        drop_last: bool,
        seed: int,
    ) -> None:
        self.draw, self.num_items, self.batch_size = draw, num_items, batch_size
        self.drop_last, self.seed, self.epoch = drop_last, seed, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = self.draw(np.random.default_rng([self.seed, self.epoch]))
        self.epoch += 1
        return iter(BatchSampler(order, self.batch_size, self.drop_last))

    def __len__(self) -> int:
        return len(BatchSampler(range(self.num_items), self.batch_size, self.drop_last))

    def __repr__(self) -> str:
        return f"seed {self.seed}, {len(self)} batches of {self.batch_size}"


def pk_loader(
    dataset: Dataset, classes_per_batch: int, images_per_class: int, batches: int, seed: int = 0
) -> DataLoader:
    """`batches` batches per epoch of P classes with K images each, drawn by PML's `MPerClassSampler`.

    A class with fewer than K images is drawn with replacement. Each batch is gathered at once, as
    `dataset[indices]`: images (P*K, C, H, W) and labels (P*K,). Two loaders with one seed give the same
    batches, whatever else draws random numbers; each pass over a loader goes on to the next epoch.

    Raises ValueError for P below 1 or above the number of classes, K below 2, or no batches.
    """
    labels = torch.as_tensor(dataset.labels).cpu()
    num_classes = len(labels.unique())
    if not 1 <= classes_per_batch <= num_classes:
        raise ValueError(f"classes_per_batch is {classes_per_batch}; the dataset has {num_classes} classes")
    if images_per_class < 2:
        raise ValueError(f"images_per_class is {images_per_class}; expected at least 2, to have positives")
    if batches < 1:
        raise ValueError(f"batches is {batches}; expected at least 1 per epoch")
    size = classes_per_batch * images_per_class
    sampler = MPerClassSampler(labels, images_per_class, size, length_before_new_iter=batches * size)
    classes = sorted(sampler.labels)

    def draw(generator: np.random.Generator) -> list[int]:
        # PML shuffles its own list of classes in place and draws from a generator shared by the whole process
        sampler.labels, shared = classes.copy(), pml.NUMPY_RANDOM
        pml.NUMPY_RANDOM = generator
        try:
            return list(sampler)
        finally:
            pml.NUMPY_RANDOM = shared

    return _batched(dataset, EpochBatches(draw, batches * size, size, True, seed))


def loader(
    dataset: Dataset, batch_size: int, seed: int = 0, shuffle: bool = True, drop_last: bool = False
) -> DataLoader:
    """Every image once per epoch, in an order given by (seed, epoch); each batch is gathered at once.

    Raises ValueError for an empty dataset, a batch size below 1, or `drop_last` with less than one batch.
    """
    count = len(dataset)
    if count == 0 or batch_size < 1 or (drop_last and count < batch_size):
        raise ValueError(
            f"{count} images in batches of {batch_size} (drop_last={drop_last}) make no batch; expected "
            "images and a batch_size from 1 to their number"
        )

    def draw(generator: np.random.Generator) -> Sequence[int]:
        return generator.permutation(count).tolist() if shuffle else range(count)

    return _batched(dataset, EpochBatches(draw, count, batch_size, drop_last, seed))


def ends_in_one(loader: DataLoader) -> bool:
    """Whether an epoch ends in a batch of one image, as far as the loader tells."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, EpochBatches):
        count, size, drop_last = sampler.num_items, sampler.batch_size, sampler.drop_last
    elif isinstance(sampler, Sized) and loader.batch_size:
        count, size, drop_last = len(sampler), loader.batch_size, loader.drop_last
    else:
        return False
    return size == 1 or (count % size == 1 and not drop_last)


def draw_batches(
    dataset: Dataset,
    classes_per_batch: int,
    images_per_class: int,
    total: int,
    seed: int = 0,
    *,
    shuffled: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`total` batches (images, labels) on a device: P classes with K images each, P at most what there is.

    With `shuffled`, batches of the same size in which an image comes once per epoch, whatever its class;
    what does not fill a last batch is left out of that epoch.
    Raises ValueError as `pk_loader` and `loader` do.
    """
    p = min(classes_per_batch, len(torch.as_tensor(dataset.labels).unique()))
    if shuffled:
        batches = loader(dataset, min(p * images_per_class, len(dataset)), seed=seed, drop_last=True)
    else:
        batches = pk_loader(dataset, p, images_per_class, batches=total, seed=seed)
    for images, labels in itertools.islice(itertools.chain.from_iterable(itertools.repeat(batches)), total):
        yield images.to(device), labels.to(device)


def _batched(dataset: Dataset, batches: EpochBatches) -> DataLoader:
    # a generator of its own: else every pass would take a number from torch's global one, which dropout uses
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )

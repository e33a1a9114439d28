"""A contest of losses on maps that a frozen network makes once: the maps, and batches of them.

Batches hold any items, or those of one cluster for one learner of divide and conquer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from helpers.data import seen_and_unseen
from helpers.imagenet_birds import lower_maps
from helpers.reading_list.divide_and_conquer import DivideAndConquer
from helpers.training import draw_batches


class Maps(NamedTuple):
    """Maps (N, 192, h, w) and labels (N,) of classes to train on, and of others to test on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    places: Tensor  # (classes of `test`,) their places among all classes, the same for every seed
    total: int  # number of all classes


def maps_of(
    dataset: str,
    seed: int,
    *,
    size: int,
    seen: int,
    unseen: int,
    images: tuple[int, int] = (16, 8),
    device: torch.device | str = "cpu",
) -> Maps:
    """Maps from the lower half of the offline ImageNet network; every seed draws classes anew.

    Args:
        dataset: "birds", or what `load_dataset` takes.
        size: side of the images in pixels, a multiple of 32; the maps have a sixteenth of it.
        seen, unseen: numbers of bird species to train and to test on, 60 at most together.
        images: of each bird species, to train and to test on.

    Raises DatasetError as `seen_and_unseen` does.
    """
    each = (images[0], 1, 1, images[1])
    parts = seen_and_unseen(dataset, seed, size=size, siblings=1, seen=seen, unseen=unseen, images=each)
    train, test = (lower_maps(part, device).tensors for part in (parts.train, parts.unseen))
    return Maps(train, test, parts.new, parts.total)


def whole_batches(
    loss: object, embed: object, features: Tensor, labels: Tensor, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches (inputs, labels) of 8 classes with 4 items each; called as `learner_batches` is.

    They depend on the labels and the seed alone, so that every loss of a contest sees the same.
    """
    return draw_batches(_part(features, labels, slice(None)), 8, 4, steps, seed)


def learner_batches(
    conquer: DivideAndConquer,
    embed: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    steps: int,
    seed: int,
    phases: int = 4,
) -> Iterator[tuple[Tensor, Tensor, int | None]]:
    """`steps` batches (inputs, labels, learner) of 8 classes with 4 items each, as far as there are so many.

    The steps fall into `phases` parts. At the start of each but the last the items are divided anew by their
    present embeddings, and the learners take turns. In the last part all train together: the learner is None.

    Args:
        embed: features (N, ...) to the embeddings that are clustered.
        phases: 2 or more.

    Raises ValueError for fewer phases or fewer steps than phases.
    """
    if not 2 <= phases <= steps:
        raise ValueError(f"{phases} phases in {steps} steps; expected 2 phases or more, and a step for each")
    ends = [steps * (phase + 1) // phases for phase in range(phases)]
    step = 0
    for phase, end in enumerate(ends[:-1]):
        clusters = conquer.divide(embed(features), seed)
        own = [
            draw_batches(_part(features, labels, clusters == k), 8, 4, end - step, seed + phase)
            for k in range(conquer.learners)
        ]
        for turn in range(step, end):
            learner = turn % conquer.learners
            yield *next(own[learner]), learner
        step = end
    for inputs, classes in draw_batches(_part(features, labels, slice(None)), 8, 4, steps - step, seed):
        yield inputs, classes, None


def _part(features: Tensor, labels: Tensor, chosen: Tensor | slice) -> TensorDataset:
    part = TensorDataset(features[chosen], labels[chosen])
    part.labels = labels[chosen]
    return part

"""Batches of a contest on kept maps: the same for every loss, or one cluster for one learner."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss

from helpers.data import seen_and_unseen
from helpers.imagenet_birds import lower_maps
from helpers.reading_list.divide_and_conquer import DivideAndConquer
from helpers.reading_list.frozen_maps import learner_batches, maps_of, whole_batches

LABELS = torch.arange(12).repeat_interleave(6)
SIDE = torch.where(LABELS < 6, 1.0, -1.0)
FEATURES = torch.stack([10 * SIDE, torch.arange(72.0) / 72, LABELS.float()], 1)


def conquer() -> DivideAndConquer:
    return DivideAndConquer(ContrastiveLoss(), 4, learners=2)


def test_whole_batches_depend_on_labels_and_seed_alone() -> None:
    one = list(whole_batches(ContrastiveLoss(), None, FEATURES, LABELS, 3, 5))
    other = list(whole_batches(None, torch.relu, -FEATURES, LABELS, 3, 5))
    assert len(one) == 3
    for (x, y), (minus_x, same_y) in zip(one, other, strict=True):
        assert torch.equal(x, -minus_x)
        assert torch.equal(y, same_y)
        assert (y.bincount()[y.unique()] == 4).all()
        assert len(y.unique()) == 8


@pytest.mark.parametrize("steps", [12, 13])
def test_a_learner_sees_its_own_cluster_and_all_train_together_at_last(steps: int) -> None:
    loss = conquer()
    batches = list(learner_batches(loss, lambda x: x[:, :2], FEATURES, LABELS, steps, 0, phases=4))
    assert len(batches) == steps
    sides = {k: SIDE[loss.clusters == k].unique().tolist() for k in (0, 1)}
    assert sorted(sides.values()) == [[-1.0], [1.0]]  # the clusters are the two sides
    last = steps - steps * 3 // 4
    for x, y, learner in batches[:-last]:
        assert x[:, 0].sign().unique().tolist() == sides[learner]
        assert torch.equal(x[:, 2], y.float())  # labels stay with their rows
    assert {learner for _, _, learner in batches[:-last]} == {0, 1}
    assert [learner for _, _, learner in batches[-last:]] == [None] * last
    assert any(len(y.unique()) == 8 for _, y, _ in batches[-last:])


def test_clusters_are_found_anew_in_every_phase_but_the_last() -> None:
    asked = []

    def embed(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return x[:, :2]

    list(learner_batches(conquer(), embed, FEATURES, LABELS, 8, 0, phases=4))
    assert asked == [72, 72, 72]


@pytest.mark.parametrize(("steps", "phases"), [(4, 1), (3, 4)])
def test_too_few_phases_or_steps_are_refused(steps: int, phases: int) -> None:
    with pytest.raises(ValueError, match=f"{phases} phases in {steps} steps; expected 2 phases or more"):
        next(learner_batches(conquer(), torch.clone, FEATURES, LABELS, steps, 0, phases))


def test_maps_are_those_of_the_lower_half_and_classes_keep_their_places() -> None:
    drawn = maps_of("birds", 3, size=32, seen=3, unseen=4, images=(4, 2))
    parts = seen_and_unseen("birds", 3, size=32, siblings=1, seen=3, unseen=4, images=(4, 1, 1, 2))
    assert torch.equal(drawn.train[0], lower_maps(parts.train).tensors[0])
    assert torch.equal(drawn.test[0], lower_maps(parts.unseen).tensors[0])
    assert drawn.train[0].shape == (12, 192, 2, 2)
    assert drawn.test[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(drawn.places, parts.new)
    assert drawn.total == 60

"""The trial of the reading list: hits and classes by hand, whose images a learner gets, what is reported."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.data import ImageSet
from helpers.data.open_set import OpenClasses
from helpers.reading_list import trial
from helpers.reading_list.divide_and_conquer import DivideAndConquer
from helpers.reading_list.global_descriptors import CombinedGlobalDescriptors, GeM


def images(count: int, classes: int, seed: int = 0) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return ImageSet(
        "toy", pixels.byte(), torch.arange(count) % classes, [f"kind {c}" for c in range(classes)]
    )


def spread(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (embeddings - labels[:, None]).square().mean()


def pooled() -> trial.Head:
    return trial.Head(spread, CombinedGlobalDescriptors(64, 8, (1.0,)))


def learners() -> trial.Head:
    return trial.Head(DivideAndConquer(spread, 8, 4), nn.Sequential(GeM(1.0), nn.Linear(64, 8)))


def test_hits_by_hand_and_by_brute_force() -> None:
    rows = torch.tensor([[1.0, 0], [9, 1], [0, 1], [1, 8], [-1, 0]])
    assert trial.hits(rows, torch.tensor([0, 0, 1, 1, 1])).tolist() == [1, 1, 1, 1, 1]
    assert trial.hits(rows, torch.tensor([0, 1, 1, 1, 0])).tolist() == [0, 0, 1, 1, 0]
    rows, labels = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 4
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows, dim=2).fill_diagonal_(-2)
    assert torch.equal(trial.hits(rows, labels), (labels[cosines.argmax(1)] == labels).float())


def test_the_mean_of_each_class_stands_in_its_place_and_absent_classes_are_nan() -> None:
    found, labels = torch.tensor([1.0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
    by_class = trial.recall_by_class(found, labels, torch.tensor([3, 1]), 5)
    torch.testing.assert_close(
        by_class, torch.tensor([torch.nan, 2 / 3, torch.nan, 0.5, torch.nan]), equal_nan=True
    )


def test_a_run_reports_every_class_of_the_test_and_a_broken_network_has_no_recall() -> None:
    parts = OpenClasses(images(8, 2), images(8, 2, 1), images(12, 3, 2), torch.tensor([5, 0, 2]), 6, True)
    model = trial.fit_head(pooled, parts.train, 0, rate=0.01, steps=2)
    found = trial.scores(model, parts)
    rows = model(parts.test[:][0]).detach()
    assert found["recall@1, unseen"].isfinite().tolist() == [True, False, True, False, False, True]
    mean = found["recall@1, unseen"].nanmean().item()
    assert mean == pytest.approx(trial.hits(rows, parts.test.labels).mean().item())
    with torch.no_grad():
        model.head.layers.heads[0].weight.fill_(torch.nan)
    broken = trial.scores(model, parts)
    assert broken["validation recall@1"] == broken["recall@1, unseen"].nansum() == 0


@pytest.mark.parametrize("make", [pooled, learners])
def test_training_is_the_same_for_a_seed_moves_trunk_and_head_and_lowers_the_loss(make) -> None:
    part, how = images(24, 3), {"clusters": "k-means" if make is learners else None}
    start, one, same = (
        trial.fit_head(make, part, 1, rate=rate, steps=24, **how) for rate in (1e-9, 0.01, 0.01)
    )
    for before, after, again in zip(start.parameters(), one.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(after, again, rtol=0, atol=0)
        assert not torch.allclose(before, after, atol=1e-4)
    values = [model.head(model.trunk(part[:][0]), part.labels).item() for model in (start, one)]
    assert values[1] < values[0]


def test_every_learner_weighs_the_same_in_the_embedding_that_is_kept() -> None:
    rows = trial.Embedder(learners()).eval()(images(6, 2)[:][0])
    torch.testing.assert_close(rows.unflatten(1, (4, 2)).norm(dim=2), torch.full((6, 4), 0.5))


@pytest.mark.parametrize("clusters", ["k-means", "random"])
def test_a_learner_sees_its_own_cluster_only_and_the_last_round_is_for_all(clusters: str) -> None:
    part = images(40, 5)
    model = trial.Embedder(learners())
    own, steps = {}, 16
    for step, (batch, labels, *learner) in enumerate(
        trial.divided_batches(model, part, 0, steps, clusters, "cpu")
    ):
        assert len(batch) == len(labels)
        assert bool(learner) == (step < 12)
        if learner:
            seen = {tuple(image[:, 0, 0].tolist()) for image in batch}
            own.setdefault((step // 4 if clusters == "k-means" else 0, learner[0]), set()).update(seen)
    assert step == steps - 1
    rounds = {r for r, _ in own}
    for r in rounds:
        mine = [seen for (other, _), seen in own.items() if other == r]
        assert len(mine) > 1
        assert len(set.union(*mine)) == sum(map(len, mine))


def test_other_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="'spectral'; expected 'k-means' or 'random'"):
        trial.fit_head(learners, images(8, 2), 0, rate=0.1, steps=4, clusters="spectral")

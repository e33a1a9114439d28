"""Divide and conquer: matching against all permutations, slices and their gradients, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor
from torch.nn import functional as F

from helpers.reading_list.divide_and_conquer import DivideAndConquer, match_clusters


def draw(count: int, high: int, seed: int) -> Tensor:
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed))


def rows(count: int = 12, columns: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(12) % 3


# ------------------------------------------------------------------------------------- matching


@pytest.mark.parametrize("clusters", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_no_permutation_keeps_more_items(clusters: int, seed: int) -> None:
    old, new = draw(30, clusters, seed), draw(30, clusters, seed + 100)
    found = match_clusters(old, new)
    count = int(max(old.max(), new.max())) + 1
    best = max(int((torch.tensor(order)[new] == old).sum()) for order in itertools.permutations(range(count)))
    assert int((found == old).sum()) == best
    same = new[:, None] == new
    assert torch.equal(found[:, None] == found, same)  # renamed, not regrouped


@pytest.mark.parametrize("seed", range(8))
def test_the_papers_cost_has_the_same_smallest_value(seed: int) -> None:
    """The L1 distance of membership vectors, as the paper and its code say it."""
    old, new = draw(40, 4, seed), draw(40, 4, seed + 50)

    def cost(order: Any) -> float:
        renamed = torch.as_tensor(order)[new]
        members = [(one[:, None] == torch.arange(4)).double() for one in (old, renamed)]
        return (members[0] - members[1]).abs().sum().item()

    found = match_clusters(old, new)
    renaming = [int(found[new == k][0]) for k in range(4)]
    assert cost(renaming) == min(cost(order) for order in itertools.permutations(range(4)))


@pytest.mark.parametrize("clusters", [3, 4, 8])
def test_any_renaming_is_undone(clusters: int) -> None:
    """Cycles too, which the released code turns the wrong way."""
    old = torch.arange(40) % clusters
    for seed in range(20):
        order = torch.randperm(clusters, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(match_clusters(old, order[old]), old)
    cycle = (torch.arange(clusters) + 1) % clusters
    assert torch.equal(match_clusters(old, cycle[old]), old)
    assert not torch.equal(cycle[cycle[old]], old)  # what the inverse permutation would give


def test_five_items_by_hand() -> None:
    old, new = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([2, 2, 0, 2, 1])
    # new 2 shares two items with old 0, new 0 one with old 1, new 1 one with old 2
    assert match_clusters(old, new).tolist() == [0, 0, 1, 0, 2]


def test_clusters_that_are_gone_or_new_have_numbers_too() -> None:
    assert match_clusters(torch.tensor([0, 0, 1]), torch.tensor([2, 2, 2])).tolist() == [0, 0, 0]
    found = match_clusters(torch.tensor([0, 0, 0]), torch.tensor([1, 2, 2]))
    assert found[1] == found[2] == 0
    assert found[0] in (1, 2)


# ------------------------------------------------------------------------------------- slices


def conquer(learners: int = 3, loss: Callable | None = None) -> DivideAndConquer:
    """With a loss that takes rows as they come, so that lengths are this class's business."""
    as_they_come = losses.TripletMarginLoss(margin=1, distance=LpDistance(normalize_embeddings=False))
    return DivideAndConquer(loss or as_they_come, 6, learners)


@pytest.mark.parametrize("learner", [0, 1, 2])
def test_a_learner_is_the_loss_of_its_own_columns_and_moves_no_other(learner: int) -> None:
    model, given = conquer(), rows().requires_grad_()
    value = model(given, LABELS, learner)
    own = slice(2 * learner, 2 * learner + 2)
    torch.testing.assert_close(value, model.loss(F.normalize(given[:, own]), LABELS))
    (gradient,) = torch.autograd.grad(value, given)
    outside = gradient.clone()
    outside[:, own] = 0
    assert torch.equal(outside, torch.zeros_like(outside))  # exactly
    assert gradient[:, own].abs().max() > 1e-3


def test_the_layer_below_is_trained_in_the_learners_rows_alone() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 6).double()
    conquer()(layer(rows(columns=5)), LABELS, 1).backward()
    moved = layer.weight.grad.abs().sum(1) > 0
    assert moved.tolist() == [False, False, True, True, False, False]


def test_without_a_learner_every_slice_counts_alike() -> None:
    model, given = conquer(), rows().requires_grad_()
    embedding = model.embed(given)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(12, dtype=torch.float64))
    parts = [F.normalize(part) for part in given.chunk(3, 1)]
    torch.testing.assert_close(embedding @ embedding.T, sum(part @ part.T for part in parts) / 3)
    value = model(given, LABELS)
    torch.testing.assert_close(value, model.loss(embedding, LABELS))
    (gradient,) = torch.autograd.grad(value, given)
    assert (gradient.reshape(12, 3, 2).abs().amax((0, 2)) > 1e-3).all()


def test_one_learner_divides_nothing() -> None:
    model = conquer(1)
    wanted = model.loss(F.normalize(rows()), LABELS)
    torch.testing.assert_close(model(rows(), LABELS, 0), wanted)
    torch.testing.assert_close(model(rows(), LABELS), wanted)
    assert not model.divide(rows()).any()


@pytest.mark.parametrize("learner", [None, 1])
def test_gradients(learner: int | None) -> None:
    model = conquer(loss=lambda rows, labels: (rows @ rows.T).square().triu(1).sum() + rows[:, 0].sum())
    assert torch.autograd.gradcheck(lambda x: model(x, LABELS[:4], learner), rows(4).requires_grad_())


def test_single_precision() -> None:
    value = conquer()(rows().float(), LABELS, 2)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), conquer()(rows(), LABELS, 2), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------- clusters


def test_clusters_are_found_and_keep_their_numbers() -> None:
    centres = torch.eye(6, dtype=torch.float64)[:3]
    truth = draw(60, 3, 0)
    groups = centres[truth] + 0.05 * rows(60)
    model = conquer()
    first = model.divide(groups, seed=0)
    assert len({(int(a), int(b)) for a, b in zip(first, truth, strict=True)}) == 3
    for seed in range(1, 8):  # k-means numbers its clusters by chance
        assert torch.equal(model.divide(groups + 0.01 * rows(60, seed=seed), seed=seed), first)
        assert model.clusters is not None
    fresh = [conquer().divide(groups, seed=seed) for seed in range(8)]
    assert any(not torch.equal(found, first) for found in fresh)  # so there was something to match


def test_the_length_of_features_does_not_matter() -> None:
    groups, lengths = rows(40), torch.linspace(0.1, 50, 40, dtype=torch.float64)[:, None]
    assert torch.equal(conquer().divide(groups), conquer().divide(groups * lengths))


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DivideAndConquer(len, 7, 3), ValueError, "embedding_size is 7; .* multiple of learners=3"),
        (lambda: DivideAndConquer(len, 6, 0), ValueError, "learners is 0"),
        (lambda: conquer()(rows(), LABELS, 3), ValueError, "learner is 3; expected 0 to 2, or None"),
        (lambda: conquer()(rows(), LABELS, -1), ValueError, "learner is -1"),
        (lambda: conquer()(rows(), LABELS, 1.0), TypeError, "learner is 1.0"),
        (lambda: conquer()(rows(12, 5), LABELS, 1), ValueError, "5 columns; expected 6"),
        (lambda: conquer()(rows(), LABELS[:4], 1), ValueError, r"labels have shape \(4,\)"),
        (lambda: conquer().embed(rows().long()), TypeError, "embeddings are torch.int64"),
        (lambda: conquer().divide(rows(2)), ValueError, "2 rows; expected 3, the learners, or more"),
        (lambda: match_clusters(LABELS, LABELS[:5]), ValueError, r"new clusters have shape \(5,\)"),
        (lambda: match_clusters(LABELS - 1, LABELS), ValueError, "number below 0"),
        (lambda: match_clusters(LABELS[:0], LABELS[:0]), ValueError, "empty"),
        (lambda: match_clusters(LABELS.float(), LABELS), TypeError, "old clusters are torch.float32"),
        (lambda: match_clusters([0, 1], LABELS), TypeError, "old clusters are list"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_another_set_is_not_matched_to_the_last_one() -> None:
    model = conquer()
    model.divide(rows())
    with pytest.raises(ValueError, match=r"9 rows; expected the 12 items .* new DivideAndConquer"):
        model.divide(rows(9))


def test_no_value_is_waited_for_in_training() -> None:
    """On the meta device a tensor has no values: whatever looks at one fails."""
    given = torch.empty(6, 6, device="meta", requires_grad=True)
    model, labels = conquer(loss=lambda e, y: e.sum()), torch.empty(6, dtype=torch.long, device="meta")
    (model(given, labels, 1) + model(given, labels)).backward()
    assert given.grad.shape == given.shape

"""Group Loss: laws of the dynamics, twins in plain loops, limits, gradients, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses
from torch import Tensor
from torch.nn import functional as F

from helpers.reading_list.group_loss import (
    GroupLoss,
    correlation_graph,
    random_anchors,
    replicator_dynamics,
)

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def features(rows: int = 9, columns: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


def probabilities(rows: int = 9, classes: int = 4, seed: int = 1) -> Tensor:
    return (2 * features(rows, classes, seed)).softmax(1)


def step_by_hand(similarity: Tensor, priors: Tensor) -> Tensor:
    """One step, number by number."""
    result = torch.empty_like(priors)
    for i in range(len(priors)):
        support = [
            sum(similarity[i, j] * priors[j, c] for j in range(len(priors))) for c in range(priors.shape[1])
        ]
        raised = [priors[i, c] * support[c] for c in range(priors.shape[1])]
        for c in range(priors.shape[1]):
            result[i, c] = raised[c] / sum(raised)
    return result


# ------------------------------------------------------------------------------------------------- the graph


@PRECISIONS
def test_the_graph_holds_the_positive_part_of_numpys_correlations(dtype: torch.dtype) -> None:
    rows = features(dtype=dtype) + 3  # a shift does not matter
    wanted = torch.corrcoef(rows).clamp_min(0)
    found = correlation_graph(rows)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.diag(), torch.ones(9, dtype=dtype))  # kept
    assert (found == 0).any()
    assert (wanted - torch.eye(9, dtype=dtype) > 0.1).any()


def test_three_rows_by_hand() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 3.0, 2.0], [3.0, 2.0, 1.0]])
    wanted = torch.tensor([[1, 1, 0.5, 0], [1, 1, 0.5, 0], [0.5, 0.5, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(correlation_graph(rows), wanted, atol=1e-6, rtol=0)


def test_a_constant_row_has_no_neighbour_and_no_gradient() -> None:
    rows = features().index_fill(0, torch.tensor([4]), 2.0).requires_grad_()
    graph = correlation_graph(rows)
    assert not graph[4].any()
    assert not graph[:, 4].any()
    (gradient,) = torch.autograd.grad(graph.sum(), rows)
    assert gradient.isfinite().all()
    assert not gradient[4].any()


def test_half_precision_is_computed_in_single() -> None:
    rows = features(dtype=torch.float32).bfloat16()
    graph = correlation_graph(rows)
    assert graph.dtype == torch.float32
    torch.testing.assert_close(graph, correlation_graph(rows.float()))


# ---------------------------------------------------------------------------------------------- the dynamics


def test_a_step_is_what_loops_say_in_value_and_gradient() -> None:
    for given in (correlation_graph(features()), features(9, 9, 3).abs()):
        values = [given.clone().requires_grad_(), probabilities().requires_grad_()]
        found = replicator_dynamics(*values, 1)
        wanted = step_by_hand(*values)
        torch.testing.assert_close(found, wanted)
        weights = features(9, 4, 5)
        for one, other in zip(
            torch.autograd.grad((found * weights).sum(), values),
            torch.autograd.grad((wanted * weights).sum(), values),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


def test_two_images_by_hand() -> None:
    similarity = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    priors = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # the first is an anchor
    # row 2: support (0.5 + 0.5, 0 + 0.5) = (1, 0.5), times (0.5, 0.5), scaled: (2/3, 1/3)
    wanted = torch.tensor([[1.0, 0.0], [2 / 3, 1 / 3]])
    torch.testing.assert_close(replicator_dynamics(similarity, priors, 1), wanted)
    # again: support (0.5 + 2/3, 1/3) = (7/6, 2/6), times (2/3, 1/3): 14 to 2
    torch.testing.assert_close(replicator_dynamics(similarity, priors, 2)[1], torch.tensor([7 / 8, 1 / 8]))


@PRECISIONS
@pytest.mark.parametrize("iterations", [1, 2, 3, 20])
def test_rows_stay_on_the_simplex(iterations: int, dtype: torch.dtype) -> None:
    graph, priors = correlation_graph(features()).to(dtype), probabilities().to(dtype)
    found = replicator_dynamics(graph, priors, iterations)
    assert found.dtype == dtype
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(9, dtype=dtype))


def test_no_steps_give_the_priors_and_steps_compose() -> None:
    graph, priors = correlation_graph(features()), probabilities()
    assert torch.equal(replicator_dynamics(graph, priors, 0), priors)
    twice = replicator_dynamics(graph, replicator_dynamics(graph, priors, 2), 3)
    torch.testing.assert_close(replicator_dynamics(graph, priors, 5), twice)


def test_the_scale_of_a_row_does_not_matter_and_without_neighbours_certainty_grows() -> None:
    graph, priors = correlation_graph(features()), probabilities()
    scaled = graph * torch.linspace(0.1, 9, 9, dtype=graph.dtype)[:, None]
    torch.testing.assert_close(replicator_dynamics(scaled, priors, 3), replicator_dynamics(graph, priors, 3))
    alone = replicator_dynamics(torch.eye(9, dtype=priors.dtype), priors, 1)
    torch.testing.assert_close(alone, priors**2 / (priors**2).sum(1, keepdim=True))


def test_what_is_certain_stays_and_what_is_excluded_does_not_come_back() -> None:
    priors = probabilities()
    priors[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    priors[1] = torch.tensor([0.5, 0.0, 0.5, 0.0])
    found = replicator_dynamics(correlation_graph(features()), priors, 4)
    assert torch.equal(found[0], priors[0])
    assert not found[1, [1, 3]].any()
    assert not torch.allclose(found[1], priors[1])


def test_a_row_without_support_keeps_its_prior() -> None:
    graph, priors = correlation_graph(features()), probabilities()
    graph[3] = 0
    graph.requires_grad_()
    found = replicator_dynamics(graph, priors, 3)
    torch.testing.assert_close(found[3], priors[3])
    (gradient,) = torch.autograd.grad(found.square().sum(), graph)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_and_dense_graphs_agree_in_value_and_gradient() -> None:
    dense = correlation_graph(features())
    results = []
    for graph in (dense, dense.to_sparse(), dense.to_sparse_csr()):
        priors = probabilities().requires_grad_()
        found = replicator_dynamics(graph, priors, 3)
        results.append((found.detach(), *torch.autograd.grad(found.square().sum(), priors)))
    for sparse in results[1:]:
        for one, other in zip(results[0], sparse, strict=True):
            torch.testing.assert_close(one, other)


def test_gradients_of_the_whole_chain() -> None:
    def chain(rows: Tensor, logits: Tensor) -> Tensor:
        return replicator_dynamics(correlation_graph(rows), logits.softmax(1), 3).log()

    leaves = [features(6, 5, 2).requires_grad_(), features(6, 3, 4).requires_grad_()]
    assert torch.autograd.gradcheck(chain, leaves)


# ------------------------------------------------------------------------------------------------- the loss


def loss_and_batch(iterations: int = 1, anchors: int = 1, **more: Any) -> tuple[GroupLoss, Tensor, Tensor]:
    torch.manual_seed(0)
    loss = GroupLoss(3, 6, anchors=anchors, iterations=iterations, **more).double()
    return loss, features().requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_without_steps_it_is_the_softmax_cross_entropy_of_those_that_are_no_anchors(
    temperature: float,
) -> None:
    loss, rows, labels = loss_and_batch(iterations=0, temperature=temperature)
    torch.manual_seed(7)
    value = loss(rows, labels)
    torch.manual_seed(7)
    others = ~random_anchors(labels, 1)
    assert int(others.sum()) == 6
    wanted = F.cross_entropy(loss.classifier(rows)[others] / temperature, labels[others])
    torch.testing.assert_close(value, wanted)
    leaves = [rows, *loss.parameters()]
    for one, other in zip(
        torch.autograd.grad(value, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_loss_is_what_loops_say(iterations: int) -> None:
    loss, rows, labels = loss_and_batch(iterations, temperature=2.0)
    torch.manual_seed(3)
    value = loss(rows, labels)
    torch.manual_seed(3)
    anchors = random_anchors(labels, 1)
    graph = torch.corrcoef(rows).clamp_min(0)
    state = (loss.classifier(rows) / 2).softmax(1)
    state = torch.stack([F.one_hot(y, 3) if a else p for y, a, p in zip(labels, anchors, state, strict=True)])
    for _ in range(iterations):
        state = step_by_hand(graph, state)
    terms = [-p[y].log() for y, a, p in zip(labels, anchors, state, strict=True) if not a]
    wanted = torch.stack(terms).mean()
    torch.testing.assert_close(value, wanted)
    leaves = [rows, *loss.parameters()]
    for one, other in zip(
        torch.autograd.grad(value, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_anchors_are_so_many_of_each_class_and_change_from_batch_to_batch() -> None:
    labels = torch.tensor([5, 2, 5, 2, 2, 5, 2, 9, 5])
    torch.manual_seed(0)
    seen = torch.zeros(9)
    for _ in range(400):
        mask = random_anchors(labels, 2)
        assert [int(mask[labels == c].sum()) for c in (2, 5, 9)] == [2, 2, 1]
        seen += mask
    assert seen[7] == 400
    others = seen[labels != 9] / 400  # 1/2 each, standard error 0.025
    assert ((others - 0.5).abs() < 0.1).all()


def test_it_trains_as_a_loss_of_the_library_and_its_classifier_learns() -> None:
    loss, _, labels = loss_and_batch(iterations=2)
    rows = features(seed=8).requires_grad_()
    assert isinstance(loss, losses.BaseMetricLossFunction)
    optimizer = torch.optim.Adam([rows, *loss.parameters()], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(rows, labels)
        value.backward()
        optimizer.step()
    assert value < 0.05
    assert (loss.classifier(rows).argmax(1) == labels).all()
    with pytest.raises(ValueError, match="ref_emb is not supported"):
        loss(rows, labels, ref_emb=rows.detach(), ref_labels=labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    loss, rows, labels = loss_and_batch(2)
    torch.manual_seed(1)
    wanted = loss(rows, labels)
    torch.manual_seed(1)
    found = loss(rows.detach().to(dtype), labels)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert math.isclose(found.item(), wanted.item(), rel_tol=2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_confident_mistakes_stay_finite() -> None:
    loss, _, labels = loss_and_batch(3)
    rows = (1e4 * features()).requires_grad_()
    value = loss(rows, labels)
    value.backward()
    assert value.isfinite()
    assert rows.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------- refusals

GRAPH, PRIORS = correlation_graph(features()), probabilities()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: correlation_graph([[1.0]]), TypeError, r"features are list; expected .* \.float\(\)"),
        (lambda: correlation_graph(torch.ones(2, 3).long()), TypeError, r"features are torch.int64"),
        (lambda: correlation_graph(torch.ones(3)), ValueError, r"shape \(3,\); expected \(B, D\)"),
        (lambda: correlation_graph(torch.ones(0, 3)), ValueError, r"shape \(0, 3\).*empty batch"),
        (lambda: correlation_graph(torch.ones(3, 1)), ValueError, "1 column; expected 2 or more"),
        (lambda: replicator_dynamics(GRAPH, PRIORS, -1), ValueError, "iterations is -1; .* at least 0"),
        (lambda: replicator_dynamics(GRAPH, PRIORS, 1.0), TypeError, r"iterations is 1\.0 \(float\)"),
        (lambda: replicator_dynamics(GRAPH, PRIORS, True), TypeError, "iterations is True"),
        (lambda: replicator_dynamics(GRAPH[:3], PRIORS, 1), ValueError, r"\(3, 9\); expected \(9, 9\)"),
        (lambda: replicator_dynamics(-GRAPH, PRIORS, 1), ValueError, "similarity holds negative"),
        (lambda: replicator_dynamics(GRAPH, PRIORS * math.nan, 1), ValueError, "priors holds negative or"),
        (lambda: replicator_dynamics(GRAPH, PRIORS - 0.5, 1), ValueError, "priors holds negative"),
        (lambda: replicator_dynamics(GRAPH, 2 * PRIORS, 1), ValueError, "sum 1 by 1; .* use softmax"),
        (lambda: replicator_dynamics(-GRAPH.to_sparse(), PRIORS, 1), ValueError, "similarity holds negative"),
        (lambda: GroupLoss(1, 6), ValueError, "num_classes is 1; expected at least 2"),
        (lambda: GroupLoss(3, 1), ValueError, "embedding_size is 1; expected at least 2"),
        (lambda: GroupLoss(3, 6, anchors=-1), ValueError, "anchors is -1"),
        (lambda: GroupLoss(3, 6, iterations=0.5), TypeError, "iterations is 0.5"),
        (lambda: GroupLoss(3, 6, temperature=0), ValueError, "temperature is 0; .* above 0"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("rows", "labels", "error", "message"),
    [
        (features(9, 5), torch.arange(9) % 3, ValueError, "5 columns; expected 6: .* embedding_size"),
        (features(), torch.arange(8) % 3, ValueError, r"labels have shape \(8,\); expected \(9,\)"),
        (features(), torch.arange(9) % 3 + 1, ValueError, "labels run from 1 to 3; expected 0 to 2"),
        (features(), torch.arange(9) % 3 - 1, ValueError, "labels run from -1 to 1; expected 0 to 2"),
        (features(), torch.rand(9), TypeError, r"labels are torch.float32; .*\.long\(\)"),
        (features(), None, TypeError, "labels are NoneType"),
        (features(3), torch.arange(3), ValueError, "more than 1 images in this batch.* fewer anchors"),
    ],
)
def test_a_bad_batch_is_refused(
    rows: Tensor, labels: Tensor | None, error: type[Exception], message: str
) -> None:
    loss, *_ = loss_and_batch()
    with pytest.raises(error, match=message):
        loss(rows, labels)


def test_no_value_is_waited_for() -> None:
    """On the meta device a tensor has no values: whatever looks at one fails."""
    loss = GroupLoss(3, 6, iterations=3).to("meta")
    rows = torch.empty(9, 6, device="meta", requires_grad=True)
    value = loss(rows, torch.empty(9, dtype=torch.long, device="meta"))
    value.backward()
    assert value.shape == ()
    assert rows.grad.shape == rows.shape

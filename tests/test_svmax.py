"""SVMax: bounds, equality cases, gradients, routes, plug-in use, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses

from helpers import svmax
from helpers.svmax import (
    SVMaxRegularizer,
    collapse_diagnostics,
    mean_singular_value,
    singular_value_bounds,
    spread_out_loss,
    svmax_loss,
    unit_rows,
)

METHODS = ("svd", "gram", "polar", "auto")
sizes = st.integers(1, 40)


def random_rows(b: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rows = torch.randn(b, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).to(dtype)


def rank_one(b: int, d: int) -> torch.Tensor:
    signs = torch.ones(b, dtype=torch.float64)
    signs[::2] = -1
    return torch.outer(signs, random_rows(1, d)[0])


def circle(b: int) -> torch.Tensor:
    angle = torch.arange(b, dtype=torch.float64) * 2 * math.pi / b
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@settings(deadline=None, max_examples=200)
@given(b=sizes, d=sizes, seed=st.integers(0, 2**16), concentration=st.floats(0, 50))
def test_bounds_hold_for_every_batch_of_unit_rows(b, d, seed, concentration):
    rows = random_rows(b, d, seed)
    rows[:, 0] += concentration
    assume(rows.norm(dim=1).min() > 0)  # a row of zeros has no direction
    rows = unit_rows(rows)
    lower, upper = singular_value_bounds(b, d)
    s_mu = mean_singular_value(rows, "svd").item()
    assert lower - 1e-9 <= s_mu <= upper + 1e-9


@settings(deadline=None, max_examples=60)
@given(b=sizes, d=sizes)
def test_rank_one_meets_the_lower_bound(b, d):
    lower, _ = singular_value_bounds(b, d)
    for method in METHODS:
        assert mean_singular_value(rank_one(b, d), method).item() == pytest.approx(lower, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(b=st.integers(1, 30), extra=st.integers(0, 30))
def test_orthonormal_rows_meet_the_upper_bound(b, extra):
    q, _ = torch.linalg.qr(torch.randn(b + extra, b, dtype=torch.float64))
    _, upper = singular_value_bounds(b, b + extra)
    assert upper == 1
    for method in METHODS:
        assert mean_singular_value(q.T, method).item() == pytest.approx(upper, rel=1e-6)


@given(b=st.integers(3, 200))
def test_tight_frame_meets_the_upper_bound(b):
    _, upper = singular_value_bounds(b, 2)
    assert mean_singular_value(circle(b), "svd").item() == pytest.approx(upper, rel=1e-12)


@pytest.mark.parametrize(
    ("b", "d", "lower", "upper"),
    [(144, 128, 0.09375, 1.06066), (144, 2, 6, 8.48528), (64, 128, 0.125, 1), (32, 256, 0.176777, 1)],
)
def test_bounds_by_hand(b, d, lower, upper):
    assert singular_value_bounds(b, d) == pytest.approx((lower, upper), rel=1e-5)


def test_dividing_by_d_breaks_the_upper_bound_when_b_is_smaller():
    """The released code's bound for b < d, computed here from its formula, lies below a random batch."""
    b, d = 32, 256
    released_upper = math.sqrt(min(b, d) * b) / d
    s_mu = mean_singular_value(random_rows(b, d), "svd").item()
    assert s_mu > 7 * released_upper
    assert s_mu < singular_value_bounds(b, d)[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("b", "d"), [(20, 8), (8, 20), (12, 12), (144, 128)])
def test_gradient_is_the_polar_factor_over_r(method, b, d):
    rows = random_rows(b, d).requires_grad_()
    mean_singular_value(rows, method).backward()
    u, _, vh = torch.linalg.svd(rows.detach(), full_matrices=False)
    tolerance = 1e-5 if (b, d) != (12, 12) or method != "polar" else 1e-3
    assert torch.allclose(rows.grad, u @ vh / min(b, d), atol=tolerance * 0.1, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method):
    rows = random_rows(9, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: mean_singular_value(e, method), rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("b", "d"), [(144, 128), (72, 64), (64, 128), (32, 256), (144, 2)])
def test_float32_routes_agree_with_float64(method, b, d):
    exact = random_rows(b, d, seed=1).requires_grad_()
    value = mean_singular_value(exact, "svd")
    value.backward()
    single = exact.detach().float().requires_grad_()
    got = mean_singular_value(single, method)
    got.backward()
    assert got.dtype == torch.float32
    assert abs(got.item() / value.item() - 1) < 1e-5
    assert (single.grad.double() - exact.grad).norm() / exact.grad.norm() < 1e-5


def test_batches_of_matrices():
    stack = torch.stack([random_rows(10, 4, seed) for seed in range(3)])
    for method in METHODS:
        one_by_one = torch.stack([mean_singular_value(e, method) for e in stack])
        assert torch.allclose(mean_singular_value(stack, method), one_by_one)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapsed_batch_has_finite_gradient(method, dtype):
    point = torch.zeros(16, 8, dtype=dtype)
    point[:, 0] = 1
    for rows in (point, torch.zeros(16, 8, dtype=dtype), torch.cat([point[:8], torch.zeros_like(point[:8])])):
        rows = rows.clone().requires_grad_()
        value = mean_singular_value(rows, method)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(rows.grad).all()
        assert torch.linalg.matrix_norm(rows.grad, 2) <= 1 / 8 + 1e-6  # a subgradient of the norm


def test_auto_route_picks_from_device_dtype_and_size():
    assert svmax._pick_route(torch.zeros(144, 128), 128) == "gram"
    assert svmax._pick_route(torch.zeros(144, 16), 16) == "svd"
    assert svmax._pick_route(torch.zeros(144, 128, dtype=torch.float64), 128) == "svd"
    assert svmax._pick_route(torch.zeros(144, 128, device="meta"), 128) == "polar"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    rows = random_rows(24, 8).to(dtype).requires_grad_()
    value = mean_singular_value(rows)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(mean_singular_value(rows.detach().double(), "svd").item(), rel=1e-5)
    svmax_loss(rows).backward()
    assert rows.grad.dtype == dtype
    assert torch.isfinite(rows.grad).all()


def test_autocast_does_not_degrade_the_polar_route():
    rows = random_rows(64, 32, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mean_singular_value(rows, "polar")
    assert inside.item() == pytest.approx(mean_singular_value(rows, "svd").item(), rel=1e-5)


@settings(deadline=None, max_examples=100)
@given(b=sizes, d=sizes, seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_bounded_loss_lies_between_one_and_e(b, d, seed, scale):
    loss = svmax_loss(random_rows(b, d, seed) * scale).item()
    assert 1 - 1e-6 <= loss <= math.e + 1e-6


def test_bounded_loss_at_both_ends():
    assert svmax_loss(circle(12)).item() == pytest.approx(1)
    assert svmax_loss(rank_one(12, 5)).item() == pytest.approx(math.e, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (1, 1)])
def test_nothing_to_spread(shape):
    rows = torch.randn(shape, requires_grad=True)
    loss = svmax_loss(rows)
    loss.backward()
    assert loss.item() == 1
    assert torch.equal(rows.grad, torch.zeros(shape))


def test_a_zero_row_gets_no_gradient_and_disturbs_nobody():
    rows = random_rows(10, 4, dtype=torch.float32)
    rows[3] = 0
    rows.requires_grad_()
    svmax_loss(rows).backward()
    assert torch.equal(rows.grad[3], torch.zeros(4))
    assert torch.isfinite(rows.grad).all()
    assert rows.grad.abs().max() < 10


def test_raw_form_is_minus_the_mean():
    rows = random_rows(10, 4) * 3
    assert svmax_loss(rows, form="raw").item() == pytest.approx(-mean_singular_value(rows).item())


def test_descending_the_loss_spreads_the_batch():
    torch.manual_seed(0)
    points = (torch.randn(32, 4) * 0.05 + torch.tensor([1.0, 0, 0, 0])).requires_grad_()
    before = collapse_diagnostics(points)
    optimizer = torch.optim.SGD([points], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        svmax_loss(points).backward()
        optimizer.step()
    after = collapse_diagnostics(points)
    assert before["spread"] < 0.2
    assert after["spread"] > 0.99
    assert after["effective_rank"] > 3.9
    assert abs(after["mean_cosine"]) < before["mean_cosine"]


def test_regularizer_adds_its_weighted_term_to_a_pml_loss():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(16, 8), torch.arange(16) % 4
    plain = losses.ContrastiveLoss()(embeddings, labels)
    with_svmax = losses.ContrastiveLoss(embedding_regularizer=SVMaxRegularizer(), embedding_reg_weight=0.7)
    expected = plain + 0.7 * svmax_loss(embeddings)
    assert with_svmax(embeddings, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    "loss", [losses.ContrastiveLoss, losses.TripletMarginLoss, losses.NPairsLoss, losses.MultiSimilarityLoss]
)
def test_regularized_pml_losses_train_and_spread_out(loss):
    """The loss falls, and the embeddings end less collapsed than without the regulariser."""
    labels = torch.arange(32) % 8
    inputs = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    inputs = inputs + 3 * torch.nn.functional.one_hot(labels, 10)
    if loss is losses.NPairsLoss:
        labels, inputs = labels[:16], inputs[:16]
    spread = {}
    for weight in (0, 1):
        torch.manual_seed(1)
        model = torch.nn.Linear(10, 6)
        criterion = loss(embedding_regularizer=SVMaxRegularizer(), embedding_reg_weight=weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        values = []
        for _ in range(30):
            optimizer.zero_grad()
            value = criterion(model(inputs), labels)
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < values[0]
        spread[weight] = collapse_diagnostics(model(inputs))["spread"]
    assert spread[1] > spread[0] + 0.01


def test_spread_out_against_a_double_loop():
    embeddings, labels = torch.randn(9, 5), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    rows = torch.nn.functional.normalize(embeddings, dim=1)
    dots = [
        (rows[i] @ rows[j]).item() for i in range(9) for j in range(9) if labels[i].item() != labels[j].item()
    ]
    m1 = sum(dots) / len(dots)
    m2 = sum(x * x for x in dots) / len(dots)
    expected = m1**2 + max(0, m2 - 1 / 5)
    assert spread_out_loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)
    assert spread_out_loss(embeddings, torch.zeros(9)).item() == 0
    with pytest.raises(TypeError, match=r"labels must be a tensor, got ndarray: convert with torch"):
        spread_out_loss(embeddings, labels.numpy())


def test_diagnostics_at_both_ends():
    collapsed, uniform = collapse_diagnostics(torch.ones(10, 2)), collapse_diagnostics(circle(10))
    assert collapsed["spread"] == pytest.approx(0, abs=1e-6)
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-6)
    assert collapsed["mean_cosine"] == pytest.approx(1)
    assert uniform["spread"] == pytest.approx(1)
    assert uniform["effective_rank"] == pytest.approx(2)
    assert uniform["mean_cosine"] == pytest.approx(-1 / 9)
    assert math.isnan(collapse_diagnostics(torch.ones(4, 1))["spread"])


@pytest.mark.parametrize(
    "function", [mean_singular_value, svmax_loss, collapse_diagnostics, SVMaxRegularizer()]
)
@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (torch.randn(5), ValueError, r"\(B, D\)"),
        (torch.randn(0, 5), ValueError, "empty"),
        (torch.randn(5, 0), ValueError, "empty"),
        (torch.tensor([[1.0, math.nan], [0, 1]]), ValueError, "non-finite"),
        (torch.tensor([[1.0, math.inf], [0, 1]]), ValueError, "non-finite"),
        (torch.ones(4, 4, dtype=torch.int64), TypeError, "floating-point"),
    ],
)
def test_bad_embeddings(function, bad, error, words):
    with pytest.raises(error, match=words):
        function(bad)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match="'qr'"):
        mean_singular_value(torch.randn(3, 3), "qr")
    with pytest.raises(ValueError, match="'cosine'"):
        svmax_loss(torch.randn(3, 3), form="cosine")
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        svmax_loss(torch.randn(2, 3, 3))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        singular_value_bounds(0, 3)
    with pytest.raises(TypeError, match="embedding_dim must be an int"):
        singular_value_bounds(3, 2.5)
    with pytest.raises(ValueError, match="labels"):
        spread_out_loss(torch.randn(4, 3), torch.zeros(5))
    with pytest.raises(TypeError, match="list"):
        mean_singular_value([[1.0]])
    with pytest.raises(ValueError, match="B >= 2"):
        collapse_diagnostics(torch.ones(1, 3))

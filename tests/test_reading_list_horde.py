"""HORDE: the kernel identity, twins in plain loops, what order two sees, gradients, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses
from torch import Tensor
from torch.nn import functional as F

from helpers.reading_list.horde import HordeLoss, RandomMaclaurin


def rows(count: int = 5, channels: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, generator=generator, dtype=torch.float64).to(dtype)


def maps(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(
        size or (6, 4, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# ------------------------------------------------------------------------------------- random Maclaurin


def test_dot_products_are_powers_on_average_within_their_standard_error() -> None:
    """A draw of F features is F draws of one; the mean over them has a standard error that is measured."""
    torch.manual_seed(0)
    x = F.normalize(rows(1, seed=1))[0]
    y = F.normalize(x + 0.7 * F.normalize(rows(1, seed=2))[0], dim=0)
    draws = 200_000
    estimates = RandomMaclaurin(4, draws, order=4).double()
    for order, (one, other) in enumerate(zip(estimates(x), estimates(y), strict=True), 1):
        single = one * other * draws  # each an unbiased estimate
        error = (single.std() / draws**0.5).item()
        assert single.mean().item() == pytest.approx((x @ y).item() ** order, abs=4 * error)
        assert error < 0.02  # so that a wrong power could not pass
    assert 0.3 < (x @ y).item() < 0.9


def test_the_mean_over_many_networks_is_right_and_the_error_falls_like_one_over_root_f() -> None:
    x, y = F.normalize(rows(2, 8, seed=4)).unbind()
    y = F.normalize(x + 0.7 * y, dim=0)
    spread = {}
    for features in (16, 256):
        torch.manual_seed(features)
        found = []
        for _ in range(300):
            estimate = RandomMaclaurin(8, features, 2).double()
            found.append((estimate(x)[1] @ estimate(y)[1]).item())
        found = torch.tensor(found)
        assert found.mean().item() == pytest.approx(
            (x @ y).item() ** 2, abs=4 * found.std().item() / 300**0.5
        )
        spread[features] = found.std().item()
    assert spread[16] / spread[256] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("learned", [True, False])
def test_each_order_is_what_loops_say(learned: bool) -> None:
    torch.manual_seed(0)
    layer = RandomMaclaurin(4, 3, order=3, learned=learned).double()
    given, found = rows(), layer(rows())
    assert len(found) == 3
    for b in range(5):
        for f in range(3):
            product = 1.0
            for k in range(3):
                product = product * sum(given[b, c] * layer.matrices[k, c, f] for c in range(4))
                torch.testing.assert_close(found[k][b, f], product / 3**0.5)


def test_signs_stay_and_learned_matrices_train() -> None:
    torch.manual_seed(0)
    fixed, learned = RandomMaclaurin(4, 50, 2), RandomMaclaurin(4, 50, 2, learned=True)
    assert set(fixed.matrices.unique().tolist()) == {-1.0, 1.0}
    assert abs(fixed.matrices.mean()) < 0.25  # both signs; standard error 0.05
    assert list(fixed.parameters()) == []
    assert "matrices" in fixed.state_dict()
    assert [p.shape for p in learned.parameters()] == [(2, 4, 50)]
    bound = (6 / 54) ** 0.5
    assert 0.9 * bound < learned.matrices.abs().max() <= bound


def test_leading_dimensions_are_free() -> None:
    layer = RandomMaclaurin(4, 7, 2).double()
    given = rows(12).reshape(2, 3, 2, 4)
    for one, other in zip(layer(given), layer(given.reshape(12, 4)), strict=True):
        torch.testing.assert_close(one, other.reshape(2, 3, 2, 7))


def test_gradients_of_the_estimates() -> None:
    torch.manual_seed(0)
    layer = RandomMaclaurin(3, 5, 3, learned=True).double()
    assert torch.autograd.gradcheck(lambda x: tuple(layer(x)), rows(2, 3).requires_grad_())


# ------------------------------------------------------------------------------------- the loss


def horde(orders: int = 3, loss: Callable | None = None, **more: Any) -> HordeLoss:
    torch.manual_seed(0)
    return HordeLoss(loss or losses.ContrastiveLoss(), 4, 5, orders=orders, features=32, **more).double()


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def embeddings_by_hand(model: HordeLoss, given: Tensor) -> list[Tensor]:
    found = [[] for _ in range(model.orders)]
    for image in given:
        local = [image[:, i, j] for i in range(image.shape[1]) for j in range(image.shape[2])]
        moments = [sum(local) / len(local)]
        for k in range(2, model.orders + 1):
            total = 0
            for x in local:
                product = 1.0
                for matrix in model.estimate.matrices[:k]:
                    product = product * (x @ matrix)
                total = total + product / model.estimate.features**0.5
            moments.append(total / len(local))
        for k, moment in enumerate(moments):
            row = model.heads[k].weight @ moment
            found[k].append(row / row.norm())
    return [torch.stack(order) for order in found]


@pytest.mark.parametrize("learned", [True, False])
def test_the_loss_is_the_sum_over_orders_in_value_and_gradient(learned: bool) -> None:
    model, given = horde(learned=learned), maps().requires_grad_()
    value = model(given, LABELS)
    by_hand = embeddings_by_hand(model, given)
    for one, other in zip(model.embeddings(given), by_hand, strict=True):
        torch.testing.assert_close(one, other)
    wanted = sum(model.loss(order, LABELS) for order in by_hand)
    torch.testing.assert_close(value, wanted)
    leaves = [given, *model.parameters()]
    assert len(leaves) == (5 if learned else 4)
    for one, other in zip(
        torch.autograd.grad(value, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_one_order_is_the_loss_alone_on_what_is_used_after_training() -> None:
    loss = losses.TripletMarginLoss()
    model = horde(1, loss)
    assert model.estimate is None
    assert [name for name, _ in model.named_parameters()] == ["heads.0.weight"]
    embedding = model.embed(maps())
    torch.testing.assert_close(model(maps(), LABELS), loss(embedding, LABELS))
    torch.testing.assert_close(embedding, F.normalize(maps().mean((2, 3)) @ model.heads[0].weight.T))
    torch.testing.assert_close(horde(3).embed(maps()), horde(3).embeddings(maps())[0])


def test_order_two_tells_apart_what_the_mean_cannot() -> None:
    """Two images with the same mean feature: one is the same everywhere, the other mixes two features."""
    even = torch.full((1, 4, 2, 2), 0.5, dtype=torch.float64)
    mixed = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    mixed[0, :2, 0] = mixed[0, 2:, 1] = 1
    model = horde(2, learned=False)
    first, second = model.embeddings(torch.cat([even, mixed]))
    torch.testing.assert_close(first[0], first[1])
    assert F.cosine_similarity(*second, dim=0) < 0.9


def test_places_do_not_matter() -> None:
    given, order = maps(), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = given.flatten(2)[:, :, order].unflatten(2, (3, 3))
    for one, other in zip(horde().embeddings(given), horde().embeddings(moved), strict=True):
        torch.testing.assert_close(one, other)


def test_every_order_trains_the_network_below() -> None:
    model, given = horde(), maps().requires_grad_()
    parts = [
        torch.autograd.grad(model.loss(order, LABELS), given, retain_graph=True)[0]
        for order in model.embeddings(given)
    ]
    assert all(part.abs().max() > 1e-6 for part in parts)
    torch.testing.assert_close(sum(parts), torch.autograd.grad(model(given, LABELS), given)[0])


def test_precisions_agree() -> None:
    single = horde().float()
    value = single(maps().float(), LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), horde()(maps(), LABELS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RandomMaclaurin(0, 3, 2), ValueError, "channels is 0; expected at least 1"),
        (lambda: RandomMaclaurin(4, 0, 2), ValueError, "features is 0"),
        (lambda: RandomMaclaurin(4, 3, 0), ValueError, "order is 0"),
        (lambda: RandomMaclaurin(4, 3, 2.0), TypeError, "order is 2.0"),
        (lambda: RandomMaclaurin(4, 3, 2)(maps()), ValueError, r"expected \(\.\.\., 4\): move channels"),
        (lambda: RandomMaclaurin(4, 3, 2)(rows().long()), TypeError, r"inputs are torch.int64"),
        (lambda: horde(0), ValueError, "orders is 0"),
        (lambda: HordeLoss(losses.ContrastiveLoss(), 4, 0), ValueError, "embedding_size is 0"),
        (lambda: horde()(maps(6, 5, 3, 3), LABELS), ValueError, "maps have 5 channels; expected the 4"),
        (lambda: horde()(rows(6), LABELS), ValueError, r"expected \(B, C, H, W\)"),
        (lambda: horde()(maps(), LABELS[:5]), ValueError, r"labels have shape \(5,\); expected \(6,\)"),
        (lambda: horde()(maps(), LABELS.float()), TypeError, "labels are torch.float32"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_no_value_is_waited_for() -> None:
    """On the meta device a tensor has no values: whatever looks at one fails."""
    given = torch.empty(6, 4, 3, 3, device="meta", requires_grad=True)
    model = HordeLoss(lambda e, y: e.square().sum(), 4, 5, features=8).to("meta")
    model(given, torch.empty(6, dtype=torch.long, device="meta")).backward()
    assert given.grad.shape == given.shape

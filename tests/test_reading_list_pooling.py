"""Batch DropBlock and global descriptors: laws, limits, hand-computed maps, gradients, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.reading_list.batch_dropblock import BatchDrop
from helpers.reading_list.global_descriptors import FLOOR, CombinedGlobalDescriptors, GeM

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def maps(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Positive, like maps after a ReLU."""
    size = size or (3, 4, 5, 6)
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(size, generator=generator, dtype=torch.float64) + 0.1).to(dtype)


# ---------------------------------------------------------------------------------------------- BatchDrop


@pytest.mark.parametrize(("ratios", "rectangle"), [((0.33, 1.0), (3, 8)), ((0.5, 0.5), (5, 4))])
def test_one_rectangle_of_the_right_size_for_the_whole_batch(
    ratios: tuple[float, float], rectangle: tuple[int, int]
) -> None:
    drop, given = BatchDrop(*ratios), maps(6, 3, 10, 8)
    places = set()
    for seed in range(200):
        torch.manual_seed(seed)
        found = drop(given)
        gone = found == 0
        assert (gone == gone[:1, :1]).all()  # every image, every channel
        rows, columns = gone[0, 0].any(1).nonzero()[:, 0], gone[0, 0].any(0).nonzero()[:, 0]
        assert (len(rows), len(columns)) == rectangle
        assert int(gone[0, 0].sum()) == math.prod(rectangle)
        assert rows[-1] - rows[0] == len(rows) - 1
        assert columns[-1] - columns[0] == len(columns) - 1
        assert torch.equal(found[~gone], given[~gone])  # not scaled up
        places.add((int(rows[0]), int(columns[0])))
    assert len(places) == (11 - rectangle[0]) * (9 - rectangle[1])  # every place is reached


def test_every_place_is_as_likely() -> None:
    drop, given = BatchDrop(0.5, 0.5), torch.ones(1, 1, 4, 4)
    torch.manual_seed(0)
    tops = torch.bincount(
        torch.tensor([int((drop(given)[0, 0] == 0).any(1).int().argmax()) for _ in range(900)])
    )
    assert len(tops) == 3
    assert ((tops - 300).abs() < 60).all()  # standard error 14


def test_torchs_seed_decides_where() -> None:
    drop, given = BatchDrop(0.5, 0.5), maps(2, 3, 12, 12)
    torch.manual_seed(5)
    one = drop(given)
    torch.manual_seed(5)
    assert torch.equal(drop(given), one)


def test_nothing_is_dropped_in_evaluation() -> None:
    given = maps()
    assert torch.equal(BatchDrop(0.4, 0.5).eval()(given), given)
    assert torch.equal(BatchDrop(0.01, 0.01).eval()(given), given)


def test_the_gradient_is_one_outside_and_zero_inside_even_of_what_is_no_number() -> None:
    given = maps()
    given[:, 1] = torch.inf
    given.requires_grad_()
    torch.manual_seed(1)
    found = BatchDrop(0.5, 0.5)(given)
    assert not found.isnan().any()
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert torch.equal(gradient, (found != 0).to(gradient))
    assert (gradient == 0).any()


# ---------------------------------------------------------------------------------------------- GeM


def power_mean_by_hand(values: Tensor, p: float) -> Tensor:
    rows = [
        [(sum(float(v) ** p for v in channel.flatten()) / channel.numel()) ** (1 / p) for channel in image]
        for image in values
    ]
    return torch.tensor(rows, dtype=values.dtype)


@PRECISIONS
@pytest.mark.parametrize("p", [0.5, 1, 2, 3.0, 6.5])
def test_gem_is_the_power_mean(p: float, dtype: torch.dtype) -> None:
    found = GeM(p)(maps(dtype=dtype))
    assert found.dtype == dtype
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, power_mean_by_hand(maps(dtype=dtype), p))


def test_gem_agrees_with_torchs_power_pooling() -> None:
    found = GeM(3)(maps())
    torch.testing.assert_close(found, F.lp_pool2d(maps(), 3, (5, 6)).flatten(1) / 30 ** (1 / 3))


def test_the_limits_are_the_mean_and_the_maximum() -> None:
    given = maps()
    torch.testing.assert_close(GeM(1)(given), given.mean((2, 3)))
    torch.testing.assert_close(GeM(1 + 1e-9)(given), given.mean((2, 3)))
    torch.testing.assert_close(GeM(math.inf)(given), given.amax((2, 3)))
    near = GeM(1e4)(given)
    torch.testing.assert_close(near, given.amax((2, 3)), rtol=1e-3, atol=0)
    assert (near < given.amax((2, 3))).all()
    assert torch.equal(GeM(1)(given - 1), (given - 1).mean((2, 3)))  # as it is, negative numbers too


def test_it_grows_with_p_and_scales_with_the_map() -> None:
    results = torch.stack([GeM(p)(maps()) for p in (0.3, 1, 2, 3, 10, 100, math.inf)])
    assert (results.diff(dim=0) > 0).all()
    for p in (0.3, 1, 3, math.inf):
        torch.testing.assert_close(GeM(p)(7 * maps()), 7 * GeM(p)(maps()))


def test_one_bright_position_by_hand() -> None:
    spot, even = torch.zeros(1, 1, 10, 10), torch.full((1, 1, 10, 10), 0.1)
    spot[0, 0, 4, 4] = 1
    # mean: 1/100 and 1/10; cubic mean: (1/100)**(1/3) = 0.2154 and 0.1; maximum: 1 and 0.1
    for p, wanted in ((1, (0.01, 0.1)), (3, (0.01 ** (1 / 3), 0.1)), (math.inf, (1, 0.1))):
        found = (GeM(p)(spot).item(), GeM(p)(even).item())
        assert found == pytest.approx(wanted, rel=1e-5), p


@pytest.mark.parametrize("p", [2.0, 3, 300, 1e5])
def test_no_power_overflows_or_loses_its_gradient(p: float) -> None:
    for scale in (1e-3, 1e6, 1e30):
        given = (scale * maps(dtype=torch.float32)).requires_grad_()
        found = GeM(p)(given)
        (gradient,) = torch.autograd.grad(found.sum(), given)
        assert found.isfinite().all()
        assert gradient.isfinite().all()
        # the power mean is homogeneous: <gradient, map> = value
        torch.testing.assert_close((gradient * given).sum((2, 3)), found, rtol=1e-3, atol=0)


def test_an_empty_map_gives_the_floor_and_no_gradient() -> None:
    given = torch.zeros(1, 2, 3, 3, requires_grad=True)
    found = GeM(3)(given)
    torch.testing.assert_close(found, torch.full((1, 2), FLOOR))
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("p", [0.7, 1.0, 3.0, 20.0, math.inf])
def test_gradients_of_gem(p: float) -> None:
    assert torch.autograd.gradcheck(GeM(p), maps(2, 3, 3, 4).requires_grad_())


# ---------------------------------------------------------------------------------------------- CGD


def test_the_embedding_is_what_its_parts_say() -> None:
    torch.manual_seed(0)
    model = CombinedGlobalDescriptors(4, 6, (1, 3, math.inf)).double()
    found, parts = model(maps()), []
    for p, head in zip((1, 3, math.inf), model.heads, strict=True):
        pooled = maps().amax((2, 3)) if math.isinf(p) else power_mean_by_hand(maps(), p)
        row = pooled @ head.weight.T
        parts.append(row / row.norm(dim=1, keepdim=True))
    wanted = torch.cat(parts, 1)
    torch.testing.assert_close(found, wanted / wanted.norm(dim=1, keepdim=True))
    assert found.shape == (3, 6)
    assert [tuple(head.weight.shape) for head in model.heads] == [(2, 4)] * 3
    assert all(head.bias is None for head in model.heads)


def test_a_cosine_is_the_mean_of_the_descriptors_cosines() -> None:
    torch.manual_seed(1)
    model = CombinedGlobalDescriptors(4, 8, (1, math.inf)).double()
    found = model(maps())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=torch.float64))
    parts = [F.normalize(part) for part in found.chunk(2, 1)]
    torch.testing.assert_close(found @ found.T, sum(part @ part.T for part in parts) / 2)


def test_no_descriptor_outvotes_another_by_its_scale() -> None:
    torch.manual_seed(2)
    model = CombinedGlobalDescriptors(4, 8, (1, math.inf)).double()
    before = model(maps())
    with torch.no_grad():
        model.heads[1].weight.mul_(1000)
    torch.testing.assert_close(model(maps()), before)


def test_gradients_of_the_combination() -> None:
    torch.manual_seed(3)
    model = CombinedGlobalDescriptors(3, 4, (1, 3)).double()
    assert torch.autograd.gradcheck(model, maps(2, 3, 3, 2).requires_grad_())


# ---------------------------------------------------------------------------------------------- refusals

CGD = CombinedGlobalDescriptors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BatchDrop(0, 0.5), ValueError, "height_ratio is 0; expected a share above 0"),
        (lambda: BatchDrop(0.5, 1.1), ValueError, r"width_ratio is 1\.1"),
        (lambda: BatchDrop(math.nan, 0.5), ValueError, "height_ratio is nan"),
        (lambda: BatchDrop(1, 1.0), ValueError, "drop the whole map; make one of them smaller"),
        (lambda: BatchDrop(0.3, 1)(maps(1, 1, 3, 3)), ValueError, "0 x 3 out of 3 x 3 .* larger maps"),
        (lambda: BatchDrop(0.5, 0.5)(maps(4, 4)), ValueError, r"\(4, 4\); expected \(B, C, H, W\)"),
        (lambda: BatchDrop(0.5, 0.5)(maps().long()), TypeError, r"maps are torch.int64; .*\.float\(\)"),
        (lambda: GeM(0), ValueError, "p is 0; expected a number above 0, or math.inf"),
        (lambda: GeM(-1), ValueError, "p is -1"),
        (lambda: GeM(math.nan), ValueError, "p is nan"),
        (lambda: GeM("3"), ValueError, "p is '3'"),
        (lambda: GeM(3)(maps(2, 3)), ValueError, r"shape \(2, 3\)"),
        (lambda: GeM(3)(maps(0, 1, 2, 2)), ValueError, "empty batch"),
        (lambda: GeM(3)(None), TypeError, "maps are NoneType"),
        (lambda: CGD(4, 7), ValueError, "dimension is 7 for 2 ways .* multiple of their number"),
        (lambda: CGD(4, 8, ()), ValueError, "for 0 ways of pooling"),
        (lambda: CGD(0, 8), ValueError, "channels is 0"),
        (lambda: CGD(4, 8, (1, -3)), ValueError, "p is -3"),
        (lambda: CGD(5, 8)(maps()), ValueError, "maps have 4 channels; expected the 5"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_no_value_is_waited_for() -> None:
    """On the meta device a tensor has no values: whatever looks at one fails."""
    given = torch.empty(3, 4, 6, 6, device="meta", requires_grad=True)
    model = torch.nn.Sequential(BatchDrop(0.5, 0.5), CombinedGlobalDescriptors(4, 6, (1, 3, math.inf)))
    model.to("meta")(given).sum().backward()
    assert given.grad.shape == given.shape

"""Distillation: what a rotated teacher changes, twins in plain loops, batch sizes, gradients, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.reading_list.distillation import AbsoluteDistillation, RelationalDistillation

absolute, relational = AbsoluteDistillation(), RelationalDistillation()
BOTH = pytest.mark.parametrize("loss", [absolute, relational], ids=["absolute", "relational"])


def rows(count: int = 8, columns: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, columns, generator=generator, dtype=torch.float64).to(dtype)


def rotation(columns: int = 5, seed: int = 9) -> Tensor:
    return torch.linalg.qr(rows(columns, columns, seed))[0]


def absolute_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    terms = [
        sum((s - t) ** 2 for s, t in zip(a, b, strict=True)).sqrt()
        for a, b in zip(student, teacher, strict=True)
    ]
    return sum(terms) / len(terms)


def relational_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    terms = []
    for i in range(len(student)):
        for j in range(i):
            gap = (student[i] - student[j]).norm() - (teacher[i] - teacher[j]).norm()
            terms.append(gap.abs())
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("loss", "by_hand", "columns"),
    [(absolute, absolute_by_hand, 5), (relational, relational_by_hand, 7)],
    ids=["absolute", "relational"],
)
def test_the_loss_is_what_loops_say_in_value_and_gradient(
    loss: torch.nn.Module, by_hand: Callable, columns: int
) -> None:
    student, teacher = rows().requires_grad_(), rows(8, columns, 1)
    found, wanted = loss(student, teacher), by_hand(student, teacher)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found, student), torch.autograd.grad(wanted, student), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_three_points_by_hand() -> None:
    teacher = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])  # distances 5, 4, 3
    student = torch.tensor([[0.0, 0.0], [0.0, 4.0], [0.0, 4.0]])  # distances 4, 4, 0
    assert absolute(student, teacher).item() == pytest.approx((0 + 3 + 0) / 3)
    assert relational(student, teacher).item() == pytest.approx((1 + 0 + 3) / 3)


@BOTH
def test_a_perfect_student_has_no_loss_and_nothing_to_learn(loss: torch.nn.Module) -> None:
    student = rows().requires_grad_()
    value = loss(student, rows())
    assert value.item() == 0  # not 2e-5
    (gradient,) = torch.autograd.grad(value, student)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_rotated_and_shifted_teacher_is_another_one_only_absolutely() -> None:
    turned = rows() @ rotation() + 3
    assert relational(rows(), turned).item() == pytest.approx(0, abs=1e-12)
    assert absolute(rows(), rows() @ rotation()).item() > 1
    assert absolute(rows(), rows() + 3).item() == pytest.approx(3 * 5**0.5)
    # whatever the student is: turning the teacher moves the absolute loss, not the relational
    student = rows(seed=4)
    assert relational(student, turned).item() == pytest.approx(relational(student, rows()).item())
    assert abs(absolute(student, turned) - absolute(student, rows())).item() > 0.1


def test_the_weight_of_the_relational_loss_holds_for_every_batch_size() -> None:
    """The released code's Frobenius norm doubles when the batch does."""

    def frobenius(student: Tensor, teacher: Tensor) -> float:
        return (torch.cdist(student, student) - torch.cdist(teacher, teacher)).norm().item()

    pairs = [(rows(n, 16, 1), rows(n, 16, 2)) for n in (64, 128)]
    ours = [relational(*pair).item() for pair in pairs]
    assert ours[1] / ours[0] == pytest.approx(1, rel=0.1)
    released = [frobenius(*pair) for pair in pairs]
    assert released[1] / released[0] == pytest.approx(2, rel=0.1)


@BOTH
def test_the_teacher_learns_nothing(loss: torch.nn.Module) -> None:
    student, teacher = rows().requires_grad_(), rows(seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.any()


@BOTH
def test_gradients(loss: torch.nn.Module) -> None:
    assert torch.autograd.gradcheck(lambda s: loss(s, rows(seed=1)), rows().requires_grad_())


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precisions(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    found = loss(rows(dtype=dtype), rows(seed=1))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.double(), loss(rows(), rows(seed=1)), rtol=tolerance, atol=0)


def test_near_rows_far_from_the_origin_keep_their_distances() -> None:
    """The shortcut by matrix products would lose them in float32."""
    near = 100 + 1e-2 * rows(40, dtype=torch.float32)
    found = relational(near, torch.zeros(40, 5)).item()
    assert found == pytest.approx(torch.pdist(near.double()).mean().item(), rel=1e-4)


def test_equal_students_have_a_finite_gradient() -> None:
    student = torch.ones(4, 3, requires_grad=True)
    relational(student, rows(4)).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: absolute(rows(), rows(8, 6)),
            ValueError,
            "student has 5 dimensions, teacher 6; .*nn.Linear",
        ),
        (lambda: absolute(rows(), rows(7)), ValueError, "8 rows, teacher 7; expected the same images"),
        (lambda: relational(rows(), rows(7)), ValueError, "8 rows, teacher 7"),
        (lambda: relational(rows(1), rows(1)), ValueError, "1 image; expected 2 or more"),
        (lambda: relational(rows()[0], rows()), ValueError, r"student have shape \(5,\)"),
        (lambda: absolute(rows(), rows().long()), TypeError, r"teacher are torch.int64; .*\.float\(\)"),
        (lambda: absolute(None, rows()), TypeError, "student are NoneType"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@BOTH
def test_no_value_is_waited_for(loss: torch.nn.Module) -> None:
    """On the meta device a tensor has no values: whatever looks at one fails."""
    student = torch.empty(6, 4, device="meta", requires_grad=True)
    loss(student, torch.empty(6, 4, device="meta")).backward()
    assert student.grad.shape == student.shape

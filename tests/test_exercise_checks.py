"""The checks of exercises: what is not there yet, what is right, and what each mistake is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from helpers.exercises import NOT_ANSWERED, check, choose, order

ROWS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def squares(x: torch.Tensor) -> torch.Tensor:
    return (x**2).sum(1)  # (5, 25), slope 2 x


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("nothing", [None, ...])
def test_what_is_not_answered_stops_nobody(nothing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(lambda x: nothing, squares, [(ROWS,)])
    choose(nothing, {"a": "it is."}, right="a")
    order(nothing, {"a": 1.0})
    assert said(capsys).splitlines() == [NOT_ANSWERED] * 3


@pytest.mark.parametrize(
    ("answer", "reference", "case"),
    [
        (lambda x: x.square().sum(1), squares, (ROWS,)),
        (lambda x: squares(x) * (1 + 1e-7), squares, (ROWS,)),  # rounding
        (lambda x: x.pow_(2).sum(1), squares, (ROWS,)),  # its copy may be overwritten
        (lambda n: n / 2, lambda n: 2, (4,)),  # an int or a float, as long as the number is right
        (lambda n: (n, float(n)), lambda n: (n, n), (4,)),
        (lambda y: y > 1, lambda y: torch.tensor([False, True]), (torch.tensor([1, 2]),)),
        (lambda x: x[:0], lambda x: x[:0], (ROWS,)),
        (lambda x: x / 0, lambda x: x / 0, (ROWS,)),  # infinity is equal to itself
    ],
)
def test_a_right_answer_passes(
    answer: Callable, reference: Callable, case: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    check(answer, reference, [case, case])
    assert said(capsys) == "Correct."
    assert torch.equal(ROWS, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("answer", "reference", "case", "message"),
    [
        (lambda x: x.sum(), lambda x: x.mean(), (ROWS,), "case 1: expected 2.5, you say 10. Think."),
        (lambda x: x.mean() * math.nan, lambda x: x.mean(), (ROWS,), "expected 2.5, you say nan. Think."),
        (lambda x: x.sum(1) * 1.001, lambda x: x.sum(1), (ROWS,), "case 1: expected tensor([3., 7.]"),
        (lambda n: n + 1e-4, lambda n: n, (1.0,), "case 1: expected 1, you say 1.0001. Think."),
        (lambda x: x[0, 0] * 0, lambda x: x[0, 0] / 0, (ROWS,), "case 1: expected inf, you say 0. Think."),
        (lambda x: x.mean(1), lambda x: x.mean(), (ROWS,), "expected shape (), you return (2,). Think."),
        (lambda x: [2.5], lambda x: x.mean(), (ROWS,), "expected the type Tensor, you return list. Think."),
        (
            lambda x: x.mean(),
            lambda x: 2.5,
            (ROWS,),
            "case 1: expected the type float, you return Tensor; .item() makes a number of it. Think.",
        ),
        (lambda n: "4", lambda n: n, (4,), "case 1: expected the type int, you return str. Think."),
        (
            lambda x: x.detach().mean(),
            lambda x: x.mean(),
            (ROWS,),
            "case 1: the value is right, but no gradient flows. Think.",
        ),
        (
            lambda x: x.detach().mean() + 0 * x.sum(),
            lambda x: x.mean(),
            (ROWS,),
            "case 1: the value is right, the gradient: expected tensor([[0.2500, 0.2500],",
        ),
        (
            lambda x: x.detach().mean() + (x - x.detach()).sqrt().sum(),
            lambda x: x.mean(),
            (ROWS,),
            "case 1: the value is right, the gradient: expected",
        ),
        (lambda n: (n, 0.0), lambda n: (n, 0.5), (1,), "case 1, value 2: expected 0.5, you say 0. Think."),
        (lambda n: (n,), lambda n: (n, 0.5), (1,), "case 1: expected 2 values, you return 1"),
        (lambda n: n, lambda n: (n, 0.5), (1,), "case 1: expected the type tuple, you return int. Think."),
    ],
)  # fmt: skip
def test_a_mistake_is_told(answer: Callable, reference: Callable, case: tuple, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check(answer, reference, [case], hint="Think.")
    assert message in str(caught.value)


def test_every_case_counts_and_is_named() -> None:
    with pytest.raises(AssertionError, match=r"case 2: expected 4, you say 2"):
        check(lambda n: n, lambda n: n**2, [(1,), (2,)])
    with pytest.raises(AssertionError, match="case 2: expected 4, you return nothing"):
        check(lambda n: 1 if n == 1 else None, lambda n: n**2, [(1,), (2,)])


def test_an_error_of_large_numbers_is_relative_to_the_largest() -> None:
    wanted = torch.tensor([1e4, 0.0])
    check(lambda: wanted + torch.tensor([0.0, 0.09]), lambda: wanted, [()])
    with pytest.raises(AssertionError):
        check(lambda: wanted + torch.tensor([0.0, 0.11]), lambda: wanted, [()])
    infinite = torch.tensor([math.inf, 1.0])  # must not make the others arbitrary
    with pytest.raises(AssertionError):
        check(lambda: infinite + torch.tensor([0.0, 1.0]), lambda: infinite, [()])


OPTIONS = {"a": "it changes the sampler.", "b": "it changes the map."}


def test_a_choice_is_told_what_speaks_for_or_against_it(capsys: pytest.CaptureFixture[str]) -> None:
    choose("b", OPTIONS, right="b")
    assert said(capsys) == "Correct: it changes the map."
    with pytest.raises(AssertionError, match=r"^Not 'a': it changes the sampler\."):
        choose("a", OPTIONS, right="b")
    for answer in ("c", ["b"], 2):
        with pytest.raises(ValueError, match=r"the answer is .*; expected one of 'a', 'b'"):
            choose(answer, OPTIONS, right="b")


@pytest.mark.parametrize(
    ("answer", "right"), [("bca", 3), ("bac", 1), ("abc", 0), ("acb", 1)]
)  # the truth is b, c, a
def test_an_order_is_compared_place_by_place(
    answer: str, right: int, capsys: pytest.CaptureFixture[str]
) -> None:
    order(tuple(answer), {"a": 0.1, "b": 0.3, "c": 0.2})
    assert said(capsys) == f"{right} of 3 in their place. Measured: b 0.300, c 0.200, a 0.100."


@pytest.mark.parametrize("answer", [["a"], ["a", "a"], ["a", "b", "c"], ["a", 2], "ab", 5])
def test_an_order_names_each_once(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"the answer is .*; expected a list with each of 'a', 'b' once"):
        order(answer, {"a": 0.1, "b": 0.3})

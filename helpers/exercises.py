"""Checks of exercises: an answer that is not there yet stops nobody, a wrong one is told what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from IPython.display import Markdown
from torch import Tensor

from helpers.files import find_chapter

NOT_ANSWERED = "Not answered yet."
GRADING = "CTG_GRADING"
"""Environment variable: when it is set, an exercise without an answer fails, as a wrong one does."""


class _Told:
    """An error of whose traceback a notebook shows one sentence: the rest is not the learner's code."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class WrongAnswer(_Told, AssertionError):
    """An answer that is not right, or not there when it is graded."""


class UnfitAnswer(_Told, ValueError):
    """An answer that names something else than what it may choose from."""


def check(
    answer: Callable[..., Any],
    reference: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    *,
    hint: str = "",
    tolerance: float = 1e-5,
) -> None:
    """Compare an answer with a reference on every case, in value and, where there is one, in gradient.

    An answer that gives None or `...` for the first case is not there yet: that is printed, and all goes on.

    Args:
        cases: arguments, one tuple for each case. Float tensors are copied, and get a gradient where the
            reference's value has one.
        hint: what to think about when a value differs.
        tolerance: largest difference, relative to the largest value expected where that is above 1.

    Raises:
        WrongAnswer: naming the case, what was expected and what came.
    """
    for number, case in enumerate(cases, 1):
        inputs = _fresh(case, sloped=True)
        wanted = reference(*inputs)
        sloped = isinstance(wanted, Tensor) and wanted.requires_grad
        theirs = _fresh(case, sloped)
        found = answer(*map(_copy, theirs))
        if found is None or found is ...:
            _expect(number == 1, f"case {number}: expected {_text(wanted)}, you return nothing. {hint}")
            _unanswered()
            return
        _compare(f"case {number}", wanted, found, hint, tolerance)
        if sloped:
            _expect(found.requires_grad, f"case {number}: the value is right, but no gradient flows. {hint}")
            slopes = [_slopes(value, given) for value, given in ((wanted, inputs), (found, theirs))]
            for one, other in zip(*slopes, strict=True):
                _compare(f"case {number}: the value is right, the gradient", one, other, hint, tolerance)
    print("Correct.")


def choose(answer: str | None, options: Mapping[str, str], *, right: str) -> None:
    """Check a choice among named options; `options` says of each what speaks for or against it.

    Raises:
        WrongAnswer: another option than `right`, with what speaks against it.
        UnfitAnswer: no such option.
    """
    if answer is None or answer is ...:
        _unanswered()
        return
    if answer not in list(options):
        raise UnfitAnswer(f"the answer is {answer!r}; expected one of {', '.join(map(repr, options))}")
    _expect(answer == right, f"Not {answer!r}: {options[answer]}")
    print(f"Correct: {options[right]}")


def order(answer: Sequence[str] | None, values: Mapping[str, float]) -> None:
    """Compare a predicted order, best first, with what was measured; a wrong prediction is no mistake.

    Raises:
        UnfitAnswer: the answer does not name each of `values` once.
    """
    if answer is None or answer is ...:
        _unanswered()
        return
    if not isinstance(answer, list | tuple) or sorted(map(str, answer)) != sorted(values):
        names = ", ".join(map(repr, values))
        raise UnfitAnswer(f"the answer is {answer!r}; expected a list with each of {names} once")
    truth = sorted(values, key=values.get, reverse=True)
    right = sum(one == other for one, other in zip(answer, truth, strict=True))
    said = ", ".join(f"{name} {values[name]:.3f}" for name in truth)
    print(f"{right} of {len(truth)} in their place. Measured: {said}.")


def solution(chapter: str, exercise: str) -> Markdown:
    """One answer to an exercise, from the complete edition of its notebook; `exercise` is the id of its cell.

    Raises:
        ValueError: no such exercise has a written answer; those that have one are named.
        ChapterError: there is no such notebook.
    """
    cells = json.loads(find_chapter(chapter).read_text(encoding="utf-8"))["cells"]
    answers = {
        c["id"].removesuffix("-solution"): c for c in cells if "solution" in c["metadata"].get("tags", [])
    }
    if exercise not in answers:
        raise ValueError(f"no answer to {exercise!r} is written; there are answers to {', '.join(answers)}")
    code = "".join(answers[exercise]["source"])
    lines = [line for line in code.splitlines() if not line.startswith("### ")]
    return Markdown("```python\n" + "\n".join(lines).strip() + "\n```")


def _unanswered() -> None:
    _expect(not os.environ.get(GRADING), NOT_ANSWERED)
    print(NOT_ANSWERED)


def _fresh(case: tuple[Any, ...], sloped: bool) -> list[Any]:
    return [
        value.detach().clone().requires_grad_(sloped and value.is_floating_point())
        if isinstance(value, Tensor)
        else value
        for value in case
    ]


def _copy(value: Any) -> Any:
    """What an answer may overwrite, with the gradient of the original."""
    return value.clone() if isinstance(value, Tensor) else value


def _slopes(value: Tensor, inputs: list[Any]) -> list[Tensor]:
    given = [v for v in inputs if isinstance(v, Tensor) and v.requires_grad]
    found = torch.autograd.grad(value.sum(), given, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(given, found, strict=True)]


def _compare(where: str, wanted: Any, found: Any, hint: str, tolerance: float) -> None:
    kind = type(wanted).__name__
    alike = isinstance(found, type(wanted)) or (
        isinstance(wanted, int | float) and isinstance(found, int | float)
    )
    more = "; .item() makes a number of it" if isinstance(found, Tensor) else ""
    _expect(alike, f"{where}: expected the type {kind}, you return {type(found).__name__}{more}. {hint}")
    if isinstance(wanted, tuple):
        counts = f"{len(wanted)} values, you return {len(found)}"
        _expect(len(found) == len(wanted), f"{where}: expected {counts}. {hint}")
        for place, pair in enumerate(zip(wanted, found, strict=True), 1):
            _compare(f"{where}, value {place}", *pair, hint, tolerance)
        return
    if isinstance(wanted, Tensor):
        shapes = f"{tuple(wanted.shape)}, you return {tuple(found.shape)}"
        _expect(found.shape == wanted.shape, f"{where}: expected shape {shapes}. {hint}")
    one, other = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (wanted, found))
    largest = one[one.isfinite()].abs().max().item() if one.isfinite().any() else 0.0
    near = torch.allclose(one, other, rtol=0, atol=tolerance * max(1.0, largest))
    theirs, mine = _text(wanted), _text(found)
    gap = "\n" if "\n" in theirs + mine else " "
    _expect(near, f"{where}: expected {theirs},{gap}you say {mine}.{gap}{hint}")


def _expect(right: bool, message: str) -> None:
    if not right:
        raise WrongAnswer(message.strip())


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else value.detach()
    return f"{value:.6g}" if isinstance(value, int | float) else repr(value)

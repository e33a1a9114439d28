"""Checks of arguments that the reading list shares; none of them waits for an accelerator."""

from __future__ import annotations

import torch
from torch import Tensor


def whole_number(name: str, value: int, least: int) -> int:
    """`value`, if it is an int of at least `least`. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a whole number: use int()")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")
    return value


def floats(name: str, values: Tensor, shape: str) -> Tensor:
    """`values`, if it is a float tensor with as many dimensions as `shape`, "(B, D)", none of them empty.

    Raises TypeError for another type, ValueError for another shape.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} are {kind}; expected a floating-point tensor: convert with .float()")
    if values.ndim != shape.count(",") + 1 or 0 in values.shape:
        raise ValueError(
            f"{name} have shape {tuple(values.shape)}; expected {shape}, none of them 0: "
            "add or flatten dimensions, leave out an empty batch"
        )
    return values


def whole_labels(name: str, labels: Tensor, count: int) -> Tensor:
    """`labels` as int64, if they are `count` whole numbers. Raises TypeError or ValueError."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name} are {kind}; expected a tensor of whole numbers: convert with .long()")
    if labels.shape != (count,):
        raise ValueError(f"{name} have shape {tuple(labels.shape)}; expected ({count},), one for each row")
    return labels.long()


def at_least_single(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, all else as it is."""
    return values.float() if values.dtype.itemsize < 4 else values

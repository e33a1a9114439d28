"""Which axis of a layer's output holds the channels: (B, C, H, W), or channels last as in Swin?

The shape does not tell. So the axis is followed through one forward pass, from the images and from what
fixes it: a convolution, a pooling or a batch norm has channels in axis 1, a linear layer or a layer norm in
the last. A product of matrices, or a reshape that cuts through the axis, loses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_SECOND = ("conv", "batch_norm", "instance_norm", "group_norm", "avg_pool", "max_pool")
_LAST = ("linear", "layer_norm", "rms_norm")
_REORDERS = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "__get__")
_UNKNOWN = ("matmul", "__matmul__", "bmm", "baddbmm", "einsum", "tensordot")
_RESHAPES = ("view", "reshape", "flatten", "unflatten", "reshape_as", "view_as")


class ChannelAxis(TorchFunctionMode):
    """Within it, tensors remember the axis of their channels; `channel_axis` asks for it."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (axis := _axis(function, args, tensor)) is not None:
                tensor._channel_axis = axis
        return out


def channel_axis(tensor: Tensor) -> int | None:
    """Counted from the right, so -3 in (B, C, H, W) and -1 in (B, H, W, C); None where unknown."""
    return getattr(tensor, "_channel_axis", None)


def _axis(function: Callable, args: tuple, out: Tensor) -> int | None:
    name = getattr(function, "__name__", "")
    if any(part in name for part in _SECOND):
        return 1 - out.ndim
    if name in _LAST and not (name.endswith("norm") and len(args) > 1 and len(args[1]) > 1):
        return -1
    known = [t for t in tree_leaves(args) if isinstance(t, Tensor) and channel_axis(t) is not None]
    if not known or name in _UNKNOWN:
        return None
    source, axis = known[0], channel_axis(known[0])
    if name in _REORDERS:  # tried on an empty tensor whose sides are 2, 3, 4, ...
        sides = list(range(2, 2 + source.ndim))
        moved = function(torch.empty(sides, device="meta"), *args[1:])
        return list(moved.shape).index(sides[axis]) - moved.ndim
    if name not in _RESHAPES and out.ndim == source.ndim:
        return axis
    if out.shape[axis:] == source.shape[axis:]:
        return axis
    place = source.ndim + axis
    return place - out.ndim if out.shape[: place + 1] == source.shape[: place + 1] else None

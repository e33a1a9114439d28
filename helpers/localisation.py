"""Does a map find the object? Maps at the size of the image, and the share of their brightness in a box."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from helpers.data.canvas import on_wider_canvas

__all__ = ["brightness_in_box", "centre_blob", "fit_to_image", "inside_boxes", "on_wider_canvas"]


def fit_to_image(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Maps (B, h, w) resized to `size` and each scaled to [0, 1]; a map without contrast becomes 0."""
    size = (size, size) if isinstance(size, int) else size
    large = interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    flat = high - low <= 1e-6 * large.abs().amax((1, 2), keepdim=True)  # resizing rounds
    return torch.where(flat, 0.0, (large - low) / (high - low).clamp(min=1e-30))


def centre_blob(count: int, size: int) -> Tensor:
    """Maps (count, size, size) that are bright in the middle: what one guesses without looking."""
    away = torch.linspace(-1, 1, size).square()
    return torch.exp(-2 * (away[:, None] + away)).expand(count, -1, -1)


def inside_boxes(boxes: Tensor, size: int) -> Tensor:
    """Masks bool (B, size, size): the pixels whose centre lies in the box x1 y1 x2 y2 of (B, 4)."""
    centres, (x1, y1, x2, y2) = torch.arange(size) + 0.5, boxes.T[:, :, None]
    across, down = (centres >= x1) & (centres < x2), (centres >= y1) & (centres < y2)
    return down[:, :, None] & across[:, None]


def brightness_in_box(maps: Tensor, boxes: Tensor) -> Tensor:
    """Share (B,) of the brightness of maps (B, S, S), at least 0, that lies inside boxes (B, 4).

    A blank map counts as an even one, which has the share of the box in the area.
    """
    maps = torch.where(maps.amax((1, 2), keepdim=True) > 0, maps, torch.ones_like(maps))
    return (maps * inside_boxes(boxes, maps.shape[-1])).sum((1, 2)) / maps.sum((1, 2))

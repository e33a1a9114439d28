"""Does a map find the object? Maps at the size of the image, and the share of their brightness in a box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from torchvision.ops import box_iou

from helpers.data.canvas import on_wider_canvas

__all__ = [
    "all_box_scores",
    "box_scores",
    "boxes_around",
    "brightness_in_box",
    "centre_blob",
    "fit_to_image",
    "inside_boxes",
    "on_wider_canvas",
    "quarters",
    "rank_correlation",
]


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


def boxes_around(maps: Tensor, threshold: float) -> Tensor:
    """Boxes (B, 4), x1 y1 x2 y2, around the largest connected piece of each map above threshold * maximum."""
    boxes = []
    for on in (maps >= threshold * maps.amax((1, 2), keepdim=True)).numpy():  # SciPy labels one at a time
        pieces, _ = ndimage.label(on)
        down, across = ndimage.find_objects(pieces)[np.bincount(pieces.flat)[1:].argmax()]
        boxes.append([across.start, down.start, across.stop, down.stop])
    return torch.tensor(boxes, dtype=torch.float32)


def box_scores(maps: Tensor, boxes: Tensor, threshold: float = 0.2) -> dict[str, Tensor]:
    """How maps (B, h, w) of square images (B, S, S) agree with boxes (B, 4), each (B,).

    "in the box": share of brightness; "pointing": whether the brightest pixel lies inside; "IoU > 0.5":
    whether the box around what is above `threshold` of the maximum, CAM's rule, overlaps by more than half.
    """
    inside = inside_boxes(boxes, maps.shape[-1]).flatten(1)
    top = maps.flatten(1).argmax(1, keepdim=True)
    overlap = box_iou(boxes_around(maps, threshold), boxes).diagonal()
    return {
        "in the box": brightness_in_box(maps, boxes),
        "pointing": inside.gather(1, top)[:, 0].float(),
        "IoU > 0.5": (overlap > 0.5).float(),
    }


def all_box_scores(maps: Mapping[str, Tensor], boxes: Tensor, size: int, right: Tensor) -> dict[str, Tensor]:
    """What `box_scores` says of maps (B, h, w), by "method: score", and of a blob in the centre.

    "top-1 localisation" is there too: an overlap of more than half where the network is `right` (B,) as well.
    """
    large = {name: fit_to_image(m, size) for name, m in maps.items()}
    large["blob in the centre"] = centre_blob(len(boxes), size)
    found = {}
    for name, m in large.items():
        scores = box_scores(m, boxes)
        scores["top-1 localisation"] = scores["IoU > 0.5"] * right
        found |= {f"{name}: {score}": values for score, values in scores.items()}
    return found


def quarters(maps: Tensor) -> Tensor:
    """Share (B, 4) of the brightness of maps (B, H, W), sides even, in each quarter: upper ones first."""
    four = maps.unflatten(2, (2, -1)).unflatten(1, (2, -1)).sum((2, 4)).flatten(1)
    return four / four.sum(1, keepdim=True).clamp(min=1e-12)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation of the positions of maps (B, H, W), the mean over B; for maps without ties."""

    def ranks(maps: Tensor) -> Tensor:
        places = maps.flatten(1).argsort(1).argsort(1).float()
        return normalize(places - places.mean(1, keepdim=True))

    return (ranks(one) * ranks(other)).sum(1).mean().item()

"""Images moved to a random place of a wider canvas, whose middle no longer tells where the object is."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.data.image_set import ImageSet


def on_wider_canvas(part: ImageSet, seed: int) -> ImageSet:
    """Every image (C, S, S) at a random place of a canvas half as wide again, whose centre then tells little.

    What is new of the canvas repeats, mirrored, the strip of the image outside the object's box (where the
    box leaves none, the last line). Boxes, parts and masks follow; a mask is empty on what is new.

    Raises ValueError for a set without boxes.
    """
    if part.boxes is None:
        raise ValueError(f"{part.name} has no boxes; take a set that has them, such as birds")
    images, labels = part[:]
    side = images.shape[-1]
    shift = torch.randint(0, side // 2 + 1, (2, len(part)), generator=torch.Generator().manual_seed(seed))
    low, high = part.boxes[:, :2].T.floor().long(), part.boxes[:, 2:].T.ceil().long()
    at = torch.arange(side + side // 2) - shift[:, :, None]  # (2, N, canvas): which line of the image
    front = _mirrored(-1 - at, low.clamp(min=1)[:, :, None])
    back = side - 1 - _mirrored(at - side, (side - high).clamp(min=1)[:, :, None])
    across, down = torch.where(at < 0, front, torch.where(at < side, at, back))
    item, across, down = torch.arange(len(part))[:, None, None], across[:, None], down[:, :, None]
    canvas = (255 * images[item, :, down, across].permute(0, 3, 1, 2)).round().byte()
    moved = shift.T.float()
    parts, masks = part.parts, part.part_masks
    if parts is not None:
        parts = torch.cat((parts[..., :2] + moved[:, None], parts[..., 2:]), dim=-1)
    if masks is not None:
        on_image = (at >= 0) & (at < side)
        masks = masks[item, down, across] & on_image[0][:, None] & on_image[1][:, :, None]
    return ImageSet(
        part.name,
        canvas,
        labels,
        part.class_names,
        boxes=part.boxes + moved.repeat(1, 2),
        parts=parts,
        part_names=part.part_names,
        part_masks=masks,
    )


def _mirrored(steps: Tensor, width: Tensor) -> Tensor:
    """0, 1, ..., width - 1, width - 1, ..., 1, 0, 0, 1, ... for steps 0, 1, 2, ..."""
    steps = steps % (2 * width)
    return torch.minimum(steps, 2 * width - 1 - steps)

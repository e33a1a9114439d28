"""Pictures in which it is known what counts: on which part of them, and where."""

from __future__ import annotations

import os
from functools import cache
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from helpers.data.canvas import on_wider_canvas
from helpers.data.image_set import ImageSet
from helpers.data.photographs import open_image
from helpers.data.seen_unseen import SeenUnseen

PHOTOGRAPHS = ("cat", "coffee", "motorcycle", "camera", "rocket")
"""Photographs that scikit-image brings along."""
GROUNDS = ("grass", "gravel", "brick")


class Cards(NamedTuple):
    """N pictures (N, 3, 2S, 2S) of a card that lies on a ground."""

    pictures: Tensor
    labels: Tensor  # (N,) of what is on the cards
    grounds: Tensor  # (N,) places in GROUNDS
    boxes: Tensor  # (N, 4) of the cards: x1, y1, x2, y2 in pixels


class Mosaics(NamedTuple):
    """N pictures (N, C, 2S, 2S) of four images: upper left, upper right, lower left, lower right."""

    pictures: Tensor
    tiles: Tensor  # (N, 4) rows of the images
    quarter: Tensor  # (N,) one of the four places, each in turn
    asked: Tensor  # (N,) row of the image that lies there


def photograph(source: str | os.PathLike[str] | BinaryIO | bytes | memoryview, side: int = 224) -> Tensor:
    """The middle square (3, side, side), in [0, 1], of one of `PHOTOGRAPHS`, an image file or its bytes.

    Raises DatasetError for a file that is missing, or no image with an agreed range of values.
    """
    from skimage import data

    if source in PHOTOGRAPHS:
        name = {"cat": "chelsea", "motorcycle": "stereo_motorcycle"}.get(source, source)
        found = getattr(data, name)()
        pixels = np.asarray(found[0] if isinstance(found, tuple) else found)
    else:
        bytes_ = isinstance(source, bytes | memoryview)
        pixels = np.asarray(open_image(BytesIO(source) if bytes_ else source))
    image = torch.from_numpy(pixels.copy()).float() / 255
    image = image.movedim(-1, 0) if image.ndim == 3 else image.expand(3, -1, -1)
    return center_crop(resize(image, [side]), [side, side]).clamp(0, 1)


def on_grounds(images: Tensor, labels: Tensor, seed: int) -> Cards:
    """Images (N, 3, S, S) in [0, 1], each as a card on grass, gravel or brick, which the card does not tell.

    The card lies in one of the four corners or up to 3/8 of its side from there, so a quarter of the picture
    is card, and which quarter is chance. The grounds are scikit-image's photographs, at a random place and in
    a random tint.
    Raises ValueError for cards of more than 256 pixels.
    """
    count, _, side, _ = images.shape
    photographs = _grounds()
    if (room := photographs.shape[-1] - 2 * side) < 0:
        raise ValueError(f"cards are {side} px; expected at most {photographs.shape[-1] // 2}")
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(len(GROUNDS), (count,), generator=generator)
    corner = torch.randint(room + 1, (count, 2, 1), generator=generator) + torch.arange(2 * side)
    ground = photographs[kinds[:, None, None], corner[:, 0, :, None], corner[:, 1, None, :]]
    tint = 0.8 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    pictures = (ground[:, None] * tint).clamp(max=1)

    near = torch.randint(side * 3 // 8 + 1, (count, 2), generator=generator)
    place = torch.where(torch.rand(count, 2, generator=generator) < 0.5, near, side - near)  # x, y
    across, down = (place[:, [axis]] + torch.arange(side) for axis in (0, 1))
    pictures[torch.arange(count)[:, None, None], :, down[:, :, None], across[:, None]] = images.movedim(1, -1)
    return Cards(pictures, labels, kinds, torch.cat([place, place + side], 1).float())


def mosaics(images: Tensor, labels: Tensor, count: int, seed: int) -> Mosaics:
    """`count` pictures of four images (C, S, S) of four different classes.

    Raises ValueError for fewer than four classes.
    """
    classes = labels.unique()
    if len(classes) < 4:
        raise ValueError(f"there are {len(classes)} classes; expected at least 4 for a mosaic")
    generator = torch.Generator().manual_seed(seed)
    four = torch.rand(count, len(classes), generator=generator).argsort(1)[:, :4]
    own = (labels == classes[four][..., None]).float()  # (count, 4, N)
    tiles = (own * (0.01 + torch.rand(own.shape, generator=generator))).argmax(-1)
    upper, lower = (torch.cat(images[tiles[:, pair]].unbind(1), -1) for pair in ([0, 1], [2, 3]))
    quarter = torch.arange(count) % 4
    return Mosaics(torch.cat([upper, lower], -2), tiles, quarter, tiles[torch.arange(count), quarter])


def off_centre(part: ImageSet, size: int, seed: int) -> ImageSet:
    """Crops (C, size, size) that hold as much of the object's box as fits, and lie as far to one side of it,
    and up or down, as the box and the image allow: a small object ends up away from the middle.

    Boxes follow, clipped to the crop; parts are left out.
    Raises ValueError for a set without boxes, or images smaller than `size`.
    """
    images, labels = part[:]
    room = images.shape[-1] - size
    if part.boxes is None or room < 0:
        why = "has no boxes" if part.boxes is None else f"has images of {images.shape[-1]} px, not {size}"
        raise ValueError(f"{part.name} {why}; expected boxes, and images that are larger than the crops")
    low = (part.boxes[:, 2:] - size).ceil().clamp(0, room).long()  # x, y: the box ends at the crop's end
    high = part.boxes[:, :2].floor().clamp(0, room).long()
    middle = (part.boxes[:, :2] + part.boxes[:, 2:]) / 2
    gain = (middle - low - size / 2).abs() - (middle - high - size / 2).abs()
    either = torch.rand(len(part), 2, generator=torch.Generator().manual_seed(seed)) < 0.5
    place = torch.where((gain > 1) | ((gain >= -1) & either), low, high)
    across, down = (place[:, [axis]] + torch.arange(size) for axis in (0, 1))
    rows = torch.arange(len(part))[:, None, None]
    crops = images[rows, :, down[:, :, None], across[:, None]].movedim(-1, 1)
    boxes = (part.boxes - place.repeat(1, 2)).clamp(0, size)
    return ImageSet(part.name, (255 * crops).round().byte(), labels, part.class_names, boxes=boxes)


def all_off_centre(parts: SeenUnseen, size: int, seed: int) -> SeenUnseen:
    """Training, test and unseen images, each on a wider canvas that is cut by `off_centre`."""
    train, test, unseen = (
        off_centre(on_wider_canvas(part, seed), size, seed)
        for part in (parts.train, parts.test, parts.unseen)
    )
    return parts._replace(train=train, test=test, unseen=unseen)


@cache
def _grounds() -> Tensor:
    """Grey photographs (3, 512, 512) in [0, 1]."""
    from skimage import data

    return torch.stack([torch.from_numpy(getattr(data, name)()) for name in GROUNDS]).float() / 255

"""What needs no connection: a network that learned on ImageNet, photographs in tiles, birds in boxes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import center_crop, resize

from helpers.backbones import Backbone, load_backbone
from helpers.data.image_set import ImageSet
from helpers.data.seen_unseen import seen_and_unseen
from helpers.localisation import brightness_in_box, centre_blob, fit_to_image, on_wider_canvas
from helpers.training.frozen import features_of

__all__ = [
    "fit_to_image",
    "in_the_box",
    "last_maps",
    "network",
    "photograph_tiles",
    "scenes",
]

SOURCES = {
    "cat": "chelsea",
    "coffee": "coffee",
    "motorcycle": "stereo_motorcycle",
    "camera": "camera",
    "rocket": "rocket",
    "astronaut": "astronaut",
    "coins": "coins",
    "galaxies": "hubble_deep_field",
    "tissue": "immunohistochemistry",
    "grass": "grass",
    "palace": "china.jpg",
    "flower": "flower.jpg",
}
"""Photographs that scikit-image and, with a suffix, scikit-learn bring along."""


@cache
def network() -> Backbone:
    """EfficientNet-Lite0 with its ImageNet weights; its last map has a sixteenth of the image's sides."""
    return load_backbone(output_stride=16)


def last_maps(images: Tensor) -> Tensor:
    """Maps (N, 1280, S / 16, S / 16) that the network averages, of images (N, 3, S, S) in [0, 1]."""
    net = network().network
    layers = nn.Sequential(net.conv_stem, net.bn1, *net.blocks, net.conv_head, net.bn2)
    return features_of(layers, network().normalize(images))


def scenes(seed: int, *, size: int, species: int = 20, images: tuple[int, int] = (24, 30)) -> list[ImageSet]:
    """Drawn birds with boxes, at a random place of a wider canvas: images to train on, and to test on.

    Args:
        size: side of a bird's image; the canvas has half as much again.
        images: of each species, to train and to test on.
    """
    each = (images[0], 1, images[1], 1)
    parts = seen_and_unseen("birds", seed, size=size, seen=species, unseen=1, siblings=1, images=each)
    return [on_wider_canvas(part, seed + k) for k, part in enumerate((parts.train, parts.test))]


def in_the_box(maps: Mapping[str, Tensor], part: ImageSet) -> dict[str, Tensor]:
    """Share (N,) of the brightness of maps (N, h, w), where positive, in the boxes of a part's images.

    The names are "NAME: in the box"; "blob in the centre" is scored too, a map that has not looked.
    """
    size = part.image_shape[-1]
    blob = {"blob in the centre": centre_blob(len(part), size)}
    large = {name: fit_to_image(m.detach().clamp(min=0), size) for name, m in maps.items()} | blob
    return {f"{name}: in the box": brightness_in_box(m, part.boxes) for name, m in large.items()}


def photograph_tiles(side: int = 96, across: int = 3) -> ImageSet:
    """The middle square of each photograph, cut into across x across tiles that do not overlap.

    A class is a photograph: its tiles show parts of one thing, and share no pixel.
    """
    squares = torch.stack([_square(source, side * across) for source in SOURCES.values()])
    tiles = squares.unfold(2, side, side).unfold(3, side, side)  # (N, 3, across, across, side, side)
    tiles = tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    labels = torch.arange(len(SOURCES)).repeat_interleave(across**2)
    return ImageSet("photographs", (255 * tiles).round().byte(), labels, tuple(SOURCES))


def _square(source: str, side: int) -> Tensor:
    found = load_sample_image(source) if "." in source else getattr(skimage_data, source)()
    pixels = np.asarray(found[0] if isinstance(found, tuple) else found)
    image = torch.from_numpy(pixels.copy()).float() / 255
    image = image.movedim(-1, 0) if image.ndim == 3 else image.expand(3, -1, -1)
    return center_crop(resize(image, [side]), [side, side]).clamp(0, 1)

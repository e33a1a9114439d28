"""A large network and a small one that is its beginning: maps of the same pictures from both.

Both are frozen; a teacher's head learns from the maps of the one, a student's from those of the other. The
small one is given the pictures at two thirds of their size, which saves more than half of the work again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.backbones import load_backbone
from helpers.data import ImageSet, seen_and_unseen
from helpers.training.frozen import features_of

DEEP, SHALLOW = 6, 4
CHANNELS = {DEEP: 192, SHALLOW: 80}


class Pair(NamedTuple):
    """Maps of the same pictures, (N, C, h, w) from the large network, fewer and smaller ones from the
    small network, and labels (N,)."""

    deep: Tensor
    shallow: Tensor
    labels: Tensor


class TwoDepths(NamedTuple):
    """Pictures of classes to train on, and of others to test on."""

    train: Pair
    test: Pair
    places: Tensor  # (classes of `test`,) their places among all classes, the same for every seed
    total: int  # number of all classes


def first_blocks(count: int) -> nn.Sequential:
    """Images (B, 3, S, S) in [0, 1], scaled to [-1, 1], to maps: the first blocks of EfficientNet-Lite0.

    With ImageNet weights, in evaluation mode. Maps have a sixteenth of the image's sides from block 4 on.
    Raises ValueError for a number of blocks outside 1 to 7.
    """
    if not 1 <= count <= 7:
        raise ValueError(f"count is {count}; the network has blocks 1 to 7")
    net = load_backbone(output_stride=16).network
    return nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:count]).eval()


def two_depths(
    dataset: str,
    seed: int,
    *,
    size: int,
    seen: int,
    unseen: int,
    images: tuple[int, int] = (16, 8),
    device: torch.device | str = "cpu",
) -> TwoDepths:
    """Maps after `DEEP` blocks, and after `SHALLOW` blocks of smaller pictures; a seed draws classes anew.

    Args:
        dataset: "birds", or what `load_dataset` takes.
        size: side of the images in pixels, a multiple of 32.
        seen, unseen: numbers of bird species to train and to test on, 60 at most together.
        images: of each bird species, to train and to test on.

    Raises DatasetError as `seen_and_unseen` does.
    """
    each = (images[0], 1, 1, images[1])
    parts = seen_and_unseen(dataset, seed, size=size, siblings=1, seen=seen, unseen=unseen, images=each)
    train, test = (_pair(part, device) for part in (parts.train, parts.unseen))
    return TwoDepths(train, test, parts.new, parts.total)


def small(images: Tensor) -> Tensor:
    """Images (N, 3, S, S) as the small network sees them: at two thirds of the side, a multiple of 32."""
    side = max(32, 32 * round(images.shape[-1] / 48))
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def _pair(part: ImageSet, device: torch.device | str) -> Pair:
    images, labels = part[:]
    normalize = load_backbone(output_stride=16).normalize
    deep, shallow = (
        features_of(first_blocks(blocks).to(device), normalize(pixels), device)
        for blocks, pixels in ((DEEP, images), (SHALLOW, small(images)))
    )
    return Pair(deep, shallow, labels)

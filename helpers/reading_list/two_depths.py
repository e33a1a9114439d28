"""A large network and a small one that is its beginning: maps of the same pictures from both.

Both are frozen; a teacher's head learns from the maps of the one, a student's from those of the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers.backbones import load_backbone
from helpers.data import ImageSet, seen_and_unseen
from helpers.training.frozen import features_of

DEEP, SHALLOW = 6, 4
CHANNELS = {DEEP: 192, SHALLOW: 80}


class Pair(NamedTuple):
    """Maps (N, C, h, w) of the same pictures, and their labels (N,)."""

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
    """Maps after `DEEP` and after `SHALLOW` blocks; every seed draws classes anew.

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


def _pair(part: ImageSet, device: torch.device | str) -> Pair:
    images, labels = part[:]
    pixels = load_backbone(output_stride=16).normalize(images)
    whole = first_blocks(DEEP).to(device)
    shallow = features_of(whole[: SHALLOW + 2], pixels, device)
    return Pair(features_of(whole[SHALLOW + 2 :], shallow, device), shallow, labels)

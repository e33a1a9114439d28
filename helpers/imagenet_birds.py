"""Birds off the middle of their pictures, and the offline ImageNet network in two halves.

The lower half stays as it is, so that its maps are computed once; the upper one ends in an average and a
linear layer, as classifiers do.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from helpers.backbones import load_backbone
from helpers.data import ImageSet, SeenUnseen, scenes, seen_and_unseen
from helpers.offline import in_the_box
from helpers.training.frozen import features_of

__all__ = ["POSITIONS", "SIDE", "SPECIES", "in_the_box", "lower_maps", "placed_birds", "upper_half"]
SIDE = 96
"""Of a picture in pixels; the maps have 6 x 6 positions."""
POSITIONS = SIDE // 16
SPECIES = 16
_BIRD = 80


def placed_birds(seed: int, images: tuple[int, int] = (16, 12)) -> SeenUnseen:
    """Pictures of `SIDE` pixels with birds of `SPECIES` species away from the middle, with their boxes.

    Args:
        images: of each species, to train and to test on.
    """
    train, test = images
    drawn = seen_and_unseen(
        "birds", seed, size=_BIRD, seen=SPECIES, unseen=2, siblings=1, images=(train, 1, test, 1)
    )
    return scenes.all_off_centre(drawn, SIDE, seed)


def lower_maps(part: ImageSet, device: torch.device | str = "cpu") -> TensorDataset:
    """Maps (N, 192, h, w) that the lower half makes of a part, and labels (N,); `labels` is there as well."""
    backbone = load_backbone(output_stride=16)
    net = backbone.network
    lower = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:6]).to(device)
    images, labels = part[:]
    found = TensorDataset(features_of(lower, backbone.normalize(images), device), labels)
    found.labels = labels
    return found


def upper_half(classes: int) -> nn.Sequential:
    """Maps (B, 192, h, w) to logits (B, classes): last block and layer, an average, a new linear layer."""
    net = load_backbone(output_stride=16).network
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(net.num_features, classes))
    return nn.Sequential(*net.blocks[6:], net.conv_head, net.bn2, *last)

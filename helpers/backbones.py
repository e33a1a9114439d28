"""Networks by name."""

from __future__ import annotations

from collections.abc import Sequence

import torchvision
from torch import nn


def small_network(channels: int, outputs: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """A network that learns small pictures in seconds: convolutions, average pooling and a linear layer.

    The first two convolutions halve the sides: images (B, channels, S, S) become a map (B, widths[-1], S / 4,
    S / 4). Each is followed by batch norm and ReLU.
    """
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        kernel, stride = (5 if place == 0 else 3), (2 if place < 2 else 1)
        layers += [
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def make_backbone(name: str, channels: int, outputs: int) -> nn.Module:
    """`small_network` for "small", else a classifier of torchvision by its name, with random weights.

    Raises:
        ValueError: no such network, or a colour network for images of other than three channels.
    """
    if name == "small":
        return small_network(channels, outputs)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"no network is called {name!r}; expected 'small' or one of torchvision's classifiers"
        )
    if channels != 3:
        raise ValueError(f"{name} takes 3 channels, the images have {channels}; load them with channels=3")
    return torchvision.models.get_model(name, weights=None, num_classes=outputs)

"""Small networks for small images, with and without shortcuts."""

from __future__ import annotations

from itertools import pairwise

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data import ImageSet
from helpers.small_data.views import RandomViews

NETWORKS = ("small", "resnet18")


class Block(nn.Module):
    """Two 3x3 convolutions, (B, C, H, W) to (B, out, H / 2, W / 2); with a shortcut, plus its input.

    With a shortcut it is a block of a residual network, without one a piece of a plain chain, as in VGG.
    """

    def __init__(self, channels: int, out: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, 2, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = None
        if shortcut:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) if self.shortcut is None else self.body(x) + self.shortcut(x))


def make_network(
    part: ImageSet,
    name: str = "small",
    *,
    outputs: int | None = None,
    shortcut: bool = True,
) -> nn.Sequential:
    """A network for the images of a part: random views (shifts by up to a twelfth), then the network proper.

    Args:
        name: "small", a convolution, blocks, average and last layer; or "resnet18", for images in colour.
        outputs: None takes the classes of the part.
        shortcut: whether the blocks of "small" add their input.

    Raises ValueError for an unknown name.
    """
    channels, size, _ = part.image_shape
    outputs = outputs or part.num_classes
    views = RandomViews(max(1, size // 12), mirror=channels == 3)
    if name not in NETWORKS:
        raise ValueError(f"network is {name!r}; expected one of {', '.join(NETWORKS)}")
    if name == "resnet18" and channels == 3:
        return nn.Sequential(views, torchvision.models.resnet18(num_classes=outputs))
    widths, stride = ((16, 32, 64), 2) if size > 16 else ((16, 32), 1)
    stem = (nn.Conv2d(channels, widths[0], 3, stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
    blocks = (Block(a, b, shortcut) for a, b in pairwise(widths))
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))
    return initialise(nn.Sequential(views, *stem, *blocks, *end))


def initialise(model: nn.Module) -> nn.Module:
    """Fresh weights in place; normal after Kaiming He in convolutions, as the released code starts."""
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model

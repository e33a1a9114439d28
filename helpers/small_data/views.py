"""Random views of images, so that a network does not see the same pixels twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RandomViews(nn.Module):
    """In training each image is shifted and, if wanted, mirrored at random; always it is centred around 0.

    Images (B, C, S, S) in [0, 1] become images of the same shape in [-0.5, 0.5]. Random numbers come from
    torch's global generator, on the CPU.

    Args:
        shift: largest shift along each axis, in pixels; what comes in at a border repeats it.
        mirror: whether half of the images are mirrored left to right.
    """

    def __init__(self, shift: int, mirror: bool) -> None:
        super().__init__()
        self.shift, self.mirror = shift, mirror

    def forward(self, images: Tensor) -> Tensor:
        images = images - 0.5
        if not self.training:
            return images
        count, _, height, width = images.shape
        padded = F.pad(images, (self.shift,) * 4, mode="replicate")
        rows, columns = (
            torch.randint(2 * self.shift + 1, (count, 1)) + torch.arange(side) for side in (height, width)
        )
        if self.mirror:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        image, rows, columns = torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]
        return padded[image, :, rows, columns].movedim(3, 1)

"""Sequences of which one frame is sharp, and a recurrent network that reads maps of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

FRAMES = 4


def one_sharp_frame(images: Tensor) -> Tensor:
    """Frames (B, 4, C, H, W) of images (B, C, H, W): frame i % 4 of image i is sharp, the others blurred."""
    frames = gaussian_blur(images, [31, 31])[:, None].repeat(1, FRAMES, 1, 1, 1)
    rows = torch.arange(len(images))
    frames[rows, rows % FRAMES] = images
    return frames


class FrameReader(nn.Module):
    """Maps of frames (B, T, C, H, W) to logits (B, K): averages over positions, a GRU, a linear layer.

    The layer `frames` hands the maps on unchanged, so that L2-CAF has a place for its filters.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.frames = nn.Identity()
        self.gru = nn.GRU(channels, 64, batch_first=True)
        self.head = nn.Linear(64, classes)

    def forward(self, maps: Tensor) -> Tensor:
        states, _ = self.gru(self.frames(maps).mean((3, 4)))
        return self.head(states[:, -1])

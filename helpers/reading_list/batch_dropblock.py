"""Batch DropBlock: one random rectangle of the feature map is dropped, the same for the whole batch.

Source: Z. Dai, M. Chen, X. Gu, S. Zhu, P. Tan. Batch DropBlock Network for Person Re-identification and
Beyond, ICCV 2019; the reading list knows it as "Batch feature erasing". The paper puts it into a second
branch: a block of convolutions, this layer, the *maximum* over positions, a linear layer; the descriptor is
that of both branches side by side.

Deviations of the released code (daizuozhuo/batch-dropblock-network): it multiplies by a mask, so what is not
a number stays so; it draws from Python's generator, which `torch.manual_seed` does not set; a ratio too small
for the map drops nothing, silently. Its ratios are 0.33 x 1 for persons (a stripe), else 0.5 x 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.reading_list.checks import floats


class BatchDrop(nn.Module):
    """Feature maps (B, C, H, W) with one rectangle set to 0 in training; as they are in evaluation mode.

    The rectangle has ``int(height_ratio * H)`` rows and ``int(width_ratio * W)`` columns and lies anywhere
    inside the map, each place being as likely. What stays is not scaled up, unlike in dropout. Its gradient
    is 1 outside the rectangle and 0 inside.

    Args:
        height_ratio, width_ratio: share of the map's height and width, above 0 and up to 1, not both 1.

    Raises:
        ValueError: other ratios; in training a map of which the rectangle would be nothing, or all.
        TypeError: a map that is not floating point.
    """

    def __init__(self, height_ratio: float, width_ratio: float) -> None:
        super().__init__()
        for name, ratio in (("height_ratio", height_ratio), ("width_ratio", width_ratio)):
            if not 0 < ratio <= 1:
                raise ValueError(f"{name} is {ratio}; expected a share above 0 and up to 1")
        if height_ratio == width_ratio == 1:
            raise ValueError("both ratios are 1, which would drop the whole map; make one of them smaller")
        self.height_ratio, self.width_ratio = height_ratio, width_ratio

    def forward(self, maps: Tensor) -> Tensor:
        floats("maps", maps, "(B, C, H, W)")
        if not self.training:
            return maps
        height, width = maps.shape[-2:]
        rows, columns = int(self.height_ratio * height), int(self.width_ratio * width)
        if rows == 0 or columns == 0 or (rows, columns) == (height, width):
            raise ValueError(
                f"a rectangle of {rows} x {columns} out of {height} x {width} positions is nothing or all; "
                "use larger maps or other ratios"
            )
        top = int(torch.randint(height - rows + 1, ()))  # on the CPU: nobody waits for it
        left = int(torch.randint(width - columns + 1, ()))
        dropped = torch.zeros(height, width, dtype=torch.bool, device=maps.device)
        dropped[top : top + rows, left : left + columns] = True
        return maps.masked_fill(dropped, 0)

    def extra_repr(self) -> str:
        return f"height_ratio={self.height_ratio}, width_ratio={self.width_ratio}"

"""Combination of global descriptors: one feature map, pooled in several ways, one embedding.

Source: H. Jun, B. Ko, Y. Kim, I. Kim, J. Kim. Combination of Multiple Global Descriptors for Image Retrieval,
2019 (CGD). The ways of pooling are one family, generalised-mean pooling (Radenović et al., 2018)::

    GeM_p(x) = (mean over positions of x**p) ** (1 / p)

p = 1 is SPoC, the mean; p -> infinity is MAC, the maximum.

Deviations of an unofficial implementation that is in wide use (leftthomas/CGD; the authors released a test
script only): the power is taken of the map as it is, which an uneven p lets go negative and then cuts to 0;
p is 3 and not learned; the stride removed from ResNet-50 is that of its third stage; the trunk's batch norm
is frozen; the best epoch is chosen on the test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.reading_list.checks import floats, whole_number

FLOOR = 1e-6
"""GeM's lower bound of the map, in units of the map: powers and roots have no gradient at 0."""


class GeM(nn.Module):
    """Pools maps (B, C, H, W) to (B, C) by the power mean with exponent `p`.

    ``p=1`` is the mean and ``p=math.inf`` the maximum of the map as it is. In between the map is first cut
    from below at `FLOOR`, as is usual: the family is meant for maps after a ReLU, and an empty one gives
    `FLOOR`. Each channel is divided by its maximum before the power, so that a large p cannot overflow.

    Raises ValueError for p of 0 or less (or not a number) and for another shape, TypeError for maps that are
    not floating point.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, int | float) or not p > 0:
            raise ValueError(f"p is {p!r}; expected a number above 0, or math.inf for the maximum")
        self.p = float(p)

    def forward(self, maps: Tensor) -> Tensor:
        floats("maps", maps, "(B, C, H, W)")
        if self.p == 1:
            return maps.mean((-2, -1))
        if math.isinf(self.p):
            return maps.amax((-2, -1))
        values = maps.clamp_min(FLOOR)
        largest = values.detach().amax((-2, -1), keepdim=True)
        means = (values / largest).pow(self.p).mean((-2, -1))
        return largest[..., 0, 0] * means.pow(1 / self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class CombinedGlobalDescriptors(nn.Module):
    """Maps (B, channels, H, W) to embeddings (B, dimension) of length 1, from several ways of pooling.

    Each way has a linear layer to ``dimension / n`` numbers and is scaled to length 1; all n side by side are
    scaled to length 1 again. So the cosine of two images is the mean of the cosines of their descriptors, and
    none can outvote another by its scale. (In the paper a classifier reads ``pools[0](maps)`` as well, the
    first way before its linear layer, as a second loss with label smoothing and temperature 0.5.)

    Args:
        channels: of the maps.
        dimension: of the embedding, a multiple of the number of ways; 1536 in the paper.
        powers: the p of each way: 1 for S (SPoC), `math.inf` for M (MAC), 3 for G (GeM).

    Raises ValueError for no powers, or a dimension that does not divide; else as `GeM`.
    """

    def __init__(self, channels: int, dimension: int, powers: Sequence[float] = (1.0, math.inf)) -> None:
        super().__init__()
        self.channels = whole_number("channels", channels, 1)
        if not powers or whole_number("dimension", dimension, 1) % len(powers):
            raise ValueError(
                f"dimension is {dimension} for {len(powers)} ways of pooling; expected at least one way, and "
                "a multiple of their number"
            )
        self.pools = nn.ModuleList(GeM(p) for p in powers)
        self.heads = nn.ModuleList(nn.Linear(channels, dimension // len(powers), bias=False) for _ in powers)

    def forward(self, maps: Tensor) -> Tensor:
        floats("maps", maps, "(B, C, H, W)")
        if maps.shape[1] != self.channels:
            raise ValueError(f"maps have {maps.shape[1]} channels; expected the {self.channels} given before")
        parts = [F.normalize(head(pool(maps))) for pool, head in zip(self.pools, self.heads, strict=True)]
        return F.normalize(torch.cat(parts, 1))

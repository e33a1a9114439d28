"""HORDE: the high-order moments of an image's local features are trained like its embedding.

Source: P. Jacob, D. Picard, A. Histace, E. Klein. Metric Learning With HORDE: High-Order Regularizer for Deep
Embeddings, ICCV 2019. The mean over positions is the first moment of the local features. The k-th has C**k
numbers; Random Maclaurin features (Kar and Karnick, 2012) estimate it with a few::

    phi_k(x) = (W_1^T x) * (W_2^T x) * ... * (W_k^T x) / sqrt(F),     E[phi_k(x) . phi_k(y)] = <x, y>**k

with entries of the W that are 1 or -1 at random. Orders share their factors: ``phi_k = phi_(k-1) * W_k^T x``.

Deviations of the released code (pierre-jacob/ICCV2019-Horde, TensorFlow 1): no division by sqrt(F), which the
embedding's scaling to length 1 makes up for; its second order projects the features twice and its first not
at all, so that the first embedding reads the plain mean, as here. Its contrastive loss on cosines squares the
positive term and leaves the negative one linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.reading_list.checks import floats, whole_labels, whole_number


class RandomMaclaurin(nn.Module):
    """Features (..., C) to a list of `order` tensors (..., F): estimates for the orders 1 to `order`.

    For order k the dot product of two results estimates the k-th power of the dot product of the inputs; its
    standard error falls like ``1 / sqrt(F)``.

    Args:
        channels: C.
        features: F.
        order: the highest order K; there are K matrices (C, F).
        learned: matrices that train, from Glorot's initialisation; else signs that stay.

    Raises TypeError for input that is not floating point, ValueError for another number of channels.
    """

    def __init__(self, channels: int, features: int, order: int, learned: bool = False) -> None:
        super().__init__()
        self.channels = whole_number("channels", channels, 1)
        self.features = whole_number("features", features, 1)
        self.order, self.learned = whole_number("order", order, 1), learned
        matrices = torch.empty(order, channels, features)
        if learned:
            self.matrices = nn.Parameter(torch.stack([nn.init.xavier_uniform_(w) for w in matrices]))
        else:
            self.register_buffer("matrices", matrices.bernoulli_(0.5) * 2 - 1)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(f"inputs are {kind}; expected a floating-point tensor: convert with .float()")
        if inputs.ndim == 0 or inputs.shape[-1] != self.channels:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}; expected (..., {self.channels}): move channels "
                "to the end"
            )
        estimates = [inputs @ self.matrices[0] / math.sqrt(self.features)]
        for matrix in self.matrices[1:]:
            estimates.append(estimates[-1] * (inputs @ matrix))
        return estimates

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.features}, order={self.order}, learned={self.learned}"


class HordeLoss(nn.Module):
    """The same loss on embeddings of the orders 1 to K, added up: ``horde(maps, labels)``.

    Order 1 is a linear layer on the mean of the maps over positions, scaled to length 1: that is what
    `embed` gives and all that is used after training. Each further order has a linear layer of its own on the
    mean of `RandomMaclaurin`'s estimates. The layers belong to this module: give it to the optimiser.

    Args:
        loss: called as ``loss(embeddings (B, embedding_size), labels (B,))``, such as PML's ContrastiveLoss.
        channels: C of the maps (B, C, H, W).
        embedding_size: of every order.
        orders: K; 5 in the paper. 1 is the loss alone.
        features: F of `RandomMaclaurin`; 8192 in the released settings.
        learned: as there; the released settings learn them.

    Raises TypeError and ValueError for other maps and labels.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        channels: int,
        embedding_size: int,
        orders: int = 3,
        features: int = 1024,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.loss, self.channels = loss, whole_number("channels", channels, 1)
        self.orders = whole_number("orders", orders, 1)
        self.estimate = RandomMaclaurin(channels, features, orders, learned) if orders > 1 else None
        widths = [channels, *[features] * (orders - 1)]
        self.heads = nn.ModuleList(
            nn.Linear(width, whole_number("embedding_size", embedding_size, 1), bias=False)
            for width in widths
        )

    def embed(self, maps: Tensor) -> Tensor:
        """Embeddings (B, embedding_size) of length 1 of maps (B, C, H, W): those of order 1."""
        return self.embeddings(maps, 1)[0]

    def embeddings(self, maps: Tensor, orders: int | None = None) -> list[Tensor]:
        """The embeddings of the first `orders` orders, or of all; each (B, embedding_size), of length 1."""
        floats("maps", maps, "(B, C, H, W)")
        if maps.shape[1] != self.channels:
            raise ValueError(f"maps have {maps.shape[1]} channels; expected the {self.channels} given before")
        local = maps.flatten(2).mT  # (B, H * W, C)
        moments = [local.mean(1)]
        if (orders or self.orders) > 1:
            moments += [estimate.mean(1) for estimate in self.estimate(local)[1:]]
        return [F.normalize(head(moment)) for head, moment in zip(self.heads, moments, strict=False)]

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.embeddings(maps)
        labels = whole_labels("labels", labels, len(maps))
        return sum(self.loss(rows, labels) for rows in embeddings)

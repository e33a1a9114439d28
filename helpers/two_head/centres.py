"""Losses with a centre for each class: they gather a class in one place."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.utils import common_functions as pml
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.two_head.ranking import OnDeviceLoss


class _Centres(OnDeviceLoss):
    def __init__(self, num_classes: int, embedding_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("num_classes", num_classes), ("embedding_dim", embedding_dim)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.num_classes, self.embedding_dim = num_classes, embedding_dim

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        pml.indices_tuple_not_supported(indices_tuple)
        pml.ref_not_supported(embeddings, labels, ref_emb, ref_labels)
        if embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"embeddings have {embeddings.shape[1]} dimensions, the centres {self.embedding_dim}; give "
                "the loss the embedding_dim of the network"
            )
        try:  # the look-up refuses an unknown label on a CPU, and no device has to wait for it
            labels = torch.arange(self.num_classes, device=labels.device).index_select(0, labels)
        except IndexError as error:
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}; expected 0 to {self.num_classes - 1}: "
                "give the loss num_classes of the whole dataset"
            ) from error
        terms = self.terms(embeddings, labels)
        return self.reduced(terms, torch.ones_like(terms, dtype=torch.bool))

    def terms(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B,)"""
        raise NotImplementedError


class CentreLoss(_Centres):
    """Half the squared distance to the centre of one's class (equation 2; Wen et al. 2016).

    Equation 2 is the sum over the batch; with PML's default it is the mean, pass ``reducer=SumReducer()`` for
    the sum. Centres are a buffer that follows the embeddings: in training mode each call moves the centre of
    class j by ``-alpha * sum (c_j - x_i) / (1 + n_j)`` over the n_j images of the class, after the loss. (The
    released code never attaches this update, so its centres stay where they began.)

    Args:
        alpha: speed of the centres, 0.5 in the paper, whose weight for this loss is 0.003.
    """

    def __init__(self, num_classes: int, embedding_dim: int, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(num_classes, embedding_dim, **kwargs)
        self.alpha = alpha
        self.register_buffer("centres", torch.zeros(num_classes, embedding_dim))

    def terms(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        points = self.distance.maybe_normalize(embeddings)
        away = points - self.centres[labels].to(points)
        if self.training:
            self._follow(away.detach().to(self.centres), labels)
        return away.square().sum(1) / 2

    @torch.no_grad()
    def _follow(self, away: Tensor, labels: Tensor) -> None:
        sums = torch.zeros_like(self.centres).index_add_(0, labels, away)
        counts = torch.zeros_like(self.centres[:, 0]).index_add_(0, labels, torch.ones_like(away[:, 0]))
        # not in place: the backward pass of a compiled loss may gather the centres once more
        self.centres = self.centres + self.alpha * sums / (1 + counts)[:, None]


class TripletCentreLoss(_Centres):
    """``[D(x, c_own) - min over other classes D(x, c_j) + margin]_+`` (equation 4; He et al. 2018).

    The centres are parameters of the loss: give them to the optimiser too. D as for `SemiHardTripletLoss`.

    Raises ValueError for fewer than two classes.
    """

    def __init__(self, num_classes: int, embedding_dim: int, margin: float = 0.2, **kwargs: Any) -> None:
        super().__init__(num_classes, embedding_dim, **kwargs)
        if num_classes < 2:
            raise ValueError("num_classes is 1; expected at least 2, so that there is another centre")
        self.margin = margin
        self.centres = nn.Parameter(torch.randn(num_classes, embedding_dim) / embedding_dim**0.5)

    def terms(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distances = self.signed_distances(embeddings, self.centres.to(embeddings))
        own = labels[:, None] == torch.arange(self.num_classes, device=labels.device)
        other = torch.where(own, torch.inf, distances).amin(1)
        return F.relu(distances.gather(1, labels[:, None])[:, 0] - other + self.margin)

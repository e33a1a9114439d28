"""Ranking losses of the two-head architecture: a few operations on B x B matrices.

Source: the two-head paper (equations 5 and 7) and its released code. No loop, no list of triplets, and no
value that the host must wait for.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.two_head.ranking import OnDeviceLoss, pairs


class SemiHardTripletLoss(OnDeviceLoss):
    """Triplet loss with one semi-hard negative for every positive pair (equations 5 and 7, released code).

    For a pair (a, p) the negative is the nearest one with D(a, n) > D(a, p), strictly; where none is farther,
    the farthest negative, which is the least hard. Mean of ``[D(a, p) - D(a, n) + margin]_+`` over all
    positive pairs whose anchor has a negative, zeros included. D is squared Euclidean between unit vectors
    unless `distance` says otherwise. PML's semi-hard miner instead keeps all semi-hard triplets.

    Sorting the negatives of each anchor once and searching them: time O(B**2 log B), memory O(B**2).

    Args:
        margin: 0.2 in the paper.
        kwargs: PML's `distance`, `reducer`, `embedding_regularizer` ...; only pairs a miner passes count.
    """

    reduction_type = "pos_pair"

    def __init__(self, margin: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.margin = margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        distances = self.signed_distances(embeddings, ref_emb)
        same, differ = pairs(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        with torch.no_grad():
            ordered, order = torch.where(differ, distances, torch.inf).sort(dim=1)
            farther = torch.searchsorted(ordered, distances.contiguous(), right=True)
            last = (differ.sum(1, keepdim=True) - 1).clamp(min=0)
            negative = order.gather(1, torch.minimum(farther, last))
        terms = F.relu(distances - distances.gather(1, negative) + self.margin)
        return self.reduced(terms, same & differ.any(1, keepdim=True))


class BatchHardTripletLoss(OnDeviceLoss):
    """Triplet loss of each anchor's farthest positive and nearest negative (Hermans et al. 2017).

    Mean over the anchors that have both. The paper uses the soft margin ``ln(1 + exp(D_ap - D_an))``.

    Args:
        margin: of the hinge ``[D_ap - D_an + margin]_+``, or "soft".
        kwargs: as for `SemiHardTripletLoss`.
    """

    def __init__(self, margin: float | Literal["soft"] = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(margin, str) and margin != "soft":
            raise ValueError(f"margin is {margin!r}; expected a number or 'soft'")
        self.margin = margin

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        distances = self.signed_distances(embeddings, ref_emb)
        same, differ = pairs(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        counts = same.any(1) & differ.any(1)
        farthest = torch.where(same, distances, -torch.inf).amax(1)
        nearest = torch.where(differ, distances, torch.inf).amin(1)
        gap = torch.where(counts, farthest - nearest, 0 * distances[:, 0])
        return self.reduced(F.softplus(gap) if self.margin == "soft" else F.relu(gap + self.margin), counts)

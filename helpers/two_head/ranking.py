"""What ranking losses share: checks, distances, pairs, and terms reduced where they are."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import MeanReducer, MultipleReducers
from torch import Tensor

from helpers.training.modes import without_autocast


class OnDeviceLoss(BaseMetricLossFunction):
    """A PML loss whose terms lie in a dense tensor under a mask of the same shape.

    With PML's default, the mean, they are reduced where they are. Any other reducer gets the list of terms it
    expects, which waits for the device. float16 and bfloat16 are computed and returned in float32, also under
    autocast.
    """

    reduction_type = "element"

    def get_default_distance(self) -> LpDistance:
        return LpDistance(power=2)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """The loss of embeddings (B, D); labels may be missing where a miner gives the pairs."""
        if indices_tuple is None or labels is not None:
            labels = class_labels(labels, embeddings)
        if ref_emb is embeddings:
            ref_emb = ref_labels = None
        if ref_emb is not None:
            ref_emb = at_least_single(ref_emb)
            if indices_tuple is None or ref_labels is not None:
                ref_labels = class_labels(ref_labels, ref_emb)
        embeddings = at_least_single(embeddings)
        with without_autocast(embeddings.device):
            return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def reduced(self, terms: Tensor, counts: Tensor) -> dict[str, Any]:
        reducer = self.reducer
        if isinstance(reducer, MultipleReducers):  # what PML makes of a reducer and a regularizer
            reducer = dict(reducer.reducers.items()).get("loss", reducer.default_reducer)
        if type(reducer) is MeanReducer:
            # not 0.0, which would hide a NaN in a batch without terms
            mean = torch.where(counts, terms, 0 * terms).sum() / counts.sum().clamp(min=1)
            return {"loss": {"losses": mean, "indices": None, "reduction_type": "already_reduced"}}
        places = counts.nonzero(as_tuple=True)
        if len(places[0]) == 0:
            return self.zero_losses()
        indices = places if len(places) > 1 else places[0]
        return {"loss": {"losses": terms[places], "indices": indices, "reduction_type": self.reduction_type}}

    def signed_distances(self, embeddings: Tensor, ref_emb: Tensor) -> Tensor:
        """(B, R), smaller is nearer also for similarities."""
        distances = self.distance(embeddings, ref_emb)
        distances = -distances if self.distance.is_inverted else distances
        # a NaN makes all of them NaN: else the choice of a neighbour could pass over it
        return distances + 0 * distances.detach().sum()


def class_labels(labels: Tensor | None, embeddings: Tensor) -> Tensor:
    """Labels (B,) as int64 for embeddings (B, D) or logits. Raises ValueError or TypeError for others."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"embeddings or logits have shape {tuple(embeddings.shape)}; expected (B, D), neither of them 0: "
            "leave out an empty batch"
        )
    if not isinstance(labels, Tensor) or labels.shape != embeddings.shape[:1]:
        found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels are {found}; expected a tensor of shape ({len(embeddings)},), one per row")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels are {labels.dtype}; expected whole numbers: convert them with .long()")
    return labels.long()


def at_least_single(embeddings: Tensor) -> Tensor:
    """float16 and bfloat16 as float32. Raises TypeError for what is not floating point."""
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings are {embeddings.dtype}; expected floats: convert them with .float()")
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def pairs(
    embeddings: Tensor,
    labels: Tensor | None,
    indices_tuple: Any,
    ref_emb: Tensor,
    ref_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Masks (B, R) of positive and negative pairs: all of the batch, or those that a miner has kept."""
    if indices_tuple is not None:
        anchors, positives, others, negatives = (
            indices_tuple
            if len(indices_tuple) == 4
            else (*indices_tuple[:2], indices_tuple[0], indices_tuple[2])
        )
        same = torch.zeros(len(embeddings), len(ref_emb), dtype=torch.bool, device=embeddings.device)
        differ = same.clone()
        same[anchors, positives] = True
        differ[others, negatives] = True
        return same, differ
    same = labels[:, None] == ref_labels
    differ = ~same
    if ref_emb is embeddings:
        same = same & ~torch.eye(len(labels), dtype=torch.bool, device=embeddings.device)
    return same, differ

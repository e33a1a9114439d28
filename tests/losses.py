"""Every loss by name, as a function of embeddings (B, D) and labels (B,), on the device of the embeddings."""

from __future__ import annotations

import torch
from networks import seeded
from pytorch_metric_learning.distances import CosineSimilarity

from helpers.svmax import SVMaxRegularizer, mean_singular_value, spread_out_loss, svmax_loss
from helpers.two_head import (
    BatchHardTripletLoss,
    CentreLoss,
    SemiHardTripletLoss,
    TripletCentreLoss,
    TwoHeadLoss,
    TwoHeadOutput,
)

B, D, CLASSES = 300, 64, 30


def batch(dtype=torch.float32):
    """Embeddings (B, D) around one direction and classes (B,); half precision rounds, and no more."""
    rows = torch.randn(B, D, generator=seeded(0)) + 1.5 * torch.randn(D, generator=seeded(1))
    return rows.half().bfloat16().to(dtype), torch.arange(B) % CLASSES


def two_heads(embeddings, labels, **options):
    output = TwoHeadOutput(embeddings[:, :CLASSES], embeddings, embeddings, (embeddings[:, -CLASSES:],))
    return TwoHeadLoss(SemiHardTripletLoss(), 0.5, **options)(output, labels)


def centred(kind, embeddings, labels):
    loss = kind(CLASSES, D)
    numbers = torch.arange(CLASSES * D, device=embeddings.device, dtype=torch.float32)
    loss.centres.data = numbers.reshape(CLASSES, D).sin()  # made on the device: a copy would wait for it
    return loss(embeddings, labels)


LOSSES = {
    "mean singular value": lambda e, y: mean_singular_value(e),
    "by svd": lambda e, y: mean_singular_value(e, "svd"),
    "by polar": lambda e, y: mean_singular_value(e, "polar"),
    "svmax": lambda e, y: svmax_loss(e),
    "svmax, raw": lambda e, y: svmax_loss(e, form="raw"),
    "regulariser": lambda e, y: SVMaxRegularizer()(e),
    "spread out": spread_out_loss,
    "semi-hard": lambda e, y: SemiHardTripletLoss()(e, y),
    "semi-hard, cosine": lambda e, y: SemiHardTripletLoss(distance=CosineSimilarity())(e, y),
    "batch-hard": lambda e, y: BatchHardTripletLoss()(e, y),
    "batch-hard, soft": lambda e, y: BatchHardTripletLoss("soft")(e, y),
    "centre": lambda e, y: centred(CentreLoss, e, y),
    "triplet centre": lambda e, y: centred(TripletCentreLoss, e, y),
    "two heads": two_heads,
}

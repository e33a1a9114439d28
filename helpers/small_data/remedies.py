"""Losses against learning few images by heart: a cosine softmax that scales itself, and self-distillation.

Sources: X. Zhang et al., AdaCos, CVPR 2019; S. Yun et al., Regularizing Class-wise Predictions via
Self-knowledge Distillation (CS-KD), CVPR 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cosines(nn.Linear):
    """The last layer of AdaCos: cosines (B, C) between features (B, D) and the vectors of the classes.

    It takes the weight (C, D) of a linear layer, itself and not a copy, and leaves its bias.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight = layer.weight

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features), F.normalize(self.weight))


class AdaCosLoss(nn.Module):
    """Cross-entropy of scaled cosines (B, C); the scale follows the median angle of the right class (eq. 15).

    Attributes:
        scale: 0-dim; starts at sqrt(2) log(C - 1) (eq. 10), and for two classes at sqrt(2) log 2.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(math.sqrt(2) * math.log(max(num_classes - 1, 2))))

    def forward(self, cosines: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            right = F.one_hot(labels, cosines.shape[1]).bool()
            rest = (self.scale * cosines).exp().masked_fill(right, 0).sum(1).mean()
            angle = cosines[right].clamp(-1, 1).acos().median().clamp(max=math.pi / 4)
            self.scale.copy_((rest.log() / angle.cos()).clamp(min=1))
        return F.cross_entropy(self.scale * cosines, labels)


class SelfDistillationLoss(nn.Module):
    """CS-KD: cross-entropy of one image, whose softened answer follows that for another of its class (eq. 3).

    Expects batches of pairs: rows 2i and 2i + 1 of the logits (B, C) belong to one class. The second of a
    pair is the teacher, and gets no gradient.
    """

    def __init__(self, temperature: float = 4.0, weight: float = 3.0) -> None:
        super().__init__()
        self.temperature, self.weight = temperature, weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if len(labels) % 2 or (labels[::2] != labels[1::2]).any():
            raise ValueError("expected pairs: rows 2i and 2i + 1 of one class (pk_loader with two images)")
        student, teacher = (rows / self.temperature for rows in (logits[::2], logits[1::2].detach()))
        agree = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
        return F.cross_entropy(logits[::2], labels[::2]) + self.weight * self.temperature**2 * agree

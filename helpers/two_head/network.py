"""The two-head architecture: one network for classification and retrieval, and its ranking losses.

Source: Ahmed Taha, Yi-Ting Chen, Teruhisa Misu, Abhinav Shrivastava, Larry Davis. Boosting Standard
Classification Architectures Through a Ranking Regularizer, WACV 2020; chapter 5 of the thesis. A classifier
gets a second head, an embedding of unit length, and the loss is cross-entropy + weight * ranking loss
(equation 6). Sampling and losses are a few operations on B x B matrices: no loop, no list of triplets, and
no value that the host must wait for.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tracing import original
from helpers.training.modes import evaluating, without_autocast
from helpers.two_head.ranking import at_least_single, class_labels
from helpers.two_head.trunk import Parts, resize_classifier, split

AUX_WEIGHT = 0.4
"""Of the cross-entropy of each auxiliary classifier, as for Inception v3."""


class TwoHeadOutput(NamedTuple):
    """What both heads give.

    Attributes:
        logits: (B, classes).
        embedding: (B, D) of length 1.
        penultimate: (B, features), what the last linear layer of the classifier reads.
        aux_logits: in training, the logits of auxiliary classifiers.
    """

    logits: Tensor
    embedding: Tensor
    penultimate: Tensor
    aux_logits: tuple[Tensor, ...] = ()


class TwoHead(nn.Module):
    """A classifier with a second head: ``TwoHead(resnet50(), num_classes)(images)`` is a `TwoHeadOutput`.

    The embedding head is one linear layer on the last map of features, un-pooled and flattened (equation 9),
    so it has C * H * W * D weights and is bound to one image size; ``pooled=True`` averages the map first
    and has C * D, for any size. ``logits(images)`` and ``embedding(images)`` run one head alone.

    Args:
        backbone: a classifier of the kind of torchvision's and timm's: one map of features, pooling, and
            layers that end in an nn.Linear. It becomes part of this network, as `backbone`; the last linear
            layer, and those of auxiliary classifiers, are replaced where they do not give `num_classes`.
        num_classes: number of logits.
        embedding_dim: D, 256 in the paper.
        image_size: side of the images, or (height, width).

    Raises ValueError for a backbone of another form, or for images too small for it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        embedding_dim: int = 256,
        *,
        image_size: int | tuple[int, int] = 224,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least in (("num_classes", num_classes, 2), ("embedding_dim", embedding_dim, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number from {least} up")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        whole = isinstance(size, list | tuple) and [type(side) for side in size] == [int, int]
        if not whole or min(size) < 1:
            raise ValueError(f"image_size is {image_size!r}; expected a side or (height, width) in pixels")
        backbone = original(backbone)
        self._parts = split(backbone)
        self.backbone = backbone
        self.map_shape = self._shape_of_map(tuple(size))
        resize_classifier(backbone, self._parts, num_classes)
        channels, height, width = self.map_shape
        weight = next(backbone.parameters())
        self.embedding_head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity(),
            nn.Flatten(),
            nn.Linear(channels if pooled else channels * height * width, embedding_dim),
        ).to(weight.device, weight.dtype)
        self.pooled = pooled

    @torch.no_grad()
    def _shape_of_map(self, size: tuple[int, ...]) -> tuple[int, int, int]:
        first = next((m for m in self.backbone.modules() if isinstance(m, nn.Conv2d)), None)
        if first is None:
            raise ValueError(f"{type(self.backbone).__name__} has no convolution")
        images = torch.zeros(1, first.in_channels, *size).to(first.weight)
        try:
            with evaluating(self.backbone):
                features = self._parts[False].trunk(self.backbone, images)[0]
        except RuntimeError as error:
            raise ValueError(
                f"images of {size} do not pass {type(self.backbone).__name__} ({error}); choose another size"
            ) from error
        if features.ndim != 4:
            raise ValueError(
                f"the features before the pooling are {tuple(features.shape)}; expected (B, C, H, W)"
            )
        return tuple(features.shape[1:])

    def _embed(self, features: Tensor) -> Tensor:
        if not self.pooled and features.shape[2:] != self.map_shape[1:]:  # channels may have been cut
            raise ValueError(
                f"the map of features is {tuple(features.shape[1:])}, but the embedding head was made for "
                f"{self.map_shape}: pass images of one size, or build with image_size= or pooled=True"
            )
        return F.normalize(self.embedding_head(features))

    def forward(self, images: Tensor) -> TwoHeadOutput:
        """Both heads of images (B, C, H, W)."""
        features, *aux = self._now.trunk_and_aux(self.backbone, images)
        logits, penultimate = self._now.logits(self.backbone, features)
        return TwoHeadOutput(logits, self._embed(features), penultimate.flatten(1), tuple(aux))

    def logits(self, images: Tensor) -> Tensor:
        """(B, classes); the embedding head does not run."""
        return self._now.logits(self.backbone, self._features(images))[0]

    def embedding(self, images: Tensor) -> Tensor:
        """(B, D) of length 1; pooling and classifier do not run."""
        return self._embed(self._features(images))

    def penultimate(self, images: Tensor) -> Tensor:
        """What the last linear layer of the classifier reads, (B, features): the usual rival embedding."""
        return self._now.penultimate(self.backbone, self._features(images))[0].flatten(1)

    def _features(self, images: Tensor) -> Tensor:
        return self._now.trunk(self.backbone, images)[0]

    @property
    def _now(self) -> Parts:
        """The parts of the backbone in its present mode."""
        return self._parts[self.backbone.training]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_parts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._parts = split(self.backbone)


class TwoHeadLoss(nn.Module):
    """Cross-entropy + weight * ranking loss (equation 6): ``loss(output, labels)`` for a `TwoHeadOutput`.

    Args:
        ranking: a loss of this room or of PML on (embedding, labels); None trains the classifier alone.
        weight: lambda, 1 in the paper (0.003 with centre loss, which is a sum there).
        on: what the ranking loss reads: the "embedding", or the "penultimate" features of the classifier, as
            a centre loss needs them, since nothing else keeps the classes of the embedding apart.

    The logits of auxiliary classifiers count with `AUX_WEIGHT`. float16 and bfloat16 are computed and
    returned in float32, also under autocast.
    """

    def __init__(
        self,
        ranking: nn.Module | None = None,
        weight: float = 1.0,
        *,
        on: Literal["embedding", "penultimate"] = "embedding",
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight is {weight!r}; expected 0 or more")
        if on not in ("embedding", "penultimate"):
            raise ValueError(f"on is {on!r}; expected 'embedding' or 'penultimate'")
        self.ranking, self.weight, self.on = ranking, weight, on

    def forward(self, output: TwoHeadOutput, labels: Tensor) -> Tensor:
        labels = class_labels(labels, output.logits)
        with without_autocast(output.logits.device):
            loss = F.cross_entropy(at_least_single(output.logits), labels)
            for logits in output.aux_logits:
                loss = loss + AUX_WEIGHT * F.cross_entropy(at_least_single(logits), labels)
            if self.ranking is None:
                return loss
            return loss + self.weight * self.ranking(at_least_single(getattr(output, self.on)), labels)

"""Group Loss: class probabilities spread over the similarities of a batch before cross-entropy sees them.

Source: I. Elezi, S. Vascon, A. Torcinovich, M. Pelillo, L. Leal-Taixé. The Group Loss for Deep Metric
Learning, ECCV 2020. Each image starts from its softmax probabilities, some *anchors* from their label, and
replicator dynamics lets similar images agree::

    X[i, c]  <-  X[i, c] (W X)[i, c]  /  sum over k of X[i, k] (W X)[i, k]

Deviations of the released code (dvl-tum/group_loss): its mean runs over all rows, anchors included, although
these add nothing, so its loss is ours times (B - anchors) / B; it adds the plain cross-entropy of the logits
with weight 1; it takes 1 step by default, where the paper speaks of a few; a comment says that the graph's
diagonal is zero, but it is 1, as here; a row without similarity to any gives NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import common_functions as pml
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.reading_list.checks import at_least_single, floats, whole_labels, whole_number
from helpers.training.modes import without_autocast


def correlation_graph(features: Tensor) -> Tensor:
    """Similarities (B, B) of features (B, D): Pearson correlations, negative ones set to 0, diagonal kept.

    The diagonal is 1. A row of equal numbers correlates with nothing, itself included: its row is 0, and so
    is its gradient. float16 and bfloat16 are computed and returned in float32. Raises TypeError for what is
    not floating point, ValueError for another shape or for D = 1, where nothing can correlate.
    """
    floats("features", features, "(B, D)")
    if features.shape[1] == 1:
        raise ValueError("features have 1 column; expected 2 or more, since a correlation runs over them")
    features = at_least_single(features)
    with without_autocast(features.device):
        unit = F.normalize(features - features.mean(1, keepdim=True))
        return (unit @ unit.T).relu()


def replicator_dynamics(similarity: Tensor, priors: Tensor, iterations: int) -> Tensor:
    """Probabilities (B, C) after so many steps from `priors`; rows stay on the simplex.

    A row of `priors` that is one-hot stays so, and a class with probability 0 never comes back. A row whose
    neighbours give no support to any class it still holds keeps what it has. 0 steps return the priors.

    Args:
        similarity: (B, B), not negative, dense or sparse. Rows need not be symmetric or sum to 1.
        priors: (B, C), not negative, rows of sum 1.

    Raises:
        TypeError: what is not floating point, or `iterations` that is not an int.
        ValueError: shapes that do not fit; fewer than 0 iterations; on a CPU (a check on CUDA would stall the
            stream) negative or non-finite numbers, and priors whose rows do not sum to 1.
    """
    whole_number("iterations", iterations, 0)
    floats("priors", priors, "(B, C)")
    floats("similarity", similarity, "(B, B)")
    if similarity.shape != (len(priors), len(priors)):
        raise ValueError(
            f"similarity has shape {tuple(similarity.shape)}; expected ({len(priors)}, {len(priors)}), a row "
            "and a column for each row of priors"
        )
    _check_values(similarity, priors)
    with without_autocast(priors.device):
        for _ in range(iterations):
            raised = priors * (similarity @ priors)
            total = raised.sum(1, keepdim=True)
            supported = total > 0
            priors = torch.where(supported, raised / torch.where(supported, total, 1), priors)
    return priors


class GroupLoss(BaseMetricLossFunction):
    """Cross-entropy of probabilities that the batch has agreed on, as a loss of `pytorch_metric_learning`.

    The classifier is the loss's own, as in the library's ``NormalizedSoftmaxLoss``: give its parameters to
    the optimiser. In every batch `anchors` images of each class, drawn anew, start from their label and count
    no further; the mean runs over the others. With 0 iterations it is their softmax cross-entropy.

    Args:
        num_classes: C, of the whole training set.
        embedding_size: D of the embeddings (B, D), from which both the graph and the logits are computed.
        anchors: images of each class that start from their label. The released code takes 2 of 9 on CUB; a
            class needs more images in a batch than this.
        iterations: steps of replicator dynamics.
        temperature: divides the logits before the softmax; the released settings are 24 to 79.
        kwargs: as of any loss of the library. The mean is taken here, so a reducer gets one value.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        anchors: int = 2,
        iterations: int = 1,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = whole_number("num_classes", num_classes, 2)
        self.anchors = whole_number("anchors", anchors, 0)
        self.iterations = whole_number("iterations", iterations, 0)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a number above 0")
        self.temperature = temperature
        self.classifier = nn.Linear(whole_number("embedding_size", embedding_size, 2), num_classes)

    def forward(self, embeddings: Tensor, labels: Tensor, *more: Any, **named: Any) -> Any:
        """The loss of embeddings (B, D) and labels (B,). Raises TypeError or ValueError for others."""
        return super().forward(embeddings, self._checked(embeddings, labels), *more, **named)

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        pml.indices_tuple_not_supported(indices_tuple)
        pml.ref_not_supported(embeddings, labels, ref_emb, ref_labels)
        embeddings = at_least_single(embeddings)
        with without_autocast(embeddings.device):
            logits = F.linear(
                embeddings, self.classifier.weight.to(embeddings), self.classifier.bias.to(embeddings)
            )
        anchors = random_anchors(labels, self.anchors)
        one_hot = (labels[:, None] == torch.arange(self.num_classes, device=labels.device)).to(logits)
        priors = torch.where(anchors[:, None], one_hot, (logits / self.temperature).softmax(1))
        agreed = replicator_dynamics(correlation_graph(embeddings), priors, self.iterations)
        own = agreed.gather(1, labels[:, None]).squeeze(1)
        terms = -own.clamp_min(torch.finfo(own.dtype).tiny).log()
        mean = torch.where(anchors, 0, terms).sum() / (~anchors).sum().clamp(min=1)
        return {"loss": {"losses": mean, "indices": None, "reduction_type": "already_reduced"}}

    def _checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        floats("embeddings", embeddings, "(B, D)")
        if embeddings.shape[1] != self.classifier.in_features:
            raise ValueError(
                f"embeddings have {embeddings.shape[1]} columns; expected {self.classifier.in_features}: "
                "give the loss the embedding_size of the network"
            )
        labels = whole_labels("labels", labels, len(embeddings))
        if labels.device.type == "cpu":  # a look at an accelerator would stall its stream
            if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise ValueError(
                    f"labels run from {labels.min()} to {labels.max()}; expected 0 to "
                    f"{self.num_classes - 1}: give the loss num_classes of the whole set"
                )
            if int(labels.bincount().max()) <= self.anchors:
                raise ValueError(
                    f"no class has more than {self.anchors} images in this batch, so all would be anchors; "
                    "draw more images of each class, or take fewer anchors"
                )
        return labels


def random_anchors(labels: Tensor, count: int) -> Tensor:
    """Mask (B,) of `count` random images of each class of labels (B,), or of all where there are fewer."""
    draw = torch.rand(len(labels), device=labels.device)
    earlier = (labels[:, None] == labels) & (draw[None, :] < draw[:, None])
    return earlier.sum(1) < count


def _check_values(similarity: Tensor, priors: Tensor) -> None:
    if priors.device.type != "cpu":
        return
    held = similarity.detach()
    if held.layout != torch.strided:
        held = held.to_sparse_coo().coalesce().values()
    for name, values in (("similarity", held), ("priors", priors.detach())):
        if not bool(values.isfinite().all()) or bool((values < 0).any()):
            raise ValueError(
                f"{name} holds negative or non-finite numbers; expected 0 or more: take the positive part, "
                "as correlation_graph does"
            )
    off = float((priors.detach().sum(1) - 1).abs().max())
    if off > 1e-3:
        raise ValueError(f"rows of priors miss the sum 1 by {off:.3g}; expected probabilities: use softmax")

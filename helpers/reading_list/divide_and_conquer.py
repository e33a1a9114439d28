"""Divide and conquer: clusters of the data, slices of the embedding, one slice for each cluster.

Source: A. Sanakoyeu, V. Tschernezki, U. Büchler, B. Ommer. Divide and Conquer the Embedding Space for Metric
Learning, CVPR 2019. Every few epochs k-means splits the training set into K clusters. A batch comes from one
cluster, and only that cluster's *learner*, a slice of D / K columns, is trained on it. At the end all slices
are trained together. New clusters are matched to the old ones, so that a learner keeps its data.

Deviations of the released code (CompVis/metric-learning-divide-and-conquer): its matching applies the inverse
of the permutation that it has found (rows are the new clusters, but it reads them as the old), so that only
swaps come out right; negatives are the K nearest beyond a distance of 0.5, not weighted by distance; the
boundary of the margin loss never reaches the optimiser; k-means reads the penultimate features; the full
embedding is trained long before the phase that is named so.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.reading_list.checks import floats, whole_labels, whole_number


def match_clusters(old: Tensor, new: Tensor) -> Tensor:
    """The new clusters (N,) renamed so that as many items as can be keep their old number.

    The Hungarian method on how many items each pair of clusters shares. The paper's cost, the L1 distance of
    membership vectors, is ``size + size - 2 * shared``; summed over a matching the sizes do not matter, so
    both choose the same. Numbers are 0 to K - 1, with K the larger number of clusters of the two.

    Raises TypeError for what are not whole numbers, ValueError for different lengths, no item at all, or a
    number below 0.
    """
    old = whole_labels("old clusters", old, len(old))
    new = whole_labels("new clusters", new, len(old))
    if len(old) == 0 or int(min(old.min(), new.min())) < 0:
        raise ValueError("clusters are empty or hold a number below 0; expected one from 0 up for each item")
    count = int(max(old.max(), new.max())) + 1
    shared = torch.bincount(new * count + old, minlength=count * count).reshape(count, count)
    now, before = linear_sum_assignment(shared.cpu().numpy(), maximize=True)  # rows new, columns old
    renamed = torch.empty(count, dtype=torch.long, device=new.device)
    renamed[torch.from_numpy(now).to(new.device)] = torch.from_numpy(before).to(new.device)
    return renamed[new]


class DivideAndConquer(nn.Module):
    """Trains one slice of an embedding at a time: ``loss(embeddings, labels, learner)``.

    Learner k sees columns ``k * D / K`` to ``(k + 1) * D / K``, scaled to length 1; outside of them the
    gradient is exactly 0. Without a learner the whole embedding is trained, as in the last phase.

    Args:
        loss: called as ``loss(embeddings, labels)``; the paper takes the margin loss, PML's ``MarginLoss``.
        embedding_size: D, a multiple of `learners`.
        learners: K; 8 for D = 128 in the paper. With 1 nothing is divided.

    Raises TypeError and ValueError for other embeddings, labels and learners.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], embedding_size: int, learners: int) -> None:
        super().__init__()
        self.loss, self.learners = loss, whole_number("learners", learners, 1)
        if whole_number("embedding_size", embedding_size, 1) % learners:
            raise ValueError(
                f"embedding_size is {embedding_size}; expected a multiple of learners={learners}"
            )
        self.embedding_size = embedding_size
        self.clusters: Tensor | None = None

    def divide(self, features: Tensor, seed: int = 0) -> Tensor:
        """Clusters (N,) of features (N, any size) by k-means on rows of length 1, matched to the last ones.

        Keeps them in `clusters`. Runs on the CPU, once every few epochs. Raises ValueError for fewer rows
        than learners, or another number of rows than before.
        """
        rows = F.normalize(floats("features", features, "(N, D)").detach()).cpu()
        if len(rows) < self.learners:
            raise ValueError(
                f"features have {len(rows)} rows; expected {self.learners}, the learners, or more"
            )
        if self.clusters is not None and len(self.clusters) != len(rows):
            raise ValueError(
                f"features have {len(rows)} rows; expected the {len(self.clusters)} items that were divided "
                "before: make a new DivideAndConquer for another set"
            )
        found = KMeans(self.learners, n_init=5, random_state=seed).fit_predict(rows.float().numpy())
        new = torch.from_numpy(found).long()
        self.clusters = new if self.clusters is None else match_clusters(self.clusters, new)
        return self.clusters

    def embed(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, D) of length 1 in which every slice has the same weight; for retrieval."""
        slices = self._checked(embeddings).unflatten(1, (self.learners, -1))
        return F.normalize(slices, dim=2).flatten(1) / math.sqrt(self.learners)

    def forward(self, embeddings: Tensor, labels: Tensor, learner: int | None = None) -> Tensor:
        self._checked(embeddings)
        labels = whole_labels("labels", labels, len(embeddings))
        if learner is None:
            return self.loss(self.embed(embeddings), labels)
        if whole_number("learner", learner, 0) >= self.learners:
            raise ValueError(f"learner is {learner}; expected 0 to {self.learners - 1}, or None for all")
        width = self.embedding_size // self.learners
        return self.loss(F.normalize(embeddings[:, learner * width : (learner + 1) * width]), labels)

    def _checked(self, embeddings: Tensor) -> Tensor:
        if floats("embeddings", embeddings, "(B, D)").shape[1] != self.embedding_size:
            raise ValueError(
                f"embeddings have {embeddings.shape[1]} columns; expected {self.embedding_size}, the "
                "embedding_size given before"
            )
        return embeddings

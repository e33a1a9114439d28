"""Retrieval metrics: exact neighbours in chunks, scored with the definitions of PML's `AccuracyCalculator`.

Distances are computed where the embeddings are (CPU or CUDA), one block of (chunk, gallery) at a time, so a
gallery is limited by the N x D embeddings it needs and not by N x N distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.cluster import KMeans
from torch import Tensor

METRICS = ("recall", "r_precision", "map@r", "nmi")
_PAIRS_PER_CHUNK = 2**21
_LOW_32_BITS = 2**32 - 1


@torch.no_grad()
def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    include: Sequence[str] = ("recall", "r_precision", "map@r"),
    normalize: bool = True,
    seed: int = 0,
    chunk: int | None = None,
) -> dict[str, float]:
    """Score how well embeddings retrieve items of their own class; every value is a share in [0, 1].

    With R the gallery items of the query's class and P(i) the precision among the first i neighbours:

    * ``recall@K``: share of queries with at least one item of their class among the first K neighbours
      (K beyond the gallery means the whole gallery);
    * ``r_precision``: hits among the first R neighbours, divided by R;
    * ``map@r``: (1/R) times the sum of P(i) over the hits i <= R ("A Metric Learning Reality Check", 2020);
    * ``nmi``: normalised mutual information between the labels and a k-means clustering of the queries with
      as many clusters as classes (one seeded k-means++ start). Slow, so only on request.

    The first three are means over the queries that have a mate (R > 0); a query without one is skipped.

    Args:
        embeddings: float (N, D), the queries. Computed in float32.
        labels: integer (N,).
        reference, reference_labels: the gallery, float (M, D) and integer (M,). Left out, the queries are the
            gallery, and no query finds itself, even among items with the very same embedding.
        ks: the K of recall@K.
        include: which of "recall", "r_precision", "map@r", "nmi".
        normalize: divide every embedding by its L2 norm first, which ranks by cosine, not Euclidean distance.
        seed: of the k-means behind "nmi".
        chunk: queries per block of distances; the result does not depend on it.

    Raises:
        TypeError: embeddings that are not floating point, or labels that are not integers.
        ValueError: empty, wrongly shaped, mismatched or non-finite input, an unknown metric, a K below 1, or
            no query with a mate.
    """
    embeddings, labels = _checked(embeddings, labels, "embeddings")
    if (reference is None) != (reference_labels is None):
        raise ValueError(
            "reference and reference_labels go together: give both, or neither to search the queries"
        )
    own_gallery = reference is None
    if own_gallery:
        reference, reference_labels = embeddings, labels
    else:
        reference, reference_labels = _checked(reference, reference_labels, "reference")
        reference = reference.to(embeddings.device)
    unknown = sorted(set(include) - set(METRICS))
    if unknown or not include:
        raise ValueError(f"include has {unknown or 'nothing'}; expected some of {', '.join(METRICS)}")
    if "recall" in include and (
        not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks)
    ):
        raise ValueError(f"ks is {tuple(ks)}; expected whole numbers from 1 up, such as (1, 2, 4, 8)")
    if normalize:
        embeddings, reference = F.normalize(embeddings), F.normalize(reference)

    ranking = [name for name in include if name != "nmi"]
    result = {}
    if ranking:
        result |= _ranking_metrics(
            embeddings, labels, reference, reference_labels, own_gallery, ks, ranking, chunk
        )
    if "nmi" in include:
        result["nmi"] = float(_calculator(seed).get_accuracy(embeddings, labels, include=("NMI",))["NMI"])
    return result


@torch.no_grad()
def nearest_neighbours(
    embeddings: Tensor,
    k: int,
    reference: Tensor | None = None,
    *,
    normalize: bool = True,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery items of every query, nearest first; equal distances go by gallery index.

    Args:
        embeddings: float (N, D), the queries.
        k: neighbours per query, 1 to the size of the gallery (less the query itself without `reference`).
        reference: float (M, D), the gallery. Left out, the queries are the gallery and no query finds itself.
        normalize: divide every embedding by its L2 norm first. Cosine similarity is then 1 - distance**2 / 2.
        chunk: queries per block of distances; the result does not depend on it.

    Returns:
        indices int64 (N, k) and Euclidean distances float32 (N, k), on the device of the embeddings.

    Raises:
        TypeError: embeddings that are not floating point.
        ValueError: empty, wrongly shaped or non-finite input, or a k outside its range.
    """
    embeddings, _ = _checked(embeddings, None, "embeddings")
    own_gallery = reference is None
    reference = embeddings if own_gallery else _checked(reference, None, "reference")[0].to(embeddings.device)
    most = len(reference) - own_gallery
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(f"k is {k}; expected 1 to {most}, the gallery items a query can find here")
    if normalize:
        embeddings, reference = F.normalize(embeddings), F.normalize(reference)
    rows = torch.arange(len(embeddings))
    blocks = list(_neighbour_blocks(embeddings, rows, k, reference, own_gallery, chunk))
    return torch.cat([indices for _, indices, _ in blocks]), torch.cat(
        [distances for _, _, distances in blocks]
    )


def _neighbour_blocks(
    queries: Tensor, rows: Tensor, k: int, reference: Tensor, own_gallery: bool, chunk: int | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (query rows (B,), neighbour indices (B, k), distances (B, k)) block by block.

    Distances are sums of squared differences, not |a|^2 + |b|^2 - 2ab: equal embeddings are at exactly 0,
    near ones lose no digits, and a pair's distance does not depend on its block. The bits of a non-negative
    float sort like an integer, so (distance bits, index) packed into 64 bits sorts by distance, then index.
    """
    if queries.shape[1] != reference.shape[1]:
        raise ValueError(f"embeddings have {queries.shape[1]} dimensions and reference {reference.shape[1]}")
    if chunk is None:
        chunk = max(1, _PAIRS_PER_CHUNK // len(reference))
    elif chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 query per block")
    columns = torch.arange(len(reference), device=queries.device)
    for block in rows.to(queries.device).split(chunk):
        distances = torch.cdist(queries[block], reference, compute_mode="donot_use_mm_for_euclid_dist")
        keys = (distances.view(torch.int32).long() << 32).bitwise_or_(columns)
        if own_gallery:
            keys.scatter_(1, block[:, None], torch.iinfo(torch.int64).max)
        nearest = keys.topk(k, largest=False).values
        yield block, nearest & _LOW_32_BITS, (nearest >> 32).int().view(torch.float32)


def _ranking_metrics(
    embeddings: Tensor,
    labels: Tensor,
    reference: Tensor,
    reference_labels: Tensor,
    own_gallery: bool,
    ks: Sequence[int],
    names: Sequence[str],
    chunk: int | None,
) -> dict[str, float]:
    ids = torch.unique(torch.cat([labels, reference_labels]), return_inverse=True)[1]
    labels, reference_labels = ids[: len(labels)], ids[len(labels) :]
    per_class = torch.bincount(reference_labels, minlength=int(ids.max()) + 1)
    mates = per_class[labels] - int(own_gallery)
    rows = mates.gt(0).nonzero().squeeze(1)
    if len(rows) == 0:
        raise ValueError(
            f"none of the {len(labels)} queries has another item of its class in the gallery, so there is "
            "nothing to retrieve; give at least two items of a class"
        )
    deepest = max([int(mates.max())] + [k for k in ks if "recall" in names])
    deepest = min(deepest, len(reference) - int(own_gallery))
    calculator = _calculator(seed=0)
    scored = {
        "r_precision": calculator.calculate_r_precision,
        "map@r": calculator.calculate_mean_average_precision_at_r,
    }
    keys = [key for name in names for key in ([f"recall@{k}" for k in ks] if name == "recall" else [name])]
    totals = dict.fromkeys(keys, 0.0)
    for block, indices, _ in _neighbour_blocks(embeddings, rows, deepest, reference, own_gallery, chunk):
        found, wanted = reference_labels[indices.cpu()], labels[block.cpu()]
        classes = wanted.unique()
        context = {
            "knn_labels": found,
            "query_labels": wanted,
            "not_lone_query_mask": torch.ones_like(wanted, dtype=torch.bool),
            "ref_includes_query": own_gallery,
            "label_counts": (classes, per_class[classes]),
        }
        hits = found == wanted[:, None]
        for key in totals:
            if key in scored:
                totals[key] += scored[key](**context) * len(block)
            else:
                totals[key] += int(hits[:, : int(key.removeprefix("recall@"))].any(dim=1).sum())
    return {key: total / len(rows) for key, total in totals.items()}


def _calculator(seed: int) -> AccuracyCalculator:
    """PML's calculator without faiss: neighbours come from here, clusters from scikit-learn."""

    def cluster(points: Tensor, clusters: int) -> Tensor:
        found = KMeans(clusters, n_init=1, random_state=seed).fit_predict(points.cpu().numpy())
        return torch.from_numpy(found)

    return AccuracyCalculator(device=torch.device("cpu"), knn_func=nearest_neighbours, kmeans_func=cluster)


def _checked(embeddings: Tensor, labels: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
    """Both as tensors, embeddings in float32; raise for anything that has no meaningful neighbours."""
    embeddings = torch.as_tensor(embeddings).detach()
    if not embeddings.is_floating_point():
        raise TypeError(f"{name} are {embeddings.dtype}; expected floating point, for example {name}.float()")
    if embeddings.ndim != 2 or embeddings.numel() == 0:
        raise ValueError(f"{name} have shape {tuple(embeddings.shape)}; expected (N, D), both at least 1")
    embeddings = embeddings.float()
    bad = int((~embeddings.norm(dim=1).isfinite()).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(embeddings)} {name} have a NaN or infinite norm in float32; expected finite ones"
        )
    if labels is None:
        return embeddings, None
    labels = torch.as_tensor(labels).cpu()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels of {name} are {labels.dtype}; expected integers, for example labels.long()")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels of {name} have shape {tuple(labels.shape)}; expected ({len(embeddings)},), one per item"
        )
    return embeddings, labels.long()

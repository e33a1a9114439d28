"""Embeddings on trial: who finds an image of its own class, among classes that no network has seen?

The same small network and the same batches for every contestant, and the same measure; what differs is the
loss, or what becomes of the last map.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from helpers.data import ImageSet
from helpers.data.open_set import OpenClasses
from helpers.reading_list.divide_and_conquer import DivideAndConquer
from helpers.retrieval import nearest_neighbours
from helpers.training import draw_batches, embed, seed_everything
from helpers.trunks import four_layers

__all__ = ["Head", "divided_batches", "fit_head", "hits", "recall_by_class", "scores"]

ROUNDS = 4
"""Of `divided_batches`: three with clusters made anew for each, and the last for all learners together."""


class Head(nn.Module):
    """Layers from maps (B, C, H, W) to embeddings (B, D), and their loss: ``head(maps, labels)``.

    Called as `horde.HordeLoss` is, so that both train alike; `embed` gives what is kept after training.

    Args:
        loss: called as ``loss(embeddings, labels)``, such as a loss of PML. One that has an `embed` of its
            own, as `DivideAndConquer`, also says how its slices are weighed.
    """

    def __init__(self, loss: Callable[..., Tensor], layers: nn.Module) -> None:
        super().__init__()
        self.loss, self.layers = loss, layers

    def embed(self, maps: Tensor) -> Tensor:
        rows = self.layers(maps)
        return self.loss.embed(rows) if hasattr(self.loss, "embed") else rows

    def forward(self, maps: Tensor, labels: Tensor, *learner: int) -> Tensor:
        return self.loss(self.layers(maps), labels, *learner)


class Embedder(nn.Module):
    """Images (B, 3, S, S) to embeddings (B, D): a trunk, and the `embed` of a head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = four_layers()[:-2], head  # to maps (B, 64, S / 8, S / 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.head.embed(self.trunk(images))


def fit_head(
    make: Callable[[], nn.Module],
    part: ImageSet,
    seed: int,
    *,
    rate: float,
    steps: int,
    clusters: str | None = None,
    device: torch.device | str = "cpu",
) -> Embedder:
    """A four-layer trunk and a head, trained together by Adam on batches of eight classes, four images each.

    Args:
        make: gives the head, `Head` or `HordeLoss` for maps of 64 channels.
        clusters: "k-means" or "random", for a head whose loss is `DivideAndConquer`; see `divided_batches`.

    Returns the network in evaluation mode.
    """
    seed_everything(seed)
    model = Embedder(make()).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    if clusters is None:
        batches = draw_batches(part, 8, 4, steps, seed, device=device)
    else:
        batches = divided_batches(model, part, seed, steps, clusters, device)
    for images, labels, *learner in batches:
        value = model.head(model.trunk(images), labels, *learner)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return model.eval()


def divided_batches(
    model: Embedder, part: ImageSet, seed: int, steps: int, clusters: str, device: torch.device | str
) -> Iterator[tuple]:
    """Batches (images, labels, learner) for `DivideAndConquer`: learners in turn, each from its own cluster.

    The last of `ROUNDS` rounds gives (images, labels) of the whole part, for all learners together.

    Args:
        clusters: "k-means" divides the present embeddings at the start of every round; "random" deals the
            images once, each cluster being as likely.

    Raises ValueError for another name.
    """
    if clusters not in ("k-means", "random"):
        raise ValueError(f"clusters is {clusters!r}; expected 'k-means' or 'random'")
    conquer: DivideAndConquer = model.head.loss
    dealt = torch.randint(conquer.learners, (len(part),), generator=torch.Generator().manual_seed(seed))
    for start in range(ROUNDS - 1):
        own = dealt if clusters == "random" else conquer.divide(embed(model, part)[0], seed)
        batches = {
            k: draw_batches(part.subset((own == k).nonzero()[:, 0]), 8, 4, steps, seed + start, device=device)
            for k in own.unique().tolist()
        }
        turns = itertools.cycle(batches.items())
        for learner, drawn in itertools.islice(turns, steps // ROUNDS):
            yield *next(drawn), learner
    yield from draw_batches(part, 8, 4, steps - (ROUNDS - 1) * (steps // ROUNDS), seed, device=device)


def hits(embeddings: Tensor, labels: Tensor) -> Tensor:
    """1.0 where the nearest other row by cosine has the same label, else 0.0; (N,) of (N, D) and (N,)."""
    nearest = nearest_neighbours(embeddings, 1)[0][:, 0].cpu()
    return (labels[nearest] == labels).float()


def recall_by_class(found: Tensor, labels: Tensor, places: Tensor, total: int) -> Tensor:
    """Mean of `found` (N,) over each class: (total,) numbers, NaN for a class that is not there.

    Args:
        labels: (N,), 0 to C - 1.
        places: (C,), where a class stands among all `total` classes.
    """
    sums = torch.bincount(labels, weights=found, minlength=len(places))
    means = sums / torch.bincount(labels, minlength=len(places))
    return torch.full((total,), torch.nan).index_put((places,), means.float())


def scores(model: nn.Module, parts: OpenClasses) -> dict[str, float | Tensor]:
    """What a run reports: recall@1 of the validation classes, and of every class that is kept for the test.

    Returns:
        "validation recall@1", a number, and "recall@1, unseen", one value for each class of the whole set,
        NaN for those that are not in this seed's test. A broken network, whose embeddings are not finite, has
        a recall of 0.
    """
    held, new = (
        hits(rows, labels) if rows.isfinite().all() else torch.zeros(len(labels))
        for rows, labels in (embed(model, part) for part in (parts.val, parts.test))
    )
    return {
        "validation recall@1": held.mean().item(),
        "recall@1, unseen": recall_by_class(new, parts.test.labels, parts.places, parts.total),
    }

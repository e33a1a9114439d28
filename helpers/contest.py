"""What contestants of a contest of losses share: a small network, two yardsticks for its embedding, maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data import ImageSet, SeenUnseen
from helpers.retrieval import retrieval_metrics
from helpers.training import embed, seed_everything

if TYPE_CHECKING:
    import pandas as pd

    from helpers.experiments import Results

__all__ = [
    "both_yardsticks",
    "by_seed",
    "class_maps",
    "class_means",
    "network",
    "partner_maps",
    "pixels",
    "retrieval_metrics",
    "rows_of",
]
Explain = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]

WIDTHS = (16, 32, 64, 64)


def network(seed: int, channels: int, dim: int, maps: bool = False) -> nn.Sequential:
    """Images (B, channels, S, S) to embeddings (B, dim): convolutions, an average, a linear layer.

    The four convolutions, each with batch norm and ReLU, end in a map of S / 8, averaged over its quarters.
    With `maps` it has S / 4 and is averaged as a whole, as class activation maps want it.
    """
    seed_everything(seed)
    layers: list[nn.Module] = []
    for width, stride in zip(WIDTHS, (2, 2, 1, 1) if maps else (2, 2, 2, 1), strict=True):
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    side = 1 if maps else 2
    last = nn.Linear(channels * side**2, dim)
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(side), nn.Flatten(), last)


def rows_of(model: nn.Module | None, part: ImageSet, dim: int) -> Tensor:
    """Embeddings (N, dim) of a part's images; random ones, a guess, without a model or where it broke."""
    rows = embed(model, part)[0] if model else torch.full((len(part), dim), torch.nan)
    return rows if rows.norm(dim=1).isfinite().all() else torch.randn(len(part), dim)


def pixels(part: ImageSet) -> Tensor:
    """The images of a part as they are, (N, C S S): an embedding that has learned nothing."""
    return part[:][0].flatten(1)


def class_means(rows: Tensor, labels: Tensor) -> Tensor:
    """For each class of rows (N, D) the mean of their directions, scaled to length 1: (C, D)."""
    return F.normalize(torch.stack([F.normalize(rows)[labels == c].mean(0) for c in labels.unique()]))


def both_yardsticks(
    rows: Callable[[ImageSet], Tensor],
    scores: Callable[[Tensor], Tensor] | None,
    neighbours: Callable[[Tensor, Tensor], Tensor],
    train: ImageSet,
    parts: SeenUnseen,
) -> dict[str, float | Tensor]:
    """Names and neighbours of an embedding, on images that trained it, on new ones, and on unseen classes.

    Args:
        rows: embeddings (N, D) of a part.
        scores: class scores (N, C) of embeddings; None names each by the nearest class mean of `train`.
        neighbours: whether each row, scaled to length 1, has the right neighbour (N,), from rows and labels.
        train: the images that were trained on.

    Returns:
        numbers for training and validation images, one value for each test image, and for unseen classes one
        value for each class of the whole set, NaN for those that are not among this seed's unseen ones.
    """
    known, held, seen, new = map(rows, (train, parts.val, parts.test, parts.unseen))
    means = class_means(known, train.labels)

    def named(found: Tensor, labels: Tensor) -> Tensor:
        by_class = F.normalize(found) @ means.T if scores is None else scores(found)
        return (by_class.argmax(1) == labels).float()

    at = neighbours(F.normalize(new), parts.unseen.labels)
    by_class = torch.full((parts.total,), torch.nan)
    by_class[parts.new] = torch.stack(
        [at[parts.unseen.labels == c].mean() for c in range(parts.unseen.num_classes)]
    )
    return {
        "train accuracy": named(known, train.labels).mean().item(),
        "validation accuracy": named(held, parts.val.labels).mean().item(),
        "validation recall@1": neighbours(F.normalize(held), parts.val.labels).mean().item(),
        "accuracy": named(seen, parts.test.labels),
        "recall@1": neighbours(F.normalize(seen), parts.test.labels),
        "recall@1, unseen": by_class,
    }


def by_seed(found: Results, arm: str, metric: str, over: str) -> pd.DataFrame:
    """A metric of an arm, one row for each seed: over its rates ("rate"), or along its runs ("step")."""
    rows = found.at_chosen(metric, curve=True) if over == "step" else found.table
    rows = rows[(rows["arm"] == arm) & (rows["metric"] == metric)]
    return rows.pivot_table(index="seed", columns=over, values="value")


def class_maps(
    explain: Explain, model: nn.Sequential, logits: Callable[[Tensor], Tensor], part: ImageSet
) -> tuple[Tensor, Tensor]:
    """Maps (N, H, W) of a network's last map for two natural scores: the logit of the right class, and the
    logarithm of its probability.

    Args:
        explain: a map for a score of maps, from the score and the maps (N, C, H, W).
        logits: class scores (N, classes) of embeddings (N, D).
    """
    (images, labels), rest = part[:], model.eval()[1:]

    def own(scores: Tensor) -> Tensor:
        return scores.gather(1, labels[:, None])

    maps = _last_map(model, images)
    return (
        explain(lambda m: own(logits(rest(m))), maps),
        explain(lambda m: own(logits(rest(m)).log_softmax(1)), maps),
    )


def partner_maps(
    explain: Explain,
    model: nn.Sequential,
    known: ImageSet,
    part: ImageSet,
    similarity: Callable[[Tensor, Tensor], Tensor],
    seed: int,
) -> list[Tensor]:
    """Maps (N, H, W) for the similarity of each image's embedding to three partners of length 1: another
    image of its class, a second one, and the mean of the class in `known`.

    Args:
        similarity: (N,) of embeddings (N, D) to partners (N, D).
        seed: draws the partners.
    """
    (images, labels), rest, dim = part[:], model.eval()[1:], model[-1].out_features
    rows = F.normalize(rows_of(model, part, dim))
    mates = (labels[:, None] == labels).float().fill_diagonal_(0)
    one, other = torch.multinomial(mates, 2, generator=torch.Generator().manual_seed(seed)).T
    means = class_means(rows_of(model, known, dim), known.labels)
    maps = _last_map(model, images)
    return [
        explain(lambda m, to=to: similarity(rest(m), to), maps)
        for to in (rows[one], rows[other], means[labels])
    ]


@torch.no_grad()
def _last_map(model: nn.Sequential, images: Tensor) -> Tensor:
    return torch.cat([model[0](piece) for piece in images.split(128)])

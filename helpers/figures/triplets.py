"""Which triplets a sampling rule chooses, and where their gradient pulls: points on a plane."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor
from torch.nn import functional as F

from helpers.plotting import PALETTE
from helpers.two_head import BatchHardTripletLoss, SemiHardTripletLoss

RULES = ("semi-hard", "batch-hard", "all triplets")
MARKERS = (("o", PALETTE["blue"]), ("s", PALETTE["orange"]), ("^", PALETTE["green"]))
_MODES = ((0, -1.0, 0.7), (0, 0.9, -0.75), (1, 0.9, 0.65), (1, 0.3, 0.2), (2, -0.85, -0.6), (2, -0.2, -0.1))
_EACH = 3  # points of a mode


def plane(spread: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (18, 2) in three classes of two modes each, and their classes (18,)."""
    centres = torch.tensor([mode[1:] for mode in _MODES]).repeat_interleave(_EACH, 0)
    labels = torch.tensor([mode[0] for mode in _MODES]).repeat_interleave(_EACH)
    noise = torch.randn(len(centres), 2, generator=torch.Generator().manual_seed(seed))
    return centres + spread * noise, labels


def chosen_pairs(points: Tensor, labels: Tensor, anchor: int, rule: str) -> list[tuple[int, int]]:
    """The (positive, negative) that a rule pairs with one anchor; squared distances on the plane.

    Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(map(repr, RULES))}")
    far = (points - points[anchor]).square().sum(1)
    positives = [i for i in (labels == labels[anchor]).nonzero()[:, 0].tolist() if i != anchor]
    negatives = (labels != labels[anchor]).nonzero()[:, 0].tolist()
    if rule == "all triplets":
        return [(p, n) for p in positives for n in negatives]
    if rule == "batch-hard":
        return [(max(positives, key=lambda i: far[i]), min(negatives, key=lambda i: far[i]))]
    pairs = []
    for p in positives:
        farther = [n for n in negatives if far[n] > far[p]]
        best = min(farther, key=lambda i: far[i]) if farther else max(negatives, key=lambda i: far[i])
        pairs.append((p, best))
    return pairs


def pull(points: Tensor, labels: Tensor, rule: str, margin: float, weight: float) -> Tensor:
    """Minus the gradient of cross-entropy + weight * ranking loss at each point (N, 2), times N.

    The classifier is linear and fixed: its rows are three times the means of the classes.
    """
    distance = LpDistance(normalize_embeddings=False, power=2)
    kinds = {"semi-hard": SemiHardTripletLoss, "batch-hard": BatchHardTripletLoss}
    ranking = kinds.get(rule, TripletMarginLoss)(margin=margin, distance=distance)
    means = torch.stack([points[labels == c].mean(0) for c in labels.unique()])
    moving = points.clone().requires_grad_(True)
    loss = F.cross_entropy(3 * moving @ means.T, labels) + weight * ranking(moving, labels)
    return -len(points) * torch.autograd.grad(loss, moving)[0]


def triplet_figure(
    rule: str = "semi-hard", margin: float = 0.2, weight: float = 1.0, anchor: int = 3, spread: float = 0.3
) -> tuple[Figure, str]:
    """Left, the triplets of one anchor; right, where cross-entropy and all triplets pull the points."""
    points, labels = plane(spread)
    pairs = chosen_pairs(points, labels, anchor, rule)
    far = (points - points[anchor]).square().sum(1)
    active = [(p, n) for p, n in pairs if far[p] - far[n] + margin > 0]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for p, n in active:
        left.plot(*points[[anchor, p]].T, color=PALETTE["ink"], linewidth=1.5, zorder=1)
        left.plot(*points[[anchor, n]].T, "--", color=PALETTE["purple"], linewidth=1.2, zorder=1)
    if pairs:
        radius = far[pairs[-1][0]]
        for r, style in ((radius.sqrt(), "-"), ((radius + margin).sqrt(), ":")):
            left.add_patch(_ring(points[anchor], float(r), style))
    _scatter(left, points, labels)
    left.plot(*points[anchor], "o", markersize=17, markerfacecolor="none", color=PALETTE["ink"])
    left.set_title(f"{rule}: {len(active)} of {len(pairs)} triplets active", fontsize=11)
    moves = pull(points, labels, rule, margin, weight)
    _scatter(right, points, labels)
    right.quiver(*points.T, *moves.T, angles="xy", scale_units="xy", scale=11, width=0.005, zorder=3)
    right.set_title(f"where cross-entropy + {weight:g} x ranking pulls", fontsize=11)
    alt = (
        f"Points of three classes on a plane, two modes each. Left: active triplets of one anchor under the "
        f"rule {rule}, {len(active)} of {len(pairs)} at margin {margin:.2f}. Right: arrows show where "
        f"cross-entropy plus {weight:.2f} times the ranking loss pulls each point; mean length "
        f"{moves.norm(dim=1).mean():.2f}."
    )
    return figure, alt


def _ring(centre: Tensor, radius: float, style: str) -> Circle:
    return Circle(centre.tolist(), radius, fill=False, linestyle=style, color=PALETTE["grey"], linewidth=1)


def _scatter(axes: Axes, points: Tensor, labels: Tensor) -> None:
    for c, (marker, color) in enumerate(MARKERS):
        axes.plot(
            *points[labels == c].T, marker, color=color, markersize=8, alpha=0.9, label=f"class {c + 1}"
        )
    axes.set(xlim=(-2.1, 2.1), ylim=(-1.8, 1.8), aspect="equal", xticks=[], yticks=[])
    axes.legend(loc="upper left", fontsize=9, handletextpad=0.1)

"""The triplet playground: what it draws is what the losses do."""

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from torch.nn import functional as F

from helpers.figures.triplets import RULES, chosen_pairs, plane, pull, triplet_figure
from helpers.two_head import BatchHardTripletLoss, SemiHardTripletLoss

PLANE = LpDistance(normalize_embeddings=False, power=2)


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    ("rule", "loss"), [("semi-hard", SemiHardTripletLoss), ("batch-hard", BatchHardTripletLoss)]
)
def test_the_pairs_drawn_are_those_of_the_loss(rule, loss, margin):
    points, labels = plane(0.4, seed=3)
    far = (points[:, None] - points).square().sum(2)
    terms = [
        F.relu(far[a, p] - far[a, n] + margin)
        for a in range(len(points))
        for p, n in chosen_pairs(points, labels, a, rule)
    ]
    torch.testing.assert_close(torch.stack(terms).mean(), loss(margin, distance=PLANE)(points, labels))


def test_all_triplets_are_all():
    points, labels = plane()
    pairs = chosen_pairs(points, labels, 0, "all triplets")
    assert len(set(pairs)) == len(pairs) == 5 * 12
    assert all(labels[p] == labels[0] != labels[n] and p != 0 for p, n in pairs)


@pytest.mark.parametrize("rule", RULES)
def test_a_small_step_along_the_arrows_lowers_the_loss(rule):
    points, labels = plane(0.3, seed=1)
    means = torch.stack([points[labels == c].mean(0) for c in range(3)])
    moves = pull(points, labels, rule, 0.5, 0.0)
    before, after = (F.cross_entropy(3 * p @ means.T, labels) for p in (points, points + 1e-3 * moves))
    torch.testing.assert_close(before - after, 1e-3 * moves.square().sum() / len(points), rtol=0.05, atol=0)
    assert not torch.allclose(moves, pull(points, labels, rule, 0.5, 1.0))


@pytest.mark.parametrize("rule", RULES)
def test_the_figure_says_what_it_shows(rule):
    figure, alt = triplet_figure(rule, margin=3.0, weight=0.5, anchor=7, spread=0.2)
    assert len(figure.axes) == 2
    assert rule in alt
    assert "0.50 times" in alt
    count = {"semi-hard": 5, "batch-hard": 1, "all triplets": 60}[rule]
    assert f"of {count} at margin 3.00" in alt


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"rule is 'easy'; expected one of 'semi-hard'"):
        triplet_figure("easy")

"""The contest's network and yardsticks: shapes, sameness by seed, hand-computed cases, brute-force twins."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from helpers import contest
from helpers.data import ImageSet, SeenUnseen
from helpers.experiments import Results


def images(count: int, classes: int, seed: int, side: int = 16) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % classes
    return ImageSet("toy", pixels.byte(), labels, [f"kind {c}" for c in range(classes)])


def hits(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    nearest = torch.cdist(rows, rows).fill_diagonal_(torch.inf).argmin(1)
    return (labels[nearest] == labels).float()


@pytest.mark.parametrize(("maps", "side"), [(False, 2), (True, 4)])
def test_the_network_is_the_same_for_a_seed_and_its_map_has_the_side_it_says(maps, side):
    one, same, other = (contest.network(seed, 3, 8, maps).eval() for seed in (0, 0, 1))
    batch = torch.rand(2, 3, 16, 16)
    assert one(batch).shape == (2, 8)
    assert one[0](batch).shape == (2, 64, side, side)
    torch.testing.assert_close(one(batch), same(batch), rtol=0, atol=0)
    assert not torch.allclose(one(batch), other(batch))


def test_a_broken_network_guesses():
    part = images(6, 2, 0)
    model = contest.network(0, 3, 8)
    with torch.no_grad():
        model[-1].weight.fill_(torch.nan)
    for broken in (model, None):
        rows = contest.rows_of(broken, part, 8)
        assert rows.shape == (6, 8)
        assert rows.isfinite().all()


def test_class_means_by_hand():
    rows, labels = torch.tensor([[2.0, 0], [0, 5], [-3, 0], [-1, 0]]), torch.tensor([0, 0, 1, 1])
    means = contest.class_means(rows, labels)
    torch.testing.assert_close(means, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))


@pytest.mark.parametrize("with_scores", [False, True])
def test_both_yardsticks_are_what_they_say(with_scores):
    train, val, test, unseen = (images(n, c, s) for s, (n, c) in enumerate(((9, 3), (6, 3), (12, 3), (8, 2))))
    parts = SeenUnseen(train, val, test, unseen, torch.tensor([4, 1]), 6)
    weights = torch.randn(768, 3, generator=torch.Generator().manual_seed(9))
    scores = (lambda rows: rows @ weights) if with_scores else None
    found = contest.both_yardsticks(contest.pixels, scores, hits, train, parts)
    rows = contest.pixels(test)
    if with_scores:
        named = (rows @ weights).argmax(1) == test.labels
    else:  # the class mean at the smallest angle, one image after another
        known = F.normalize(contest.pixels(train))
        means = [F.normalize(known[train.labels == c].mean(0), dim=0) for c in range(3)]
        named = torch.tensor(
            [
                max(range(3), key=lambda c: float(row @ means[c])) == y
                for row, y in zip(rows, test.labels, strict=True)
            ]
        )
    torch.testing.assert_close(found["accuracy"], named.float())
    torch.testing.assert_close(found["recall@1"], hits(F.normalize(rows), test.labels))
    new = hits(F.normalize(contest.pixels(unseen)), unseen.labels)
    by_class = found["recall@1, unseen"]
    assert by_class.isnan().tolist() == [True, False, True, True, False, True]
    torch.testing.assert_close(
        by_class[[4, 1]], torch.stack([new[unseen.labels == c].mean() for c in (0, 1)])
    )


def test_a_metric_by_seed_over_rates_and_along_the_runs():
    runs = [("a", rate, seed, None, "recall@1", rate + seed) for rate in (0.1, 0.3) for seed in (5, 6)] + [
        ("a", 0.1, seed, step, "curve", 10.0 * step + seed) for step in (1, 2) for seed in (5, 6)
    ]
    columns = pd.DataFrame(runs, columns=["arm", "rate", "seed", "step", "metric", "value"])
    found = Results.of_table("x", columns.to_dict("list"), {"a": 0.1}, source="study")
    over_rates = contest.by_seed(found, "a", "recall@1", "rate")
    assert over_rates.loc[6, 0.3] == pytest.approx(6.3)
    assert list(over_rates.columns) == [0.1, 0.3]
    assert contest.by_seed(found, "a", "curve", "step").loc[5, 2] == 25


def explain(score, maps: torch.Tensor) -> torch.Tensor:
    maps = maps.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(score(maps).sum(), maps)
    return (slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1)


def test_the_logits_map_is_the_class_activation_map():
    part, model = images(6, 2, 3), contest.network(0, 3, 8, maps=True).eval()
    layer = torch.nn.Linear(8, 2)
    logit, sure = contest.class_maps(explain, model, layer, part)
    weights = (layer.weight @ model[-1].weight)[part.labels]
    cam = torch.einsum("bk,bkhw->bhw", weights, model[0](part[:][0]))
    torch.testing.assert_close(logit * logit[0].numel(), cam.detach(), rtol=1e-4, atol=1e-6)
    assert sure.shape == logit.shape


def test_maps_of_partners_are_of_other_images_of_the_class_and_a_cosines_sum_to_zero():
    part, known, model = images(8, 2, 4), images(6, 2, 5), contest.network(1, 3, 8, maps=True)
    asked: list[torch.Tensor] = []

    def similarity(rows: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        asked.append(to)
        return F.cosine_similarity(rows, to)

    with torch.no_grad():  # a cosine's map sums to zero where the embedding has no bias
        model[-1].bias.zero_()
    maps = contest.partner_maps(explain, model, known, part, similarity, seed=0)
    rows = F.normalize(contest.rows_of(model, part, 8))
    for partners in asked[:2]:
        place = torch.cdist(partners, rows).argmin(1)
        assert (place != torch.arange(8)).all()
        assert (part.labels[place] == part.labels).all()
    torch.testing.assert_close(
        asked[2], contest.class_means(contest.rows_of(model, known, 8), known.labels)[part.labels]
    )
    for m in maps:
        assert m.sum((1, 2)).abs().max() < 1e-3 * m.abs().sum((1, 2)).max()

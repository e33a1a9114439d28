"""What an open-set experiment starts from: the same network for a seed, a trunk that classifies, chance."""

from __future__ import annotations

import pytest
import torch

from helpers import trunks
from helpers.data import ImageSet

DRAWN = ("birds", 3, 16, 12, 8)


def part(counts: list[int]) -> ImageSet:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)
    return ImageSet("part", images, labels, [str(c) for c in range(len(counts))])


@pytest.mark.parametrize("size", [16, 24, 33])
def test_images_of_any_size_become_features(size: int):
    trunk = trunks.four_layers()
    assert trunk(torch.rand(2, 3, size, size)).shape == (2, trunks.FEATURES)


@pytest.mark.parametrize("trained", [None, (*DRAWN, 5)])
def test_a_seed_gives_one_network_whatever_ran_before(trained):
    trunks.trained_trunk.cache_clear()
    first = trunks.embedder(7, 1, trained).state_dict()
    torch.rand(10)
    again = trunks.embedder(7, 1, trained).state_dict()  # the trunk is kept in memory now
    other = trunks.embedder(7, 2, trained).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["1.weight"].shape == (7, trunks.FEATURES)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_a_trained_trunk_tells_its_classes_better_than_a_random_one():
    images, labels = trunks.open_classes(*DRAWN[:2], size=16, species=12, unseen=8).train[:]
    separation = []
    for trained in (None, (*DRAWN, 60)):
        trunk = trunks.embedder(4, 3, trained)[0].eval()
        with torch.no_grad():
            rows = torch.nn.functional.normalize(trunk(images))
        cosine, same = rows @ rows.T, labels[:, None] == labels
        separation.append((cosine[same].mean() - cosine[~same].mean()).item())
    assert separation[1] > separation[0] + 0.05


def test_chance_is_the_share_of_mates():
    counts = [4, 2, 1]
    labels = part(counts).labels
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = sum(bool(labels[i] == labels[j]) for i, j in pairs) / len(pairs)
    assert trunks.chance(part(counts)) == pytest.approx(expected)


def test_digits_to_train_on_and_to_look_at_are_apart():
    train, images, labels = trunks.digits()
    assert len(train) + len(images) == 1797
    assert len(labels) == len(images)
    assert torch.equal(train.labels, train.tensors[1])
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.shape[1] == 64

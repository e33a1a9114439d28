"""Few images, random views, small networks, and losses made for few images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import small_data
from helpers.knowledge_evolution import KnowledgeEvolution


def birds(per_class: int = 5, seed: int = 1):
    return small_data.few_images("birds", seed, size=24, per_class=per_class, classes=4, per_test=3)


def test_few_images_of_every_class_and_all_to_test_on() -> None:
    train, val, test = birds()
    assert torch.bincount(train.labels).tolist() == [5] * 4
    assert torch.bincount(test.labels).tolist() == [3] * 4
    assert len(val) == 16
    assert train.image_shape == (3, 24, 24)


def test_fewer_images_are_some_of_more() -> None:
    more, fewer = (birds(n).train for n in (5, 3))
    for images, label in zip(*fewer[:], strict=True):
        same = more[(more.labels == label).nonzero()[:, 0]][0]
        assert (same == images).flatten(1).all(1).any()


def test_every_seed_draws_its_own_digits() -> None:
    one, again, other = (
        small_data.few_images("digits", s, size=8, per_class=5).train[:][0] for s in (1, 1, 2)
    )
    assert one.shape == (50, 1, 8, 8)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_new_classes_are_none_of_those_seen() -> None:
    seen, new, places, total = small_data.seen_and_new("birds", 3, size=24, seen=5, unseen=6, images=(3, 2))
    assert (seen.num_classes, new.num_classes, total) == (5, 6, 60)
    assert not set(seen.class_names) & set(new.class_names)
    assert torch.bincount(new.labels).tolist() == [2] * 6
    assert len(places.unique()) == 6


@pytest.mark.parametrize("mirror", [False, True])
def test_a_view_is_the_image_moved_and_perhaps_mirrored(mirror: bool) -> None:
    views, images = small_data.RandomViews(2, mirror), torch.rand(40, 3, 9, 9)
    torch.manual_seed(0)
    moved, mirrored = views(images) + 0.5, set()
    padded = F.pad(images, (2,) * 4, mode="replicate")
    for image, view in zip(padded, moved, strict=True):
        crops = image.unfold(1, 9, 1).unfold(2, 9, 1).flatten(1, 2).movedim(1, 0)  # (25, 3, 9, 9)
        found = {
            flip
            for flip in (False, True)
            if ((crops.flip(3) if flip else crops) - view).abs().flatten(1).amax(1).min() < 1e-6
        }
        assert found
        mirrored |= found
    assert (True in mirrored) == mirror
    assert torch.allclose(views.eval()(images) + 0.5, images)


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize(
    "part", [birds().train, small_data.few_images("digits", 0, size=8, per_class=2).train]
)
def test_a_small_network_splits_with_and_without_shortcuts(part, shortcut: bool) -> None:
    model = small_data.make_network(part, shortcut=shortcut)
    images = part[[0, 1]][0]
    split = KnowledgeEvolution(model, example_input=images[:1])
    slim = split.slim().eval()
    assert slim(images).shape == (2, part.num_classes)
    assert torch.allclose(slim(images), split.scaled(0.0).eval()(images), atol=1e-5)
    assert any("shortcut" in name for name in split.masks) == shortcut


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match="network is 'vgg'; expected one of small, resnet18"):
        small_data.make_network(birds().train, "vgg")


def test_the_last_layer_of_adacos_gives_cosines() -> None:
    layer, features = nn.Linear(6, 4), torch.randn(5, 6)
    cosines = small_data.Cosines(layer)
    assert cosines.weight is layer.weight
    assert cosines.bias is None
    wanted = F.cosine_similarity(features[:, None], layer.weight[None], dim=2)
    assert torch.allclose(cosines(features), wanted, atol=1e-6)


def test_the_scale_of_adacos_follows_its_formula() -> None:
    loss, cosines = small_data.AdaCosLoss(5), torch.rand(8, 5) * 2 - 1
    labels = torch.arange(8) % 5
    before = loss.scale.item()
    assert math.isclose(before, math.sqrt(2) * math.log(4), rel_tol=1e-6)
    value = loss(cosines, labels)
    rest = sum(math.exp(before * cosines[i, c]) for i in range(8) for c in range(5) if c != labels[i]) / 8
    angles = sorted(math.acos(cosines[i, labels[i]]) for i in range(8))
    scale = max(1.0, math.log(rest) / math.cos(min(math.pi / 4, angles[3])))  # torch takes the lower median
    assert math.isclose(loss.scale.item(), scale, rel_tol=1e-5)
    assert torch.isclose(value, F.cross_entropy(scale * cosines, labels))


def test_self_distillation_is_cross_entropy_where_the_pair_agrees() -> None:
    row, labels = torch.randn(3, 4).repeat_interleave(2, 0), torch.tensor([0, 0, 2, 2, 1, 1])
    loss = small_data.SelfDistillationLoss()
    assert torch.isclose(loss(row, labels), F.cross_entropy(row[::2], labels[::2]))


def test_self_distillation_moves_the_first_of_a_pair_towards_the_second() -> None:
    logits = torch.tensor([[0.0, 0.0], [2.0, -2.0]], requires_grad=True)
    labels = torch.tensor([1, 1])
    small_data.SelfDistillationLoss(weight=100.0)(logits, labels).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]
    assert torch.equal(logits.grad[1], torch.zeros(2))


def test_self_distillation_refuses_what_are_no_pairs() -> None:
    for labels in (torch.tensor([0, 1]), torch.tensor([0, 0, 1])):
        with pytest.raises(ValueError, match="expected pairs"):
            small_data.SelfDistillationLoss()(torch.randn(len(labels), 3), labels)

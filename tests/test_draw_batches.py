"""Batches in the open, and one output read out: counted, and compared with one forward pass."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
import torch
from networks import seeded
from torch import Tensor, nn

from helpers.data import ImageSet
from helpers.training import draw_batches, loader, pk_loader, read_out


def toy(sizes: tuple[int, ...] = (5, 4, 7, 6)) -> ImageSet:
    """Image i is all i."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ImageSet("toy", pixels, labels, [str(c) for c in range(len(sizes))])


def drawn(dataset: ImageSet, *args, **options) -> list[tuple[list[int], list[int]]]:
    """Which images each batch holds, with their labels."""
    batches = list(draw_batches(dataset, *args, **options))
    return [((images[:, 0, 0, 0] * 255).round().int().tolist(), y.tolist()) for images, y in batches]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("total", [1, 7, 40])
def test_there_are_exactly_as_many_batches_as_asked_for(total, shuffled):
    found = drawn(toy(), 3, 2, total, shuffled=shuffled)
    assert len(found) == total
    labels = toy().labels
    for images, of in found:
        assert of == labels[images].tolist()
        assert len(images) == 6


@pytest.mark.parametrize(("p", "k"), [(1, 2), (3, 2), (4, 4), (9, 3)])
def test_batches_hold_k_images_of_each_of_p_classes(p, k):
    for images, labels in drawn(toy(), p, k, 20):
        assert sorted(Counter(labels).values()) == [k] * min(p, 4)
        assert len(set(images)) == len(images)  # each class has at least 4 images: none comes twice


def test_every_class_is_drawn_as_often_as_the_others():
    count = Counter(y for _, labels in drawn(toy((40, 4, 4, 4)), 2, 2, 400) for y in labels)
    assert sum(count.values()) == 1600
    for number in count.values():  # 400 wanted; of 400 batches of half of the classes, sd 10 batches
        assert abs(number - 400) < 2 * 4 * 10


@pytest.mark.parametrize(("p", "k"), [(1, 11), (2, 11), (1, 2), (2, 1)])  # 22 images: no batch is cut
def test_shuffled_batches_hold_every_image_once_per_epoch(p, k):
    found, per_epoch = drawn(toy(), p, k, 44 // (p * k), shuffled=True), 22 // (p * k)
    epochs = [[i for images, _ in found[n : n + per_epoch] for i in images] for n in (0, per_epoch)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(22))] * 2
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_shuffled_batches_leave_out_what_fills_no_batch():
    found = drawn(toy(), 2, 4, 10, shuffled=True)
    for first, second in zip(
        found[::2], found[1::2], strict=True
    ):  # 22 images: two batches of eight an epoch
        assert len(set(first[0] + second[0])) == 16
    assert {i for images, _ in found for i in images} == set(range(22))  # not always the same six


def test_shuffled_batches_do_not_balance_classes():
    found = drawn(toy((90, 10)), 2, 5, 40, shuffled=True)
    assert Counter(y for _, labels in found for y in labels) == {0: 360, 1: 40}  # four epochs of 90 to 10


def test_a_batch_is_no_larger_than_the_set():
    assert [len(images) for images, _ in drawn(toy((3, 2)), 8, 4, 3, shuffled=True)] == [5, 5, 5]
    assert [len(images) for images, _ in drawn(toy((3, 2)), 8, 4, 3)] == [8, 8, 8]  # 2 classes x 4


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_seed_alone_decides(shuffled):
    first, again, other = (drawn(toy(), 3, 2, 9, seed, shuffled=shuffled) for seed in (1, 1, 2))
    assert first == again != other
    torch.manual_seed(3)
    state = torch.get_rng_state()
    drawn(toy(), 3, 2, 9, 1, shuffled=shuffled)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_batches_are_those_of_the_loaders(shuffled):
    batches = loader(toy(), 6, seed=4, drop_last=True) if shuffled else pk_loader(toy(), 3, 2, 5, seed=4)
    expected = [*batches, *batches][:5]
    found = draw_batches(toy(), 3, 2, 5, 4, shuffled=shuffled)
    for (images, labels), (theirs, of) in zip(found, expected, strict=True):
        assert torch.equal(images, theirs)
        assert torch.equal(labels, of)


def test_batches_come_to_the_device():
    for images, labels in draw_batches(toy(), 2, 2, 3, device="meta"):
        assert (images.device.type, labels.device.type) == ("meta", "meta")


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="images_per_class is 1; expected at least 2"):
        next(draw_batches(toy(), 2, 1, 3))
    with pytest.raises(ValueError, match="classes_per_batch is 0"):
        next(draw_batches(toy(), 0, 2, 3))


# ---- one output of a network


class Outputs(NamedTuple):
    logits: Tensor
    embedding: Tensor


class Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
        self.logits = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Outputs:
        features = self.layers(images)
        return Outputs(self.logits(features), features)


@pytest.mark.parametrize("output", ["logits", "embedding"])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 256])
def test_what_is_read_out_is_one_forward_pass(output, batch_size):
    model, images = Twin().eval(), torch.randn(10, 1, 4, 4, generator=seeded())
    found = read_out(model, images, output, batch_size=batch_size)
    assert torch.allclose(found, getattr(model(images), output), atol=1e-6)
    assert not found.requires_grad


def test_the_mode_of_the_network_stays_as_it_is():
    model, images = Twin(), torch.randn(10, 1, 4, 4, generator=seeded())
    before = model.layers[1].running_mean.clone()
    torch.manual_seed(0)
    found = read_out(model, images, "embedding")
    torch.manual_seed(0)
    assert torch.equal(found, model(images).embedding)  # training mode: the same dropout
    assert model.training
    assert not torch.equal(model.layers[1].running_mean, before)


def test_a_network_without_weights_and_an_output_that_is_not_there():
    class Plain(nn.Module):
        def forward(self, images: Tensor) -> Outputs:
            return Outputs(images.flatten(1), -images.flatten(1))

    images = torch.rand(5, 1, 2, 2)
    assert torch.equal(read_out(Plain(), images, "embedding", batch_size=2), -images.flatten(1))
    with pytest.raises(AttributeError, match="penultimate"):
        read_out(Plain(), images, "penultimate")

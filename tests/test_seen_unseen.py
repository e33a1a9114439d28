"""Seen and unseen classes: no class, no genus and no image in two parts, and every seed draws anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data import (
    DatasetError,
    ImageSet,
    SeenUnseen,
    load_dataset,
    make_birds,
    photographs,
    seen_and_unseen,
)

SIZE, IMAGES = 16, (4, 2, 3, 2)
GENUS = {name: i // 4 for i, name in enumerate(make_birds(240, 1, size=SIZE).class_names)}


def birds(seed: int = 0, seen: int = 6, unseen: int = 7, siblings: int = 2) -> SeenUnseen:
    return seen_and_unseen(
        "birds", seed, size=SIZE, seen=seen, unseen=unseen, siblings=siblings, images=IMAGES
    )


def genera(part: ImageSet) -> list[int]:
    return [GENUS[name] for name in part.class_names]


def pixels(part: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in part[:][0]}


@pytest.mark.parametrize(("seen", "siblings"), [(6, 1), (6, 2), (7, 2), (5, 3), (6, 4)])
@pytest.mark.parametrize("seed", [0, 5])
def test_no_genus_is_both_seen_and_unseen(seen, siblings, seed):
    parts = birds(seed, seen, siblings=siblings)
    known, new = genera(parts.train), genera(parts.unseen)
    assert not set(known) & set(new)
    assert len(set(known)) == math.ceil(seen / siblings)  # as fine-grained as it was asked to be
    assert max(map(known.count, known)) == min(siblings, seen)
    assert max(map(new.count, new)) <= siblings


def test_sizes_are_those_asked_for():
    parts = birds()
    assert [p.num_classes for p in parts[:4]] == [6, 6, 6, 7]
    for part, each in zip(parts[:4], IMAGES, strict=True):
        assert torch.bincount(part.labels).tolist() == [each] * part.num_classes
        assert part.image_shape == (3, SIZE, SIZE)
    assert parts.train.class_names == parts.val.class_names == parts.test.class_names
    assert len(set(parts.unseen.class_names)) == 7


def test_no_image_is_in_two_parts():
    parts = birds()
    found = [pixels(part) for part in parts[:4]]
    assert [len(images) for images in found] == [len(part) for part in parts[:4]]
    assert len(set.union(*found)) == sum(map(len, found))


def test_the_same_seed_gives_the_same_parts():
    for one, other in zip(birds(3)[:4], birds(3)[:4], strict=True):
        assert one.class_names == other.class_names
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one[:][0], other[:][0])


def test_every_seed_draws_species_and_images_anew():
    drawn = [birds(seed) for seed in range(5)]
    for part in ("train", "unseen"):
        assert len({tuple(getattr(parts, part).class_names) for parts in drawn}) == 5
    first, second = (birds(seed, 120, 0, siblings=2) for seed in (0, 1))  # all species there are, both times
    assert first.train.class_names == second.train.class_names
    assert not pixels(first.test) & pixels(second.test)


def test_images_are_those_of_the_species_they_are_named_for():
    parts = birds(2)
    whole = load_dataset(
        "birds", size=SIZE, seed=2, draw_seed=2, siblings=2, num_species=120, per_species=sum(IMAGES[:3])
    )
    drawn = {}
    for part in whole:
        for image, label in zip(*part[:], strict=True):
            drawn[image.numpy().tobytes()] = part.class_names[label]
    for part in parts[:4]:
        for image, label in zip(*part[:], strict=True):
            assert drawn[image.numpy().tobytes()] == part.class_names[label]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seen": 40, "unseen": 21, "siblings": 1}, "21 unseen species, but 40 seen ones leave 20 of 60"),
        ({"seen": 7, "unseen": 113, "siblings": 2}, "leave 112 of 120; lower either, or raise siblings"),
        ({"siblings": 0}, "siblings is 0; expected 1 to 4"),
        ({"siblings": 5}, "siblings is 5; expected 1 to 4"),
    ],
)
def test_more_birds_than_there_are(asked, message):
    with pytest.raises(DatasetError, match=message):
        birds(**asked)


# ---- other sets


def folder(path, classes: int, each: int = 6) -> str:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for c in range(classes):
            (path / part / f"class {c}").mkdir(parents=True)
            for i in range(each):
                image = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(image).save(path / part / f"class {c}" / f"{i}.png")
    return f"folder:{path}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "CACHE", tmp_path / "cache")


@pytest.mark.parametrize("classes", [4, 7])
def test_a_folder_is_dealt_into_halves(tmp_path, cache, classes):
    name = folder(tmp_path / "mine", classes)
    whole = load_dataset(name, size=SIZE, seed=1)
    parts = seen_and_unseen(name, 1, size=SIZE)
    assert (parts.train.num_classes, parts.unseen.num_classes) == (classes // 2, classes - classes // 2)
    assert set(parts.train.class_names) | set(parts.unseen.class_names) == set(whole.train.class_names)
    assert not set(parts.train.class_names) & set(parts.unseen.class_names)
    for part, of in zip(parts[:4], (*whole, whole.test), strict=True):  # never a training image of its class
        expected = [
            (image.numpy().tobytes(), of.class_names[y])
            for image, y in zip(*of[:], strict=True)
            if of.class_names[y] in part.class_names
        ]
        assert sorted(expected) == sorted(
            (image.numpy().tobytes(), part.class_names[y]) for image, y in zip(*part[:], strict=True)
        )


def test_seeds_deal_the_classes_of_a_folder_anew(tmp_path, cache):
    name = folder(tmp_path / "mine", 7)
    dealt = [tuple(seen_and_unseen(name, seed, size=SIZE).train.class_names) for seed in range(8)]
    assert len(set(dealt)) > 4  # of 35 triples
    assert dealt[0] == tuple(seen_and_unseen(name, 0, size=SIZE).train.class_names)


def test_a_set_too_small_to_deal_is_refused(tmp_path, cache):
    with pytest.raises(DatasetError, match="has 3 classes; expected at least 4"):
        seen_and_unseen(folder(tmp_path / "three", 3), 0, size=SIZE)
    with pytest.raises(DatasetError, match="too few images of a class to hold some out for validation"):
        seen_and_unseen(folder(tmp_path / "single", 4, each=1), 0, size=SIZE)
    with pytest.raises(DatasetError, match="no data set is called 'bird'"):
        seen_and_unseen("bird", 0, size=SIZE)


# ---- other labels for the same images


def test_relabelled_images_are_the_same_under_other_labels():
    part = load_dataset("digits").train.subset(torch.arange(50))
    groups = part.labels % 3
    other = part.relabelled(groups, 3)
    assert torch.equal(other[:][0], part[:][0])
    assert torch.equal(other.labels, groups)
    assert (other.num_classes, len(other.class_names), other.name) == (3, 3, part.name)
    assert part.num_classes == 10  # the set itself stays as it was
    back = other.select_classes([1])
    assert torch.equal(back[:][0], part[:][0][groups == 1])


def test_labels_that_do_not_fit_are_refused():
    part = load_dataset("digits").train.subset(torch.arange(50))
    for labels in (part.labels[:-1], torch.zeros(51, dtype=torch.long)):
        with pytest.raises(DatasetError, match=f"{len(labels)} labels for 50 images"):
            part.relabelled(labels, 10)
    for groups in (4, 9):
        with pytest.raises(DatasetError, match=f"labels must lie in 0 .. {groups - 1}"):
            part.relabelled(part.labels, groups)


def test_an_unseen_class_has_one_place_whatever_the_seed() -> None:
    names: dict[int, str] = {}
    for seed in (0, 1, 2):
        parts = birds(seed)
        assert len(parts.new) == parts.unseen.num_classes
        assert parts.total == 60 * 2
        for place, name in zip(parts.new.tolist(), parts.unseen.class_names, strict=True):
            assert names.setdefault(place, name) == name

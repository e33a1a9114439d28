"""Classes to train, to validate and to test on: apart where there are enough, the same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data import DatasetError
from helpers.data.open_set import FEWEST, OpenClasses, open_classes

SIZE = 16


def birds(seed: int = 0, species: int = 12, unseen: int = 8) -> OpenClasses:
    return open_classes("birds", seed, size=SIZE, species=species, unseen=unseen, images=(4, 3))


def photographs(folder: Path, classes: int, each: int = 6) -> str:
    draw = np.random.default_rng(0)
    for c in range(classes):
        for i in range(each):
            place = folder / ("test" if i % 3 == 2 else "train") / f"class {c:02d}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    return f"folder:{folder}"


def names(parts: OpenClasses) -> list[set[str]]:
    return [set(part.class_names) for part in parts[:3]]


def test_birds_of_three_kinds_of_classes():
    parts = birds()
    train, val, test = names(parts)
    assert (len(train), len(val), len(test)) == (10, 2, 8)
    assert not train & val
    assert not (train | val) & test
    assert torch.bincount(parts.train.labels).tolist() == [4] * 10
    assert torch.bincount(parts.test.labels).tolist() == [3] * 8
    assert parts.is_open
    assert len(parts.places) == 8
    assert parts.places.max() < parts.total == 180


def test_a_seed_draws_the_same_birds_and_another_draws_others():
    one, again, other = birds(1), birds(1), birds(2)
    assert torch.equal(one.train[:][0], again.train[:][0])
    assert names(one) == names(again)
    assert names(one)[2] != names(other)[2]


@pytest.mark.parametrize("classes", [FEWEST, 11])
def test_photographs_are_split_by_class(classes: int, tmp_path: Path):
    dataset = photographs(tmp_path / "photos", classes)
    parts, other = (open_classes(dataset, seed, size=SIZE) for seed in (0, 3))
    train, val, test = names(parts)
    assert not train & val
    assert not (train | val) & test
    assert len(train) >= 2
    assert len(val) >= 2
    assert len(test) == classes - classes // 2
    assert names(other)[2] == test  # a seed draws who validates, not who is tested on
    assert parts.places.tolist() == list(range(classes // 2, classes))


@pytest.mark.parametrize("classes", [2, 3, FEWEST - 1])
def test_a_few_classes_are_in_all_parts(classes: int, tmp_path: Path):
    parts = open_classes(photographs(tmp_path / "photos", classes, each=12), 0, size=SIZE)
    assert not parts.is_open
    assert names(parts)[0] == names(parts)[1] == names(parts)[2]
    assert parts.places.tolist() == list(range(classes))
    assert parts.total == classes


def test_what_cannot_be_split_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="1 classes are too few"):
        open_classes(photographs(tmp_path / "one", 1), 0, size=SIZE)
    with pytest.raises(DatasetError, match=r"expected two classes|too few images"):
        open_classes(photographs(tmp_path / "lone", 3, each=3), 0, size=SIZE)
    with pytest.raises(DatasetError, match="unseen species"):
        birds(species=12, unseen=170)

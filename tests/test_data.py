"""Data sets: synthetic copies of every layout always run; the real sets run where CTG_DATA names them."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import runpy
import shutil
import struct
import sys
import tarfile
import threading
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

import helpers.data
from helpers import PROJECT_ROOT
from helpers.data import DatasetError, ImageSet, data_root, few_shot, load_dataset, long_tail
from helpers.data import load as room
from helpers.data import photographs as _photos
from helpers.data import splits as _splits

REAL = os.environ.get("CTG_DATA")
REAL = data_root(REAL) if REAL else None


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    """No test sees the user's data folder or leaves anything in the project's cache."""
    monkeypatch.setattr(_photos, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("CTG_DATA", str(tmp_path / "nowhere"))


def real(name: str) -> Path:
    if REAL is None or not (REAL / name).is_dir():
        pytest.skip(f"CTG_DATA names no folder that holds {name}")
    return REAL


def state(folder: Path) -> dict[str, tuple[int, str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files}


def refused(*args, untouched: Path, **kwargs) -> str:
    """The message of the one DatasetError; the data must be as before and nothing may be cached."""
    before = state(untouched)
    with pytest.raises(DatasetError) as caught:
        load_dataset(*args, **kwargs)
    assert state(untouched) == before
    assert not list(_photos.CACHE.glob("*"))
    return str(caught.value)


def photo(path: Path, shade: int = 90, extent: tuple[int, int] = (40, 30), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 40, (extent[1], extent[0], 3))
    Image.fromarray((noise + shade).astype(np.uint8)).save(path, **options)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def drop_lines(path: Path, count: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-count]))


def replace_text(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def swap_lines(path: Path) -> None:
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([second, first, *rest]))


def make_set(counts: list[int], **annotations) -> ImageSet:
    """Image i of the set is filled with the value i."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return ImageSet("toy", images, labels, [f"class {c}" for c in range(len(counts))], **annotations)


def values(dataset: ImageSet) -> list[int]:
    return (dataset[:][0][:, 0, 0, 0] * 255).round().int().tolist()


# --- layouts ---------------------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def make_mnist(root: Path, kind: str = "MNIST") -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        raw = root / kind / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return root / kind / "raw"


def make_folder(
    folder: Path, classes=("ant", "bee", "cow"), per_class: int = 4, parts=("train", "test")
) -> Path:
    for i, part in enumerate(parts):
        for c, name in enumerate(classes):
            for k in range(per_class):
                photo(folder / part / name / f"{k}.jpg", 10 * c + k + 40 * i)
    return folder


def make_cub(root: Path) -> Path:
    """Species 1, 2, 4 and 7, five photos each; the tables also cover images that are not there."""
    folder = root / "CUB_200_2011"
    tables = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")}
    for i, species in enumerate(np.repeat([1, 2, 4, 7], 5).tolist(), start=1):
        name = f"{species:03d}.Odd_Bird/{i}.jpg"
        photo(folder / "images" / name, 5 * i, (60, 40) if i % 2 else (40, 70))
        tables["images"].append(f"{i} {name}")
        tables["bounding_boxes"].append(f"{i} 12.0 10.0 20.0 15.0")
    for i in range(1, 30):
        tables["image_class_labels"].append(f"{i} {[1, 2, 4, 7][(i - 1) // 5] if i <= 20 else 9}")
        tables["train_test_split"].append(f"{i} {int(i % 5 in (1, 2, 3))}")
    tables["classes"] = [f"{c} {c:03d}.{'Odd' if c != 4 else 'Even'}_Bird" for c in range(1, 201)]
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_cars(root: Path) -> Path:
    folder = root / "Cars196"
    folder.mkdir(parents=True)
    (folder / "names.csv").write_text("\n".join(["Audi/TT", "BMW", "Citroen", "Dacia"]) + "\n")
    for part in ("train", "test"):
        lines = []
        for c, name in ((1, "Audi-TT"), (2, "BMW"), (4, "Dacia")):
            for k in range(3 if part == "train" else 2):
                photo(folder / "car_data" / "car_data" / part / name / f"{k}.jpg", 10 * c + k)
                lines.append(f"{k}.jpg,1,2,3,4,{c}")
        (folder / f"anno_{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_sop(root: Path) -> Path:
    folder = root / "Stanford_Online_Products"
    number = 0
    for part, products in (("train", (1, 2)), ("test", (3, 4, 5))):
        lines = ["image_id class_id super_class_id path"]
        for product in products:
            for k in range(4):
                number += 1
                path = f"chair_final/{1000 + product}_{k}.JPG"
                photo(folder / path, 10 * product + k, format="JPEG")
                lines.append(f"{number} {product} 1 {path}")
        (folder / f"Ebay_{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_aircraft(root: Path) -> Path:
    folder = root / "fgvc-aircraft-2013b" / "data"
    boxes, number = [], 0
    for part in ("train", "val", "test"):
        lines = []
        for variant in ("707-320", "Falcon 900"):
            for _ in range(3):
                number += 1
                photo(folder / "images" / f"{number:07d}.jpg", number, (90, 60))
                lines.append(f"{number:07d} {variant}")
                boxes.append(f"{number:07d} 16 1 75 60")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    (folder / "variants.txt").write_text("707-320\nFalcon 900\n")
    (folder / "images_box.txt").write_text("\n".join(boxes) + "\n")
    return folder.parent


def make_flowers(root: Path, monkeypatch) -> Path:
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    folder = root / "flowers-102"
    ids = np.arange(1, 13)
    for i in ids:
        photo(folder / "jpg" / f"image_{i:05d}.jpg", 10 * i)
    savemat(folder / "imagelabels.mat", {"labels": np.repeat([1, 2, 3], 4)[None]})
    savemat(
        folder / "setid.mat",
        {"trnid": ids[None, ::4], "valid": ids[None, 1::4], "tstid": np.sort([*ids[2::4], *ids[3::4]])},
    )
    known = {key: (file, hashlib.md5((folder / file).read_bytes()).hexdigest()) for key, file in
             (("label", "imagelabels.mat"), ("setid", "setid.mat"))}  # fmt: skip
    monkeypatch.setattr(Flowers102, "_file_dict", Flowers102._file_dict | known)
    return folder


def make_omniglot(root: Path, monkeypatch) -> Path:
    from torchvision.datasets import Omniglot

    folder = root / "omniglot-py"
    sums = {}
    for part, characters in (("images_background", 3), ("images_evaluation", 2)):
        for c in range(characters):
            for k in range(5):
                path = folder / part / "Alphabet" / f"character{c + 1:02d}" / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.eye(105, k=10 * k) > 0).save(path)
        (folder / f"{part}.zip").write_bytes(part.encode())
        sums[part] = hashlib.md5(part.encode()).hexdigest()
    monkeypatch.setattr(Omniglot, "zips_md5", sums)
    return folder


# --- ImageSet --------------------------------------------------------------------------------------------


def test_one_item_and_a_batch_agree():
    dataset = make_set([3, 4])
    assert len(dataset) == 7
    assert dataset.num_classes == 2
    image, label = dataset[5]
    assert image.shape == (1, 8, 8)
    assert image.dtype == torch.float32
    assert isinstance(label, int)
    assert image[0, 0, 0] == pytest.approx(5 / 255)
    for indices in ([5, 0, 5, -1], torch.tensor([5, 0, 5, 6]), np.array([5, 0, 5, 6])):
        images, labels = dataset[indices]
        assert torch.equal(images, torch.stack([dataset[i][0] for i in (5, 0, 5, 6)]))
        assert labels.tolist() == [1, 0, 1, 1]
    assert torch.equal(dataset[np.int64(2)][0], dataset[torch.tensor(2)][0])
    assert len(list(dataset)) == 7
    assert dataset[[]][0].shape == (0, 1, 8, 8)
    assert dataset[2:4][1].tolist() == [0, 1]


def test_loader_reads_batches_in_one_gather():
    dataset = make_set([3, 4])
    images, labels = next(iter(DataLoader(dataset, batch_size=4)))
    assert torch.equal(images, dataset[:4][0])
    assert torch.equal(labels, dataset.labels[:4])


@pytest.mark.parametrize(
    ("index", "error"),
    [(7, IndexError), (-8, IndexError), ([0, 7], IndexError), ([True] * 7, TypeError), ([0.5], TypeError),
     (1.5, TypeError), ([[0, 1]], TypeError)],
)  # fmt: skip
def test_bad_positions_are_named(index, error):
    with pytest.raises(error, match="toy"):
        make_set([3, 4])[index]


def test_annotations_follow_subsets():
    numbers = torch.arange(7.0)
    dataset = make_set(
        [3, 4],
        boxes=numbers[:, None].repeat(1, 4),
        parts=numbers[:, None, None].repeat(1, 2, 3),
        part_names=("beak", "tail"),
        part_masks=(numbers > 3)[:, None, None].repeat(1, 8, 8),
    )
    for part in (dataset.subset([6, 1]), dataset.subset([4, 6, 1]).subset(torch.tensor([1, 2]))):
        assert values(part) == [6, 1]
        assert part.labels.tolist() == [1, 0]
        assert part.boxes[:, 0].tolist() == part.parts[:, 0, 0].tolist() == [6, 1]
        assert part.part_masks[:, 0, 0].tolist() == [True, False]
        assert (part.class_names, part.part_names) == (dataset.class_names, ["beak", "tail"])
    assert dataset.subset([0]).part_masks.shape == (1, 8, 8)
    assert make_set([2]).subset([0]).boxes is None


def test_select_classes_renumbers_in_the_order_given():
    part = make_set([2, 3, 1]).select_classes([2, 0])
    assert part.class_names == ["class 2", "class 0"]
    assert values(part) == [0, 1, 5]
    assert part.labels.tolist() == [1, 1, 0]
    for wrong in ([0, 0], [3], [-1]):
        with pytest.raises(DatasetError, match="distinct classes from 0 to 2"):
            make_set([2, 3, 1]).select_classes(wrong)


def test_colour_repeats_the_grey_channel():
    dataset = make_set([2, 2])
    images = dataset.as_colour()[:][0]
    assert images.shape == (4, 3, 8, 8)
    assert torch.equal(images, dataset[:][0].repeat(1, 3, 1, 1))
    assert dataset.image_shape == (1, 8, 8)


def test_image_set_refuses_annotations_that_do_not_fit():
    images, names = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), ["a", "b"]
    for labels in (torch.tensor([0, 1, 2]), torch.tensor([0, -1, 1])):
        with pytest.raises(DatasetError, match=r"labels must lie in 0 \.\. 1"):
            ImageSet("toy", images, labels, names)
    with pytest.raises(DatasetError, match="2 labels for 3 images"):
        ImageSet("toy", images, torch.tensor([0, 1]), names)
    with pytest.raises(DatasetError, match="labels must be int64"):
        ImageSet("toy", images, torch.zeros(3), names)
    with pytest.raises(DatasetError, match="2 boxes for 3 images"):
        ImageSet("toy", images, torch.tensor([0, 1, 1]), names, boxes=torch.zeros(2, 4))


# --- splits ----------------------------------------------------------------------------------------------

COUNTS = st.lists(st.integers(2, 9), min_size=2, max_size=8)
SHARES = st.floats(0.01, 0.99)


@settings(deadline=None, max_examples=40)
@given(counts=COUNTS, test_share=SHARES, val_share=SHARES, seed=st.integers(0, 99))
def test_closed_split_is_a_stratified_partition(counts, test_share, val_share, seed):
    dataset = make_set(counts)
    parts = _splits.split_closed(dataset, None, test_share, val_share, torch.Generator().manual_seed(seed))
    found = [number for part in parts if part is not None for number in values(part)]
    assert sorted(found) == list(range(sum(counts)))
    for label, count in enumerate(counts):
        train, test = (int((part.labels == label).sum()) for part in (parts.train, parts.test))
        val = count - train - test
        assert min(train, test) >= 1
        assert abs(test - test_share * count) <= 1
        assert abs(val - val_share * (count - test)) <= 1


@settings(deadline=None, max_examples=40)
@given(counts=COUNTS, seed=st.integers(0, 99))
def test_open_split_separates_classes_and_keeps_all_images(counts, seed):
    dataset = make_set(counts)
    share = 0.4 if len(counts) > 3 else 0
    train, val, test = _splits.split_open(dataset, None, share, torch.Generator().manual_seed(seed))
    half = len(counts) // 2
    assert test.class_names == dataset.class_names[half:]
    assert values(test) == list(range(sum(counts[:half]), sum(counts)))
    trained = train.class_names + (val.class_names if share else [])
    assert sorted(trained) == dataset.class_names[:half]
    for part in filter(None, (train, val, test)):
        assert [Counter(part.labels.tolist())[c] for c in range(part.num_classes)] == [
            counts[int(name.split()[1])] for name in part.class_names
        ]
    assert (val is None) == (share == 0)


def test_seed_draws_the_split():
    first, again, other = (load_dataset("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.val[:][0], again.val[:][0])
    assert torch.equal(first.test[:][0], again.test[:][0])
    assert not torch.equal(first.test[:][0], other.test[:][0])


@settings(deadline=None, max_examples=40)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_rank_within_class_is_a_permutation_per_class(labels, seed):
    labels = torch.tensor(labels)
    rank = _splits._rank_within_class(labels, torch.Generator().manual_seed(seed))
    for label in labels.unique():
        own = rank[labels == label]
        assert sorted(own.tolist()) == list(range(len(own)))


def test_few_shot():
    dataset = make_set([5, 9, 6])
    few = few_shot(dataset, 4, seed=1)
    assert torch.bincount(few.labels).tolist() == [4, 4, 4]
    assert values(few) == sorted(set(values(few)))
    assert values(few) == values(few_shot(dataset, 4, seed=1)) != values(few_shot(dataset, 4, seed=2))
    assert values(few_shot(dataset, 5))[:5] == [0, 1, 2, 3, 4]
    for wrong in (0, 6):
        with pytest.raises(DatasetError, match=f"per_class={wrong}, expected 1 to 5.*'class 0'"):
            few_shot(dataset, wrong)


def test_long_tail():
    dataset = make_set([64, 64, 64, 4])
    assert torch.bincount(long_tail(dataset, 64).labels).tolist() == [64, 16, 4, 1]
    assert torch.bincount(long_tail(dataset, 1).labels).tolist() == [64, 64, 64, 4]
    assert torch.bincount(long_tail(dataset, 1e9).labels, minlength=4).min() == 1
    assert values(long_tail(dataset, 8, seed=1)) == values(long_tail(dataset, 8, seed=1))
    assert values(long_tail(dataset, 8, seed=1)) != values(long_tail(dataset, 8, seed=2))
    assert len(long_tail(make_set([7]), 10)) == 7
    for wrong in (0.5, -1, float("nan"), float("inf")):
        with pytest.raises(DatasetError, match="imbalance="):
            long_tail(dataset, wrong)
    with pytest.raises(DatasetError, match="no image of 'class 1'"):
        long_tail(make_set([3, 0, 2]), 2)


# --- embedded sets ---------------------------------------------------------------------------------------


def test_digits():
    train, val, test = load_dataset("digits")
    assert len(train) + len(val) + len(test) == 1797
    assert train.image_shape == (1, 8, 8)
    assert train.class_names == list("0123456789")
    assert train.boxes is None
    assert train[:][0].max() == 1
    assert load_dataset("digits", val_share=0).val is None
    assert load_dataset("digits", size=16, channels=3).test.image_shape == (3, 16, 16)


def test_open_digits():
    train, val, test = load_dataset("digits", setting="open")
    assert (train.class_names, val, test.class_names) == (list("01234"), None, list("56789"))
    assert len(train) + len(test) == 1797
    train, val, test = load_dataset("digits", setting="open", val_share=0.4)
    assert (train.num_classes, val.num_classes, test.num_classes) == (3, 2, 5)
    assert set(val.labels.tolist()) == {0, 1}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A birds room that counts how often it draws."""
    module = types.ModuleType("helpers.data.birds")
    module.__file__ = str(tmp_path / "birds.py")
    Path(module.__file__).write_text("# drawn, first edition\n")
    module.calls = []

    def make_birds(num_species=20, per_species=20, *, size=64, seed=0, first_species=0, siblings=4):
        if num_species < 1:
            raise ValueError(f"num_species={num_species}, expected at least 1")
        module.calls.append((num_species, per_species, size, seed, first_species, siblings))
        count = num_species * per_species
        rng = np.random.default_rng(seed)
        return types.SimpleNamespace(
            images=rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8),
            labels=np.repeat(np.arange(num_species), per_species),
            boxes=np.tile(np.float32([1, 2, 7, 8]), (count, 1)),
            parts=np.ones((count, 2, 3), dtype=np.float32),
            part_names=("beak", "tail"),
            part_masks=np.ones((count, size, size), dtype=bool),
            class_names=[f"species {first_species + s}" for s in range(num_species)],
        )

    module.make_birds = make_birds
    monkeypatch.setattr(helpers.data, "birds", module)
    return module


def test_birds_are_drawn_once_per_arguments_and_source(stand_in):
    options = {"size": 16, "num_species": 4, "per_species": np.int64(8)}
    first = load_dataset("birds", **options)
    again = load_dataset("birds", **options, seed=0)
    assert stand_in.calls == [(4, 8, 16, 0, 0, 4)]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a[:][0], b[:][0])
        assert torch.equal(a.boxes, b.boxes)
        assert (a.class_names, a.part_names) == (b.class_names, ["beak", "tail"])
    assert torch.bincount(first.test.labels).tolist() == [2, 2, 2, 2]
    assert first.train.part_masks.dtype == torch.bool
    assert first.train.part_masks.shape == (len(first.train), 16, 16)
    assert first.train.parts.shape == (len(first.train), 2, 3)
    load_dataset("birds", **options, draw_seed=1)
    load_dataset("birds", **options, first_species=4, siblings=2)
    Path(stand_in.__file__).write_text("# drawn, second edition\n")
    load_dataset("birds", **options)
    assert stand_in.calls[1:] == [(4, 8, 16, 1, 0, 4), (4, 8, 16, 0, 4, 2), (4, 8, 16, 0, 0, 4)]


def test_refused_birds(stand_in):
    with pytest.raises(DatasetError, match="birds: num_species=0"):
        load_dataset("birds", num_species=0)
    with pytest.raises(TypeError, match="sise"):
        load_dataset("birds", sise=64)
    with pytest.raises(TypeError, match="num_species"):
        load_dataset("digits", num_species=4)
    assert not list(_photos.CACHE.glob("*"))


def test_real_birds():
    train, _, test = load_dataset("birds", setting="open", size=32, num_species=4, per_species=3)
    assert (len(train), len(test)) == (6, 6)
    assert train.image_shape == (3, 32, 32)
    assert train.boxes.min() >= 0
    assert train.boxes.max() <= 32
    assert train.parts.shape == (6, len(train.part_names), 3)
    assert train.part_masks.flatten(1).any(1).any()


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CUB", {}, "Did you mean 'cub'"),
        ("flowers", {}, "Did you mean 'flowers102'"),
        ("xyzzy", {}, "called 'xyzzy'. Known: digits, birds"),
        (None, {}, "called None"),
        ("digits", {"setting": "half"}, "setting='half', expected 'closed' or 'open'"),
        *(("digits", {"size": s}, "size=.*8 to 1024") for s in (0, -1, 7, 1025, 12.5, "64", True)),
        ("digits", {"channels": 2}, "channels=2, expected 1 or 3"),
        ("cub", {"channels": 1}, "channels=1, expected 3"),
        ("folder:x", {"channels": 2}, "channels=2, expected 1 or 3"),
        *(("digits", {"seed": s}, "seed=") for s in (-1, 0.5, None)),
        *(("digits", {"test_share": s}, "test_share=") for s in (0, 1, float("nan"))),
        *(("digits", {"val_share": s}, "val_share=") for s in (-0.1, 1, float("nan"))),
        ("digits", {"size": 512, "memory_limit": 10**6}, "1797 images of side 512 need more than"),
        ("digits", {"setting": "open", "val_share": 0.99}, "too few for the open setting"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(name, **options)


# --- idx files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_sets(tmp_path, name, kind):
    raw = make_mnist(tmp_path / "sets", kind)
    train, val, test = load_dataset(name, tmp_path / "sets", val_share=0.25)
    assert (len(train), len(val), len(test)) == (30, 10, 20)
    pixels = np.frombuffer(raw.joinpath("t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(
        20, 28, 28
    )
    assert np.array_equal((test[:][0][:, 0] * 255).round().numpy(), pixels)
    assert test.labels.tolist() == [i % 10 for i in range(20)]
    whole = load_dataset(name, tmp_path / "sets", setting="open")
    assert (len(whole.train), len(whole.test)) == (30, 30)


def _cut_pixels(raw: Path) -> None:
    cut(raw / "train-images-idx3-ubyte", 0.9)


def _cut_whole_images(raw: Path) -> None:
    path = raw / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[: 16 + 784 * 10])


def _cut_header(raw: Path) -> None:
    path = raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:5])


def _wrong_magic(raw: Path) -> None:
    path = raw / "train-labels-idx1-ubyte"
    path.write_bytes(b"<htm" + path.read_bytes()[4:])


def _fewer_labels(raw: Path) -> None:
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(39, np.uint8))


def _odd_label(raw: Path) -> None:
    write_idx(raw / "train-labels-idx1-ubyte", np.full(40, 11, np.uint8))


def _no_labels(raw: Path) -> None:
    (raw / "t10k-labels-idx1-ubyte").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_cut_pixels, "train-images-idx3-ubyte has 28,238 bytes, its header promises 31,376"),
     (_cut_whole_images, "has 7,856 bytes, its header promises 15,696"),
     (_cut_header, "t10k-labels-idx1-ubyte is no idx file"), (_wrong_magic, "is no idx file"),
     (_fewer_labels, "train has 40 images, but another number of labels"), (_odd_label, "a label is 11"),
     (_no_labels, "t10k-labels-idx1-ubyte")],
)  # fmt: skip
def test_damaged_idx_sets(tmp_path, damage, message):
    raw = make_mnist(tmp_path / "sets", "FashionMNIST")
    damage(raw)
    text = refused("fashion_mnist", tmp_path / "sets", untouched=tmp_path / "sets")
    assert message in text
    assert text.startswith("fashion_mnist: ")
    assert str(tmp_path / "sets" / "FashionMNIST") in text
    assert f"python -m helpers.data fetch fashion_mnist --root {tmp_path / 'sets'}`" in text
    assert "load_dataset('digits')" in text


# --- absent sets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, source in room.SOURCES.items() if source.folder])
def test_absent_set_says_where_and_how(tmp_path, monkeypatch, name):
    monkeypatch.setenv("CTG_DATA", str(tmp_path))
    text = refused(name, untouched=tmp_path)
    assert f"no folder {tmp_path / room.SOURCES[name].folder}." in text
    assert f"`python -m helpers.data fetch {name}`" in text
    assert f"load_dataset({room.SOURCES[name].stand_in!r})" in text
    (tmp_path / room.SOURCES[name].folder).mkdir()
    assert "Move that folder away" in refused(name, untouched=tmp_path)


def test_data_root(tmp_path, monkeypatch):
    assert data_root(tmp_path) == tmp_path
    assert data_root() == tmp_path / "nowhere"
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTG_DATA", "sets")
    assert data_root() == tmp_path / "sets"
    monkeypatch.setenv("CTG_DATA", "helpers")
    assert data_root() == PROJECT_ROOT / "helpers"
    monkeypatch.delenv("CTG_DATA")
    assert data_root() == PROJECT_ROOT / "data"


# --- photos ----------------------------------------------------------------------------------------------


def test_folder(tmp_path):
    make_folder(tmp_path / "sets")
    train, val, test = load_dataset(f"folder:{tmp_path / 'sets'}", size=32, val_share=0.25)
    assert (len(train), len(val), len(test)) == (9, 3, 12)
    assert train.class_names == ["ant", "bee", "cow"]
    assert train.image_shape == (3, 32, 32)
    assert train.name == "folder:sets/train"
    assert test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    means = test[:][0].mean(dim=(1, 2, 3)) * 255 - 19.5
    expected = torch.tensor([40.0 + 10 * c + k for c in range(3) for k in range(4)])
    assert (means - expected).abs().max() < 2
    opened = load_dataset(f"folder:{tmp_path / 'sets'}", size=32, setting="open")
    assert (opened.train.class_names, opened.test.class_names) == (["ant"], ["bee", "cow"])
    assert (len(opened.train), len(opened.test)) == (8, 16)


def test_relative_folder(tmp_path, monkeypatch):
    make_folder(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("folder:mine", size=8).test) == 12
    monkeypatch.setattr(room, "PROJECT_ROOT", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(load_dataset("folder:mine", size=8).test) == 12
    with pytest.raises(
        DatasetError, match=r"no folder .*elsewhere/yours and no .*yours\. Put train/ and test/"
    ):
        load_dataset("folder:yours")


def test_val_folder_may_lack_classes_and_keeps_numbers(tmp_path):
    folder = make_folder(tmp_path / "sets")
    make_folder(folder, classes=("cow",), per_class=2, parts=("val",))
    train, val, test = load_dataset(f"folder:{folder}", size=8)
    assert (len(train), len(val), len(test)) == (12, 2, 12)
    assert val.labels.tolist() == [2, 2]
    assert val.class_names == train.class_names


def test_hidden_files_and_litter_are_passed_over(tmp_path):
    folder = make_folder(tmp_path / "sets")
    (folder / "train" / "ant" / ".DS_Store").write_text("x")
    (folder / "train" / "ant" / "Thumbs.db").write_text("x")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    photo(folder / "train" / "ant" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
    photo(folder / "train" / "ant" / "more" / "nested.PNG")
    parts = load_dataset(f"folder:{folder}", size=8, val_share=0)
    assert torch.bincount(parts.train.labels).tolist() == [5, 4, 4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f / "test"), "there is no folder test/"),
        (lambda f: shutil.rmtree(f / "train"), "there is no folder train/"),
        (lambda f: (shutil.rmtree(f / "train"), (f / "train").mkdir()), "train/ holds no class folder"),
        (lambda f: (f / "train" / "dog").mkdir(), "class folders without images: train/dog"),
        (
            lambda f: (f / "train" / "bee" / "notes.txt").write_text("x"),
            "move away train/bee/notes.txt. Images",
        ),
        (
            lambda f: (f / "train" / "bee" / "a.heic").write_text("x"),
            "move away train/bee/a.heic. Images end in",
        ),
        (lambda f: (f / "val").write_text("x"), "there is no folder val/"),
        (
            lambda f: (f / "test" / "bee" / "all").symlink_to(f / "test"),
            "test/bee/all is a link to a folder that",
        ),
        (lambda f: photo(f / "train" / "loose.jpg"), "move away train/loose.jpg"),
        (lambda f: shutil.rmtree(f / "test" / "bee"), "train/ and test/ differ in these class folders: bee"),
        (
            lambda f: photo(f / "test" / "dog" / "0.jpg"),
            "train/ and test/ differ in these class folders: dog",
        ),
        (lambda f: photo(f / "val" / "dog" / "0.jpg"), "train/ and val/ differ in these class folders: dog"),
        (lambda f: cut(f / "test" / "cow" / "1.jpg"), "1 of 24 images cannot be decoded"),
        (lambda f: cut(photo(f / "test" / "cow" / "x.png")), "x.png"),
        (lambda f: (f / "train" / "ant" / "0.jpg").write_bytes(b""), "1 of 24 images cannot be decoded"),
        (lambda f: (f / "train" / "ant" / "0.jpg").write_text("not found"), "cannot identify image file"),
        (lambda f: [cut(p) for p in (f / "train").rglob("*.jpg")], "12 of 24 images cannot be decoded"),
        (lambda f: (f / "train" / "ant" / "gone.jpg").symlink_to(f / "x"), "1 of 25 images are missing"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    folder = make_folder(tmp_path / "sets")
    damage(folder)
    text = refused(f"folder:{folder}", size=8, untouched=folder)
    assert message in text
    assert text.startswith("folder:sets: ")
    assert f"looked at {folder}" in text
    assert "load_dataset('birds')" in text


@pytest.mark.parametrize("inside", ["", "train", "train/bee", "test/ant/more"])
def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path, monkeypatch, inside):
    """As chmod 000 does; the tests may run as root, whom nothing stops."""
    folder = make_folder(tmp_path / "sets")
    photo(folder / "test" / "ant" / "more" / "0.jpg")
    closed = os.path.normpath(folder / inside)

    def listing(real):
        def call(path="."):
            if os.fspath(path) == closed:
                raise PermissionError(13, "Permission denied", closed)
            return real(path)

        return call

    with monkeypatch.context() as patch:
        for name in ("scandir", "listdir"):
            patch.setattr(os, name, listing(getattr(os, name)))
        with pytest.raises(DatasetError, match=f"Permission denied.*{closed}|{closed} cannot be listed"):
            load_dataset(f"folder:{folder}", size=8)
    assert len(load_dataset(f"folder:{folder}", size=8).test) == 13


def test_a_class_folder_whose_name_is_no_text_is_refused_by_name(tmp_path):
    folder = make_folder(tmp_path / "sets")
    for part in ("train", "test"):
        try:
            os.rename(folder / part / "bee", os.fsencode(folder / part) + b"/caf\xe9")
        except OSError:
            pytest.skip("this file system wants names in UTF-8")
    text = refused(f"folder:{folder}", size=8, untouched=folder)
    assert r"the name of the class folder caf\xe9 is no UTF-8; rename it" in text
    assert text.encode()


def test_a_folder_or_photo_whose_name_is_no_text_is_named_in_text(tmp_path):
    folder = make_folder(tmp_path / "sets")
    try:
        os.rename(folder / "train" / "bee" / "0.jpg", os.fsencode(folder / "train" / "bee") + b"/\xe9.jpg")
        os.rename(folder, os.fsencode(tmp_path) + b"/\xe9")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    assert load_dataset(f"folder:{odd}", size=8).train.name == r"folder:\xe9/train"
    for path in Path(odd, "train", "bee").iterdir():
        cut(path)
    with pytest.raises(DatasetError) as caught:
        load_dataset(f"folder:{odd}", size=8)
    assert r"\xe9/train/bee/1.jpg" in str(caught.value).encode().decode()


def test_names_of_classes_are_compared_in_one_normal_form(tmp_path):
    composed, decomposed = "M\u00f6we", "Mo\u0308we"
    folder = make_folder(tmp_path / "sets", classes=("ant", composed), parts=("train",))
    make_folder(folder, classes=("ant", decomposed), parts=("test",))
    parts = load_dataset(f"folder:{folder}", size=8)
    assert parts.train.class_names == parts.test.class_names == [composed, "ant"]
    assert torch.bincount(parts.test.labels).tolist() == [4, 4]
    make_folder(folder, classes=(decomposed,), parts=("train",))
    if len(os.listdir(folder / "train")) == 3:  # else the file system itself takes both for one name
        with pytest.raises(DatasetError, match=f"two class folders that read {composed}; rename one"):
            load_dataset(f"folder:{folder}", size=8)


def test_grey_and_other_formats_in_a_folder(tmp_path):
    """`channels=1` reads grey, also from colour; on disk and in memory alike, and as colour again."""
    for part in ("train", "test"):
        for suffix in ("gif", "jfif", "png"):
            photo(tmp_path / "sets" / part / "grey" / f"a.{suffix}", 60).rename(
                tmp_path / "sets" / part / "grey" / f"a.{suffix.upper()}"
            )
        colour = tmp_path / "sets" / part / "red"
        colour.mkdir()
        for i in range(3):
            Image.new("RGB", (16, 16), (255, 0, 0)).save(colour / f"{i}.bmp")
    for limit in (10**9, 10):
        test = load_dataset(f"folder:{tmp_path / 'sets'}", size=8, channels=1, memory_limit=limit).test
        assert test.image_shape == (1, 8, 8)
        assert (test[3:][0] == 76 / 255).all()  # .299 of red
        assert torch.equal(test.as_colour()[:][0], test[:][0].expand(-1, 3, -1, -1))
        assert (
            load_dataset(f"folder:{tmp_path / 'sets'}", size=8, memory_limit=limit).test.image_shape[0] == 3
        )


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_cut_anywhere_is_refused(tmp_path, share, options):
    path = cut(photo(tmp_path / "a.jpg", extent=(300, 200), **options), share)
    for limit in (0, 10**9):
        with pytest.raises(DatasetError, match=r"a\.jpg"):
            _photos.open_photos([path], 32, "RGB", limit)


def test_one_image_per_class_cannot_be_split(tmp_path):
    with pytest.raises(DatasetError, match="too few images per class"):
        _splits.split_closed(make_set([1, 1]), None, 0.5, 0, torch.Generator())


@pytest.mark.parametrize("extent", [(90, 30), (30, 90), (400, 130), (30, 30)])
def test_photo_keeps_the_centre_square(tmp_path, extent):
    """Red, green and blue thirds along the long side: only green is left."""
    width, height = extent
    pixels = np.zeros((height, width, 3), np.uint8)
    axis, short = (1, height) if width > height else (0, width)
    start = (max(extent) - short) // 2
    channel = np.where(
        np.arange(max(extent)) < start, 0, np.where(np.arange(max(extent)) < start + short, 1, 2)
    )
    for c in range(3):
        pixels[..., c] = 255 * (channel == c)[None, :] if axis == 1 else 255 * (channel == c)[:, None]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images, extents = _photos.open_photos([tmp_path / "a.png"], 16, "RGB", 10**9)
    assert extents.tolist() == [list(extent)]
    inner = images[0, :, 1:-1, 1:-1]  # the outermost pixels are blended with what lies beside the square
    assert torch.equal(inner, torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None].expand(3, 14, 14))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("extent", [(300, 200), (200, 300), (640, 200)])
def test_boxes_follow_the_crop(tmp_path, extent, suffix):
    """The white rectangle in the output lies where its box says."""
    x, y, w, h = extent[0] / 2 - 60, extent[1] / 2 - 40, 90, 50
    pixels = np.zeros((extent[1], extent[0], 3), np.uint8)
    pixels[int(y) : int(y + h), int(x) : int(x + w)] = 255
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", quality=100)
    images, extents = _photos.open_photos([tmp_path / f"a.{suffix}"], 64, "RGB", 10**9)
    box = _photos.crop_boxes(torch.tensor([[x, y, x + w, y + h]]), extents, 64)[0]
    rows, columns = (images[0, 0] > 127).nonzero(as_tuple=True)
    seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (box - seen).abs().max() <= 1


def test_boxes_are_clipped_to_the_crop():
    extents = torch.tensor([[200.0, 100.0]] * 3)
    boxes = torch.tensor([[0.0, 0, 200, 100], [0, 0, 20, 50], [50, 0, 100, 50]])
    clipped = _photos.crop_boxes(boxes, extents, 10)
    assert clipped.tolist() == [[0, 0, 10, 10], [0, 0, 0, 5], [0, 0, 5, 5]]


def test_file_backed_equals_in_memory(tmp_path):
    make_folder(tmp_path / "sets")
    near = load_dataset(f"folder:{tmp_path / 'sets'}", size=16)
    far = load_dataset(f"folder:{tmp_path / 'sets'}", size=16, memory_limit=1000)
    assert isinstance(far.train._images, _photos.PhotoFiles)
    for a, b in zip(near, far, strict=True):
        assert a.image_shape == b.image_shape
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a[:][0], b[:][0])
        assert torch.equal(a[0][0], pickle.loads(pickle.dumps(b))[0][0])
    assert far.test[[]][0].shape == (0, 3, 16, 16)
    cut(tmp_path / "sets" / "test" / "ant" / "0.jpg")
    with pytest.raises(DatasetError, match=r"ant/0\.jpg"):
        far.test[[0, 1]]


# --- cache -----------------------------------------------------------------------------------------------


def test_cache_is_used_and_follows_the_files(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "sets")
    first = load_dataset(f"folder:{folder}", size=16, val_share=0)
    with monkeypatch.context() as patch:
        patch.setattr(_photos, "_decode_all", lambda *a, **k: pytest.fail("decoded again"))
        again = load_dataset(f"folder:{folder}", size=16, setting="open")
    assert torch.equal(again.train[:4][0], first.train[:4][0])
    photo(folder / "test" / "ant" / "0.jpg", 200)
    assert load_dataset(f"folder:{folder}", size=16).test[0][0].mean() > 0.8
    path = folder / "test" / "ant" / "0.jpg"
    path.write_bytes(bytes(path.stat().st_size))  # same length, other time
    with pytest.raises(DatasetError, match=r"ant/0\.jpg"):
        load_dataset(f"folder:{folder}", size=16)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "other arrays"])
def test_damaged_cache_is_rebuilt(tmp_path, damage):
    folder = make_folder(tmp_path / "sets")
    first = load_dataset(f"folder:{folder}", size=16)
    (path,) = _photos.CACHE.glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    elif damage == "other arrays":
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes(b"" if damage == "empty" else b"nonsense")
    again = load_dataset(f"folder:{folder}", size=16)
    assert torch.equal(first.train[:][0], again.train[:][0])
    assert _photos.CACHE / path.name == path
    assert np.load(path)["images"].shape == (24, 3, 16, 16)


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "sets")
    monkeypatch.setattr(_photos, "CACHE", photo(tmp_path / "file.png"))
    with pytest.warns(UserWarning, match="not cached"):
        assert len(load_dataset(f"folder:{folder}", size=8).test) == 12
    monkeypatch.setattr(_photos, "CACHE", tmp_path / "full")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        load_dataset(f"folder:{folder}", size=8)
    assert not list((tmp_path / "full").iterdir())


# --- published layouts -----------------------------------------------------------------------------------


def test_cub_layout(tmp_path):
    make_cub(tmp_path / "sets")
    train, val, test = load_dataset("cub", tmp_path / "sets", size=20, val_share=0)
    assert (len(train), val, len(test)) == (12, None, 8)
    assert train.class_names == ["Odd Bird", "Odd Bird", "Even Bird", "Odd Bird"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    # Photo 1 is 60 x 40: the square starts at x = 10 and is halved. Photo 2 is 40 x 70: it starts at y = 15.
    assert train.boxes[:2].tolist() == [[1, 5, 11, 12.5], [6, 0, 16, 5]]
    opened = load_dataset("cub", tmp_path / "sets", size=20, setting="open")
    assert (len(opened.train), len(opened.test)) == (10, 10)
    assert opened.test.class_names == ["Even Bird", "Odd Bird"]
    far = load_dataset("cub", tmp_path / "sets", size=20, val_share=0, memory_limit=100)
    assert torch.equal(far.train.boxes, train.boxes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "images" / "002.Odd_Bird" / "7.jpg").unlink(), "1 of 20 images are missing"),
        (lambda f: cut(f / "images" / "002.Odd_Bird" / "7.jpg"), "1 of 20 images cannot be decoded"),
        (lambda f: (f / "bounding_boxes.txt").unlink(), "bounding_boxes.txt"),
        (lambda f: drop_lines(f / "bounding_boxes.txt", 9), "bounding_boxes.txt lacks 9 of the 20 images"),
        (lambda f: cut(f / "bounding_boxes.txt"), "bounding_boxes.txt: line 11 has not 5 fields"),
        (lambda f: drop_lines(f / "images.txt", 7), "images.txt has 13 images, but bounding_boxes.txt 20"),
        (lambda f: drop_lines(f / "image_class_labels.txt", 12), "image_class_labels.txt lacks 3 of the 20"),
        (lambda f: drop_lines(f / "train_test_split.txt", 10), "train_test_split.txt lacks 1 of the 20"),
        (lambda f: swap_lines(f / "image_class_labels.txt"), "are not in the same order"),
        (lambda f: (f / "classes.txt").write_text(""), "classes.txt: is empty"),
        (lambda f: drop_lines(f / "classes.txt", 195), "classes.txt lacks species"),
        (lambda f: replace_text(f / "bounding_boxes.txt", "20.0", "wide"), "ValueError: could not convert"),
    ],
)
def test_damaged_cub(tmp_path, damage, message):
    damage(make_cub(tmp_path / "sets"))
    text = refused("cub", tmp_path / "sets", untouched=tmp_path / "sets", size=8)
    assert message in text
    assert "fetch cub" in text
    assert "load_dataset('birds')" in text


def test_cars_layout(tmp_path):
    folder = make_cars(tmp_path / "sets")
    train, _, test = load_dataset("cars196", tmp_path / "sets", size=8, val_share=0)
    assert (len(train), len(test)) == (9, 6)
    assert train.class_names == ["Audi/TT", "BMW", "Dacia"]
    opened = load_dataset("cars196", tmp_path / "sets", size=8, setting="open")
    assert (len(opened.train), len(opened.test)) == (5, 10)
    assert opened.test.class_names == ["BMW", "Dacia"]
    (folder / "anno_test.csv").write_text("0.jpg,1,2,3,4,77\n")
    with pytest.raises(DatasetError, match="cars196: IndexError"):
        load_dataset("cars196", tmp_path / "sets", size=8)


def test_sop_keeps_its_published_classes(tmp_path):
    make_sop(tmp_path / "sets")
    train, _, test = load_dataset("sop", tmp_path / "sets", size=8, setting="open")
    assert train.class_names == ["chair 1001", "chair 1002"]
    assert test.class_names == ["chair 1003", "chair 1004", "chair 1005"]
    assert (len(train), len(test)) == (8, 12)
    closed = load_dataset("sop", tmp_path / "sets", size=8)
    assert closed.train.num_classes == 5
    assert torch.bincount(closed.test.labels).tolist() == [1] * 5


def test_aircraft_layout(tmp_path):
    folder = make_aircraft(tmp_path / "sets")
    train, val, test = load_dataset("aircraft", tmp_path / "sets", size=30)
    assert (len(train), len(val), len(test)) == (6, 6, 6)
    assert train.class_names == ["707-320", "Falcon 900"]
    # 90 x 60: the square spans x = 15 .. 75, just as the box 16 1 75 60 does, counted from 1 and inclusive.
    assert train.boxes[0].tolist() == [0, 0, 30, 30]
    cut(folder / "data" / "images_box.txt")
    with pytest.raises(DatasetError, match="aircraft: "):
        load_dataset("aircraft", tmp_path / "sets", size=30)


def test_flowers_layout(tmp_path, monkeypatch):
    folder = make_flowers(tmp_path / "sets", monkeypatch)
    train, val, test = load_dataset("flowers102", tmp_path / "sets", size=8)
    assert (len(train), len(val), len(test)) == (3, 3, 6)
    assert train.class_names[:2] == ["pink primrose", "hard-leaved pocket orchid"]
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (folder / "setid.mat").write_bytes((folder / "setid.mat").read_bytes() + b"x")
    with pytest.raises(DatasetError, match="flowers102: RuntimeError: Dataset not found or corrupted"):
        load_dataset("flowers102", tmp_path / "sets", size=8)


def test_omniglot_layout(tmp_path, monkeypatch):
    folder = make_omniglot(tmp_path / "sets", monkeypatch)
    train, _, test = load_dataset("omniglot", tmp_path / "sets", setting="open")
    assert (len(train), len(test)) == (15, 10)
    assert train.image_shape == (1, 105, 105)
    assert test.class_names == ["Alphabet/character01", "Alphabet/character02"]
    assert torch.equal(test[0][0][0], torch.eye(105))
    for limit in (10**9, 10):
        colour = load_dataset("omniglot", tmp_path / "sets", size=28, channels=3, memory_limit=limit)
        assert colour.train[[0]][0].shape == (1, 3, 28, 28)
        assert torch.bincount(colour.test.labels).tolist() == [1] * 5
    (folder / "images_evaluation.zip").write_bytes(b"other")
    with pytest.raises(DatasetError, match="omniglot: RuntimeError: Dataset not found or corrupted"):
        load_dataset("omniglot", tmp_path / "sets")


# --- fetching --------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that a web server on this machine serves; yields (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def serve_fashion(served, tmp_path, monkeypatch) -> None:
    from torchvision.datasets import FashionMNIST

    folder, address = served
    raw = make_mnist(tmp_path / "original", "FashionMNIST")
    sums = []
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (folder / f"{path.name}.gz").write_bytes(packed)
        sums.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(FashionMNIST, "resources", sums)


def test_download_through_torchvision(served, tmp_path, monkeypatch):
    serve_fashion(served, tmp_path, monkeypatch)
    parts = load_dataset("fashion_mnist", tmp_path / "new" / "sets", download=True)
    assert len(parts.test) == 20
    assert [path.name for path in (tmp_path / "new" / "sets").iterdir()] == ["FashionMNIST"]
    served[0].joinpath("train-images-idx3-ubyte.gz").unlink()
    assert len(load_dataset("fashion_mnist", tmp_path / "new" / "sets", download=True).test) == 20


def test_download_through_pml(served, tmp_path, monkeypatch, capsys):
    from pytorch_metric_learning.datasets import CUB

    make_cub(tmp_path / "original")
    with tarfile.open(served[0] / "CUB_200_2011.tgz", "w:gz") as archive:
        archive.add(tmp_path / "original" / "CUB_200_2011", "CUB_200_2011")
    monkeypatch.setattr(CUB, "DOWNLOAD_URL", served[1] + "CUB_200_2011.tgz")
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "other").mkdir()  # PML alone would download nothing into a folder that is not empty
    assert room.main(["fetch", "cub", "--root", str(sets)]) == 0
    assert capsys.readouterr().out.strip() == str(sets / "CUB_200_2011")
    assert sorted(path.name for path in sets.iterdir()) == ["CUB_200_2011", "other"]
    assert len(load_dataset("cub", sets, size=8, setting="open").train) == 10
    assert room.main(["fetch", "cub", "--root", str(sets)]) == 1
    assert "exists already and is left as it is" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["wrong checksum", "absent", "cut archive"])
def test_failed_download_leaves_nothing(served, tmp_path, monkeypatch, capsys, damage):
    name = "fashion_mnist"
    if damage == "cut archive":
        from pytorch_metric_learning.datasets import CUB

        name, content = "cub", io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            archive.add(make_cub(tmp_path / "original"), "CUB_200_2011")
        served[0].joinpath("CUB_200_2011.tgz").write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
        monkeypatch.setattr(CUB, "DOWNLOAD_URL", served[1] + "CUB_200_2011.tgz")
    else:
        serve_fashion(served, tmp_path, monkeypatch)
        target = served[0] / "t10k-labels-idx1-ubyte.gz"
        target.unlink() if damage == "absent" else target.write_bytes(gzip.compress(b"other"))
    assert room.main(["fetch", name, "--root", str(tmp_path / "sets")]) == 1
    text = capsys.readouterr().err
    assert f"{name}: not fetched into {tmp_path / 'sets'}" in text
    assert "or use the embedded set" in text
    assert not list((tmp_path / "sets").iterdir())


def test_command_line(tmp_path, monkeypatch, capsys):
    make_mnist(tmp_path)
    monkeypatch.setattr(sys, "argv", ["data", "list", "--root", str(tmp_path)])
    monkeypatch.delitem(sys.modules, "helpers.data")
    with pytest.raises(SystemExit) as done:
        runpy.run_module("helpers.data", run_name="__main__")
    assert done.value.code == 0
    states = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert states.keys() == room.SOURCES.keys()
    assert (states["digits"], states["mnist"], states["cub"]) == ("embedded", "here", "absent")
    for name, message in (("digits", "it is embedded"), ("folder:x", "your own"), ("moist", "mean 'mnist'")):
        assert room.main(["fetch", name, "--root", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err


# --- real data -------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_fashion_mnist():
    train, val, test = load_dataset("fashion_mnist", real("FashionMNIST"), val_share=0)
    assert (len(train), val, len(test)) == (60000, None, 10000)
    assert train.class_names[-1] == "Ankle boot"
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.real_data
def test_real_fashion_mnist_cut(tmp_path):
    shutil.copytree(
        real("FashionMNIST") / "FashionMNIST",
        tmp_path / "sets" / "FashionMNIST",
        copy_function=shutil.copyfile,
    )
    cut(tmp_path / "sets" / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte", 0.99)
    text = refused("fashion_mnist", tmp_path / "sets", untouched=tmp_path / "sets")
    assert "its header promises 7,840,016" in text


@pytest.mark.real_data
def test_real_cub():
    parts = load_dataset("cub", real("CUB_200_2011"), setting="open")
    assert (parts.train.num_classes, parts.test.num_classes) == (5, 5)
    assert len(parts.train) + len(parts.test) == 543
    assert parts.train.class_names[0] == "Black footed Albatross"
    for part in (parts.train, parts.test):
        assert part.boxes.min() >= 0
        assert part.boxes.max() <= 64
        assert (part.boxes[:, 2:] > part.boxes[:, :2]).all()
    closed = load_dataset("cub", real("CUB_200_2011"))
    assert closed.train.num_classes == 10
    assert sum(map(len, closed)) == 543


@pytest.mark.real_data
def test_real_cub_cut(tmp_path):
    folder = tmp_path / "sets" / "CUB_200_2011"
    shutil.copytree(real("CUB_200_2011") / "CUB_200_2011", folder, copy_function=shutil.copyfile)
    cut(next((folder / "images").rglob("*.jpg")), 0.9)
    assert "1 of 543 images cannot be decoded" in refused("cub", tmp_path / "sets", untouched=folder)


@pytest.mark.real_data
def test_real_grocery():
    folder = real("grocery") / "grocery"
    train, val, test = load_dataset(f"folder:{folder}", size=64)
    assert (len(train), len(val), len(test)) == (2640, 296, 2485)
    assert train.num_classes == val.num_classes == test.num_classes == 81
    on_disk = [len(list(path.iterdir())) for path in sorted((folder / "train").iterdir())]
    assert torch.bincount(train.labels).tolist() == on_disk
    opened = load_dataset(f"folder:{folder}", size=64, setting="open")
    assert (opened.train.num_classes, opened.test.num_classes) == (40, 41)
    assert len(opened.train) + len(opened.test) == 5421


@pytest.mark.real_data
def test_real_grocery_cut(tmp_path):
    source, folder = real("grocery") / "grocery", tmp_path / "shop"
    for part in ("train", "test"):
        for name in sorted(path.name for path in (source / part).iterdir())[:3]:
            shutil.copytree(source / part / name, folder / part / name, copy_function=shutil.copyfile)
    broken = cut(next((folder / "test").rglob("*.jpg")), 0.97)
    text = refused(f"folder:{folder}", untouched=folder)
    assert str(broken) in text
    assert "image file is truncated" in text

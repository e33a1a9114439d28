"""One reader per data set: what is there, and which class and split each image has."""

from __future__ import annotations

import http.client
import os
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch

from helpers.data.photographs import BROKEN, DatasetError, read_cache, scan_classes, some, write_cache

TRAIN, VAL, TEST = 0, 1, 2
FAULTS = (*BROKEN, RuntimeError, TypeError, LookupError, tarfile.TarError, http.client.HTTPException)
"""What torchvision and PML raise for absent, damaged or unreachable data."""


@dataclass
class Listing:
    """All images of a set, before any split: N images of C classes.

    Either `images` (uint8, (N, C, S, S)) or `paths` (N photos, still encoded) is given.
    """

    labels: torch.Tensor
    class_names: list[str]
    split: torch.Tensor | None = None  # (N,) of TRAIN, VAL, TEST: the set's own split
    split_by_class: bool = False  # that split separates classes, not images of a class
    images: torch.Tensor | None = None
    paths: list[Path] | None = None
    boxes: torch.Tensor | None = None  # (N, 4) xyxy, pixels of the photos or of `images`
    parts: torch.Tensor | None = None
    part_names: Sequence[str] = ()
    part_masks: torch.Tensor | None = None


@dataclass(frozen=True)
class Source:
    """How to read one named set. `read(root, download)` lists it from the data folder `root`."""

    about: str
    read: Callable[..., Listing]
    folder: str | None  # what it looks for in the data folder; None: embedded
    stand_in: str  # the embedded set that can replace it
    channels: int = 3
    size: int = 64  # default side


def read_digits() -> Listing:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return Listing(
        torch.from_numpy(digits.target).long(), [str(c) for c in digits.target_names], images=images
    )


def read_birds(size: int, **drawn: int) -> Listing:
    """Draw the birds, or take them from the cache when the same code drew the same birds before."""
    from helpers.data import birds, drawing

    sources = [birds.__file__, drawing.__file__]
    names = ("images", "labels", "class_names", "boxes", "parts", "part_names", "part_masks")
    key = {"size": size, **drawn}
    arrays = read_cache("birds", key, names, sources=sources)
    if arrays is None:
        try:
            made = birds.make_birds(size=size, **drawn)
        except (ValueError, TypeError) as error:
            raise DatasetError(f"birds: {error}") from error
        arrays = {name: np.asarray(getattr(made, name)) for name in names}
        write_cache("birds", key, arrays, sources=sources)
    return Listing(
        labels=torch.from_numpy(arrays["labels"]).long(),
        class_names=arrays["class_names"].tolist(),
        images=torch.from_numpy(arrays["images"]),
        boxes=torch.from_numpy(arrays["boxes"]).float(),
        parts=torch.from_numpy(arrays["parts"]).float(),
        part_names=arrays["part_names"].tolist(),
        part_masks=torch.from_numpy(arrays["part_masks"]).bool(),
    )


def read_mnist(kind: str, root: Path, download: bool = False) -> Listing:
    """MNIST or FashionMNIST through torchvision, once the four files agree with their own headers."""
    from torchvision import datasets

    cls = getattr(datasets, kind)
    if download:
        cls(root, train=True, download=True)
    for part in ("train", "t10k"):
        raw = root / kind / "raw"
        count = _check_idx(raw / f"{part}-images-idx3-ubyte", 3)
        if _check_idx(raw / f"{part}-labels-idx1-ubyte", 1) != count:
            raise DatasetError(f"{part} has {count} images, but another number of labels")
    train, test = (cls(root, train=flag, download=False) for flag in (True, False))
    labels = torch.cat([train.targets, test.targets])
    if labels.max() >= len(cls.classes):
        raise DatasetError(f"a label is {labels.max()}, but the classes are 0 to {len(cls.classes) - 1}")
    split = torch.tensor([TRAIN, TEST]).repeat_interleave(torch.tensor([len(train), len(test)]))
    images = torch.cat([train.data, test.data]).unsqueeze(1)
    return Listing(labels, [name.split(" - ")[0] for name in cls.classes], split, images=images)


def _check_idx(path: Path, dims: int) -> int:
    """Number of items in an idx file of bytes; its header must agree with its length."""
    with path.open("rb") as file:
        head = file.read(4 + 4 * dims)
    if len(head) < 4 + 4 * dims or head[:4] != bytes((0, 0, 8, dims)):
        raise DatasetError(
            f"{path.name} is no idx file of bytes in {dims} dimensions, or is cut in its header"
        )
    shape = struct.unpack(f">{dims}I", head[4:])
    expected, found = len(head) + prod(shape), path.stat().st_size
    if found != expected:
        raise DatasetError(f"{path.name} has {found:,} bytes, its header promises {expected:,}")
    return shape[0]


def read_flowers102(root: Path, download: bool = False) -> Listing:
    from torchvision.datasets import Flowers102

    parts = [Flowers102(root, split=name, download=download) for name in ("train", "val", "test")]
    return _of_parts(parts, Flowers102.classes)


def read_aircraft(root: Path, download: bool = False) -> Listing:
    """FGVC-Aircraft, 100 variants, with the boxes of images_box.txt (there 1-based and inclusive)."""
    from torchvision.datasets import FGVCAircraft

    parts = [FGVCAircraft(root, split=name, download=download) for name in ("train", "val", "test")]
    listing = _of_parts(parts, parts[0].classes)
    corners = _table(root / "fgvc-aircraft-2013b" / "data" / "images_box.txt", 4)
    listing.boxes = torch.tensor([[float(x) for x in corners[path.stem]] for path in listing.paths])
    listing.boxes[:, :2] -= 1
    return listing


def _of_parts(parts: Sequence, class_names: Sequence[str]) -> Listing:
    """Train, val and test of a torchvision set that lists its files (in `_image_files` and `_labels`)."""
    return Listing(
        labels=torch.tensor([label for part in parts for label in part._labels]),
        class_names=list(class_names),
        split=torch.tensor([i for i, part in enumerate(parts) for _ in part._labels]),
        paths=[Path(path) for part in parts for path in part._image_files],
    )


def read_omniglot(root: Path, download: bool = False) -> Listing:
    """Omniglot: 964 background characters train, 659 evaluation characters test."""
    from torchvision.datasets import Omniglot

    parts = [Omniglot(root, background=flag, download=download) for flag in (True, False)]
    found = sorted(  # torchvision lists characters and files in whatever order the file system gives
        (
            code,
            Path(part._characters[character]).as_posix(),
            Path(part.target_folder, part._characters[character], file),
        )
        for code, part in zip((TRAIN, TEST), parts, strict=True)
        for file, character in part._flat_character_images
    )
    split, _, paths = zip(*found, strict=True)
    names = sorted({item[:2] for item in found})
    number = {name: i for i, name in enumerate(names)}
    labels = torch.tensor([number[item[:2]] for item in found])
    return Listing(
        labels, [name for _, name in names], torch.tensor(split), split_by_class=True, paths=list(paths)
    )


def read_cub(root: Path, download: bool = False) -> Listing:
    """CUB-200-2011 through PML, with the published split and boxes; only classes that have images."""
    from pytorch_metric_learning.datasets import CUB

    if download:
        CUB(root, download=True)
    folder = root / "CUB_200_2011"
    files, corners = _table(folder / "images.txt", 1), _table(folder / "bounding_boxes.txt", 4)
    classes, trains = _table(folder / "image_class_labels.txt", 1), _table(folder / "train_test_split.txt", 1)
    for name, table in (
        ("bounding_boxes", corners),
        ("image_class_labels", classes),
        ("train_test_split", trains),
    ):
        if files.keys() - table.keys():
            raise DatasetError(
                f"{name}.txt lacks {len(files.keys() - table.keys())} of the {len(files)} images"
            )
    if corners.keys() - files.keys():
        raise DatasetError(f"images.txt has {len(files)} images, but bounding_boxes.txt {len(corners)} boxes")
    photos = CUB(root, split="train+test")
    if len(photos) != len(files):
        raise DatasetError("images.txt and image_class_labels.txt are not in the same order")
    keys = list(files)
    names = _table(folder / "classes.txt", 1)
    boxes = torch.tensor([[float(x) for x in corners[key]] for key in keys])
    boxes[:, 2:] += boxes[:, :2]
    split = torch.tensor([TRAIN if trains[key] == ["1"] else TEST for key in keys])
    present, labels = np.unique(photos.labels, return_inverse=True)
    if not {str(c) for c in present} <= names.keys():
        raise DatasetError("classes.txt lacks species that image_class_labels.txt uses")
    class_names = [names[str(c)][0].split(".", 1)[-1].replace("_", " ") for c in present]
    return Listing(
        torch.from_numpy(labels), class_names, split, paths=list(map(Path, photos.paths)), boxes=boxes
    )


def _table(path: Path, fields: int) -> dict[str, list[str]]:
    """Lines of a key and `fields` values."""
    rows = [line.split() for line in path.read_text().splitlines()]
    odd = [i for i, row in enumerate(rows, start=1) if len(row) != fields + 1]
    if odd or not rows:
        raise DatasetError(
            f"{path.name}: {f'line {odd[0]} has not {fields + 1} fields' if odd else 'is empty'}"
        )
    return {key: values for key, *values in rows}


def read_cars196(root: Path, download: bool = False) -> Listing:
    from pytorch_metric_learning.datasets import Cars196

    cars = Cars196(root / "Cars196", split="train+test", download=download)
    names = [line.strip() for line in (root / "Cars196" / "names.csv").read_text().splitlines()]
    paths = [Path(path) for path in cars.paths]
    split = torch.tensor([TRAIN if path.parts[-3] == "train" else TEST for path in paths])
    present, labels = np.unique(cars.labels, return_inverse=True)
    return Listing(torch.from_numpy(labels), [names[c - 1] for c in present], split, paths=paths)


def read_sop(root: Path, download: bool = False) -> Listing:
    """Stanford Online Products: 11,318 products train, 11,316 others test."""
    from pytorch_metric_learning.datasets import StanfordOnlineProducts

    parts = [StanfordOnlineProducts(root, split=name, download=download) for name in ("train", "test")]
    paths = [Path(path) for part in parts for path in part.paths]
    split = torch.tensor([code for code, part in zip((TRAIN, TEST), parts, strict=True) for _ in part.paths])
    _, first, labels = np.unique(
        [label for part in parts for label in part.labels], return_index=True, return_inverse=True
    )
    names = [f"{paths[i].parent.name.removesuffix('_final')} {paths[i].stem.split('_')[0]}" for i in first]
    return Listing(torch.from_numpy(labels), names, split, split_by_class=True, paths=paths)


def read_folder(folder: Path) -> Listing:
    """Class folders in `train/`, `test/` and, if there is one, `val/`, which may lack some classes."""
    codes = {"train": TRAIN, "val": VAL, "test": TEST}
    if "val" not in os.listdir(folder):
        del codes["val"]
    scans = {name: scan_classes(folder / name) for name in codes}
    class_names = sorted(scans["train"])
    for name, scan in scans.items():
        odd = set(scan) - set(class_names) if name == "val" else set(scan) ^ set(class_names)
        if odd:
            raise DatasetError(f"train/ and {name}/ differ in these class folders: {some(sorted(odd))}")
    number = {label: i for i, label in enumerate(class_names)}
    items = [
        (path, number[label], codes[name])
        for name, scan in scans.items()
        for label, paths in scan.items()
        for path in paths
    ]
    paths, labels, split = zip(*items, strict=True)
    return Listing(torch.tensor(labels), class_names, torch.tensor(split), paths=list(paths))


SOURCES: dict[str, Source] = {
    "digits": Source("1,797 handwritten digits, 8x8 grey", read_digits, None, "digits", 1, 8),
    "birds": Source("fine-grained birds drawn by this project", read_birds, None, "birds"),
    "mnist": Source("70,000 digits, 28x28 grey", partial(read_mnist, "MNIST"), "MNIST", "digits", 1, 28),
    "fashion_mnist": Source(
        "70,000 garments, 28x28 grey", partial(read_mnist, "FashionMNIST"), "FashionMNIST", "digits", 1, 28
    ),
    "omniglot": Source("1,623 characters, 105x105 grey", read_omniglot, "omniglot-py", "digits", 1, 105),
    "flowers102": Source("102 flowers, 8,189 photos", read_flowers102, "flowers-102", "birds"),
    "aircraft": Source("100 aircraft, 10,000 photos, boxes", read_aircraft, "fgvc-aircraft-2013b", "birds"),
    "cub": Source("200 birds, 11,788 photos, boxes", read_cub, "CUB_200_2011", "birds"),
    "cars196": Source("196 cars, 16,185 photos", read_cars196, "Cars196", "birds"),
    "sop": Source("22,634 products, 120,053 photos", read_sop, "Stanford_Online_Products", "birds"),
}

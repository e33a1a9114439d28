"""Labelled image sets under one interface: embedded ones, published ones, and a folder of your own.

`python -m helpers.data list` shows what is here; `python -m helpers.data fetch NAME` downloads a set.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from helpers import PROJECT_ROOT
from helpers.data.image_set import ImageSet
from helpers.data.photographs import DatasetError, PhotoFiles, crop_boxes, open_photos, some
from helpers.data.sources import FAULTS, SOURCES, TRAIN, Listing, read_folder
from helpers.data.splits import Splits, split_closed, split_open

MIN_SIZE, MAX_SIZE = 8, 1024
FOLDER_SIZE = 64
BIRDS_OPTIONS = {"num_species": 20, "per_species": 20, "first_species": 0, "siblings": 4, "draw_seed": 0}


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    setting: str = "closed",
    size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    test_share: float = 0.25,
    val_share: float | None = None,
    memory_limit: int = 2**30,
    download: bool = False,
    **birds_options: int,
) -> Splits:
    """Load a set by name, split to classify known classes (closed) or to retrieve unseen ones (open).

    Closed: the set's own split where it has one that separates images; else `test_share` of each class
    tests. Where the set has no val of its own, `val_share` of each class is held out from train.
    Open: the first half of the classes trains (rounded down), the others test, each with all its images from
    all splits of the set; labels start at 0 in each part. The class splits published with `omniglot` and
    `sop` are kept.

    Args:
        name: "digits", "birds", "mnist", "fashion_mnist", "omniglot", "flowers102", "aircraft", "cub",
            "cars196", "sop", or "folder:PATH" with a folder per class in PATH/train, PATH/test and, if you
            like, PATH/val. A relative PATH is looked for in the current folder, then in the project's.
        root: folder that holds the published sets. Default: the environment variable CTG_DATA, else `data/`.
        setting: "closed" or "open".
        size: side of the square images in pixels, 8 to 1024. Default: 8 for digits, 28 for mnist and
            fashion_mnist, 105 for omniglot, 64 for the rest. Photos: the short side is resized and the
            centre kept; boxes follow and are clipped.
        channels: 3 repeats the channel of grey sets; 1 reads the photos of a folder as grey. Default: 1 for
            the four sets above, else 3.
        seed: draws what is held out. Published splits do not depend on it.
        test_share: see above. Default 0.25.
        val_share: share held out for val. Closed: of the images of each class, default 0.1, unused where the
            set has its own val. Open: of the training classes, default 0. With 0, `val` is None.
        memory_limit: bytes of pixels (uint8) above which photos stay on disk. Default 1 GiB.
        download: fetch a published set first when it is absent.
        **birds_options: for "birds": num_species=20, per_species=20, first_species=0, siblings=4 (as in
            `make_birds`), draw_seed=0.

    Raises:
        DatasetError: unknown name or option; data absent, incomplete or damaged. Nothing is loaded in part
            and nothing on disk is changed.
    """
    if birds_options.keys() - BIRDS_OPTIONS.keys() or (birds_options and name != "birds"):
        raise TypeError(f"load_dataset({name!r}) takes no {', '.join(birds_options)}")
    _check_options(name, setting, size, channels, seed, test_share, val_share)
    if name.startswith("folder:"):
        mode = "L" if channels == 1 else "RGB"
        dataset, listing = _load_folder(name.removeprefix("folder:"), size or FOLDER_SIZE, mode, memory_limit)
    elif SOURCES[name].folder is None:
        dataset, listing = _load_embedded(name, size, memory_limit, birds_options)
    else:
        dataset, listing = _load_published(name, root, size or SOURCES[name].size, memory_limit, download)
    if channels == 3:
        dataset = dataset.as_colour()
    generator = torch.Generator().manual_seed(seed)
    own = listing.split
    if setting == "closed":
        share = 0.1 if val_share is None else val_share
        return split_closed(dataset, None if listing.split_by_class else own, test_share, share, generator)
    trains = None
    if listing.split_by_class:
        trains = torch.bincount(dataset.labels[own == TRAIN], minlength=dataset.num_classes) > 0
    return split_open(dataset, trains, val_share or 0.0, generator)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the published sets: `root`, else the environment variable CTG_DATA, else `data/`.

    A relative path is looked for in the current folder, then in the project's.
    """
    tried = _candidates(root or os.environ.get("CTG_DATA") or PROJECT_ROOT / "data")
    return next((place for place in tried if place.is_dir()), tried[0])


def _candidates(path: str | os.PathLike[str]) -> list[Path]:
    path = Path(path).expanduser()
    return [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not (name in SOURCES or name.startswith("folder:")):
        near = difflib.get_close_matches(str(name).lower(), SOURCES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DatasetError(
            f"no data set is called {name!r}.{hint} Known: {', '.join(SOURCES)} and folder:PATH"
        )


def _check_options(name, setting, size, channels, seed, test_share, val_share) -> None:
    _check_name(name)
    if setting not in ("closed", "open"):
        raise DatasetError(f"setting={setting!r}, expected 'closed' or 'open'")
    if size is not None and not (_is_integer(size) and MIN_SIZE <= size <= MAX_SIZE):
        raise DatasetError(f"size={size!r}, expected a whole number of pixels from {MIN_SIZE} to {MAX_SIZE}")
    fewest = SOURCES[name].channels if name in SOURCES else 1
    if channels not in (None, fewest, 3):
        raise DatasetError(f"channels={channels!r}, expected {'1 or 3' if fewest == 1 else '3'} for {name}")
    if not _is_integer(seed) or not 0 <= seed < 2**63:
        raise DatasetError(f"seed={seed!r}, expected a whole number from 0")
    if not 0 < test_share < 1:
        raise DatasetError(f"test_share={test_share!r}, expected a share between 0 and 1")
    if val_share is not None and not 0 <= val_share < 1:
        raise DatasetError(f"val_share={val_share!r}, expected a share from 0 to below 1")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _load_embedded(
    name: str, size: int | None, memory_limit: int, birds_options: dict[str, int]
) -> tuple[ImageSet, Listing]:
    source = SOURCES[name]
    if name == "birds":
        drawn = BIRDS_OPTIONS | birds_options
        listing = source.read(size or source.size, seed=drawn.pop("draw_seed"), **drawn)
    else:
        listing = source.read()
    return _assemble(name, listing, listing.images, size or source.size, memory_limit), listing


def _load_published(
    name: str, root: str | os.PathLike[str] | None, size: int, memory_limit: int, download: bool
) -> tuple[ImageSet, Listing]:
    source, base = SOURCES[name], data_root(root)
    folder = base / source.folder
    command = f"`python -m helpers.data fetch {name}{'' if root is None else f' --root {base}'}`"
    instead = f"or use the embedded set: load_dataset({source.stand_in!r})."
    if download and not folder.exists():
        fetch(name, base)
    if not folder.is_dir():
        raise DatasetError(
            f"{name}: there is no folder {folder}. Fetch it with {command}, point CTG_DATA or root= at the "
            f"folder that holds {source.folder}, {instead}"
        )
    with _blame(name, folder, f"Move that folder away and fetch it again with {command}, {instead}"):
        listing = source.read(base)
        images, extents = listing.images, None
        if listing.paths is not None:
            mode = "L" if source.channels == 1 else "RGB"
            images, extents = open_photos(listing.paths, size, mode, memory_limit)
    if listing.boxes is not None:
        listing = replace(listing, boxes=crop_boxes(listing.boxes, extents, size))
    return _assemble(name, listing, images, size, memory_limit), listing


def _load_folder(path: str, size: int, mode: str, memory_limit: int) -> tuple[ImageSet, Listing]:
    instead = "or use the embedded set: load_dataset('birds')."
    tried = _candidates(path)
    folder = next((place for place in tried if place.is_dir()), None)
    if folder is None:
        places = " and no ".join(some([place]) for place in tried)
        raise DatasetError(
            f"folder:{some([path])}: there is no folder {places}. Put train/ and test/ there, each with a "
            f"folder of images per class, {instead}"
        )
    name = f"folder:{some([folder.resolve().name])}"
    with _blame(name, folder, f"Repair the folder, {instead}"):
        listing = read_folder(folder)
        images, _ = open_photos(listing.paths, size, mode, memory_limit)
    return _assemble(name, listing, images, size, memory_limit), listing


@contextmanager
def _blame(name: str, folder: Path, remedy: str) -> Iterator[None]:
    """Turn what the libraries raise on damaged data into one DatasetError."""
    try:
        yield
    except FAULTS as error:
        what = str(error) if isinstance(error, DatasetError) else f"{type(error).__name__}: {error}"
        raise DatasetError(
            f"{name}: {what} (looked at {some([folder])}). Nothing was loaded or changed. {remedy}"
        ) from error


def _assemble(
    name: str, listing: Listing, images: torch.Tensor | PhotoFiles, size: int, memory_limit: int
) -> ImageSet:
    count, channels, *_, side = images.shape
    if side != size:
        if count * channels * size**2 > memory_limit:
            raise DatasetError(
                f"{name}: {count} images of side {size} need more than memory_limit={memory_limit} bytes"
            )
        images = interpolate(images, (size, size), mode="bilinear", antialias=True)
    return ImageSet(
        name,
        images,
        listing.labels,
        listing.class_names,
        boxes=listing.boxes,
        parts=listing.parts,
        part_names=listing.part_names,
        part_masks=listing.part_masks,
    )


def fetch(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Let torchvision or PML download a set into `root`: it appears there complete or not at all.

    Returns the new folder. Raises DatasetError: it exists already, is not a published set, or cannot be had.
    """
    _check_name(name)
    if name not in SOURCES or SOURCES[name].folder is None:
        raise DatasetError(f"{name} is not fetched: it is {'embedded' if name in SOURCES else 'your own'}")
    source, root = SOURCES[name], data_root(root)
    target = root / source.folder
    if target.exists():
        raise DatasetError(
            f"{name}: {target} exists already and is left as it is. To fetch it again, move it away."
        )
    stage: str | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        stage = tempfile.mkdtemp(prefix=f".fetch-{name}-", dir=root)
        source.read(Path(stage), download=True)
        os.replace(Path(stage, source.folder), target)
    except FAULTS as error:
        raise DatasetError(
            f"{name}: not fetched into {root}: {error}. Check the network and the free disk and try again, "
            f"or use the embedded set: load_dataset({source.stand_in!r})."
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
    return target


def main(arguments: list[str] | None = None) -> int:
    """The command line: `list` what is here, `fetch` a published set. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.data", description="The data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the sets, and which of them are here")
    fetching = commands.add_parser("fetch", help="download a published set")
    fetching.add_argument("name")
    for command in (listing, fetching):
        command.add_argument("--root", help="data folder (default: CTG_DATA, else data/ of the project)")
    options = parser.parse_args(arguments)
    if options.command == "fetch":
        try:
            print(fetch(options.name, options.root))
        except DatasetError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    base = data_root(options.root)
    for name, source in SOURCES.items():
        state = "embedded"
        if source.folder:
            state = "here" if (base / source.folder).is_dir() else "absent"
        print(f"{name:13} {state:8} {source.about}")
    return 0

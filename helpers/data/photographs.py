"""Photographs on disk as square uint8 images, and the cache of arrays that were costly to make."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from tqdm.auto import tqdm

from helpers import PROJECT_ROOT

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LITTER = {"thumbs.db", "desktop.ini"}
CACHE = PROJECT_ROOT / "data" / "cache"
THREADS = min(8, os.cpu_count() or 1)
BROKEN = (OSError, ValueError, KeyError, SyntaxError, EOFError, struct.error, zlib.error, zipfile.BadZipFile)
"""What Pillow and NumPy raise for a file that is not what its name says, or only part of it."""


class DatasetError(RuntimeError):
    """A data set is missing or damaged, or cannot be given as asked. The message says what to do."""


@dataclass(frozen=True)
class PhotoFiles:
    """Photos that stay on disk: indexing with a LongTensor (B,) of rows decodes uint8 (B, C, size, size).

    Raises DatasetError when a photo can no longer be decoded.
    """

    paths: Sequence[str]
    size: int
    mode: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), Image.getmodebands(self.mode), self.size, self.size

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        paths = [self.paths[row] for row in rows.tolist()]
        return torch.from_numpy(_decode_all(paths, self.size, self.mode)[0])


def open_photos(
    paths: Sequence[Path], size: int, mode: str, memory_limit: int
) -> tuple[torch.Tensor | PhotoFiles, torch.Tensor]:
    """Decode every photo once, so that a damaged one is found now and not in the middle of training.

    The short side is resized to `size` (antialiased, bilinear) and the centre square kept. EXIF rotation is
    ignored, as in torchvision. The result is cached, and made again when the size or time of a file changes.

    Args:
        paths: N image files.
        size: output side in pixels.
        mode: "RGB" (C = 3) or "L" (C = 1).
        memory_limit: bytes of pixels above which photos stay on disk.

    Returns:
        images: uint8 tensor (N, C, size, size), or PhotoFiles of that shape.
        extents: float32 (N, 2), width and height of the files in pixels.

    Raises:
        DatasetError: files are absent or cannot be decoded to the end; names them.
    """
    names = [os.fspath(path) for path in paths]
    in_memory = len(names) * Image.getmodebands(mode) * size * size <= memory_limit
    wanted = ("images", "extents") if in_memory else ("extents",)
    key = {
        "photos": _fingerprint(names),
        "size": size,
        "mode": mode,
        "holds": wanted,
        "pillow": PIL.__version__,
    }
    arrays = read_cache("photos", key, wanted, sources=[__file__])
    if arrays is None:
        images, extents = _decode_all(names, size, mode, keep=in_memory)
        arrays = {"images": images, "extents": extents} if in_memory else {"extents": extents}
        write_cache("photos", key, arrays, sources=[__file__])
    extents = torch.from_numpy(arrays["extents"])
    return (torch.from_numpy(arrays["images"]) if in_memory else PhotoFiles(names, size, mode)), extents


def crop_boxes(boxes: torch.Tensor, extents: torch.Tensor, size: int) -> torch.Tensor:
    """Boxes (N, 4) xyxy, from pixels of the files to pixels of the resized centre square, clipped to it.

    A box that lies wholly outside the square ends with no area.
    """
    short = extents.amin(dim=1, keepdim=True)
    origin = (extents - short) / 2
    corners = (boxes.view(-1, 2, 2) - origin[:, None]) * size / short[:, None]
    return corners.clamp(0, size).reshape(-1, 4)


def _decode(path: str, size: int, mode: str) -> tuple[np.ndarray, tuple[int, int]]:
    with Image.open(path) as image:
        width, height = image.size
        image.draft(None, (2 * size, 2 * size))  # large JPEG: decoded at 1/2, 1/4, ..., never below 2 * size
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        box = (left, top, left + short, top + short)
        square = image.convert(mode).resize((size, size), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(square).reshape(size, size, -1)
    return pixels.transpose(2, 0, 1), (width, height)


def _decode_all(
    paths: Sequence[str], size: int, mode: str, *, keep: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    channels = Image.getmodebands(mode)
    images = np.empty((len(paths) if keep else 0, channels, size, size), dtype=np.uint8)
    extents = np.empty((len(paths), 2), dtype=np.float32)

    def work(i: int) -> str | None:
        try:
            pixels, extents[i] = _decode(paths[i], size, mode)
        except (*BROKEN, Image.DecompressionBombError) as error:
            return f"{paths[i]} ({str(error) or type(error).__name__})"
        if keep:
            images[i] = pixels
        return None

    if len(paths) == 1:
        faults = [work(0)]
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            progress = tqdm(
                pool.map(work, range(len(paths))), "reading photos", len(paths), disable=len(paths) < 10_000
            )
            faults = list(progress)
    faults = [fault for fault in faults if fault]
    if faults:
        raise DatasetError(f"{len(faults)} of {len(paths)} images cannot be decoded: {some(faults)}")
    return images, extents


def scan_classes(folder: Path) -> dict[str, list[Path]]:
    """Image files per class folder, nested folders included; hidden files and desktop litter are passed over.

    Raises DatasetError: no such folder, a class without images, or files that are no images.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder.name}/")
    classes: dict[str, list[Path]] = {}
    strays = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(parent).relative_to(folder).parts
        if not inner:
            classes = {name: [] for name in folders}
        for file in sorted(files):
            if file.startswith(".") or file.lower() in LITTER:
                continue
            if inner and file.lower().endswith(IMAGE_SUFFIXES):
                classes[inner[0]].append(Path(parent, file))
            else:
                strays.append(str(Path(folder.name, *inner, file)))
    empty = [f"{folder.name}/{name}" for name, paths in classes.items() if not paths]
    if strays:
        raise DatasetError(f"only images in class folders are expected; move away {some(strays)}")
    if empty or not classes:
        raise DatasetError(
            f"class folders without images: {some(empty)}"
            if empty
            else f"{folder.name}/ holds no class folder"
        )
    return classes


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names in a row, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _fingerprint(paths: Sequence[str]) -> str:
    absent, facts = [], hashlib.sha256()
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            absent.append(path)
            continue
        facts.update(os.fsencode(f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    if absent:
        raise DatasetError(f"{len(absent)} of {len(paths)} images are missing: {some(absent)}")
    return facts.hexdigest()


def _cache_path(kind: str, key: Mapping[str, object], sources: Iterable[str]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    for source in sources:
        digest.update(Path(source).read_bytes())
    return CACHE / f"{kind}-{digest.hexdigest()[:24]}.npz"


def read_cache(
    kind: str, key: Mapping[str, object], names: Sequence[str], *, sources: Iterable[str]
) -> dict[str, np.ndarray] | None:
    """Arrays stored earlier under `key` by the same source files, or None when absent or damaged."""
    try:
        with np.load(_cache_path(kind, key, sources), allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except BROKEN:
        return None


def write_cache(
    kind: str, key: Mapping[str, object], arrays: Mapping[str, np.ndarray], *, sources: Iterable[str]
) -> None:
    """Store arrays under `key`: all or nothing. A cache that cannot be written is a warning, not an error."""
    path = _cache_path(kind, key, sources)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays)  # not `write_atomically`: a second gigabyte of pixels in memory
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"not cached, so the next load is as slow as this one: {path} ({error})", stacklevel=2)

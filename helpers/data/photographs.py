"""Photographs on disk as square uint8 images, and the cache of arrays that were costly to make."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import unicodedata
import uuid
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from PIL import Image
from tqdm.auto import tqdm

from helpers import PROJECT_ROOT

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
LITTER = {"thumbs.db", "desktop.ini"}
CACHE = PROJECT_ROOT / "data" / "cache"
THREADS = min(8, os.cpu_count() or 1)
BROKEN = (OSError, ValueError, KeyError, SyntaxError, EOFError, struct.error, zlib.error, zipfile.BadZipFile)
"""What Pillow and NumPy raise for a file that is not what its name says, or only part of it."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


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
    repeat: int = 1  # copies of every channel

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), Image.getmodebands(self.mode) * self.repeat, self.size, self.size

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        paths = [self.paths[row] for row in rows.tolist()]
        return torch.from_numpy(_decode_all(paths, self.size, self.mode)[0]).repeat(1, self.repeat, 1, 1)


def open_image(file: str | os.PathLike[str] | BinaryIO, mode: str = "RGB") -> Image.Image:
    """The picture in a file, the first if there are several, with 8 bits: `mode` "RGB" or "L" (BT.601 luma).

    Values are scaled from the range of the file (1 to 16 bits, palettes, CMYK; floats from 0 to 1).
    Transparent pixels are laid on white. EXIF rotation and colour profiles are ignored, as in torchvision.

    Raises:
        DatasetError: the file cannot be decoded to its end, or its values have no agreed range (other
            floats, signed or 32-bit integers); names it.
    """
    try:
        with Image.open(file) as image:
            return _eight_bit(_from_unit_range(image) if image.mode == "F" else image, mode)
    except (*BROKEN, Image.DecompressionBombError) as error:
        name = file if isinstance(file, str | os.PathLike) else getattr(file, "name", file)
        raise DatasetError(f"no usable picture: {some([_fault(name, error)])}") from error


def _from_unit_range(image: Image.Image) -> Image.Image:
    """Floats from 0 to 1, the range of image arrays, as 8 bits; ValueError for others."""
    values = np.asarray(image)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("floats outside 0 to 1 have no agreed range: save it with 8 or 16 bits")
    return Image.fromarray(np.rint(255 * values).astype(np.uint8))


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """A picture that is open but not yet decoded, as `open_image` gives it; ValueError for unknown ranges."""
    tags = getattr(image, "tag_v2", {})
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, which Pillow keeps in 32
    if image.mode == "F" or (image.mode == "I" and not wide) or 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise ValueError("floats, signed or 32-bit integers have no agreed range: save it with 8 or 16 bits")
    key_colour = image.format == "PNG" and image.mode != "P" and "transparency" in image.info
    if key_colour and image.tile[0][3] != image.mode:  # Pillow compares it with pixels already scaled
        raise ValueError("one transparent colour of 2, 4 or 16 bits: save it with an alpha channel")
    if wide or image.mode.startswith("I;16"):
        top = 2 ** tags.get(_BITS, (16,))[0] - 1
        levels = (np.asarray(image).astype(np.uint32) * 255 + top // 2) // top
        if tags.get(_PHOTOMETRIC) == 0:  # white; Pillow inverts only up to 8 bits
            levels = 255 - levels
        image = Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("La", "LAB"):  # from which Pillow knows one way only
        image = image.convert("LA" if image.mode == "La" else "RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def open_photos(
    paths: Sequence[Path], size: int, mode: str, memory_limit: int
) -> tuple[torch.Tensor | PhotoFiles, torch.Tensor]:
    """Decode every photo once, so that a damaged one is found now and not in the middle of training.

    They are read as by `open_image`, but floats are refused; the short side is resized to `size`
    (antialiased, bilinear) and the centre square kept. The result is cached, and made again when the size or
    time of a file changes.

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
        square = _eight_bit(image, mode).resize((size, size), Image.Resampling.BILINEAR, box=box)
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
            return _fault(paths[i], error)
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

    Names of classes are in Unicode's normal form C, whatever form the disk has.

    Raises DatasetError: no such folder, one that cannot be listed or is reached twice, a class whose name is
    no UTF-8 or that has no images, or files that are no images.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder.name}/")
    classes: dict[str, list[Path]] = {}
    strays, seen = [], set()
    for parent, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(parent).relative_to(folder).parts
        if os.path.realpath(parent) in seen:
            raise DatasetError(f"{some([parent])} is a link to a folder that is read already; remove it")
        seen.add(os.path.realpath(parent))
        if not inner:
            classes = {name: [] for name in map(_class_name, folders)}
            if len(classes) < len(folders):
                twice = [name for name, count in Counter(map(_class_name, folders)).items() if count > 1]
                raise DatasetError(
                    f"{folder.name}/ has two class folders that read {some(twice)}; rename one"
                )
        for file in sorted(files):
            if file.startswith(".") or file.lower() in LITTER:
                continue
            if inner and file.lower().endswith(IMAGE_SUFFIXES):
                classes[_class_name(inner[0])].append(Path(parent, file))
            else:
                strays.append(str(Path(folder.name, *inner, file)))
    empty = [f"{folder.name}/{name}" for name, paths in classes.items() if not paths]
    if strays:
        suffixes = " ".join(IMAGE_SUFFIXES)
        raise DatasetError(
            f"only images in class folders are expected; move away {some(strays)}. Images end in {suffixes}"
        )
    if empty or not classes:
        raise DatasetError(
            f"class folders without images: {some(empty)}"
            if empty
            else f"{folder.name}/ holds no class folder"
        )
    return classes


def _cannot_list(error: OSError) -> None:
    raise DatasetError(f"{some([error.filename])} cannot be listed ({error.strerror})") from error


def _class_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DatasetError(f"the name of the class folder {some([name])} is no UTF-8; rename it") from None
    return unicodedata.normalize("NFC", name)


def _fault(path: object, error: Exception) -> str:
    return f"{path} ({str(error) or type(error).__name__})"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names in a row, and how many more there are; bytes that are no UTF-8 as \\xe9."""
    names = [os.fsencode(name).decode(errors="backslashreplace") for name in names]
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

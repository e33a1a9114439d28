"""Every picture a file can hold comes out right in 8 bits, or is refused by name. PNG and TIFF by hand."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from helpers.data import DatasetError, load_dataset, open_image
from helpers.data import photographs as _photos

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG


def packed(pixels: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples of 1 to 16 bits, each row filled up to whole bytes."""
    rows = pixels.reshape(len(pixels), -1)
    if bits == 16:
        return rows.astype(f"{order}u2").tobytes()
    binary = [(row[:, None] >> np.arange(bits)[::-1] & 1).ravel() for row in rows]
    return b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in binary)


def write_png(path: Path, pixels: np.ndarray, kind: int, bits: int, **chunks: bytes) -> Path:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, kind, 0, 0, 0)
    rows = b"".join(b"\0" + packed(row[None], bits, ">") for row in pixels)
    parts = {"IHDR": head, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(n.encode(), body) for n, body in parts.items()))
    return path


def write_tiff(
    path: Path,
    data: bytes,
    size: tuple[int, int],
    bits: int,
    *,
    white: int = 255,
    form: int = 1,
    order: str = "<",
) -> Path:
    """One strip of grey samples; `white` 0 is the photometric WhiteIsZero, `form` the sample format."""
    entries = [(256, size[0]), (257, size[1]), (258, bits), (259, 1), (262, int(white != 0)), (273, 8),
               (277, 1), (278, size[1]), (279, len(data)), (339, form)]  # fmt: skip
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(entries)) + table + bytes(4))
    return path


def ramp(bits: int, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Samples (2, width) from 0 to the largest, and what they are in 8 bits."""
    top = 2**bits - 1
    samples = np.rint(np.linspace(0, top, width)).astype(np.int64)[None].repeat(2, 0)
    return samples, np.rint(samples * 255 / top)


def grey(path: Path) -> np.ndarray:
    """What the file shows, after a look that "L" and "RGB" agree."""
    shown = np.asarray(open_image(path, "L")).astype(int)
    assert np.array_equal(np.asarray(open_image(path)), shown[..., None].repeat(3, 2))
    return shown


def refused(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- bit depths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_spans_black_to_white(tmp_path, bits):
    samples, expected = ramp(bits)
    assert np.array_equal(grey(write_png(tmp_path / "a.png", samples, GREY, bits)), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_of_every_depth(tmp_path, bits):
    samples, expected = ramp(bits)
    pixels = np.stack([samples, samples[:, ::-1], 0 * samples], axis=-1)
    shown = np.asarray(open_image(write_png(tmp_path / "a.png", pixels, COLOUR, bits))).astype(int)
    wanted = np.stack([expected, expected[:, ::-1], 0 * expected], axis=-1)
    assert np.abs(shown - wanted).max() <= (bits == 16)  # Pillow keeps the high byte of 16-bit colour


@pytest.mark.parametrize("top", [1, 100, 255, 4095, 65535])
def test_portable_grey_maps_are_scaled_by_their_own_maximum(tmp_path, top):
    samples = np.rint(np.linspace(0, top, 8)).astype(int)
    body = samples.astype(">u2" if top > 255 else "u1").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P5 8 1 %d\n" % top + body)
    assert np.abs(grey(tmp_path / "a.pgm")[0] - samples * 255 / top).max() <= 0.51


@pytest.mark.parametrize("white", [0, 255])
@pytest.mark.parametrize(("bits", "order"), [(1, "<"), (4, "<"), (8, "<"), (12, "<"), (16, "<"), (16, ">")])
def test_tiff_of_every_depth_and_sense(tmp_path, bits, order, white):
    samples, expected = ramp(bits)
    path = write_tiff(
        tmp_path / "a.tif", packed(samples, bits, order), (8, 2), bits, white=white, order=order
    )
    if white == 0 and (bits == 12 or order == ">"):
        assert "cannot identify" in refused(path)
    else:
        assert np.array_equal(grey(path), expected if white else 255 - expected)


@pytest.mark.parametrize(("kind", "form"), [("i1", 2), ("i2", 2), ("u4", 1), ("i4", 2), ("f4", 3), ("f8", 3)])
def test_numbers_without_an_agreed_range_are_refused(tmp_path, kind, form):
    data = np.arange(16).astype(kind).tobytes()
    path = write_tiff(tmp_path / "a.tif", data, (8, 2), 8 * int(kind[1]), form=form)
    assert re.search(r"no agreed range|cannot identify image file", refused(path))


def test_every_mode_of_pillow_is_right_or_refused():
    """Half grey in each mode (in LAB, L* = 54); a mode that Pillow gains must be added here."""
    half = {
        "1": 1, "L": 128, "LA": (128, 255), "La": (128, 255), "P": 128, "PA": 128, "RGB": (128,) * 3,
        "RGBA": (128, 128, 128, 255), "RGBa": (128, 128, 128, 255), "RGBX": (128, 128, 128, 9),
        "CMYK": (127, 127, 127, 0), "YCbCr": (128, 128, 128), "HSV": (0, 0, 128),
        "I;16": 32896, "I;16L": 32896, "I;16B": 32896, "I;16N": 32896,
        "LAB": (137, 128, 128), "I": None, "F": None,
    }  # fmt: skip
    assert half.keys() == set(Image.MODES)
    for mode, value in half.items():
        picture = Image.new(mode, (2, 2), value if value is not None else 0)
        if mode in ("P", "PA"):
            picture = Image.new("L", (2, 2), value).convert(mode)
        for target in ("L", "RGB"):
            if value is None:
                with pytest.raises(ValueError, match="no agreed range"):
                    _photos._eight_bit(picture, target)
            else:
                shown = np.asarray(_photos._eight_bit(picture, target))
                assert (shown == (255 if mode == "1" else 128)).all(), (mode, target, shown)


# --- transparency ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("kind", "channels"), [(GREY_ALPHA, 1), (COLOUR_ALPHA, 3)])
def test_transparent_pixels_are_laid_on_white(tmp_path, kind, channels, bits):
    alpha, share = ramp(bits)
    value = np.full_like(alpha, (2**bits - 1) * 2 // 5)
    pixels = np.stack([value] * channels + [alpha], axis=-1)
    expected = 102 * share / 255 + 255 * (1 - share / 255)
    assert np.abs(grey(write_png(tmp_path / "a.png", pixels, kind, bits)) - expected).max() <= 1


def test_transparent_entries_of_a_palette_are_laid_on_white(tmp_path):
    colours = bytes([10, 10, 10, 90, 90, 90, 0, 0, 0, 200, 200, 200])
    for bits in (2, 4, 8):
        path = write_png(tmp_path / "a.png", np.array([[0, 1, 2, 3]]), PALETTE, bits, PLTE=colours)
        assert grey(path).tolist() == [[10, 90, 0, 200]]
        path = write_png(
            tmp_path / "a.png",
            np.array([[0, 1, 2, 3]]),
            PALETTE,
            bits,
            PLTE=colours,
            tRNS=bytes([255, 255, 0]),
        )
        assert grey(path).tolist() == [[10, 90, 255, 200]]
    Image.open(path).save(tmp_path / "a.gif", transparency=1)
    assert np.asarray(open_image(tmp_path / "a.gif", "L")).tolist()[0][1] == 255


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey_is_white_or_refused(tmp_path, bits):
    samples, expected = ramp(bits)
    key = samples[0, 3]
    path = write_png(tmp_path / "a.png", samples, GREY, bits, tRNS=struct.pack(">H", key))
    if bits in (1, 8):
        assert np.array_equal(grey(path), np.where(samples == key, 255, expected))
    else:
        assert "save it with an alpha channel" in refused(path)


def test_one_transparent_colour_is_white_or_refused(tmp_path):
    pixels = np.array([[[1, 2, 3], [1, 2, 4]]])
    key = struct.pack(">HHH", 1, 2, 3)
    shown = open_image(write_png(tmp_path / "a.png", pixels, COLOUR, 8, tRNS=key))
    assert np.asarray(shown).tolist() == [[[255, 255, 255], [1, 2, 4]]]
    assert "alpha channel" in refused(write_png(tmp_path / "b.png", pixels, COLOUR, 16, tRNS=key))


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", _photos.IMAGE_SUFFIXES)
def test_every_suffix_is_a_format_that_pillow_reads(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    mode = {".pgm": "L", ".pbm": "1"}.get(suffix, "RGB")
    picture = Image.new("RGB", (16, 16), (200, 40, 40)).convert(mode, dither=Image.Dither.NONE)
    picture.save(tmp_path / f"a{suffix}", format="JPEG" if suffix == ".jpe" else None)
    shown = np.asarray(open_image(tmp_path / f"a{suffix}")).astype(int)
    assert np.abs(shown - np.asarray(picture.convert("RGB"))).max() <= 4  # JPEG, WebP and AVIF lose a little


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("YCbCr", "jpg"), ("CMYK", "tif"), ("YCbCr", "tif"), ("P", "tif"), ("RGBX", "tif"),
     ("LA", "tif"), ("1", "tif")],
)  # fmt: skip
def test_other_colour_models(tmp_path, mode, suffix):
    picture = Image.new("RGB", (16, 16), (204, 51, 51))
    picture = picture.convert(mode, dither=Image.Dither.NONE)
    picture.save(tmp_path / f"a.{suffix}", quality=100)
    wanted = {"LA": [97] * 3, "1": [0] * 3}.get(mode, [204, 51, 51])
    assert np.abs(np.asarray(open_image(tmp_path / f"a.{suffix}")).astype(int) - wanted).max() <= 2


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("no picture")
    assert "cannot identify image file" in refused(path)
    with pytest.raises(DatasetError, match="BytesIO"):
        open_image(io.BytesIO(b"no picture"))
    assert "No such file" in refused(tmp_path / "b.png")
    write_png(path, ramp(16)[0], GREY, 16)
    with path.open("rb") as file:
        assert np.array_equal(np.asarray(open_image(file, "L")), ramp(16)[1])
    path.write_bytes(path.read_bytes()[:-40])
    refused(path)


def test_a_folder_of_16_bit_photographs_is_a_ramp_not_white(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                write_png(tmp_path / part / name / f"{i}.png", ramp(16, 8)[0].repeat(4, 0), GREY, 16)
    for channels in (1, 3):
        test = load_dataset(f"folder:{tmp_path}", size=8, channels=channels).test
        assert test.image_shape == (channels, 8, 8)
        expected = np.rint(np.linspace(0, 255, 8)) / 255
        assert np.abs(test[0][0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("suffix", [".tif", ".pfm"])
def test_floats_from_0_to_1_are_levels(tmp_path, suffix):
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    Image.fromarray(values).save(tmp_path / f"ramp{suffix}")
    shown = np.asarray(open_image(tmp_path / f"ramp{suffix}"))
    assert np.abs(shown / 255 - values[..., None]).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("odd", [1.5, -0.1, float("nan"), 254.0])
def test_floats_of_another_range_are_refused(tmp_path, odd):
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 2] = odd
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(DatasetError, match=r"odd\.tif \(floats outside 0 to 1"):
        open_image(tmp_path / "odd.tif")


def test_a_float_in_a_folder_is_refused_by_name(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for i in range(2):
            Image.new("F", (8, 8), 37.5).save(tmp_path / part / "a" / f"{i}.tif")
    with pytest.raises(DatasetError, match=r"4 of 4 images cannot be decoded: .*0\.tif \(floats, signed"):
        load_dataset(f"folder:{tmp_path}", size=8)

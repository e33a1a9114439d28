"""Figures are shown sharp, with alt text, and closed; the small plots draw what they are given."""

from __future__ import annotations

import base64
import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2xyz, xyz2lab
from skimage.color.colorconv import xyz_from_rgb

from helpers import plotting


@pytest.fixture
def displayed(monkeypatch):
    seen = []
    monkeypatch.setattr(plotting, "display", lambda data, raw, metadata: seen.append((data, metadata)))
    return seen


def test_show_gives_png_and_alt_text_and_closes(displayed):
    plotting.use_style()
    figure, _ = plt.subplots(figsize=(4, 2))
    plotting.show(figure, "An empty pair of axes.")
    ((data, metadata),) = displayed
    png = base64.b64decode(data["image/png"])
    assert png.startswith(b"\x89PNG")
    assert data["text/plain"] == metadata["image/png"]["alt"] == "An empty pair of axes."
    assert metadata["image/png"]["width"] < int.from_bytes(png[16:20], "big")  # more pixels than shown
    assert not plt.fignum_exists(figure.number)


def test_a_figure_without_alt_text_is_refused(displayed):
    with pytest.raises(ValueError, match="alt text is empty"):
        plotting.show(plt.figure(), "  ")
    assert displayed == []
    plt.close("all")


OKABE_ITO = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
SIGHT = {  # linear RGB as each kind of dichromat sees it: Machado, Oliveira and Fernandes (2009), severity 1
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(colors, sight):
    """CIELAB (n, 3) of hexadecimal colours under one kind of sight."""
    linear = rgb2xyz(np.array([to_rgb(color) for color in colors])) @ np.linalg.inv(xyz_from_rgb).T
    return xyz2lab((linear @ np.transpose(SIGHT[sight])).clip(0, 1) @ xyz_from_rgb.T)


def closest(colors):
    """Least CIEDE2000 between two of the colours, over all kinds of sight."""
    return min(
        deltaE_ciede2000(*pair) for sight in SIGHT for pair in itertools.combinations(seen(colors, sight), 2)
    )


def test_the_simulated_sight_keeps_greys_and_confuses_what_it_must():
    for sight in SIGHT:
        for grey in ("#000000", "#808080", "#FFFFFF"):
            assert np.allclose(seen([grey], sight), seen([grey], "full"), atol=0.05)
    for sight, pair in {
        "protanopia": ("#FF0000", "#5D5600"),
        "deuteranopia": ("#FF0000", "#A39000"),
        "tritanopia": ("#00FF00", "#00F6D7"),
    }.items():
        assert deltaE_ciede2000(*seen(pair, sight)) < 6 < 20 < deltaE_ciede2000(*seen(pair, "full"))


@pytest.mark.parametrize("colors", [[*plotting.PALETTE.values()], plotting.CYCLE, plotting.TEN_CLASSES])
def test_colours_are_as_far_apart_as_those_of_okabe_and_ito_for_every_kind_of_sight(colors):
    assert closest(colors) >= closest(OKABE_ITO) > 10


def test_a_figure_with_photographs_stays_small_and_keeps_its_width_and_white():
    noise = np.random.default_rng(0).random((200, 300, 3))

    def png_of(pixels: np.ndarray) -> tuple[Image.Image, int]:
        figure = Figure(figsize=(6, 4))
        figure.add_axes((0.1, 0.1, 0.8, 0.8)).imshow(pixels, interpolation="nearest")
        png, width = plotting.png_and_width(figure)
        return Image.open(io.BytesIO(png)), width

    (photo, wide), (plain, same) = png_of(noise), png_of(np.ones((200, 300, 3)))
    assert photo.mode == "P"
    assert plain.mode != "P"
    assert abs(wide - same) <= 1
    assert photo.width == pytest.approx(wide, abs=1)
    assert plain.width > 1.3 * same
    assert photo.convert("RGB").getpixel((2, 2)) == (255, 255, 255)

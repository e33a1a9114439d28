"""Pictures of sets, neighbours, settings and moving points: what they draw and tell is what was given."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from helpers.data import ImageSet
from helpers.figures.moving_points import architecture_figure, moment_figure, moving_figure
from helpers.figures.pictures import classes_figure, heatmaps_figure, neighbours_figure
from helpers.plotting import PALETTE
from helpers.retrieval import nearest_neighbours


def part(count: int = 12, classes: int = 3, channels: int = 3) -> ImageSet:
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, channels, 4, 4)
    return ImageSet("toy/train", pixels, torch.arange(count) % classes, [f"kind {c}" for c in range(classes)])


def drawn(axes) -> int | None:
    """Which image of `part` an axes shows."""
    return round(float(axes.images[0].get_array()[0, 0, 0]) * 255) if axes.images else None


def framed(axes) -> str | None:
    side = axes.spines["left"]
    return to_hex(side.get_edgecolor()).upper() if side.get_visible() else None


@pytest.mark.parametrize("channels", [1, 3])
def test_each_column_holds_the_first_images_of_a_class(channels):
    figure, alt = classes_figure(part(channels=channels), classes=2, each=3)
    assert [drawn(ax) for ax in figure.axes] == [0, 1, 3, 4, 6, 7]  # image i is of class i % 3
    assert alt == "3 images of each of 2 classes of toy/train, one class per column."


def test_there_are_no_more_columns_than_classes_and_no_more_pictures_than_images():
    figure, alt = classes_figure(part(4), classes=8, each=2)
    assert [drawn(ax) for ax in figure.axes] == [0, 1, 2, 3, None, None]
    assert "of each of 3 classes" in alt


def test_neighbours_are_those_of_the_embedding_and_the_right_ones_are_framed():
    spaces = {
        name: torch.randn(12, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")
    }
    images, queries, k = part(), [3, 7, 5], 4
    figure, alt = neighbours_figure(images, spaces, queries, k)
    axes = np.reshape(figure.axes, (3, 2, k + 1)).swapaxes(0, 1)  # a block for each query
    for row, (name, points) in zip(axes, spaces.items(), strict=True):
        near, right = nearest_neighbours(points, k)[0], 0
        for query, panels in zip(queries, row, strict=True):
            assert [drawn(ax) for ax in panels] == [query, *near[query].tolist()]
            of_class = [int(i) % 3 == query % 3 for i in near[query]]
            assert [framed(ax) for ax in panels] == [
                PALETTE["ink"].upper(),
                *(PALETTE["green"].upper() if hit else None for hit in of_class),
            ]
            right += sum(of_class)
        assert f"{right} of {3 * k} by {name}" in alt
        assert [block[0].get_ylabel() for block in row] == [name] * 3
    assert [ax.get_title() for ax in axes[0, 0]] == ["query", "nearest", "", "", ""]
    assert alt.startswith(f"3 queries, each with its {k} nearest images, a row for each of a, b")


def test_heat_maps_write_every_number_and_tell_the_best():
    values = [[0.1, 0.25, 0.3], [0.9, 0.5, 0.6]]
    figure, alt = heatmaps_figure(
        {"accuracy": values, "retrieval": [[-v for v in row] for row in values]},
        rows=(0.3, 1.0), columns=(1, 2, 3), labels=("weight", "margin"),
    )  # fmt: skip
    left, right = figure.axes
    assert [float(text.get_text()) for text in left.texts] == [0.1, 0.25, 0.3, 0.9, 0.5, 0.6]
    assert [float(text.get_text()) for text in right.texts] == [-0.1, -0.25, -0.3, -0.9, -0.5, -0.6]
    for axes in figure.axes:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("margin", "weight")
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "3"]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.3", "1.0"]
    assert alt == (
        "Heat maps over weight and margin: accuracy is best, 0.900, at weight 1.0, margin 1; "
        "retrieval is best, -0.100, at weight 0.3, margin 1."
    )


# ---- moving points

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
MODES = torch.tensor([0, 0, 3, 3, 1, 1, 4, 4])
START = torch.tensor([[1, 0], [1, 2], [-1, 1], [-1, 1], [0, 1], [0, 1], [0, -1], [0, -2.0]])
FRAMES = {"still": [START] * 3, "shrinking": [START, START / 2, START * 0]}
# the modes of class 0 have their means at (1, 1) and (-1, 1), those of class 1 at (0, 1) and (0, -1.5)
APART = (2 + 2.5) / 2


def points_of(axes) -> np.ndarray:
    return np.concatenate([line.get_xydata() for line in axes.lines])


def test_every_panel_shows_the_points_of_its_loss_at_its_moment():
    figure, alt = moving_figure(FRAMES, LABELS, MODES, (0, 2), "It shrinks")
    panels = np.reshape(figure.axes, (2, 2))
    for row, (name, frames) in zip(panels, FRAMES.items(), strict=True):
        assert row[0].get_ylabel() == name
        for axes, moment in zip(row, (0, 2), strict=True):
            assert points_of(axes).tolist() == frames[moment].tolist()
    assert [ax.get_title() for ax in panels[0]] == ["step 0", "step 2"]
    assert figure.get_suptitle() == "It shrinks"
    assert alt == (
        "It shrinks. Points of 2 classes with two modes each, at step 0, 2. Distance between the modes of a "
        f"class: still {APART:.2f}, {APART:.2f}; shrinking {APART:.2f}, 0.00."
    )


def test_colour_is_the_class_and_mark_the_mode():
    figure, _ = moment_figure({"still": [START]}, LABELS, MODES, 0)
    lines = figure.axes[0].lines
    assert [line.get_marker() for line in lines] == ["o", "s", "o", "s"]
    colors = [line.get_color() for line in lines]
    assert colors[0] == colors[1] != colors[2] == colors[3]


def test_one_step_of_all_losses():
    figure, alt = moment_figure(FRAMES, LABELS, MODES, 1)
    assert [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes] == list(FRAMES)
    assert [points_of(ax).tolist() for ax in figure.axes] == [f[1].tolist() for f in FRAMES.values()]
    assert alt.endswith(
        f"at step 1. Distance between the modes of a class: still {APART:.2f}; shrinking 1.12."
    )


def test_the_picture_of_the_network_keeps_the_geometry_of_triplets():
    figure, alt = architecture_figure()
    left, right = figure.axes
    near, margin = sorted(patch.radius for patch in right.patches)
    distance = {
        text.get_text(): math.hypot(*line.get_xydata()[0])
        for text, line in zip(right.texts, right.lines, strict=False)
    }
    assert distance["positive"] == pytest.approx(near, abs=0.01)
    assert distance["hard"] < near < distance["semi-hard"] < margin < distance["easy"]
    words = " ".join(text.get_text() for text in left.texts)
    assert all(
        word in words and word in alt for word in ("logits", "embedding", "ranking loss", "cross-entropy")
    )
    boxes = [(p.get_x(), p.get_x() + p.get_width(), p.get_y() + p.get_height() / 2) for p in left.patches]
    for arrow in (text for text in left.texts if re.fullmatch("", text.get_text())):
        (x0, y0), (x1, y1) = arrow.xyann, arrow.xy  # from the right side of one box to the left of another
        assert any(math.isclose(end, x0) and abs(y - y0) < 0.2 for _, end, y in boxes)
        assert any(math.isclose(start, x1) and abs(y - y1) < 0.2 for start, _, y in boxes)

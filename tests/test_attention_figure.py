"""The pictures of chapter 4: what they draw and what they say."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from helpers.data import ImageSet
from helpers.figures.attention import (
    HEAT,
    asked_figure,
    cascade_figure,
    maps_figure,
    show_attention,
    two_positions_figure,
)

IMAGES = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
MAPS = torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(2))


def drawn(image, heatmap=None, box=None):
    _, axes = plt.subplots()
    show_attention(axes, image, heatmap, box=box)
    plt.close()
    return axes


def test_an_image_alone_is_shown_as_it_is():
    assert np.allclose(drawn(IMAGES[0]).images[0].get_array(), IMAGES[0].permute(1, 2, 0))
    assert drawn(IMAGES[0, :1]).images[0].get_array().shape == (12, 16, 3)


def test_a_map_covers_every_pixel_with_its_own_colour():
    heat = torch.zeros(12, 16)
    heat[:, 8:] = 1
    pixels = np.asarray(drawn(IMAGES[0], heat).images[0].get_array())
    low, high = (np.array(matplotlib.colormaps["inferno"](v)[:3]) for v in (0.0, 1.0))
    image = IMAGES[0].permute(1, 2, 0).numpy()
    assert np.allclose(pixels[:, :8], (1 - HEAT) * image[:, :8] + HEAT * low, atol=1e-6)
    assert np.allclose(pixels[:, 8:], (1 - HEAT) * image[:, 8:] + HEAT * high, atol=1e-6)


def test_a_box_is_drawn_where_it_lies():
    (patch,) = drawn(IMAGES[0], box=torch.tensor([2.0, 3.0, 9.0, 7.0])).patches
    assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((2, 3), 7, 4)


def test_every_image_has_a_row_and_every_map_a_column():
    columns = {"image": [None, None], "map": list(MAPS)}
    figure, alt = maps_figure(list(IMAGES), columns, finding="It looks here")
    axes = np.array(figure.axes).reshape(2, 2)
    assert np.allclose(axes[1, 0].images[0].get_array(), IMAGES[1].permute(1, 2, 0))
    assert not np.allclose(axes[1, 1].images[0].get_array(), IMAGES[1].permute(1, 2, 0))
    assert [ax.get_title() for ax in axes[0]] == ["image", "map"]
    assert alt.startswith("It looks here. 2 images, a row for each")
    with pytest.raises(IndexError):
        maps_figure(list(IMAGES), {"map": list(MAPS[:1])})


def test_titles_of_pictures_replace_the_headings():
    titles = [["a", "b"], ["c", "d"]]
    figure, alt = maps_figure(list(IMAGES), {"x": [None, None], "y": list(MAPS)}, titles=titles)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", "d"]
    assert alt.endswith("a, b; c, d.")


def test_the_circle_is_that_of_the_budget_and_the_loss_is_lowest_at_the_best():
    shares = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    angles = torch.linspace(0, 2 * torch.pi, 3601)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    best = circle[((circle - 1) @ shares.T).square().sum(1).argmin()]
    figure, alt = two_positions_figure(shares, best)
    plane, along = figure.axes
    radius = np.hypot(*plane.lines[0].get_data())
    assert np.allclose(radius, 1)
    curve, mark = along.lines
    assert mark.get_ydata()[0] == pytest.approx(curve.get_ydata().min())
    assert mark.get_xdata()[0] == pytest.approx(curve.get_xdata()[curve.get_ydata().argmin()], abs=1)
    assert f"{best[0] ** 2:.0%} of the budget goes to position 1" in alt


def test_maps_of_a_network_that_turns_random_have_a_line_for_each_method():
    lines = {"L2-CAF": [1.0, 0.4, 0.0], "mean activation": [1.0, 1.0, 0.2]}
    figure, alt = cascade_figure({"one": lines, "other": lines}, ["trained", "head", "block"])
    for axes in figure.axes:
        assert [line.get_ydata().tolist() for line in axes.lines] == list(map(list, lines.values()))
    assert "one: L2-CAF 0.40 at once and 0.00 at the end, mean activation 1.00 at once" in alt


def test_a_mosaic_is_asked_with_another_image_of_the_class_in_the_framed_quarter():
    labels = torch.arange(12) // 3
    images = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    part = ImageSet("small", images, labels, [f"class {c}" for c in range(4)])
    images = part[:][0]
    seen = {}

    def maps_of(pictures, asked):
        seen.update(pictures=pictures, asked=asked[:, 0].long())  # an embedding is its row's number
        return {"one": torch.zeros(len(pictures), 2, 2), "another": torch.rand(len(pictures), 2, 2)}

    figure, alt = asked_figure(part, torch.arange(12.0)[:, None], ["another"], 0, maps_of, rows=2)
    rows = np.array(figure.axes).reshape(2, 3)
    for row, quarter in zip(rows, (slice(0, 6), slice(6, 12)), strict=True):
        asked = seen["asked"][list(rows[:, 0]).index(row[0])]
        assert np.allclose(row[0].images[0].get_array(), images[asked].permute(1, 2, 0))
        tile = np.asarray(row[1].images[0].get_array())[:6, quarter]
        mates = [i for i in range(12) if labels[i] == labels[asked] and i != asked]
        assert any(np.allclose(tile, images[i].permute(1, 2, 0)) for i in mates)
        assert row[1].patches[0].get_xy() == (quarter.start, 0)
    assert "maps by another" in alt

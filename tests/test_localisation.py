"""Objects moved over a wider canvas, and maps scored against their boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers.data import ImageSet, load_dataset
from helpers.data.canvas import on_wider_canvas
from helpers.localisation import (
    all_box_scores,
    box_scores,
    boxes_around,
    brightness_in_box,
    centre_blob,
    fit_to_image,
    inside_boxes,
    quarters,
    rank_correlation,
)

SIDE = 8


@st.composite
def boxed_images(draw: st.DrawFn) -> ImageSet:
    """Images that are white in their box and noise below white elsewhere, with a mask and two parts."""
    count = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    images = torch.randint(0, 255, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    corners = [
        sorted(draw(st.lists(st.integers(0, SIDE), min_size=2, max_size=2, unique=True)))
        for _ in range(2 * count)
    ]
    boxes = torch.tensor(
        [[x1, y1, x2, y2] for (x1, x2), (y1, y2) in zip(corners[::2], corners[1::2], strict=True)]
    )
    for image, (x1, y1, x2, y2) in zip(images, boxes.tolist(), strict=True):
        image[:, y1:y2, x1:x2] = 255
    parts = torch.cat((boxes[:, :2], torch.ones(count, 1)), dim=1)[:, None].expand(-1, 2, -1)
    return ImageSet(
        "toy", images, torch.zeros(count, dtype=torch.long), ["one"],
        boxes=boxes.float(), parts=parts, part_names=["left", "right"], part_masks=images[:, 0] == 255,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(part=boxed_images(), seed=st.integers(0, 999))
def test_the_object_is_in_its_box_and_nowhere_else(part: ImageSet, seed: int) -> None:
    moved = on_wider_canvas(part, seed)
    images, labels = moved[:]
    canvas = SIDE + SIDE // 2
    assert images.shape == (len(part), 3, canvas, canvas)
    assert torch.equal(labels, part.labels)
    shift = moved.boxes - part.boxes
    assert torch.equal(shift[:, :2], shift[:, 2:])
    assert shift.min() >= 0
    assert shift.max() <= SIDE // 2
    at_edge = ((part.boxes == 0) | (part.boxes == SIDE)).any(1)  # there no strip is left to mirror
    inside = inside_boxes(moved.boxes, canvas)
    assert torch.equal((images == 1).all(1)[~at_edge], inside[~at_edge])
    assert torch.equal(moved.part_masks, inside)
    assert torch.equal(moved.parts[:, 0, :2], moved.boxes[:, :2])
    assert moved.part_names == ["left", "right"]
    for one, (dx, dy), original in zip(images, shift[:, :2].long().tolist(), part[:][0], strict=True):
        assert torch.equal(one[:, dy : dy + SIDE, dx : dx + SIDE], original)


def test_what_is_new_mirrors_the_strip_beside_the_object() -> None:
    row = torch.tensor([10, 20, 255, 30, 40, 50, 60, 70], dtype=torch.uint8)
    part = ImageSet(
        "toy", row.expand(1, 1, SIDE, SIDE).clone(), torch.zeros(1, dtype=torch.long), ["one"],
        boxes=torch.tensor([[2.0, 0.0, 3.0, 8.0]]),
    )  # fmt: skip
    found = {}
    for seed in range(60):
        moved = on_wider_canvas(part, seed)
        found[int(moved.boxes[0, 0]) - 2] = (255 * moved[0][0][0, 0]).round().int().tolist()
    assert found == {
        0: [*row.tolist(), 70, 60, 50, 40],
        1: [10, *row.tolist(), 70, 60, 50],
        2: [20, 10, *row.tolist(), 70, 60],
        3: [20, 20, 10, *row.tolist(), 70],
        4: [10, 20, 20, 10, *row.tolist()],
    }


def test_places_depend_on_the_seed_alone() -> None:
    part = load_dataset("birds", size=16, num_species=2, per_species=8).train
    one, again, other = (on_wider_canvas(part, seed) for seed in (3, 3, 4))
    assert torch.equal(one[:][0], again[:][0])
    assert torch.equal(one.boxes, again.boxes)
    assert not torch.equal(one.boxes, other.boxes)
    assert one.part_masks.shape == (len(part), 24, 24)


def test_images_without_boxes_are_refused() -> None:
    digits = load_dataset("digits").test
    with pytest.raises(ValueError, match="digits/test has no boxes"):
        on_wider_canvas(digits, 0)


def test_a_map_fills_the_image_and_the_range() -> None:
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 7 - 2
    large = fit_to_image(maps, 12)
    assert large.shape == (3, 12, 12)
    assert torch.equal(large.amin((1, 2)), torch.zeros(3))
    assert torch.allclose(large.amax((1, 2)), torch.ones(3))
    assert torch.allclose(large, fit_to_image(5 * maps + 3, 12), atol=1e-5)
    assert torch.equal(large[:, 1::3, 1::3].flatten(1).argmax(1), maps.flatten(1).argmax(1))
    assert torch.equal(fit_to_image(torch.full((1, 2, 2), 0.4), 3), torch.zeros(1, 3, 3))


def test_the_blob_is_bright_in_the_middle() -> None:
    blob = centre_blob(2, 9)
    assert blob.shape == (2, 9, 9)
    assert blob.flatten(1).argmax(1).tolist() == [40, 40]
    assert blob[0, 4, 4] == 1
    assert torch.allclose(blob, blob.flip(1))
    assert torch.allclose(blob, blob.mT)


def test_share_of_brightness_by_hand() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3], maps[1, 2, 1] = 1.0, 3.0, 0.5
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 2.0, 2.0, 3.0], [0.0, 0.0, 4.0, 1.0]])
    assert brightness_in_box(maps, boxes).tolist() == [0.25, 1.0, 0.25]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-2, 8, width=32), min_size=4, max_size=4))
def test_a_pixel_is_inside_if_its_centre_is(box: list[float]) -> None:
    x1, y1, x2, y2 = box
    expected = [[x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2 for x in range(6)] for y in range(6)]
    assert inside_boxes(torch.tensor([box]), 6)[0].tolist() == expected


def test_the_box_around_the_largest_piece_by_hand() -> None:
    maps = torch.zeros(1, 6, 6)
    maps[0, 0, 0] = 1.0  # the brightest, alone
    maps[0, 3:5, 2:5] = 0.5
    assert boxes_around(maps, 0.4).tolist() == [[2, 3, 5, 5]]
    assert boxes_around(maps, 0.9).tolist() == [[0, 0, 1, 1]]


def test_three_scores_by_hand() -> None:
    maps = torch.zeros(2, 6, 6)
    maps[0, 1:4, 1:4], maps[0, 2, 2] = 0.5, 1.0  # 3 x 3 pixels, which sum to 5
    maps[1, 5, 5] = 1.0
    found = box_scores(maps, torch.tensor([[1.0, 1.0, 3.0, 4.0], [0.0, 0.0, 3.0, 3.0]]))
    assert torch.allclose(found["in the box"], torch.tensor([3.5 / 5, 0.0]))
    assert found["pointing"].tolist() == [1.0, 0.0]
    assert found["IoU > 0.5"].tolist() == [1.0, 0.0]  # 6 of 9 pixels


def test_all_methods_and_a_blob_are_scored_at_the_size_of_the_image() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(2, 1)
    corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(2, 1, 1)
    found = all_box_scores({"corner": corner}, boxes, 8, torch.tensor([1.0, 0.0]))
    assert {name.split(": ")[0] for name in found} == {"corner", "blob in the centre"}
    assert found["corner: in the box"].min() > 0.6
    assert torch.allclose(found["blob in the centre: in the box"], torch.tensor(0.25))
    small = all_box_scores({"dot": torch.eye(8)[None, :4].repeat(2, 1, 1)}, boxes, 8, torch.ones(2))
    assert torch.equal(small["dot: top-1 localisation"], small["dot: IoU > 0.5"])
    tight = torch.zeros(2, 8, 8)
    tight[:, :4, :4] = 1.0
    found = all_box_scores({"tight": tight}, boxes, 8, torch.tensor([1.0, 0.0]))
    assert found["tight: IoU > 0.5"].tolist() == [1.0, 1.0]
    assert found["tight: top-1 localisation"].tolist() == [1.0, 0.0]  # found, but the second is named wrongly


def test_quarters_share_the_brightness() -> None:
    maps = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([maps[:, y : y + 2, x : x + 3].sum((1, 2)) for y in (0, 2) for x in (0, 3)], 1)
    assert torch.allclose(quarters(maps), expected / maps.sum((1, 2))[:, None])
    assert quarters(torch.zeros(1, 2, 2)).tolist() == [[0, 0, 0, 0]]


def test_rank_correlation_is_spearmans() -> None:
    one, other = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other, strict=True)]
    assert rank_correlation(one, other) == pytest.approx(sum(expected) / 3, abs=1e-5)
    assert rank_correlation(one, one.exp()) == pytest.approx(1, abs=1e-5)
    assert rank_correlation(one, -one) == pytest.approx(-1, abs=1e-5)

"""Cards on grounds, mosaics and crops off the centre: what counts lies where they say, and nowhere else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from networks import seeded
from skimage import data
from torchvision.ops import box_iou

from helpers.data import ImageSet, SeenUnseen
from helpers.data.canvas import on_wider_canvas
from helpers.data.scenes import GROUNDS, all_off_centre, mosaics, off_centre, on_grounds

LABELS = torch.arange(600) % 7


def draw(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed))


def same(first, second):
    return all(map(torch.equal, first, second))


# ---- cards


@pytest.mark.parametrize("side", [1, 7, 28])
def test_cards_lie_where_their_boxes_say_and_nowhere_else(side):
    images = 2 + draw(30, 3, side, side)  # no ground is that light
    cards = on_grounds(images, LABELS[: len(images)], seed=3)
    assert cards.pictures.shape == (30, 3, 2 * side, 2 * side)
    assert cards.boxes.dtype == torch.float32
    assert torch.equal(cards.labels, LABELS[:30])
    for image, picture, box in zip(images, cards.pictures, cards.boxes.long().tolist(), strict=True):
        x1, y1, x2, y2 = box
        assert (x2 - x1, y2 - y1) == (side, side)
        assert torch.equal(picture[:, y1:y2, x1:x2], image)
        ground = torch.ones(2 * side, 2 * side, dtype=bool)
        ground[y1:y2, x1:x2] = False
        assert ((picture[:, ground] >= 0) & (picture[:, ground] <= 1)).all()


def test_the_ground_is_a_photograph_in_one_tint():
    cards = on_grounds(
        torch.full((6, 3, 256, 256), 9.0), LABELS[:6], seed=1
    )  # as large as the photographs allow
    for picture, kind in zip(cards.pictures, cards.grounds, strict=True):
        photograph = torch.from_numpy(getattr(data, GROUNDS[kind])()).float() / 255
        for channel in picture:
            tint = (channel / photograph)[(channel < 1) & (photograph > 0)]
            assert 0.8 <= tint.min() <= tint.max() <= 1.2
            assert tint.max() - tint.min() < 1e-5
    with pytest.raises(ValueError, match="cards are 257 px; expected at most 256"):
        on_grounds(torch.zeros(1, 3, 257, 257), LABELS[:1], seed=0)


def test_the_card_does_not_tell_its_ground():
    images, shuffled = draw(600, 3, 8, 8), draw(600, 3, 8, 8).flip(0)
    cards, others = on_grounds(images, LABELS[: len(images)], seed=5), on_grounds(shuffled, LABELS, seed=5)
    assert torch.equal(cards.grounds, others.grounds)
    assert torch.equal(cards.boxes, others.boxes)
    assert cards.grounds.bincount().min() > 160  # of 200 expected, 3.5 standard deviations
    assert same(on_grounds(images, LABELS[: len(images)], seed=5), cards)
    again = on_grounds(images, LABELS[: len(images)], seed=6)
    assert not torch.equal(again.grounds, cards.grounds)
    assert not torch.equal(again.boxes, cards.boxes)
    behind = torch.stack(
        [on_grounds(torch.full((1, 3, 8, 8), 2.0), LABELS[:1], seed).pictures for seed in range(20)]
    )
    assert len(behind.flatten(1).unique(dim=0)) == 20


@pytest.mark.parametrize("side", [8, 28, 32])
def test_cards_lie_near_a_corner(side):
    boxes = on_grounds(torch.zeros(800, 3, side, side), LABELS[:1].repeat(800), seed=0).boxes
    to_edges = torch.minimum(boxes[:, :2], 2 * side - boxes[:, 2:])  # the nearer edge, across and down
    assert (to_edges.min().item(), to_edges.max().item()) == (0, side * 3 // 8)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (middles - side).abs().min() >= side / 8
    corners = Counter(map(tuple, (middles > side).tolist()))
    assert len(corners) == 4
    assert min(corners.values()) > 150  # of 200 expected, 4 standard deviations
    middle = torch.tensor([[side / 2, side / 2, 1.5 * side, 1.5 * side]])
    assert (box_iou(boxes, middle) >= 0.5).float().mean() < 0.1


# ---- mosaics


def test_a_mosaic_has_four_images_of_four_classes():
    images, labels = draw(50, 2, 5, 5), torch.arange(50) % 7 - 1
    found = mosaics(images, labels, 40, seed=2)
    assert found.pictures.shape == (40, 2, 10, 10)
    assert found.quarter.tolist() == [0, 1, 2, 3] * 10
    assert found.asked.tolist() == [rows[i % 4] for i, rows in enumerate(found.tiles.tolist())]
    for picture, rows in zip(found.pictures, found.tiles.tolist(), strict=True):
        for place, row in enumerate(rows):
            y, x = 5 * (place // 2), 5 * (place % 2)
            assert torch.equal(picture[:, y : y + 5, x : x + 5], images[row])
        assert len({int(labels[row]) for row in rows}) == 4
    assert same(mosaics(images, labels, 40, seed=2), found)
    assert not torch.equal(mosaics(images, labels, 40, seed=3).tiles, found.tiles)


def test_mosaics_draw_classes_and_images_evenly():
    labels = torch.tensor([0] * 3 + [2] * 6 + [5] * 1 + [9] * 2 + [7] * 4)
    tiles = mosaics(torch.zeros(16, 1, 1, 1), labels, 5000, seed=0).tiles
    for place in range(4):  # in each place each of the five classes, and within it each of its images
        share = tiles[:, place].bincount(minlength=16) / 5000
        expected = 1 / 5 / labels.bincount()[labels]
        assert (share - expected).abs().max() < 0.02  # 3.5 standard deviations of the rarest class


def test_four_classes_are_enough_and_three_too_few():
    images = torch.zeros(8, 1, 2, 2)
    assert mosaics(images, torch.arange(8) % 4, 1, seed=0).tiles.shape == (1, 4)
    with pytest.raises(ValueError, match="there are 3 classes; expected at least 4 for a mosaic"):
        mosaics(images, torch.arange(8) % 3, 1, seed=0)


# ---- crops off the centre


def photos(boxes, side=40):
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    images = (256 * draw(len(boxes), 3, side, side)).byte()
    return ImageSet("toy/train", images, torch.arange(len(boxes)) % 3, ["a", "b", "c"], boxes=boxes)


def any_boxes(count, side, least, most):
    """Boxes of any place, with sides that are no whole numbers of pixels."""
    extent = least + (most - least) * draw(count, 2, seed=1)
    corner = draw(count, 2, seed=2) * (side - extent)
    return torch.cat([corner, corner + extent], 1)


def shown(box, start, size):
    """Length of the part of an interval that a crop from `start` on shows."""
    return max(0.0, min(box[1], start + size) - max(box[0], start))


@pytest.mark.parametrize(("least", "most"), [(2, 12), (10, 25), (25, 39), (1, 39)])
def test_crops_hold_what_fits_and_boxes_follow(least, most):
    """A twin in loops tries all places of the crop, along each axis."""
    part, size = photos(any_boxes(60, 40, least, most)), 25
    crops = off_centre(part, size, seed=4)
    assert crops.image_shape == (3, size, size)
    assert torch.equal(crops.labels, part.labels)
    assert (crops.name, crops.class_names) == (part.name, part.class_names)
    for row in range(len(part)):
        image, crop = part[row][0], crops[row][0]
        windows = image.unfold(1, size, 1).unfold(2, size, 1)  # (3, down, across, size, size)
        ((down, across),) = (windows == crop[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
        for axis, start in enumerate((across, down)):
            box = part.boxes[row, axis::2].tolist()
            best = max(shown(box, other, size) for other in range(40 - size + 1))
            assert shown(box, start, size) > best - 1  # boxes begin and end within pixels
            inside = [min(max(edge - start, 0), size) for edge in box]
            assert crops.boxes[row, axis::2].tolist() == pytest.approx(inside, abs=1e-4)
            held = [s for s in range(40 - size + 1) if s <= int(box[0]) and s + size >= -(-box[1] // 1)]
            assert not held or start in (held[0], held[-1])  # whole, at one end or the other


def test_small_objects_in_the_middle_come_to_lie_at_a_corner():
    part, size = photos([[15, 15, 25, 27]] * 200), 26
    crops = off_centre(part, size, seed=0)
    sides = Counter(map(tuple, crops.boxes.tolist()))
    # the image ends 1 px before the object could lie at the left of the crop or at its top
    assert set(sides) == {(x, y, x + 10, y + 12) for x in (1, 15) for y in (1, 14)}
    assert min(sides.values()) > 25  # of 50 expected, 4 standard deviations
    middles = (crops.boxes[:, :2] + crops.boxes[:, 2:]) / 2
    assert (middles - size / 2).abs().min() >= 6  # in a crop of the centre: 1
    assert torch.equal(off_centre(part, size, seed=0).boxes, crops.boxes)
    assert not torch.equal(off_centre(part, size, seed=1).boxes, crops.boxes)


def test_a_crop_of_the_whole_image_changes_nothing():
    part = photos(any_boxes(5, 40, 3, 40))
    crops = off_centre(part, 40, seed=0)
    assert same(crops[:], part[:])
    assert torch.equal(crops.boxes, part.boxes)


def test_rows_of_a_part_are_its_own():
    part = photos(any_boxes(12, 40, 3, 30))
    rows = [7, 2, 2, 11]
    crops = off_centre(part.subset(rows), 40, seed=0)
    assert torch.equal(crops[:][0], part[rows][0])


def test_all_parts_that_are_looked_at_are_cut_and_the_rest_stays():
    one, other, third, fourth = (photos(any_boxes(6, 40, 5, 20)) for _ in range(4))
    parts = SeenUnseen(one, other, third, fourth, torch.arange(3), 9)
    cut = all_off_centre(parts, 44, seed=2)
    for name in ("train", "test", "unseen"):
        part = getattr(cut, name)
        expected = off_centre(on_wider_canvas(getattr(parts, name), 2), 44, 2)
        assert part.image_shape == (3, 44, 44)
        assert torch.equal(part[:][0], expected[:][0])
        assert torch.equal(part.boxes, expected.boxes)
    assert cut.val is other
    assert cut.total == 9


def test_what_cannot_be_cropped_is_refused():
    part = photos([[1, 2, 3, 4]])
    with pytest.raises(ValueError, match="toy/train has images of 40 px, not 41; expected boxes, and images"):
        off_centre(part, 41, seed=0)
    part.boxes = None
    with pytest.raises(ValueError, match="toy/train has no boxes; expected boxes"):
        off_centre(part, 20, seed=0)

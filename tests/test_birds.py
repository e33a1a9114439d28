"""The procedural birds: what an image depends on, what the annotations promise, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import birds
from helpers.data import drawing as _drawing
from helpers.data.birds import MAX_SPECIES, PARTS, VARIANTS, Birds, make_birds

EVERY_SPECIES = np.arange(MAX_SPECIES)


@pytest.fixture(scope="module")
def batch() -> Birds:
    """One image of every deciding part and sibling, three times: 32 species."""
    return make_birds(32, 3, size=48, seed=5)


def same(left: Birds, right: Birds, rows: np.ndarray | slice = slice(None)) -> None:
    """``left`` equals ``right`` at ``rows`` in every array but the labels."""
    for name in ("images", "boxes", "parts", "part_masks"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name)[rows], err_msg=name)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A (B, S, S) mask widened by some pixels in all directions."""
    size = mask.shape[1]
    padded = np.pad(mask, ((0, 0), (pixels, pixels), (pixels, pixels)))
    shifts = itertools.product(range(2 * pixels + 1), repeat=2)
    return np.any([padded[:, y : y + size, x : x + size] for y, x in shifts], axis=0)


def nuisance(count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draws = [birds._nuisance(seed, 0, i, size) for i in range(count)]
    return np.stack([u for u, _ in draws]), np.stack([g for _, g in draws])


# What an image depends on


def test_shapes_and_types(batch):
    images, masks = batch.images, batch.part_masks
    assert images.shape == (96, 3, 48, 48)
    assert images.dtype == np.uint8
    assert masks.shape == (96, 48, 48)
    assert masks.dtype == bool
    assert batch.boxes.shape == (96, 4)
    assert batch.parts.shape == (96, len(PARTS), 3)
    assert batch.boxes.dtype == batch.parts.dtype == np.float32
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == [s for s in range(32) for _ in range(3)]
    assert batch.part_names == PARTS
    assert len(batch.class_names) == len(batch.deciding_part) == 32


def test_result_is_frozen(batch):
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.labels = None


def test_same_seed_same_bytes_other_seed_other_bytes(batch):
    again, other = make_birds(32, 3, size=48, seed=5), make_birds(32, 3, size=48, seed=6)
    same(again, batch)
    assert (other.images != batch.images).any(axis=(1, 2, 3)).all()
    assert other.class_names == batch.class_names


def test_no_two_images_are_equal(batch):
    assert len({image.tobytes() for image in batch.images}) == len(batch.images)


@settings(max_examples=12, deadline=None)
@given(
    first=st.integers(0, 30), species=st.integers(1, 2), images=st.integers(1, 3), size=st.integers(16, 40)
)
def test_more_species_or_images_extend_and_never_change(first, species, images, size):
    small = make_birds(species, images, size=size, seed=3, first_species=first)
    large = make_birds(first + species + 1, images + 2, size=size, seed=3)
    wanted = (large.labels >= first) & (large.labels < first + species)
    wanted &= np.arange(len(large.labels)) % (images + 2) < images
    same(small, large, wanted)
    assert small.class_names == large.class_names[first : first + species]
    assert small.deciding_part == large.deciding_part[first : first + species]


def test_chunking_changes_nothing(batch, monkeypatch):
    monkeypatch.setattr(birds, "_CHUNK", 1)  # one image at a time
    same(make_birds(32, 3, size=48, seed=5), batch)


def test_snapshot_of_the_bytes():
    """Pins the pixels: equal on every platform, and changed only on purpose."""
    made = make_birds(32, 2, size=32, seed=2024)
    digest = hashlib.sha256(made.images.tobytes() + made.part_masks.tobytes() + made.parts.tobytes())
    assert digest.hexdigest() == "63c3285e180cfad7297137ca5c6ba1feae78bd99fa6aa25b50c89a607b70a647"


def test_all_drawing_is_single_precision(monkeypatch):
    """A stray float64 would be rounded twice and cost twice as much."""
    paint, seen = _drawing.Canvas.paint, []

    def checked(self, cover, colour, owner=None, light=None, pictures=None):
        seen.extend(array.dtype for array in (cover, colour, light) if array is not None)
        paint(self, cover, colour, owner, light, pictures)

    monkeypatch.setattr(_drawing.Canvas, "paint", checked)
    make_birds(32, 1, size=16)
    assert len(seen) > 100
    assert set(seen) == {np.dtype(np.float32)}


# Species


def test_no_two_species_have_the_same_traits():
    assert len({tuple(row) for row in birds._traits(EVERY_SPECIES).tolist()}) == MAX_SPECIES


def test_siblings_differ_in_the_deciding_part_alone():
    traits = birds._traits(EVERY_SPECIES).reshape(-1, 4, len(birds.TRAITS))
    deciding = make_birds(MAX_SPECIES, 1, size=16).deciding_part[::4]
    for genus, part in zip(traits, deciding, strict=True):
        differs = (genus != genus[0]).any(axis=0)
        assert [name for name, differ in zip(birds.TRAITS, differs, strict=True) if differ] == [part]
        assert sorted(genus[:, birds.TRAITS.index(part)]) == [0, 1, 2, 3]


def test_genera_differ_in_palette_or_build():
    pairs = {tuple(row) for row in birds._traits(EVERY_SPECIES)[:, :2].tolist()}
    assert len(pairs) == MAX_SPECIES // 4


def test_every_part_decides_some_genus(batch):
    assert set(batch.deciding_part) == set(PARTS)


def test_class_names_are_unique_and_say_the_deciding_trait():
    made = make_birds(MAX_SPECIES, 1, size=16)
    assert len(set(made.class_names)) == MAX_SPECIES
    for number, (name, part) in enumerate(zip(made.class_names, made.deciding_part, strict=True)):
        assert name.split()[0] == VARIANTS[part][number % 4]
        assert name.endswith(f" {number:03d}")


@pytest.mark.parametrize("genus", range(len(PARTS)))
def test_siblings_in_the_same_pose_differ_only_at_the_deciding_part(genus):
    uniforms, grain = nuisance(12, 64)
    part = genus % len(PARTS)
    traits = birds._traits(4 * genus + np.arange(4))
    drawn = [birds._render(np.tile(row, (12, 1)), uniforms, grain) for row in traits]
    for (left, owner_left), (right, owner_right) in itertools.combinations(drawn, 2):
        change = np.abs(left.astype(int) - right.astype(int)).sum(axis=1)
        assert change.any(axis=(1, 2)).mean() > 0.8  # a twig may hide the part altogether
        union = grown((owner_left == part + 1) | (owner_right == part + 1), 2)
        assert change[union].sum() >= 0.99 * change.sum()  # the rest is soft edges
        elsewhere = (owner_left != owner_right) & ~union
        assert not elsewhere.any()


# Annotations


def test_boxes_lie_within_the_image_and_hold_what_is_visible(batch):
    left, top, right, bottom = batch.boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 48).all()
    assert (bottom <= 48).all()
    assert ((right - left) * (bottom - top) > 0.05 * 48 * 48).all()
    x, y, visible = batch.parts.transpose(2, 0, 1)
    seen = visible == 1
    inside = (x > left[:, None]) & (x < right[:, None]) & (y > top[:, None]) & (y < bottom[:, None])
    assert inside[seen].all()
    centre = np.arange(48) + 0.5
    columns = (centre > left[:, None]) & (centre < right[:, None])
    rows = (centre > top[:, None]) & (centre < bottom[:, None])
    assert not (batch.part_masks & ~(rows[:, :, None] & columns[:, None, :])).any()


def test_box_is_the_tightest_around_the_owned_pixels():
    owner = np.zeros((2, 9, 9), dtype=np.uint8)
    owner[0, 2:5, 3:8] = 4
    owner[1, 8, 0] = 9
    assert _drawing.visible_box(owner).tolist() == [[3, 2, 8, 5], [0, 8, 1, 9]]


def test_centres_are_means_of_pixel_centres_and_zero_if_unseen():
    owner = np.zeros((2, 6, 6), dtype=np.uint8)
    owner[0, 1:3, 2:5] = 1
    owner[1, 5, 5] = 2
    owner[1, 0, 0] = 3  # the body, which is no part
    expected = [[[3.5, 2.0, 1.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [5.5, 5.5, 1.0]]]
    assert _drawing.visible_centres(owner, 2).tolist() == expected


def test_part_centre_is_the_centre_of_the_mask(batch):
    index = np.array([PARTS.index(part) for part in batch.deciding_part])[batch.labels]
    centre = batch.parts[np.arange(96), index]
    for mask, (x, y, visible) in zip(batch.part_masks, centre, strict=True):
        assert visible == mask.any()
        if visible:
            rows, columns = np.nonzero(mask)
            assert (x, y) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=1e-4)


@pytest.mark.parametrize(("size", "share"), [(32, 0.9), (64, 0.95)])
def test_the_deciding_part_is_small_and_mostly_visible(size, share):
    made = make_birds(32, 4, size=size, seed=9)
    assert made.part_masks.any(axis=(1, 2)).mean() > share
    assert made.part_masks.mean() < 0.1
    assert made.parts[:, :, 2].mean() > share


def test_parts_sit_where_a_bird_has_them(batch):
    """In nearly all poses the legs are below the crown and the tail is farther from the eye than the beak."""
    at = {part: batch.parts[:, i] for i, part in enumerate(PARTS)}
    seen = np.all([at[part][:, 2] == 1 for part in ("legs", "crown", "tail", "eye", "beak")], axis=0)
    assert seen.mean() > 0.6
    gap = {part: np.hypot(*(at[part] - at["eye"])[:, :2].T) for part in ("tail", "beak")}
    assert (at["legs"] > at["crown"])[seen, 1].all()
    assert (gap["tail"] > gap["beak"])[seen].mean() > 0.95


def test_an_image_shows_the_same_scene_at_every_size():
    small, large = make_birds(4, 2, size=32), make_birds(4, 2, size=224)
    shrunk = large.images.reshape(8, 3, 32, 7, 32, 7).mean(axis=(3, 5))
    assert np.abs(shrunk - small.images).mean() < 8  # grey levels: grain and edges only
    assert (np.abs(large.boxes / 7 - small.boxes) < 1.5).mean() > 0.9  # the tip of a beak may vanish


# Primitives


def test_strokes_and_ellipses_measure_distance():
    frame = _drawing.Frame.unit(1, 100)
    circle = frame.ellipse(0.5, 0.5, 0.2, 0.2)[0]
    x, y = np.meshgrid(np.arange(100) + 0.5, np.arange(100) + 0.5)
    np.testing.assert_allclose(circle, np.hypot(x - 50, y - 50) - 20, atol=1e-3)
    stroke = frame.taper(0.2, 0.5, 0.8, 0.5, 0.1, 0.1)[0]
    np.testing.assert_allclose(stroke, np.hypot(x - np.clip(x, 20, 80), y - 50) - 10, atol=1e-3)


@given(turn=st.floats(-3, 3))
def test_rotation_is_that_of_twice_the_half_angle(turn):
    cos, sin = _drawing.rotation(turn)
    assert cos == pytest.approx(np.cos(2 * np.arctan(turn)), abs=1e-12)
    assert sin == pytest.approx(np.sin(2 * np.arctan(turn)), abs=1e-12)


def test_moved_frame_measures_from_its_origin_in_its_unit():
    frame = _drawing.Frame.unit(1, 10).moved(0.05, 0.05, turn=1.0, unit=0.1)  # a quarter turn upwards
    assert (frame.x[0, 0, 0], frame.y[0, 0, 0]) == pytest.approx((0, 0), abs=1e-6)
    assert (frame.x[0, 0, 3], frame.y[0, 0, 3]) == pytest.approx((0, 3), abs=1e-5)
    assert frame.px[0, 0, 0] == pytest.approx(1.0)


def test_paint_blends_and_notes_the_owner():
    canvas = _drawing.Canvas(2, 2)
    cover = np.array([[[0.0, 0.25], [0.75, 1.0]]], dtype=np.float32)
    canvas.paint(cover, np.array([[1.0, 0.5, 0.0]], dtype=np.float32), 7, pictures=np.array([1]))
    np.testing.assert_array_equal(canvas.pixels[0, 1], cover[0])
    np.testing.assert_array_equal(canvas.pixels[1, 1], 0.5 * cover[0])
    assert not canvas.pixels[2].any()
    assert not canvas.pixels[:, 0].any()
    assert canvas.owner.tolist() == [[[0, 0], [0, 0]], [[0, 0], [7, 7]]]


def test_using_more_random_numbers_than_drawn_is_an_error():
    draw = _drawing.Draws(np.zeros((2, 3), dtype=np.float32))
    draw.take(2)
    with pytest.raises(ValueError, match="4 random numbers used, 3 drawn"):
        draw.take(2)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "size must be from 16 to 224, got 8"),
        ({"size": 225}, "size must be from 16 to 224, got 225"),
        ({"per_species": 0}, "per_species must be at least 1, got 0"),
        ({"num_species": 0}, "num_species must be from 1 to 240, got 0"),
        ({"num_species": 241}, "num_species must be from 1 to 240, got 241"),
        ({"num_species": 20, "first_species": 230}, "num_species must be from 1 to 10, got 20"),
        ({"first_species": -1}, "first_species must be from 0 to 239, got -1"),
        ({"first_species": 240}, "first_species must be from 0 to 239, got 240"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_birds(**arguments)


@pytest.mark.parametrize("name", ["num_species", "per_species", "size", "seed", "first_species"])
@pytest.mark.parametrize("value", [2.0, float("nan"), "3", None, True, np.array([1, 2])])
def test_what_is_no_integer_is_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        make_birds(**{name: value})


def test_numpy_integers_and_the_last_species_are_accepted():
    made = make_birds(np.int64(1), np.int32(1), size=np.uint8(16), seed=np.int64(1), first_species=239)
    assert made.images.shape == (1, 3, 16, 16)
    assert made.class_names[0].endswith("239")


def test_siblings_picks_the_first_species_of_each_genus():
    every = make_birds(12, 3, size=16)
    for siblings, species in ((1, [0, 4, 8]), (2, [0, 1, 4, 5, 8, 9])):
        some = make_birds(len(species), 3, size=16, siblings=siblings)
        rows = np.concatenate([np.flatnonzero(every.labels == s) for s in species])
        assert np.array_equal(some.images, every.images[rows])
        assert some.class_names == [every.class_names[s] for s in species]
    tail = make_birds(2, 1, size=16, siblings=2, first_species=4)
    assert tail.class_names == [every.class_names[8], every.class_names[9]]


@pytest.mark.parametrize("bad", [{"siblings": 0}, {"siblings": 5}, {"num_species": 61, "siblings": 1}])
def test_siblings_out_of_range(bad):
    with pytest.raises(ValueError, match="from 1 to"):
        make_birds(**({"num_species": 1, "per_species": 1} | bad))

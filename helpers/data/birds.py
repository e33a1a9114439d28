"""``birds``: a procedural fine-grained image set in which the part that decides the class is known.

Species come in genera of four. A genus shares palette, build and every part but one; that one, the deciding
part, tells the four siblings apart. Images of a species differ in pose, scale, position, facing, light,
clutter and occlusion.

Image ``i`` of species ``s`` depends on (seed, s, i, size) alone, and its bytes are the same on Linux and
macOS, x86 and Arm. This binds the code: NumPy only, raw PCG64 output as the only randomness, and of
floating-point arithmetic only what IEEE 754 rounds exactly (+ - * / sqrt, comparisons, minimum, maximum,
floor).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from helpers.data.drawing import (
    Array,
    Canvas,
    Draws,
    Frame,
    clutter,
    columns,
    coverage,
    random_numbers,
    rgb,
    rotation,
    scenery,
    smooth_noise,
    visible_box,
    visible_centres,
    wave,
)

MAX_SPECIES = 240
MIN_SIZE, MAX_SIZE = 16, 224

# Every part has four variants. The order is the order in which genera take their deciding part.
VARIANTS = {
    "beak": ("cone-billed", "needle-billed", "curve-billed", "hook-billed"),
    "breast": ("plain-breasted", "spotted", "streaked", "barred"),
    "crown": ("smooth-crowned", "capped", "crested", "plumed"),
    "tail": ("square-tailed", "fork-tailed", "long-tailed", "fan-tailed"),
    "wing": ("plain-winged", "one-barred", "two-barred", "pale-winged"),
    "throat": ("plain-throated", "bibbed", "collared", "flame-throated"),
    "eye": ("dark-eyed", "spectacled", "masked", "browed"),
    "legs": ("black-legged", "orange-legged", "rose-legged", "blue-legged"),
}
PARTS = tuple(VARIANTS)
TRAITS = ("build", "palette", *PARTS)
_BODY = len(PARTS) + 1
_OWNER = {part: i + 1 for i, part in enumerate(PARTS)} | {"body": _BODY}  # as in Canvas.owner; 0 is no bird

# build: chest radius, rump radius, half length, neck, head radius, leg
_BUILDS = {
    "finch": (0.165, 0.065, 0.16, 0.030, 0.124, 0.045),
    "warbler": (0.132, 0.050, 0.18, 0.045, 0.112, 0.060),
    "thrush": (0.165, 0.058, 0.20, 0.055, 0.108, 0.075),
    "dove": (0.185, 0.070, 0.22, 0.070, 0.090, 0.035),
    "plover": (0.145, 0.055, 0.17, 0.085, 0.110, 0.150),
}
# palette: back, belly, wing, accent (cap, crest, bib), marks on the breast, beak. Some, such as rufous and
# russet, are nearly equal on purpose.
_PALETTES = {
    "rufous": "b0623a ecd2ad 7d4327 2e2a35 6b3a22 e3a83e",
    "slate": "6d7c8c d7dce0 46525f d9a32b 3e4852 2f3338",
    "olive": "84893f e6dd9c 585c2a b8402f 5a5626 ecc765",
    "russet": "b86a44 f0d8b8 86492d 2a2c38 70402a dca652",
    "azure": "3f79b8 e8e4d6 2b4f80 1d2433 4a5a73 3a3a3f",
    "golden": "d9a83a f5e8b4 8f6a22 26221f 8a5f20 5b4a3c",
    "ashen": "78828a dcdcd8 50575d cf9a35 464c52 e6b450",
    "mossy": "7b8a48 e2e0a8 515f30 b8472f 52582c dcb95e",
    "rosy": "c46a78 f2d9d4 7f4450 6a1430 8a4450 f0dfc2",
    "emerald": "2f8a63 d9e6c4 1e5a45 e0b52c 2e5a44 3a3c34",
    "sable": "54463f c9b8a4 332b28 cc5a2c 4a3c34 e9b440",
    "sandy": "c9ac7c f3ead6 8e754e 5b3a24 7c6240 54483a",
}
# beak: length, root, tip, bend, hook (in head radii)
_BEAKS = np.array([[0.90, 0.52, 0.03, 0.0, 0.0], [1.85, 0.18, 0.03, 0.0, 0.0],
                   [1.90, 0.24, 0.04, 0.34, 0.0], [1.20, 0.46, 0.15, 0.0, 0.60]])  # fmt: skip
# tail: length, spread, root, tip, where it is cut off
_TAILS = np.array([[0.22, 0.010, 0.050, 0.050, 0.19], [0.33, 0.105, 0.036, 0.010, 1.0],
                   [0.42, 0.008, 0.050, 0.012, 1.0], [0.20, 0.062, 0.045, 0.070, 0.23]])  # fmt: skip
# breast marks: period along and across the body, weight along and across, radius
_MARKS = np.array([[0.1, 0.1, 1.0, 1.0, -1.0], [0.082, 0.064, 1.0, 1.0, 0.019],
                   [0.130, 0.052, 0.2, 1.0, 0.011], [0.064, 0.1, 1.0, 0.0, 0.015]])  # fmt: skip
# wing bars: two places along the wing, half width
_BARS = np.array([[0.1, 0.1, -1.0], [0.15, 0.15, 0.016], [0.10, 0.19, 0.016], [0.13, 0.13, 0.055]])
# crest: three plumes (x, y) from the crown, and their root and tip
_CREST = np.array([[-1.35, -0.75, -1.25, -0.50, -1.0, -0.25, 0.26, 0.03],
                   [0.05, -0.95, -0.25, -1.0, -0.52, -0.92, 0.11, 0.09]])  # fmt: skip
_PALETTE_RGB = np.stack([rgb(text) for text in _PALETTES.values()])
_LEGS = rgb("26262a e8822a e79aa0 4a8fd0")
_PALE, _DARK, _FLAME = rgb("f6f1e2"), rgb("17151a"), rgb("e0482a")
_UNIFORMS = 384  # random numbers set aside for one image
_CHUNK = 1 << 15  # pixels drawn at once: fits the cache, bounds the memory


@dataclass(frozen=True)
class Birds:
    """N drawn birds in species-major order; S is the side of an image in pixels, P the number of parts."""

    images: Array  # (N, 3, S, S) uint8
    labels: Array  # (N,) int64, 0 to num_species - 1
    boxes: Array  # (N, 4) float32: left, top, right, bottom edge in pixels of what is visible of the bird
    parts: Array  # (N, P, 3) float32: centre (x, y) in pixels of the visible pixels and 1; zeros if none
    part_masks: Array  # (N, S, S) bool: the visible pixels of the part that decides the species
    part_names: tuple[str, ...]  # P names
    class_names: list[str]  # one per species
    deciding_part: list[str]  # one per species: the name of the part in which it differs from its siblings


def make_birds(num_species: int = 20, per_species: int = 20, *, size: int = 64, seed: int = 0,
               first_species: int = 0, siblings: int = 4) -> Birds:  # fmt: skip
    """Draw ``per_species`` images of each species ``first_species`` ... ``first_species + num_species - 1``.

    Species 4g to 4g + 3 form genus g and differ in one part only. The species are the same for every seed;
    the seed changes the images. Label 0 is ``first_species``. A larger ``per_species`` or ``num_species``
    adds images and leaves the others as they were. ``siblings`` sets how fine-grained the set is: it counts
    only the first 1 to 4 species of each genus, so that with 1 no two species share a genus.

    Raises TypeError for an argument that is no integer, ValueError for one out of range: ``size`` 16 to 224
    pixels, ``num_species`` and ``per_species`` at least 1, ``siblings`` 1 to 4, ``first_species +
    num_species`` at most 60 * ``siblings``, ``seed`` at least 0.
    """
    siblings = _integer("siblings", siblings, 1, 4)
    known = MAX_SPECIES // 4 * siblings
    first_species = _integer("first_species", first_species, 0, known - 1)
    num_species = _integer("num_species", num_species, 1, known - first_species)
    per_species = _integer("per_species", per_species, 1)
    size, seed = _integer("size", size, MIN_SIZE, MAX_SIZE), _integer("seed", seed, 0)

    position = np.arange(first_species, first_species + num_species)
    species = position // siblings * 4 + position % siblings
    traits, deciding = _traits(species), _deciding(species)
    labels = np.repeat(np.arange(num_species, dtype=np.int64), per_species)
    count = len(labels)
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    boxes, parts = np.empty((count, 4), dtype=np.float32), np.empty((count, len(PARTS), 3), dtype=np.float32)
    masks = np.empty((count, size, size), dtype=bool)
    step = max(1, _CHUNK // (size * size))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        nuisance = [_nuisance(seed, int(species[labels[i]]), i % per_species, size)
                    for i in range(rows.start, rows.stop)]  # fmt: skip
        uniforms, grain = (np.stack(column) for column in zip(*nuisance, strict=True))
        images[rows], owner = _render(traits[labels[rows]], uniforms, grain)
        boxes[rows], parts[rows] = visible_box(owner), visible_centres(owner, len(PARTS))
        masks[rows] = owner == (deciding[labels[rows]] + 1)[:, None, None]
    return Birds(images, labels, boxes, parts, masks, PARTS, _names(species), [PARTS[i] for i in deciding])


def _integer(name: str, value: object, low: int, high: int | None = None) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}: pass a whole number") from None
    if number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        hint = (
            f" ({MAX_SPECIES} species in genera of 4, numbered from 0)" if "species" in name and high else ""
        )
        raise ValueError(f"{name} must be {wanted}, got {number}{hint}: choose a value in that range")
    return number


def _deciding(species: Array) -> Array:
    """Index into PARTS of the part that decides each species (n,)."""
    return species // 4 % len(PARTS)


def _traits(species: Array) -> Array:
    """Traits (n, 10) of species (n,): indices into the tables above, columns as in TRAITS."""
    genus = species // 4
    sources = [np.random.PCG64(np.random.SeedSequence(7, spawn_key=(int(g),))) for g in genus]
    table = np.stack([source.random_raw(len(TRAITS)) % np.uint64(4) for source in sources]).astype(np.int64)
    palette = genus % len(_PALETTES)
    table[:, 0] = (2 * palette + genus // len(_PALETTES)) % len(_BUILDS)  # with palette: unique to the genus
    table[:, 1] = palette
    table[np.arange(len(genus)), 2 + _deciding(species)] = species % 4
    return table


def _names(species: Array) -> list[str]:
    builds, palettes = tuple(_BUILDS), tuple(_PALETTES)
    return [
        f"{VARIANTS[PARTS[part]][number % 4]} {palettes[row[1]]} {builds[row[0]]} {number:03d}"
        for number, part, row in zip(species.tolist(), _deciding(species), _traits(species), strict=True)
    ]


def _nuisance(seed: int, species: int, index: int, size: int) -> tuple[Array, Array]:
    return random_numbers((seed, species, index), _UNIFORMS, size)


def _render(traits: Array, uniforms: Array, grain: Array) -> tuple[Array, Array]:
    """Draw traits (B, 10) under the nuisance (B, K), (B, S, S): uint8 images (B, 3, S, S), owners (B, S, S).

    The owner of a pixel is 0 where no bird is visible, else the part's index plus 1, or 9 for the bare body.
    """
    batch, size = grain.shape[:2]
    draw, page, canvas = Draws(uniforms), Frame.unit(batch, size), Canvas(batch, size)
    coarse = smooth_noise(draw.take(36).reshape(batch, 6, 6), size)
    fine = smooth_noise(draw.take(144).reshape(batch, 12, 12), size)
    bird = _Bird(canvas, traits, draw, page, fine)
    scenery(canvas, draw, page, (coarse, fine), bird.frame, bird.grounded, bird.foot_y, bird.slope)
    bird.paint()
    clutter(canvas, draw, page)
    slant = draw(-0.25, 0.25) * (page.x - 0.5) + draw(-0.25, 0.25) * (page.y - 0.5)
    cast = 0.92 + 0.16 * draw.take(3).T[:, :, None, None]
    pixels = canvas.pixels * (draw(0.7, 1.12) * (1.0 + slant)) * cast
    pixels += (grain.astype(np.float32) - 127.5) * np.float32(0.04 / 255)
    return np.floor(np.clip(pixels, 0.0, 1.0) * 255 + 0.5).astype(np.uint8).swapaxes(0, 1), canvas.owner


class _Bird:
    """One bird per picture: ``traits`` say which, ``draw`` how it sits. Frames have x ahead and y down."""

    def __init__(self, canvas: Canvas, traits: Array, draw: Draws, page: Frame, noise: Array) -> None:
        self.canvas, self.draw, self.traits = canvas, draw, dict(zip(TRAITS, traits.T, strict=True))
        colours = _PALETTE_RGB[self.traits["palette"]] + 0.05 * (draw.take(18).reshape(-1, 6, 3) - 0.5)
        colours = np.clip(colours, 0.0, 1.0).swapaxes(0, 1)
        self.back, self.belly, self.feathers, self.accent, self.mark, self.horn = colours
        build = np.array(list(_BUILDS.values()))[self.traits["build"]]
        self.chest, self.rump, self.half, neck, self.skull, leg = columns(build)
        self.grounded = draw.chance(0.35)
        perched = ~self.grounded[:, None, None]
        flip, scale = draw.sign(), draw(0.80, 1.08)
        self.frame = page.moved(draw(0.44, 0.56) + 0.03 * flip, draw(0.42, 0.52), unit=scale, mirror=flip)
        tilt = draw(0.02, 0.40) * np.where(perched, np.float32(1), np.float32(0.5))
        cos, sin = rotation(tilt)
        self.torso = self.frame.moved(0.0, 0.0, tilt)
        self.chest_x, self.chest_y = 0.08 * cos, -0.08 * sin
        self.head_x = self.chest_x + draw(0.04, 0.09)
        self.head_y = self.chest_y - 0.8 * self.chest - neck + draw(-0.02, 0.02)
        self.head = self.frame.moved(self.head_x, self.head_y, draw(-0.13, 0.15), self.skull, draw.sign(0.22))
        self.foot_y = 0.6 * self.chest + 0.06 + leg
        self.slope = draw(-0.16, 0.16) * np.where(perched, np.float32(1), np.float32(0))
        self.light = np.clip(1.0 - 0.65 * self.frame.y, 0.72, 1.2) * (0.9 + 0.2 * noise)

    def paint(self) -> None:
        self.legs()
        self.tail()
        self.body()
        self.throat()
        self.wing()
        self.beak()
        self.crown()
        self.eye()

    def solid(self, distance: Array, colour: Array, part: str | None = None, rim: float = 0.05,
              pictures: Array | None = None) -> Array:  # fmt: skip
        """Paint a shape that darkens towards its edge over the width ``rim``; return its cover."""
        cover = coverage(distance)
        light = self.light * np.clip(0.76 - 0.24 * distance / (rim * self.frame.px), 0.7, 1.0)
        self.stain(cover, colour, part or "body", pictures, light)
        return cover

    def stain(self, cover: Array, colour: Array, part: str | None = None, pictures: Array | None = None,
              light: Array | None = None) -> None:  # fmt: skip
        """Paint a cover in the light that falls on the bird, in all or in the given pictures."""
        light = self.light if light is None else light
        if pictures is not None:
            cover, light = cover[pictures], light[pictures]
            colour = colour[pictures] if len(colour) > 1 else colour
        self.canvas.paint(cover, colour, _OWNER.get(part), light, pictures)

    def having(self, part: str, *variants: int) -> Array:
        """The pictures whose bird has one of these variants of the part."""
        return np.flatnonzero(np.isin(self.traits[part], variants))

    def legs(self) -> None:
        strokes = []
        for x in (-0.055, 0.035):
            foot_x = x + self.draw(-0.03, 0.03)
            foot_y = self.foot_y - self.slope * foot_x
            strokes.append(self.frame.taper(x - 0.01, 0.08, foot_x, foot_y, 0.016, 0.0135))
            strokes += [self.frame.taper(foot_x, foot_y, foot_x + toe, foot_y + 0.012, 0.013, 0.008)
                        for toe in (0.065, -0.04)]  # fmt: skip
        self.solid(np.minimum.reduce(strokes), _LEGS[self.traits["legs"]], "legs", 0.015)

    def tail(self) -> None:
        length, spread, root, tip, cut = columns(_TAILS[self.traits["tail"]])
        tail = self.torso.moved(-self.half, 0.0, self.draw(-0.12, 0.10))
        sides = [tail.taper(0.05, 0.0, -length, side * spread, root, tip) for side in (-1, 1)]
        distance = np.maximum(np.minimum(*sides), (-cut - tail.x) * tail.px)
        cover = self.solid(distance, self.feathers, "tail", 0.03)
        shafts = coverage((wave(tail.y / 0.036) * 0.036 - 0.004) * tail.px)
        self.stain(0.35 * shafts * cover, 0.5 * self.feathers)
        band = coverage((np.abs(tail.x + 0.195) - 0.018) * tail.px)
        self.stain(band * cover, _PALE, pictures=self.having("tail", 3))

    def body(self) -> None:
        torso = self.torso
        cover = self.solid(torso.taper(-self.half, 0.0, 0.08, 0.0, self.rump, self.chest), self.back)
        lower = coverage((0.02 - 0.12 * torso.x - torso.y) * torso.px, 4.0) * cover
        self.stain(lower, self.belly, "breast")
        along, across, stretch, cross, radius = columns(_MARKS[self.traits["breast"]])
        row = np.floor(torso.y / across)
        dots = wave((torso.x + self.draw(0, 0.1)) / along + 0.5 * row) * along * stretch
        bars = wave((torso.x + 0.25 * torso.y) / along) * along
        dx, dy = np.where(cross > 0, dots, bars), (torso.y / across - row - 0.5) * across * cross
        marks = coverage((np.sqrt(dx * dx + dy * dy) - radius) * torso.px)
        self.stain(marks * coverage((-0.10 - torso.x) * torso.px, 3.0) * lower, self.mark)

    def throat(self) -> None:
        frame, ex, ey = self.frame, self.chest_x - self.head_x, self.chest_y - self.head_y
        length = np.sqrt(ex * ex + ey * ey)
        ex, ey, dx, dy = ex / length, ey / length, frame.x - self.head_x, frame.y - self.head_y
        down, ahead = dx * ex + dy * ey, dx * ey - dy * ex  # from the head to the chest, and across
        ends = self.head_x, self.head_y, self.chest_x, self.chest_y
        cover = coverage(frame.taper(*ends, 0.86 * self.skull, 0.8 * self.chest))
        self.stain(cover * coverage((down - 0.62 * length) * frame.px, 4.0), self.back, "body")
        neck = cover * coverage((down - 0.85 * length) * frame.px, 2.0)
        front = neck * coverage((-0.015 - ahead) * frame.px, 2.0)
        self.stain(front, self.belly, "throat")
        self.stain(front, self.accent, pictures=self.having("throat", 1))
        collar = neck * coverage((-0.09 - ahead) * frame.px)
        collar = collar * coverage((np.abs(down - 0.66 * length) - 0.022) * frame.px)
        self.stain(collar, _DARK, "throat", self.having("throat", 2))
        self.stain(front, _FLAME, pictures=self.having("throat", 3))

    def wing(self) -> None:
        wing = self.torso.moved(0.040, -0.035, self.draw(-0.06, 0.10), mirror=-1.0)
        distance = wing.bent(0.25).taper(0.0, 0.0, self.half + 0.13, 0.0, 0.60 * self.chest, 0.012)
        cover = self.solid(distance, self.feathers, "wing", 0.035)
        quills = coverage((wave((wing.y + 0.22 * wing.x) / 0.034) * 0.034 - 0.004) * wing.px)
        self.stain(0.45 * quills * coverage((0.10 - wing.x) * wing.px, 4.0) * cover, 0.45 * self.feathers)
        first, second, width = columns(_BARS[self.traits["wing"]])
        slant = wing.x - 0.35 * wing.y
        bars = np.minimum(np.abs(slant - first), np.abs(slant - second)) - width
        self.stain(coverage(bars * wing.px) * cover, _PALE)

    def beak(self) -> None:
        length, root, tip, bend, hook = columns(_BEAKS[self.traits["beak"]])
        square = length * length
        curve = self.head.moved(0.72, 0.10).bent(bend / length, hook / (square * square))
        cover = self.solid(curve.taper(0.0, 0.0, length, 0.0, root, tip), self.horn, "beak", 0.02)
        self.stain(0.6 * coverage((np.abs(curve.y) - 0.02) * curve.px) * cover, 0.4 * self.horn)

    def crown(self) -> None:
        head = self.head
        self.face = self.solid(head.ellipse(0.0, 0.0, 1.0, 0.95), self.back)
        cap = coverage((head.y + 0.42 - 0.12 * head.x) * head.px) * self.face
        self.stain(cap, self.back, "crown")
        self.stain(cap, self.accent, pictures=self.having("crown", 1, 2))
        *tips, root, tip = columns(_CREST[np.maximum(self.traits["crown"] - 2, 0)])
        plumes = [head.taper(-0.25, -0.72, tips[i], tips[i + 1] - 0.72, root, tip) for i in (0, 2, 4)]
        self.solid(np.minimum.reduce(plumes), self.accent, "crown", 0.02, self.having("crown", 2, 3))

    def eye(self) -> None:
        head, eye = self.head, self.head.moved(0.30, -0.12)
        ring = coverage(eye.ellipse(0.0, 0.0, 0.41, 0.41))
        self.canvas.mark(ring, _OWNER["eye"])
        self.stain(ring, _PALE, pictures=self.having("eye", 1))
        mask = coverage(head.taper(-0.65, 0.02, 0.45, 0.02, 0.20, 0.27)) * self.face
        self.stain(mask, _DARK, "eye", self.having("eye", 2))
        brow = coverage(head.bent(0.22).taper(-0.75, -0.36, 0.42, -0.36, 0.10, 0.12)) * self.face
        self.stain(brow, _PALE, "eye", self.having("eye", 3))
        self.canvas.paint(coverage(eye.ellipse(0.0, 0.0, 0.28, 0.28)), _DARK)
        self.canvas.paint(coverage(eye.ellipse(0.09, -0.10, 0.09, 0.09)), _PALE)

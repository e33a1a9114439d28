"""Drawing for :mod:`helpers.data.birds`: primitives and scenery, a whole batch of pictures at once.

The bytes are the same on every machine. Only operations that IEEE 754 rounds exactly are used (+ - * / sqrt,
comparisons, minimum, maximum, floor); there is no sin, exp, power, matrix product or sum of floats, whose
last bit depends on the processor or the library.
Angles are given as ``turn`` = tan(angle / 2), from which the cosine and the sine follow by division alone.
Random numbers are the raw 64-bit output of PCG64, which NumPy keeps stable between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
Number = float | Array  # an array is (B, 1, 1): one value per picture


class Draws:
    """Hands out the columns of uniform numbers (B, K), each as (B, 1, 1), in the order of the calls."""

    def __init__(self, uniforms: Array) -> None:
        self._uniforms, self._next = uniforms, 0

    def take(self, count: int) -> Array:
        """The next ``count`` columns as (B, count), in [0, 1)."""
        start, self._next = self._next, self._next + count
        if self._next > self._uniforms.shape[1]:
            raise ValueError(f"{self._next} random numbers used, {self._uniforms.shape[1]} drawn: draw more")
        return self._uniforms[:, start : self._next]

    def __call__(self, low: float, high: float) -> Array:
        """One number per picture in [low, high), as (B, 1, 1)."""
        return low + (high - low) * self.take(1)[:, :, None]

    def chance(self, probability: float) -> Array:
        """True with this probability, as (B,)."""
        return self.take(1)[:, 0] < probability

    def sign(self, probability: float = 0.5) -> Array:
        """-1 with this probability, else 1, as (B, 1, 1)."""
        return np.where(self.chance(probability), np.float32(-1), np.float32(1))[:, None, None]

    def pick(self, table: Array) -> Array:
        """One entry of a table per picture, as (B, ...)."""
        return table[np.floor(self.take(1)[:, 0] * len(table)).astype(np.int64)]


@dataclass(frozen=True)
class Frame:
    """Pixel centres in a local coordinate system, ``x`` to the right and ``y`` down, both (B, S, S).

    Each coordinate is kept as what the pixel's column adds (B, 1, S) and what its row adds (B, S, 1), so that
    moving a frame costs next to nothing. ``px`` (B, 1, 1) is the length of one unit in pixels. The shapes
    return signed distances in pixels, negative inside.
    """

    columns: tuple[Array, Array]
    rows: tuple[Array, Array]
    px: Array

    @classmethod
    def unit(cls, batch: int, size: int) -> Frame:
        """The whole picture as the square [0, 1] x [0, 1]."""
        line = np.tile((np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size), (batch, 1))
        column, row = line[:, None, :], line[:, :, None]
        return cls((column, 0 * column), (0 * row, row), np.full((batch, 1, 1), size, dtype=np.float32))

    @cached_property
    def x(self) -> Array:
        return self.columns[0] + self.rows[0]

    @cached_property
    def y(self) -> Array:
        return self.columns[1] + self.rows[1]

    def __getitem__(self, index: Array) -> Frame:
        columns, rows = ((x[index], y[index]) for x, y in (self.columns, self.rows))
        return Frame(columns, rows, self.px[index])

    def _affine(
        self, x0: Number, y0: Number, xx: Number, xy: Number, yx: Number, yy: Number, px: Array
    ) -> Frame:
        """The frame of (xx dx + xy dy, yx dx + yy dy), where dx = x - x0 and dy = y - y0."""
        cx, cy = self.columns
        rx, ry = self.rows[0] - x0, self.rows[1] - y0
        return Frame((cx * xx + cy * xy, cx * yx + cy * yy), (rx * xx + ry * xy, rx * yx + ry * yy), px)

    def moved(
        self, x: Number, y: Number, turn: Number = 0.0, unit: Number = 1.0, mirror: Number = 1.0
    ) -> Frame:
        """The frame with its origin at (x, y), its x axis turned upwards, ``unit`` times as large.

        ``turn`` is tan(angle / 2). ``mirror`` = -1 reverses x before turning.
        """
        cos, sin = rotation(turn)
        cos, sin = cos / unit, sin / unit
        return self._affine(x, y, mirror * cos, -sin, mirror * sin, cos, self.px * unit)

    def bent(self, bend: Number, hook: Number = 0.0) -> Frame:
        """The frame whose x axis follows the curve y = bend x^2 + hook x^4."""
        square = self.x * self.x
        zero = np.zeros_like(self.px)
        return Frame((self.x, self.y - square * (bend + hook * square)), (zero, zero), self.px)

    def ellipse(self, x: Number, y: Number, a: Number, b: Number) -> Array:
        """An ellipse with half-axes a and b; distances are exact for a circle, else a lower bound."""
        round_ = self._affine(x, y, 1.0 / a, 0.0, 0.0, 1.0 / b, self.px)
        level = np.sqrt(round_.x * round_.x + round_.y * round_.y)
        return (level - 1.0) * np.minimum(a * self.px, b * self.px)

    def taper(self, x0: Number, y0: Number, x1: Number, y1: Number, r0: Number, r1: Number) -> Array:
        """A stroke from (x0, y0) to (x1, y1) whose half-width goes from r0 to r1, with round ends."""
        ex, ey = (x1 - x0) * self.px, (y1 - y0) * self.px
        length = np.sqrt(ex * ex + ey * ey)
        cos, sin = ex * self.px / length, ey * self.px / length
        line = self._affine(x0, y0, cos, sin, -sin, cos, self.px)  # in pixels, along the stroke and across it
        along = np.minimum(np.maximum(line.x, 0.0), length)
        beyond = line.x - along
        radius = r0 * self.px + along * ((r1 - r0) * self.px / length)
        return np.sqrt(beyond * beyond + line.y * line.y) - radius

    def leaf(self, length: Number, width: Number) -> Array:
        """A pointed leaf along the x axis, centred on the origin."""
        x = self.x / length
        return (np.abs(self.y) - width * (1.0 - x * x)) * self.px


def rotation(turn: Number) -> tuple[Number, Number]:
    """Cosine and sine of the angle whose half has the tangent ``turn``."""
    square = turn * turn
    return (1.0 - square) / (1.0 + square), 2.0 * turn / (1.0 + square)


def wave(x: Array) -> Array:
    """Distance to the nearest integer: a triangle wave with period 1, in [0, 0.5]."""
    return np.abs(x - np.floor(x + 0.5))


def coverage(distance: Array, soft: Number = 1.0) -> Array:
    """The share of each pixel inside the shape; an edge ``soft`` pixels wide."""
    return np.minimum(np.maximum(0.5 - distance / soft, 0.0), 1.0)


def smooth_noise(lattice: Array, size: int) -> Array:
    """A (B, G, G) lattice of values blown up smoothly to (B, size, size)."""
    cells = lattice.shape[1] - 1
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / size)
    cell = np.floor(position)
    t = position - cell
    t, cell = t * t * (3.0 - 2.0 * t), cell.astype(np.int64)
    rows = lattice[:, cell] + (lattice[:, cell + 1] - lattice[:, cell]) * t[:, None]
    return rows[:, :, cell] + (rows[:, :, cell + 1] - rows[:, :, cell]) * t


def columns(table: Array) -> list[Array]:
    """The columns of a (B, n) table, each as float32 (B, 1, 1)."""
    return [column[:, None, None] for column in table.T.astype(np.float32)]


class Canvas:
    """A batch of pictures under the brush, and for every pixel which part was painted there last.

    ``pixels`` is float32 (3, B, S, S), 0 to 1; ``owner`` is uint8 (B, S, S), 0 where no bird shows.
    """

    def __init__(self, batch: int, size: int) -> None:
        self.pixels = np.zeros((3, batch, size, size), dtype=np.float32)
        self.owner = np.zeros((batch, size, size), dtype=np.uint8)

    def paint(self, cover: Array, colour: Array, owner: int | None = None, light: Array | None = None,
              pictures: Array | None = None) -> None:  # fmt: skip
        """Blend ``colour`` (B, 3) or (1, 3) over the pictures by ``cover`` (B, S, S).

        ``light`` (B, S, S) multiplies the colour. Where the cover exceeds one half, ``owner`` is noted (None
        leaves it). With ``pictures``, the arrays describe only the pictures with these indices.
        """
        area = cover.shape[1] * cover.shape[2]
        touched = np.flatnonzero(cover > 0)
        picture = touched // area
        place = touched if pictures is None else touched + (pictures[picture] - picture) * area
        cover = cover.reshape(-1)[touched]
        glow = 1.0 if light is None else light.reshape(-1)[touched]
        for plane, channel in zip(self.pixels.reshape(3, -1), colour.T, strict=True):
            under = plane[place]
            paint = channel[picture] if len(channel) > 1 else channel
            plane[place] = under + cover * (paint * glow - under)
        if owner is not None:
            self.owner.reshape(-1)[place[cover > 0.5]] = owner

    def mark(self, cover: Array, owner: int) -> None:
        """Note ``owner`` where the cover exceeds one half, without painting."""
        self.owner[cover > 0.5] = owner


def rgb(text: str) -> Array:
    """Colours "aabbcc ddeeff" as float32 (n, 3) in [0, 1]; with m rows separated by commas, (m, n, 3)."""
    rows = [[[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in row.split()] for row in text.split(",")]
    return np.array(rows[0] if len(rows) == 1 else rows, dtype=np.float32) / np.float32(255)


_SKIES = rgb("8fbde2 dfe9ee,2f4f2a 7b9a4a,7a5a30 b58f4c,8a9a86 ccd2bb,5c6b73 a9b4b6,3c5a4a a5b98a")
_GROUNDS = rgb("4f6b2c 8f9c50,b0966a d8c6a0,5c4632 927656,77756e a8a598")
_LEAVES = rgb("4f7a2e 7fa23f 2f5527 a8963a 9a5a2a 5f8f52")
_BARK = rgb("6b5138")


def scenery(canvas: Canvas, draw: Draws, page: Frame, noise: tuple[Array, Array], bird: Frame,
            grounded: Array, foot_y: Array, slope: Array) -> None:  # fmt: skip
    """What is behind the bird: blurred foliage or sky, leaves, twigs, and what it stands on.

    ``noise`` is a coarse and a fine (B, S, S) field in [0, 1); ``grounded`` (B,) tells ground from perch;
    ``foot_y`` is the height of the feet in the frame ``bird``, ``slope`` that of the perch, both (B, 1, 1).
    """
    coarse, fine = noise
    mix = np.clip(1.5 * coarse - 0.25 + 0.45 * (fine - 0.5), 0.0, 1.0)
    dark, pale = draw.pick(_SKIES).transpose(1, 2, 0)[..., None, None]
    canvas.pixels += dark + mix * (pale - dark)
    for _ in range(9):
        leaf = page.moved(draw(0, 1), draw(0, 1), draw(-1, 1))
        colour = draw.pick(_LEAVES) * draw(0.6, 1.15)[:, :, 0]
        blur = 1.0 + np.maximum(draw(-0.05, 0.06), 0.0) * page.px
        distance = leaf.leaf(draw(0.06, 0.15), draw(0.02, 0.055))
        canvas.paint(coverage(distance, blur), colour, None, _two_halves(leaf))
    for _ in range(3):
        twig = page.moved(draw(0, 1), draw(0, 1), draw(-1, 1)).bent(draw(-0.4, 0.4))
        distance = twig.taper(-0.5, 0.0, 0.5, 0.0, draw(0.006, 0.016), 0.004)
        canvas.paint(coverage(distance), _BARK * draw(0.6, 1.3)[:, :, 0])
    earth, horizon = draw.pick(_GROUNDS), foot_y - draw(0.0, 0.16)
    thick, shade = draw(0.020, 0.045), draw(0.6, 1.4)

    rows = np.flatnonzero(grounded)
    texture = (0.92 + 0.16 * fine)[rows]
    floor = coverage((horizon + 0.03 * (fine - 0.5) - bird.y) * page.px, 3.0)[rows]
    canvas.paint(floor, earth[rows, 0], None, texture, rows)
    canvas.paint(floor * mix[rows], earth[rows, 1], None, texture, rows)
    shadow = coverage(bird.ellipse(0.0, foot_y + 0.02, 0.22, 0.03), 6.0)[rows]
    canvas.paint(0.5 * shadow, 0.3 * earth[rows, 0], None, None, rows)

    rows = np.flatnonzero(~grounded)
    y = foot_y + thick + 0.006
    perch = bird.taper(-1.5, y + 1.5 * slope, 1.5, y - 1.5 * slope, thick, thick)
    light = np.clip(0.75 - 0.35 * perch / (thick * bird.px), 0.6, 1.15) * (0.8 + 0.4 * fine)
    canvas.paint(coverage(perch)[rows], (_BARK * shade[:, :, 0])[rows], None, light[rows], rows)


def clutter(canvas: Canvas, draw: Draws, page: Frame) -> None:
    """What is in front of the bird: a leafy twig in half of the pictures, a second one in a fifth."""
    for chance in (0.5, 0.2):
        rows = np.flatnonzero(draw.chance(chance))
        x, y, turn, bend, side = draw(0.15, 0.85), draw(0.15, 0.85), draw(-1, 1), draw(-0.5, 0.5), draw.sign()
        thick, bark = draw(0.008, 0.016), _BARK * draw(0.5, 1.2)[:, :, 0]
        green = draw.pick(_LEAVES)
        twig = page.moved(x, y, turn, mirror=side)[rows].bent(bend[rows])
        distance = twig.taper(-1.2, 0.0, 0.12, 0.0, 1.6 * thick[rows], 0.5 * thick[rows])
        canvas.paint(coverage(distance), bark[rows], 0, None, rows)
        for at, angle in ((-0.05, 0.4), (-0.2, -0.4), (-0.36, 0.4), (0.14, 0.05)):
            leaf = twig.moved(at, 0.0, angle).moved(0.055, 0.0)
            canvas.paint(coverage(leaf.leaf(0.06, 0.022)), green[rows], 0, _two_halves(leaf), rows)


def _two_halves(leaf: Frame) -> Array:
    """The light on a leaf: one side of its midrib darker."""
    return np.where(leaf.y > 0, np.float32(0.85), np.float32(1.05))


def random_numbers(key: tuple[int, ...], uniforms: int, size: int) -> tuple[Array, Array]:
    """All that is random in one image: uniforms (K,) float32 in [0, 1) and film grain (size, size) uint8.

    ``key`` is the seed and whatever numbers name the image.
    """
    source = np.random.PCG64(np.random.SeedSequence(key[0], spawn_key=key[1:]))
    numbers = (source.random_raw(uniforms) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    grain = source.random_raw((size * size + 7) // 8).astype("<u8").view(np.uint8)
    return numbers, grain[: size * size].reshape(size, size)


def visible_box(owner: Array) -> Array:
    """Left, top, right and bottom edge, float32 (B, 4) in pixels, of the pixels that have an owner."""
    size = owner.shape[1]
    lines = (owner > 0).any(axis=1), (owner > 0).any(axis=2)
    first = [line.argmax(axis=1) for line in lines]
    last = [size - line[:, ::-1].argmax(axis=1) for line in lines]
    return np.stack(first + last, axis=1).astype(np.float32)


def visible_centres(owner: Array, parts: int) -> Array:
    """Centre (x, y) of the pixels of each owner 1 to ``parts``, then 1; zeros where unseen: (B, parts, 3)."""
    batch, size = owner.shape[:2]
    kinds = int(owner.max()) + parts + 1
    key = (owner + kinds * np.arange(batch)[:, None, None]).ravel()
    row, column = np.divmod(np.arange(owner.size) % (size * size), size)
    counts, xs, ys = (  # whole numbers, so that these sums are exact in any order
        np.bincount(key, weights, batch * kinds).reshape(batch, kinds)[:, 1 : parts + 1]
        for weights in (None, column, row)
    )
    seen = counts > 0
    xy = np.stack([xs, ys], axis=2) / np.maximum(counts, 1)[:, :, None] + 0.5
    return np.concatenate([xy * seen[:, :, None], seen[:, :, None]], axis=2).astype(np.float32)

"""The image set that every chapter trains and tests on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from helpers.data.photographs import DatasetError, PhotoFiles


class ImageSet(Dataset):
    """N labelled square images of C classes, in memory or decoded from files when asked for.

    `ds[i]` is (image, label): float32 (channels, S, S) in [0, 1] and an int. `ds[indices]`, with a list,
    slice or LongTensor of B positions, is (images, labels): (B, channels, S, S) and (B,), read at once.

    Attributes:
        name: such as "cub/train".
        labels: LongTensor (N,), values 0 .. C-1.
        class_names: C names.
        boxes: float32 (N, 4), x1 y1 x2 y2 of the object in pixels of the image, or None.
        parts: float32 (N, P, 3), x, y in pixels and 1 where the part is visible, or None.
        part_names: P names.
        part_masks: bool (N, S, S), the part that decides the class, or None.

    Raises:
        DatasetError: annotations that do not fit the images; a file that has become unreadable.
        IndexError: a position outside -N .. N-1.
    """

    def __init__(
        self,
        name: str,
        images: torch.Tensor | PhotoFiles,
        labels: torch.Tensor,
        class_names: Sequence[str],
        *,
        boxes: torch.Tensor | None = None,
        parts: torch.Tensor | None = None,
        part_names: Sequence[str] = (),
        part_masks: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> None:
        """`images`: uint8 (M, channels, S, S). `rows` (N,): which of the M each item is; default: all M."""
        self.name = name
        self._images = images
        self._rows = torch.arange(images.shape[0]) if rows is None else rows
        self.labels = labels
        self.class_names = list(class_names)
        self.boxes, self.parts, self.part_masks = boxes, parts, part_masks
        self.part_names = list(part_names)
        self._check()

    def _check(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            shape = tuple(self.labels.shape)
            raise DatasetError(f"{self.name}: labels must be int64 (N,), got {self.labels.dtype} {shape}")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise DatasetError(f"{self.name}: labels must lie in 0 .. {self.num_classes - 1}")
        for what in ("labels", "boxes", "parts", "part_masks"):
            values = getattr(self, what)
            if values is not None and len(values) != len(self._rows):
                raise DatasetError(f"{self.name}: {len(values)} {what} for {len(self._rows)} images")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_shape))
        return f"<ImageSet {self.name}: {len(self)} images {size}, {self.num_classes} classes>"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, S, S)."""
        return tuple(self._images.shape[1:])

    def __getitem__(self, index) -> tuple[torch.Tensor, int | torch.Tensor]:
        single = not isinstance(index, slice) and np.ndim(index) == 0
        keep = self._positions([index] if single else index)
        images = self._images[self._rows[keep]].to(torch.float32).div_(255)
        return (images[0], int(self.labels[keep[0]])) if single else (images, self.labels[keep])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        """One gather for a whole batch of a DataLoader."""
        images, labels = self[indices]
        return list(zip(images, labels.tolist(), strict=True))

    def _positions(self, indices) -> torch.Tensor:
        if isinstance(indices, slice):
            return torch.arange(len(self))[indices]
        keep = torch.as_tensor(indices)
        if keep.numel() == 0:
            return torch.empty(0, dtype=torch.long)
        if keep.ndim != 1 or keep.dtype == torch.bool or keep.is_floating_point():
            shape = tuple(keep.shape)
            raise TypeError(f"{self.name}: expected integer positions (B,), got {keep.dtype} {shape}")
        keep = keep.long().cpu()
        if keep.min() < -len(self) or keep.max() >= len(self):
            raise IndexError(
                f"{self.name}: position outside 0 .. {len(self) - 1}: {keep.min()} .. {keep.max()}"
            )
        return keep

    def subset(self, indices, name: str | None = None) -> ImageSet:
        """The items at these positions, in this order, with their annotations; classes keep their numbers."""
        return self._select(self._positions(indices), name, self.labels, self.class_names)

    def select_classes(self, classes: Sequence[int] | torch.Tensor, name: str | None = None) -> ImageSet:
        """All items of these K classes, in the order of the set; classes are numbered 0 .. K-1 as given."""
        chosen = torch.as_tensor(classes, dtype=torch.long)
        known = ((chosen >= 0) & (chosen < self.num_classes)).all()
        if not known or len(chosen.unique()) != len(chosen):
            expected = f"distinct classes from 0 to {self.num_classes - 1}"
            raise DatasetError(f"{self.name}: expected {expected}, got {chosen.tolist()}")
        number = torch.full((self.num_classes,), -1)
        number[chosen] = torch.arange(len(chosen))
        labels = number[self.labels]
        names = [self.class_names[c] for c in chosen.tolist()]
        return self._select((labels >= 0).nonzero().flatten(), name, labels, names)

    def relabelled(self, labels: torch.Tensor, num_classes: int) -> ImageSet:
        """The same images under other labels (N,) from 0 to num_classes - 1, such as groups of classes."""
        if len(labels) != len(self):
            raise DatasetError(f"{self.name}: {len(labels)} labels for {len(self)} images")
        return self._select(torch.arange(len(self)), None, labels, [f"class {c}" for c in range(num_classes)])

    def as_colour(self) -> ImageSet:
        """The same set with three channels; a grey channel is repeated, without a copy."""
        images = self._images
        if images.shape[1] == 1:
            photos = isinstance(images, PhotoFiles)
            images = replace(images, repeat=3) if photos else images.expand(-1, 3, -1, -1)
        coloured = copy(self)
        coloured._images = images
        return coloured

    def _select(
        self, keep: torch.Tensor, name: str | None, labels: torch.Tensor, class_names: list[str]
    ) -> ImageSet:
        def follow(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values[keep]

        return ImageSet(
            name or self.name,
            self._images,
            labels[keep],
            class_names,
            boxes=follow(self.boxes),
            parts=follow(self.parts),
            part_names=self.part_names,
            part_masks=follow(self.part_masks),
            rows=self._rows[keep],
        )

"""What a filter is made of, what it should do, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from helpers.localisation import fit_to_image

Shape = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Free parameters with one row per feature map, and the function that makes filters (..., H, W) of them."""


def _unit_length(features: Tensor) -> Shape:
    free = features.new_ones(*features.shape[:-3], *features.shape[-2:])
    return free, lambda v: normalize(v.flatten(-2), dim=-1).unflatten(-1, features.shape[-2:])


def _softmax(features: Tensor) -> Shape:
    free = features.new_ones(*features.shape[:-3], *features.shape[-2:])
    return free, lambda v: v.flatten(-2).softmax(-1).unflatten(-1, features.shape[-2:])


def _gaussian(features: Tensor) -> Shape:
    """A mean (y, x), at first the middle, on a grid from -3 to 3 on both axes, whatever the map's size."""
    height, width = features.shape[-2:]
    y, x = (torch.linspace(-3, 3, n, dtype=features.dtype, device=features.device) for n in (height, width))

    def bell(mean: Tensor) -> Tensor:
        far = (y - mean[..., :1]).square()[..., :, None] + (x - mean[..., 1:]).square()[..., None, :]
        return (-far / 2).flatten(-2).softmax(-1).unflatten(-1, (height, width))

    return features.new_zeros(*features.shape[:-3], 2), bell


SHAPES: dict[str, Callable[[Tensor], Shape]] = {
    "l2": _unit_length,
    "softmax": _softmax,
    "gaussian": _gaussian,
}


def repeat(value: Tensor, rows: int, copies: int) -> Tensor:
    """The part of each row `copies` times, one after the other."""
    return value.unflatten(0, (rows, -1)).repeat_interleave(copies, 0).flatten(0, 1)


def check_finite(name: str, values: Any) -> None:
    if not isinstance(values, Tensor):
        raise ValueError(f"the {name} are {type(values).__name__}; expected a tensor")
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"no image in the batch: the {name} are {tuple(values.shape)}")
    if not torch.stack(values.aminmax()).isfinite().all():  # NaN passes through both
        raise ValueError(f"the {name} are not finite; look for NaN or infinity")


def check_maps(features: Any, layer: str) -> None:
    check_finite("features", features)
    if features.ndim < 4 or not features.is_floating_point():
        found = f"{features.dtype} of shape {tuple(features.shape)}"
        raise ValueError(f"{layer} gives {found}; expected features (B, C, H, W)")


def keep_rows(optimizer: torch.optim.Optimizer, free: Tensor, stay: Tensor) -> Tensor:
    """Some rows of the only parameter of an optimiser, with their part of its state."""
    kept = free.detach()[stay].requires_grad_(True)
    state = optimizer.state.pop(free, {})
    optimizer.param_groups[0]["params"] = [kept]
    optimizer.state[kept] = {
        name: value[stay] if isinstance(value, Tensor) and value.shape == free.shape else value
        for name, value in state.items()
    }
    return kept


@dataclass(frozen=True)
class Attention:
    """Filters and what they reached.

    Attributes:
        filters: (B, H, W), signed, each of length 1 (B, T, H, W for T targets per image or T frames).
        loss: final value of the objective (B,), or (B, T) for T targets per image.
        iterations: steps taken, as `loss`; 0 for the exact solver.
        solver: "exact" or "gradient".
        image_size: height and width of the images, and of the maps.
    """

    filters: Tensor
    loss: Tensor
    iterations: Tensor
    solver: str
    image_size: tuple[int, int]

    def heatmaps(self, sign: str = "both") -> Tensor:
        """Maps in [0, 1] of the size of the images, smallest value 0 and largest 1.

        Args:
            sign: "both" shows |f|, as the paper does; "positive" and "negative" only that part of f. A map
                without contrast is 0 everywhere.
        """
        parts = {"both": torch.abs, "positive": torch.relu, "negative": lambda f: torch.relu(-f)}
        if sign not in parts:
            raise ValueError(f"sign is {sign!r}; expected 'both', 'positive' or 'negative'")
        maps = parts[sign](self.filters)
        scaled = fit_to_image(maps.reshape(-1, *maps.shape[-2:]), self.image_size)
        return scaled.reshape(*maps.shape[:-2], *self.image_size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The heat maps at the size of the images, float32: what `show_cam_on_image` of grad-cam takes."""
        return np.asarray(self.heatmaps().detach().float().cpu().numpy(), dtype=dtype or np.float32)


class Targets:
    """What each row of the output should do under the filter.

    Attributes:
        normal: the output without a filter (rows, ...).
        classes: (rows, T), None if class-oblivious or given as functions.
        functions: one per row, to be raised; or None.
        several: whether there were T targets per row.
        count: rows times T, the number of filters sought.
    """

    def __init__(self, targets: Any, normal: Tensor, center_logits: bool) -> None:
        self.normal, self.center_logits = normal, center_logits
        self.classes, self.functions, self.several = None, None, False
        if isinstance(targets, list | tuple) and targets and all(map(callable, targets)):
            if len(targets) != len(normal):
                raise ValueError(f"{len(targets)} targets for {len(normal)} images; give one for each")
            if normal.ndim == 2 and all(map(_picks_class, targets, normal)):
                targets = [target.category for target in targets]
            else:
                self.functions, targets = list(targets), None
        if targets is not None:
            self._take_classes(targets)
        self.per_row = 1 if self.classes is None else self.classes.shape[1]
        self.count = len(normal) * self.per_row

    def _take_classes(self, targets: Any) -> None:
        rows = len(self.normal)
        if self.normal.ndim != 2:
            raise ValueError(
                f"class-specific maps need logits (B, classes); the output is {tuple(self.normal.shape)}"
            )
        wrong = f"targets {targets!r:.80}: expected classes, an int, (B,) or (B, T), or a list of functions"
        try:
            classes = torch.as_tensor(targets)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(wrong) from error
        if classes.dtype.is_floating_point or classes.dtype.is_complex or classes.dtype == torch.bool:
            raise ValueError(wrong)
        if classes.ndim > 2 or not classes.numel():
            raise ValueError(wrong)
        self.several = classes.ndim == 2
        classes = classes.to(self.normal.device).long()
        classes = classes.expand(rows)[:, None] if classes.ndim == 0 else classes.reshape(len(classes), -1)
        if len(classes) != rows:
            raise ValueError(f"targets for {len(classes)} images, but there are {rows}")
        most = self.normal.shape[1]
        if int(classes.min()) < 0 or int(classes.max()) >= most:
            raise ValueError(
                f"class {int(classes.max())} or {int(classes.min())} is not among {most} classes"
            )
        if most < 2:
            raise ValueError("a class-specific map needs at least two classes; the output has one")
        self.classes = classes

    def contrast(self) -> Tensor:
        """(rows, T, classes): weights whose product with the logits is the class-specific loss.

        1 for the other classes, -1 for the target. Centred, their mean is subtracted: the loss becomes 2
        (mean of all logits - logit of the target), which a vector added to all classifier rows cannot change.
        """
        rows, copies = self.classes.shape
        weights = self.normal.new_ones(rows, copies, self.normal.shape[1])
        weights.scatter_(2, self.classes[:, :, None], -1.0)
        return weights - weights.mean(-1, keepdim=True) if self.center_logits else weights

    def losses(self, outputs: Tensor, which: Tensor) -> Tensor:
        """One loss per filter, for the filters numbered `which` out of `count`."""
        if self.functions is not None:
            values = [self.functions[i](row) for i, row in zip(which.tolist(), outputs, strict=True)]
            if not all(isinstance(value, Tensor) and value.numel() == 1 for value in values):
                raise ValueError("a target function gives no single number as a tensor")
            return -torch.stack([value.reshape(()) for value in values])
        if self.classes is None:
            return (outputs - self.normal[which]).square().reshape(len(outputs), -1).mean(1)
        return (self.contrast().flatten(0, 1)[which] * outputs).sum(1)


def _picks_class(target: Any, row: Tensor) -> bool:
    """Whether a target of grad-cam stands for the logit of its class; others have a category too."""
    category = getattr(target, "category", None)
    if not isinstance(category, int | np.integer | Tensor):
        return False
    try:
        value = target(row)
    except IndexError:
        return True  # no such class, which is refused with the others
    return 0 <= category < len(row) and torch.equal(
        torch.as_tensor(value).detach().cpu(), row[category].cpu()
    )

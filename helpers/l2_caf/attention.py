"""L2-CAF: attention maps for any convolutional network, by a unit-norm filter on its features.

Source: Ahmed Taha, Xitong Yang, Abhinav Shrivastava, Larry Davis. A Generic Visualization Approach for
Convolutional Neural Networks, ECCV 2020; chapter 4 of the thesis. The features A of a layer are multiplied by
a spatial filter f, the same for all channels. The filter has length 1, and keeps the output (class-oblivious)
or raises one class against the others (class-specific). The network is never changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from helpers.l2_caf.closed_form import nearest_to_ones
from helpers.l2_caf.filters import SHAPES, Attention, Targets, check_finite, check_maps, keep_rows, repeat
from helpers.l2_caf.graph import (
    GraphParts,
    HookedParts,
    Rest,
    alike,
    cut_at,
    leads_to,
    read,
    usual,
)
from helpers.l2_caf.layout import ChannelAxis, channel_axis
from helpers.l2_caf.pooled import pooled_head
from helpers.tracing import original, same_attributes, uncompiled
from helpers.training.modes import evaluating

__all__ = ["L2CAF", "Attention"]

CHECK_EVERY = 50
"""Iterations between looks at which images are done."""


class L2CAF:
    """Where does the network look? ``L2CAF(model, layer)(images, targets)``.

    ``targets=None`` is class-oblivious and asks for the smallest change of the output, mean ((NT - FT)**2). A
    class per image (an int for all, or (B,)), or several (B, T), is class-specific and lowers
    ``sum_{i != c} FT_i - FT_c``. A list of functions of one output row raises these; grad-cam's
    ``ClassifierOutputTarget`` counts as a class.

    Args:
        model: any network with a convolution that returns one tensor. Its weights, buffers, gradients, modes
            and hooks are the same afterwards; it runs in evaluation mode, and without `torch.compile`.
        target_layer: a layer of it with outputs (B, C, H, W), (B, H, W, C) or, for sequences,
            (B, T, C, H, W); or its name; or the name of a node of its torch.fx graph, such as "relu" in
            DenseNet.
        solver: "exact" needs global average pooling and affine layers behind the target layer. "gradient"
            works always. "auto" takes exact where it can; `why_not_exact` says what stands against it.
        center_logits: subtract from each logit the mean over the classes, so that the class-specific map does
            not depend on what all classes share. False is the paper's objective.
        shape: "l2" for filters of length 1; "softmax" and "gaussian" (a mean, identity covariance) are the
            variants of the release, with sum 1.
        learning_rate: of Adam, as in the TensorFlow release; it falls linearly to 0. Filters start uniform.
        tolerance: an image is done when its loss has changed by less in 50 iterations.

    Raises ValueError for a layer that is not part of the model, cannot be reached, does not run exactly once,
    or has no influence on the output, and for "exact" where it cannot be had.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str,
        solver: str = "auto",
        *,
        center_logits: bool = True,
        shape: str = "l2",
        learning_rate: float = 0.5,
        max_iterations: int = 1000,
        tolerance: float = 1e-6,
    ) -> None:
        for name, value, allowed in (
            ("solver", solver, ("auto", "exact", "gradient")),
            ("shape", shape, tuple(SHAPES)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
        if max_iterations < 1:
            raise ValueError(f"max_iterations is {max_iterations}; expected at least 1")
        self.model, self.center_logits, self.shape = original(model), center_logits, shape
        self.learning_rate, self.max_iterations, self.tolerance = learning_rate, max_iterations, tolerance
        with self._undisturbed(self.model):
            parts = cut_at(self.model, target_layer)
        self._only_exact, self._compared = solver == "exact", isinstance(parts, HookedParts)
        self._axis: int | None = None  # of the channels, once images have shown it
        self._take(parts, solver)

    def _take(self, parts: GraphParts | HookedParts, solver: str) -> None:
        self.parts = parts
        self._pooled, why_not = pooled_head(parts)
        if self.shape != "l2":
            why_not = f"its filter has length 1, not the shape {self.shape!r}"
        self.why_not_exact = why_not or "global average pooling, then affine"
        self.solver = "exact" if solver != "gradient" and why_not is None else "gradient"
        if why_not:
            self._refuse_unless_auto()

    def _refuse_unless_auto(self, why: str | None = None) -> None:
        if self._only_exact:
            raise ValueError(f"no exact solution: {why or self.why_not_exact}; use solver='auto'")

    @contextlib.contextmanager
    def _undisturbed(self, running: nn.Module) -> Iterator[None]:
        """Evaluation and no inference mode; cuDNN's recurrent layers have no gradients in evaluation."""
        recurrent = any(isinstance(m, nn.RNNBase) for m in running.modules())
        cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
        untouched, eager = same_attributes(running), uncompiled(running)
        with evaluating(running), untouched, eager, torch.inference_mode(False), cudnn:
            yield

    def __call__(self, input_tensor: Tensor, targets: Any = None) -> Attention:
        """Attention for images (B, C, H, W); see the class for `targets`.

        Raises ValueError for images or features that are not finite, targets out of range or of the wrong
        length, and features that are no maps, such as tokens, or maps of three dimensions, or maps of which
        nothing shows where the channels are.
        """
        with self._undisturbed(self.model):
            features, rest = self._trunk(input_tensor)
            return self._solve(features, rest, targets, tuple(input_tensor.shape[-2:]))

    def features(self, input_tensor: Tensor) -> Tensor:
        """Features of the target layer as (B, C, H, W), wherever its channels are, for `from_features`."""
        with self._undisturbed(self.model):
            return self._trunk(input_tensor)[0]

    def from_features(
        self,
        features: Tensor,
        targets: Any = None,
        *,
        image_size: tuple[int, int] | None = None,
    ) -> Attention:
        """As a call on images, from what `features` gives; what comes before the target layer does not run.

        Where the layer has its channels last, call `features` of this very object first: only images show it.
        Raises ValueError where something else of the image goes past the layer.
        """
        if self.parts.passing:
            raise ValueError(
                f"features are not enough: {self.parts.passing[0]} goes past the target layer; pass images"
            )
        check_maps(features, self.parts.name)
        with self._undisturbed(self.parts.tail):
            size = image_size or tuple(features.shape[-2:])
            return self._solve(features.detach().clone(), [], targets, size)

    @torch.no_grad()
    def _trunk(self, images: Tensor) -> tuple[Tensor, Rest]:
        check_finite("images", images)
        if images.ndim < 4:
            raise ValueError(f"images are {tuple(images.shape)}; expected (B, C, H, W), such as image[None]")
        with ChannelAxis() if self._axis is None else contextlib.nullcontext():
            images = images.detach().clone()
            images._channel_axis = -3
            features, rest = self._run_trunk(images)
            features = usual(features)
        check_maps(features, self.parts.name)
        self._axis = self._axis or channel_axis(features) or self._pooled
        if self._axis is None:
            raise ValueError(
                f"{self.parts.name} gives {tuple(features.shape)}, and nothing around shows which axis has "
                "the channels; choose a convolution, a norm or a layer that follows one"
            )
        if self._axis != -3 and (features.ndim, self._axis) != (4, -1):
            where = f"{tuple(features.shape)} with channels in axis {features.ndim + self._axis}"
            raise ValueError(
                f"{self.parts.name} gives {where}; expected (B, C, H, W), (B, H, W, C) or, for a sequence of "
                "images, (B, T, C, H, W)"
            )
        return features.movedim(self._axis, -3), [usual(value) for value in rest]

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, Rest]:
        parts = self.parts
        if isinstance(parts, GraphParts) and parts.module is not None and not parts.passing:
            features, output = read(self.model, parts.module, images)  # and every call is checked for free
            if leads_to(parts, features, [], output):
                return features, []
            self._follow_by_hook()
        elif not self._compared:
            features, rest = parts.run_trunk(images.clone())
            if not leads_to(parts, features, rest, self.model(images.clone())):
                self._follow_by_hook()
            self._compared = True
        return self.parts.run_trunk(images)

    def _follow_by_hook(self) -> None:
        self._refuse_unless_auto(why := "torch.fx follows the network wrongly")
        if not self.parts.module:
            raise ValueError(f"{why}; name a layer instead of a node")
        self._take(HookedParts(self.model, self.parts.module, self.parts.name, why), self.solver)

    def _tail(self, features: Tensor, rest: Rest) -> Tensor:
        if self._axis == -1:
            features = features.movedim(-3, -1).contiguous()
        outputs = self.parts.run_tail(features, rest)
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"the network returns {type(outputs).__name__}; wrap it in a module that returns one tensor"
            )
        return outputs

    def _solve(self, features: Tensor, rest: Rest, targets: Any, size: tuple[int, int]) -> Attention:
        with torch.no_grad():
            versions = [value._version for value in rest if isinstance(value, Tensor)]
            normal = self._tail(features.clone(), rest)
            if versions != [value._version for value in rest if isinstance(value, Tensor)]:
                raise ValueError(
                    "the network changes in place what goes past the target layer; choose an earlier one"
                )
        if not normal.ndim or not len(normal) or len(features) % len(normal):
            shapes = f"{tuple(normal.shape)} for features {tuple(features.shape)}"
            raise ValueError(f"the output is {shapes}; expected one row for each image")
        if not torch.isfinite(normal).all():
            raise ValueError("the output is not finite; look for NaN or infinity in the weights")
        wanted = Targets(targets, normal, self.center_logits)
        if wanted.functions is not None:
            self._refuse_unless_auto("the targets are functions, which need not be affine")
        elif self.solver == "exact" and features.ndim == 4:
            if found := self._exact(features, wanted):
                return Attention(*found, torch.zeros_like(found[1], dtype=torch.long), "exact", size)
            self._refuse_unless_auto("the output is not what the layers behind the pooling make of it")
        elif self.solver == "exact":
            self._refuse_unless_auto(f"the features are {tuple(features.shape)}")
        may_leave = len(normal) * wanted.per_row > 1 and self._rows_apart(features, rest, normal)
        if wanted.per_row > 1:
            if not may_leave:
                raise ValueError("the batch cannot grow for several targets per image; ask for one at a time")
            features, *rest = (repeat(v, len(normal), wanted.per_row) for v in (features, *rest))
        results = self._descend(features, rest, wanted, may_leave)
        if wanted.several:
            results = [values.unflatten(0, (-1, wanted.per_row)) for values in results]
        return Attention(*results, "gradient", size)

    def _rows_apart(self, features: Tensor, rest: Rest, normal: Tensor) -> bool:
        """Whether the last image alone has the same output, so that rows can leave or be repeated."""
        rows = len(normal)
        if not all(isinstance(v, Tensor) and v.ndim and len(v) % rows == 0 for v in rest):
            return False
        try:
            with torch.no_grad():
                last, *others = (value[-(len(value) // rows) :] for value in (features, *rest))
                alone = self._tail(last.clone(), others)
        except Exception:
            return False
        return alike(alone, normal[-1:])

    @torch.no_grad()
    def _exact(self, features: Tensor, wanted: Targets) -> tuple[Tensor, Tensor] | None:
        """Logits are M f + beta, where column p of M is what position p alone adds to them; else None."""
        if self._pooled != (self._axis or -3):
            return None
        rows, channels, height, width = features.shape
        points = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # as maps of one position each
        bias = self._tail(torch.zeros_like(points[:1]), []).reshape(1, -1)
        single = self._tail(points, []).reshape(len(points), -1) - bias
        matrix = single.reshape(rows, height * width, -1).mT / (height * width)
        if wanted.classes is None:
            f = nearest_to_ones(matrix)[:, None]
        else:
            gradient = wanted.contrast().to(matrix) @ matrix
            length = gradient.norm(dim=-1, keepdim=True)
            silent = length <= 1e-6 * matrix.abs().amax((1, 2))[:, None, None]
            uniform = torch.full_like(gradient, (height * width) ** -0.5)
            f = torch.where(silent, uniform, -gradient / length.clamp(min=1e-30))
        expected = (f @ matrix.mT + bias).flatten(0, 1)
        maps = f.unflatten(-1, (height, width))
        outputs = self._tail((features[:, None] * maps[:, :, None]).flatten(0, 1), [])
        if not alike(outputs.reshape(len(outputs), -1), expected):
            return None
        loss = wanted.losses(outputs, torch.arange(len(outputs), device=outputs.device)).reshape(f.shape[:2])
        return (maps, loss) if wanted.several else (maps[:, 0], loss[:, 0])

    def _descend(self, features: Tensor, rest: Rest, wanted: Targets, may_leave: bool) -> list[Tensor]:
        """Filters, losses and iterations of all rows at once; rows at rest leave the batch where they can."""
        rows, device = wanted.count, features.device
        frames = len(features) // rows
        may_leave = may_leave and all(len(value) == rows for value in (features, *rest))
        free, as_filter = SHAPES[self.shape](features)
        free.requires_grad_(True)
        optimizer = torch.optim.Adam([free], lr=self.learning_rate)
        filters = as_filter(free.detach()).unflatten(0, (rows, frames)).clone()
        loss = torch.full((rows,), torch.nan, device=device, dtype=features.dtype)
        iterations = torch.zeros(rows, dtype=torch.long, device=device)
        active = torch.arange(rows, device=device)
        open_rows = torch.ones(rows, dtype=torch.bool, device=device)
        before = torch.full_like(loss, torch.inf)
        for step in range(self.max_iterations + 1):
            with torch.enable_grad():
                f = as_filter(free)
                losses = wanted.losses(self._tail(features * f.unsqueeze(-3), rest), active)
                gradient = None
                if losses.requires_grad:
                    (gradient,) = torch.autograd.grad(losses.sum(), free, allow_unused=True)
            if gradient is None:
                raise ValueError("the target layer has no influence, or no gradient, on what is asked for")
            losses = losses.detach()
            last = step == self.max_iterations
            if last or step % CHECK_EVERY == 0:
                rests = open_rows[active] & (last | ((losses - before).abs() < self.tolerance))
                before, ended = losses, active[rests]
                filters[ended] = f.detach().unflatten(0, (-1, frames))[rests]
                loss[ended], iterations[ended], open_rows[ended] = losses[rests], step, False
                if not open_rows.any():
                    break
                if may_leave and len(ended):
                    active, before, features, gradient = (
                        v[~rests] for v in (active, before, features, gradient)
                    )
                    rest, free = [value[~rests] for value in rest], keep_rows(optimizer, free, ~rests)
            optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.max_iterations)
            free.grad = gradient
            optimizer.step()
        if not torch.isfinite(loss).all():
            raise ValueError("the loss is not finite; look at the weights, or lower learning_rate")
        return [filters[:, 0] if frames == 1 else filters, loss, iterations]

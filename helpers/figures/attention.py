"""Pictures of attention maps: one overlay, and a filter on its way to where it comes to rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from helpers.l2_caf.attention import L2CAF, Attention
from helpers.plotting import PALETTE

OBLIVIOUS = "all it knows"
"""The target of the class-oblivious map in a list of classes."""


def show_attention(axes: Axes, image: Tensor, heatmap: Tensor | None = None, title: str = "") -> None:
    """An image (3 or 1, H, W) in [0, 1]; where a map (H, W) in [0, 1] is low, it is dimmed and grey."""
    pixels = image.detach().cpu().float().expand(3, -1, -1)
    if heatmap is not None:
        heat = heatmap.detach().cpu().float()[None]
        grey = 0.25 * pixels.mean(0, keepdim=True)
        glow = torch.tensor([0.16, 0.10, 0.0])[:, None, None] * heat
        pixels = (heat.sqrt() * pixels + (1 - heat.sqrt()) * grey + glow).clamp(0, 1)
    axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    if title:
        axes.set_title(title, fontsize=10, fontweight="normal", loc="center")


def watch_filter(
    model: nn.Module, layer: nn.Module | str, image: Tensor, target: int | None, steps: int
) -> tuple[np.ndarray, np.ndarray, Attention]:
    """Filters (steps + 1, H, W) and losses (steps + 1,) of the gradient solver on one image (C, H, W).

    The third value is the best attention known for it: the exact solution where there is one.
    """
    filters: list[Tensor] = []
    losses: list[Tensor] = []
    options = {"max_iterations": steps, "tolerance": 0.0, "learning_rate": 0.05}
    L2CAF(model, layer, "gradient", **options)(
        image[None], target, watch=lambda step, f, loss: (filters.append(f[0]), losses.append(loss[0]))
    )
    return (
        torch.stack(filters).cpu().numpy(),
        torch.stack(losses).cpu().numpy(),
        L2CAF(model, layer)(image[None], target),
    )


def convergence_figure(
    model: nn.Module,
    layers: Mapping[str, nn.Module | str],
    images: Tensor,
    class_names: Sequence[str],
    *,
    image: int,
    target: str,
    layer: str,
    step: int,
    steps: int = 60,
) -> tuple[Figure, str]:
    """One image, its filter after `step` iterations of the gradient solver, and the loss on the way.

    Args:
        layers: name -> layer of `model`; `layer` is one of the names.
        images: (N, C, H, W), of which number `image` is shown.
        target: one of `class_names`, or `OBLIVIOUS`.
        step: 0 to `steps`. The learning rate is a tenth of the paper's, to slow the picture down.

    Raises ValueError for a target, layer, image or step that is not among these.
    """
    for name, value, allowed in (
        ("target", target, [OBLIVIOUS, *class_names]),
        ("layer", layer, list(layers)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
    for name, value, most in (("image", image, len(images) - 1), ("step", step, steps)):
        if not 0 <= value <= most:
            raise ValueError(f"{name} is {value}; expected 0 to {most}")
    number = None if target == OBLIVIOUS else list(class_names).index(target)
    filters, losses, best = watch_filter(model, layers[layer], images[image], number, steps)
    now = Attention(
        torch.from_numpy(filters[[step]]), best.loss, best.iterations, "gradient", best.image_size
    )

    figure = Figure(figsize=(9.5, 3.1), layout="constrained")
    picture, signed, overlay, curve = figure.subplots(1, 4, width_ratios=(1, 1.12, 1, 1.35))
    show_attention(picture, images[image], title="the image")
    reach = float(np.abs(filters[step]).max())
    shown = signed.imshow(filters[step], cmap="RdBu_r", vmin=-reach, vmax=reach)
    signed.axis("off")
    signed.set_title(f"the filter, step {step}", fontsize=10, fontweight="normal", loc="center")
    figure.colorbar(shown, ax=signed, shrink=0.7, ticks=[-reach, 0, reach], format="{x:.2f}")
    show_attention(overlay, images[image], now.heatmaps()[0], "what it lights up")
    curve.plot(losses, color=PALETTE["blue"])
    curve.plot(step, losses[step], "o", color=PALETTE["orange"], markersize=8)
    if best.solver == "exact":
        curve.axhline(float(best.loss[0]), color=PALETTE["ink"], linestyle=":", linewidth=1.5, label="exact")
        curve.legend(loc="upper right")
    curve.set(xlabel="step", ylabel="loss")
    alt = (
        f"Image {image}, layer {layer}, target {target}: the filter after {step} of {steps} steps has loss "
        f"{losses[step]:.3g}, from {losses[0]:.3g} at the start to {losses[-1]:.3g} at the end."
    )
    return figure, alt

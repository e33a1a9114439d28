"""Chapter 2's explorer callback: what a split rate keeps of one layer and of the whole ResNet-18.

Apart from `helpers.widgets`, because torchvision and Torch-Pruning take seconds to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torchvision.models import resnet18

from helpers.knowledge_evolution.evolution import KnowledgeEvolution, multiply_adds
from helpers.plotting import PALETTE

SPLIT_LAYERS = (
    "conv1",
    "layer1.0.conv1",
    "layer2.0.conv1",
    "layer2.0.downsample.0",
    "layer4.1.conv2",
    "fc",
)
"""Layers of ResNet-18 to look at: the first, which keeps all its inputs; one inside a stage; one that widens;
the shortcut, whose outputs are added to those of the blocks around it; the last of those; the classifier,
which keeps all its outputs."""

CLASSES, PIXELS = 102, 224
FIT, RESET, CHOSEN = PALETTE["blue"], "#D0D7DE", PALETTE["orange"]


@dataclass(frozen=True)
class _Split:
    """Layer name -> bool array (outputs, inputs), True where kept; (dense, slim) sizes of the network."""

    kept: dict[str, np.ndarray]
    parameters: tuple[int, int]
    operations: tuple[int, int]


@lru_cache(maxsize=32)
def _split(split_rate: float) -> _Split:
    with torch.random.fork_rng(devices=[]):
        dense = resnet18(weights=None, num_classes=CLASSES).eval()
        evolution = KnowledgeEvolution(dense, example_input=torch.zeros(1, 3, 32, 32), split_rate=split_rate)
    both = (dense, evolution.slim())
    images = torch.zeros(1, 3, PIXELS, PIXELS)
    return _Split(
        {
            name.removesuffix(".weight"): mask.flatten(2).any(2).numpy() if mask.ndim > 2 else mask.numpy()
            for name, mask in evolution.masks.items()
        },
        tuple(sum(p.numel() for p in network.parameters()) for network in both),
        tuple(multiply_adds(network, images) for network in both),
    )


def split_figure(split_rate: float, layer: str) -> tuple[Figure, str]:
    """Mask of one layer, and the channels kept in every layer, of ResNet-18 with 102 classes split by KELS.

    Random weights: the split depends on the shapes alone. A split rate takes about a second the first time.
    Raises ValueError for a split rate outside (0, 1) and for a layer that is not in `SPLIT_LAYERS`.
    """
    if layer not in SPLIT_LAYERS:
        raise ValueError(f"layer is {layer!r}; expected one of {', '.join(SPLIT_LAYERS)}")
    split = _split(round(split_rate, 6))  # a slider's 0.7500000000000001 must not keep one channel more
    mask = split.kept[layer]
    outputs, inputs = _axis_counts(mask)
    kind = "classes" if layer == "fc" else "filters"
    kept = f"{outputs} of {len(mask)} {kind} and {inputs} of {mask.shape[1]} inputs"
    dense, slim = (f"{count / 1e6:.3f}" for count in split.parameters)
    dense_operations, slim_operations = (f"{count / 1e9:.3f}" for count in split.operations)
    saved = [f"{1 - after / before:.1%}" for before, after in (split.parameters, split.operations)]

    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.65))
    _draw_mask(left, mask)
    _head(left, layer, f"{kept}\n{mask.mean():.0%} of the weights are kept")
    _draw_flow(right, split.kept, layer)
    _head(
        right,
        f"All layers of ResNet-18 at split rate {split_rate:.2f}",
        f"{dense} → {slim} M parameters (−{saved[0]})\n"
        f"{dense_operations} → {slim_operations} G multiply-adds at {PIXELS} px (−{saved[1]})",
    )
    alt = (
        f"At split rate {split_rate:.2f}, {layer} of ResNet-18 keeps {kept}, the top left "
        f"{mask.mean():.0%} of its mask. Bars show the channels that every layer keeps: the slim network has "
        f"{slim} M of {dense} M parameters and needs {saved[1]} fewer multiply-adds."
    )
    return figure, alt


def _axis_counts(mask: np.ndarray) -> tuple[int, int]:
    """Output and input channels with a kept weight."""
    return int(mask.any(1).sum()), int(mask.any(0).sum())


def _head(axes: Axes, title: str, lines: str) -> None:
    """A bold title with plain lines below it, both above the axes; the lines never move the axes."""
    axes.set_title(title, loc="left", pad=39)
    axes.annotate(
        lines,
        (0, 1),
        (0, 8),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10,
        linespacing=1.35,
    ).set_in_layout(False)


def _draw_mask(axes: Axes, mask: np.ndarray) -> None:
    outputs, inputs = mask.shape
    axes.imshow(
        mask,
        cmap=ListedColormap([RESET, FIT]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0, inputs, outputs, 0),
    )
    kept_outputs, kept_inputs = _axis_counts(mask)
    axes.set_xticks(sorted({0, kept_inputs, inputs}))
    axes.set_yticks(sorted({0, kept_outputs, outputs}))
    axes.set(xlabel="input channels", ylabel="output channels")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _draw_flow(axes: Axes, kept: dict[str, np.ndarray], layer: str) -> None:
    stages = [_stage(name) for name in kept]
    order = list(dict.fromkeys(stages))
    x = np.array([place + 0.9 * order.index(stage) for place, stage in enumerate(stages)])  # gaps between
    dense = [len(mask) for mask in kept.values()]
    axes.bar(x, dense, width=0.8, linewidth=0, color=RESET, label="reset hypothesis")
    fit = [_axis_counts(mask)[0] for mask in kept.values()]
    axes.bar(x, fit, width=0.8, linewidth=0, color=FIT, label="fit hypothesis, kept")
    chosen = list(kept).index(layer)
    axes.plot(x[chosen], dense[chosen] + 24, "v", color=CHOSEN, markersize=9, label=layer)
    centres = [np.mean([x for x, own in zip(x, stages, strict=True) if own == stage]) for stage in order]
    axes.set_xticks(centres, order)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks(sorted({0, *dense} - {CLASSES}))
    axes.set(ylabel="output channels", xlim=(x[0] - 0.9, x[-1] + 0.9), ylim=(0, 1.1 * max(dense)))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(0.02, 0.68), borderaxespad=0, reverse=True)


def _stage(layer: str) -> str:
    """The part of a ResNet that a layer belongs to."""
    if layer.startswith("layer"):
        return f"stage {layer.removeprefix('layer').split('.')[0]}"
    return {"conv1": "stem", "fc": "fc"}[layer]

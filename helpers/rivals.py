"""Attention maps by the methods of the package grad-cam, as tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

from helpers.localisation import fit_to_image

METHODS = {"Grad-CAM": GradCAM, "Grad-CAM++": GradCAMPlusPlus, "Eigen-CAM": EigenCAM}


def rival_maps(
    model: nn.Module, layer: nn.Module, inputs: Tensor, goals: Tensor | Sequence[Callable[[Tensor], Tensor]]
) -> dict[str, Tensor]:
    """Maps (B, H, W) in [0, 1] for inputs (B, C, H, W), by method.

    Args:
        goals: a class (B,) for each input, or one function of an output row for each, whose value to explain.
            With classes there is Finer-CAM too, which sets the class against its three likeliest rivals.
    """
    classes = isinstance(goals, Tensor)
    functions = list(map(ClassifierOutputTarget, goals.tolist())) if classes else list(goals)
    asked = dict.fromkeys(METHODS, functions)
    if classes:
        with torch.no_grad():
            likely = model(inputs).topk(4).indices.tolist()
        others = [[c for c in row if c != own][:3] for row, own in zip(likely, goals.tolist(), strict=True)]
        asked["Finer-CAM"] = [
            FinerWeightedTarget(own, rivals, 1.0) for own, rivals in zip(goals.tolist(), others, strict=True)
        ]
    found = {}
    for name, targets in asked.items():
        with METHODS.get(name, GradCAM)(model, [layer]) as cam:
            found[name] = torch.from_numpy(cam(inputs, targets))
    model.zero_grad()
    return found


def removal_scores(
    model: nn.Module, inputs: Tensor, maps: Mapping[str, Tensor], classes: Tensor
) -> dict[str, Tensor]:
    """ROAD (B,) of maps (B, H, W), by "method: removal": by how much more the class's logit falls without the
    bright pixels than without the dark ones, half and four fifths of them (Rong and co-authors, ICML 2022).

    Slow: every image is filled in by itself, on the CPU. `inputs` (B, C, S, S) are what `model` takes.
    """
    goals, model = list(map(ClassifierOutputTarget, classes.tolist())), copy.deepcopy(model).cpu()
    with torch.no_grad():
        return {
            f"{name}: removal": torch.from_numpy(
                ROADCombined([50, 80])(inputs, fit_to_image(m, inputs.shape[-1]).numpy(), goals, model)
            )
            for name, m in maps.items()
        }

"""What the thesis promises of L2-CAF for any network, measured on one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from helpers.l2_caf.attention import L2CAF


def promises(model: nn.Module, layer: str, images: Tensor, **options: Any) -> dict[str, Any]:
    """Both kinds of filters for images (B, C, H, W), and how far they are from what is promised.

    Returns a dict: "map", its height and width; "solver"; "length", the largest distance of a filter's length
    from 1; "features", the largest difference between filters from images and from stored features;
    "changed", how many weights and buffers are not what they were; "why not exact".
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    caf = L2CAF(model, layer, **options)
    stored = caf.features(images)
    length = features = 0.0
    for targets in (None, list(range(len(images)))):
        filters, again = caf(images, targets).filters, caf.from_features(stored, targets).filters
        length = max(length, (filters.flatten(1).norm(dim=1) - 1).abs().max().item())
        features = max(features, (filters - again).abs().max().item())
    changed = sum(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    return {
        "map": " x ".join(map(str, filters.shape[1:])),
        "solver": caf.solver,
        "length": length,
        "features": features,
        "changed": changed,
        "why not exact": "" if caf.solver == "exact" else caf.why_not_exact,
    }

"""What Knowledge Evolution promises of any architecture, measured: the slim network, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor, nn

from helpers.knowledge_evolution.evolution import KnowledgeEvolution, multiply_adds

ARCHITECTURES = {
    "vgg11_bn": 32, "resnet18": 64, "resnet50": 64, "densenet121": 64,
    "googlenet": 64, "inception_v3": 80, "mobilenet_v2": 64, "efficientnet_b0": 64,
}  # fmt: skip
"""Classifiers of torchvision, and a side of images that each can take."""


def promises(
    split_rate: float = 0.5, classes: int = 102, architectures: Mapping[str, int] = ARCHITECTURES
) -> list[dict[str, float | str]]:
    """For each architecture, with random weights: its size, what stays, what is saved, and the identity.

    Each row has the keys "network"; "dense (M)" and "slim (M)", parameters; "stays", the share of masked
    weights; "saved", of the multiply-adds for an image of that side; "difference", the largest one between
    the slim network and the dense one without its reset half, relative to the largest output.
    """
    rows = []
    for name, size in architectures.items():
        model = _network(name, classes)
        images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        split = KnowledgeEvolution(model, example_input=images, split_rate=split_rate)
        slim = split.slim()
        before, after = (multiply_adds(network, images) for network in (model, slim))
        row = {
            "network": name,
            "dense (M)": _millions(model),
            "slim (M)": _millions(slim),
            "stays": split.fit_fraction,
            "saved": 1 - after / before,
            "difference": _difference(split.scaled(0.0), slim, images),
        }
        rows.append(row)
    return rows


def _network(name: str, classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        more = {"init_weights": False} if name in ("vgg11_bn", "googlenet", "inception_v3") else {}
        more |= {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=classes, **more).eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):  # no channel is silent by luck
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
                nn.init.normal_(layer.running_mean, std=0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model


def _millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


@torch.no_grad()
def _difference(dense: nn.Module, slim: nn.Module, images: Tensor) -> float:
    wanted = dense(images)
    return ((wanted - slim(images)).abs().max() / wanted.abs().max()).item()

"""What an experiment on classes never seen starts from: the classes, a small network, a trained trunk."""

from __future__ import annotations

from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from helpers.data.image_set import ImageSet
from helpers.data.open_set import OpenClasses, open_classes
from helpers.training import seed_everything
from helpers.training.frozen import learn

__all__ = [
    "FEATURES",
    "OpenClasses",
    "chance",
    "digits",
    "embedder",
    "four_layers",
    "open_classes",
    "trained_trunk",
]

WIDTHS = (16, 32, 64, 64)
FEATURES = 4 * WIDTHS[-1]


def four_layers() -> nn.Sequential:
    """Images (B, 3, S, S) to features (B, FEATURES): four convolutions, averages over 2 x 2 fields.

    The first three convolutions halve the sides; each is followed by batch norm and ReLU.
    """
    layers, channels = [], 3
    for width, stride in zip(WIDTHS, (2, 2, 2, 1), strict=True):
        layers += [
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def embedder(dim: int, seed: int, trained: tuple | None = None) -> nn.Sequential:
    """`four_layers` and a linear layer to `dim` numbers, the same for a seed; the trunk is the first part.

    Args:
        trained: arguments of `trained_trunk`; None leaves the trunk's weights random.
    """
    seed_everything(seed)
    model = nn.Sequential(four_layers(), nn.Linear(FEATURES, dim))
    if trained is not None:
        model[0].load_state_dict(trained_trunk(*trained))
    return model


@lru_cache(maxsize=2)
def trained_trunk(
    dataset: str, seed: int, size: int, species: int, unseen: int, steps: int, device: str = "cpu"
) -> dict[str, Tensor]:
    """Weights of `four_layers` after `steps` of classifying the training classes of `open_classes`.

    One trunk for each seed; kept in memory, because all arms of a seed start from it.
    """
    part = open_classes(dataset, seed, size=size, species=species, unseen=unseen).train
    seed_everything(seed)
    model = nn.Sequential(four_layers(), nn.Linear(FEATURES, part.num_classes))
    images, labels = part[:]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    learn(model, images, labels, seed, rate=0.01, steps=steps, loss=loss, device=device)
    return model[0].state_dict()


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Handwritten digits, 8 x 8 pixels: a set to train on; every fourth as images (N, 64) and labels."""
    found = load_digits()
    images, labels = torch.tensor(found.data / 16).float(), torch.tensor(found.target)
    held = torch.arange(len(labels)) % 4 == 0
    part = TensorDataset(images[~held], labels[~held])
    part.labels = labels[~held]
    return part, images[held], labels[held]


def chance(part: ImageSet) -> float:
    """Recall@1 of random neighbours: how likely another image of the part is of the same class."""
    counts = torch.bincount(part.labels).double()
    return (counts * (counts - 1)).sum().item() / (len(part) * (len(part) - 1))

"""Training on features that were computed once: the lower layers of a network stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from helpers.training.batches import draw_batches
from helpers.training.loop import seed_everything


@torch.no_grad()
def features_of(layers: nn.Module, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """What layers in evaluation mode make of images (B, ...), piece by piece, on the CPU."""
    return torch.cat([layers(piece.to(device)).cpu() for piece in images.split(64)])


def learn(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    seed: int,
    *,
    rate: float,
    steps: int,
    loss: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train a model on kept features (N, ...) and labels (N,): AdamW, a rate that rises and falls.

    Batches have eight classes, or as many as there are, with four items each. `loss` takes outputs and
    labels; cross-entropy by default. Returns the model, on the CPU and in evaluation mode.
    """
    seed_everything(seed)
    kept = TensorDataset(features, labels)
    kept.labels = labels
    loss = nn.CrossEntropyLoss() if loss is None else loss
    optimizer = torch.optim.AdamW(model.to(device).train().parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for inputs, classes in draw_batches(kept, 8, 4, steps, seed, device=device):
        value = loss(model(inputs), classes)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return model.eval().cpu()

"""Modes in which code runs: training or evaluation of a network's layers, and no autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Matrix products in the precision of their inputs, also inside `torch.autocast`."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else contextlib.nullcontext()


def evaluating(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Evaluation mode; afterwards every layer has its own mode back."""
    return in_mode(model, training=False)


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for all layers; afterwards every layer has its own mode back."""
    modes = {module: module.training for module in model.modules()}
    if any(mode != training for mode in modes.values()):
        model.train(training)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training

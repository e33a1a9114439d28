"""Training a network: batches, the loop, checkpoints that survive a kill."""

from helpers.training.batches import EpochBatches, loader, pk_loader
from helpers.training.checkpoint import CheckpointError
from helpers.training.loop import History, NonFiniteLoss, embed, fit, pick_device, seed_everything

__all__ = [
    "CheckpointError",
    "EpochBatches",
    "History",
    "NonFiniteLoss",
    "embed",
    "fit",
    "loader",
    "pick_device",
    "pk_loader",
    "seed_everything",
]

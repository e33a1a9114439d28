"""Training a network: batches, the loop, what it measured, checkpoints that survive a kill."""

from helpers.training.batches import EpochBatches, draw_batches, loader, pk_loader
from helpers.training.checkpoint import CheckpointError
from helpers.training.history import History, NonFiniteLoss
from helpers.training.loop import embed, fit, pick_device, read_out, seed_everything

__all__ = [
    "CheckpointError",
    "EpochBatches",
    "History",
    "NonFiniteLoss",
    "draw_batches",
    "embed",
    "fit",
    "loader",
    "pick_device",
    "pk_loader",
    "read_out",
    "seed_everything",
]

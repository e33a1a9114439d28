"""What a run measured: the losses of an epoch, and one row for every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

_OWN_COLUMNS = ("epoch", "loss", "lr", "seconds")


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite. Attributes: epoch and step (from 1), lr, last_losses."""

    def __init__(self, loss: float, epoch: int, step: int, lr: float, last_losses: list[float]) -> None:
        self.epoch, self.step, self.lr, self.last_losses = epoch, step, lr, last_losses
        before = ", ".join(f"{value:.4g}" for value in last_losses) or "none in this epoch"
        super().__init__(
            f"the loss is {loss} at step {step} of epoch {epoch} with learning rate {lr:.3g}; last finite "
            f"losses: {before}. Lower the learning rate, set clip_norm, or look for NaN in the images"
        )


@dataclass
class History:
    """What `fit` measured: per epoch a row of epoch (from 1), loss, lr, seconds and the caller's own values.

    `lr` is that of the first parameter group in the first step, `seconds` the training without evaluation.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """The rows as a table, one line per epoch."""
        return pd.DataFrame(self.rows)


class Epoch:
    """The losses and metrics of one epoch, kept on the device until asked for."""

    def __init__(self, number: int, device: torch.device) -> None:
        self.number, self.device, self.began = number, device, time.perf_counter()
        self.values: dict[str, list[Tensor]] = {"loss": []}
        self.losses: list[float] = []  # those already looked at
        self.sizes: list[int] = []
        self.lrs: list[float] = []

    def add(self, loss: Tensor, metrics: dict[str, Tensor], size: int, lr: float) -> None:
        if loss.ndim or not loss.requires_grad:
            raise ValueError(
                f"the loss has shape {tuple(loss.shape)} and requires_grad={loss.requires_grad}; expected a "
                "scalar with a gradient"
            )
        for name, value in {"loss": loss, **named(metrics, ())}.items():
            value = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
            if value.ndim:
                raise ValueError(f"metric {name!r} has shape {tuple(value.shape)}; expected a 0-dim tensor")
            self.values.setdefault(name, []).append(value)
        self.sizes.append(size)
        self.lrs.append(float(lr))

    def check(self) -> None:
        for loss in torch.stack(self.values["loss"][len(self.losses) :]).tolist():
            step = len(self.losses)
            if not math.isfinite(loss):
                raise NonFiniteLoss(loss, self.number, step + 1, self.lrs[step], self.losses[-5:])
            self.losses.append(loss)

    def row(self) -> dict[str, float]:
        if len(self.losses) < len(self.sizes):
            self.check()
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        table = torch.stack([torch.stack(values) for values in self.values.values()]).cpu().double()
        means = dict(zip(self.values, (table @ sizes / sizes.sum()).tolist(), strict=True))
        seconds = time.perf_counter() - self.began  # read once the device has done its work
        return {"epoch": self.number, "loss": means["loss"], "lr": self.lrs[0], "seconds": seconds} | means


def named(values: dict[str, Any], taken: Iterable[str]) -> dict[str, Any]:
    clash = sorted(values.keys() & {*taken, *_OWN_COLUMNS})
    if clash:
        raise ValueError(f"evaluate or metrics gives {', '.join(clash)}, already in the history; rename it")
    return values

"""Checkpoints: what a run leaves on disk, from which it continues exactly."""

from __future__ import annotations

import inspect
import io
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers.files import write_atomically
from helpers.training.batches import EpochBatches


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, written, or does not belong to this run."""


@dataclass
class Checkpoint:
    """All that `fit` needs to go on exactly: weights, optimiser, schedule, history, batches, randomness."""

    path: Path
    model: nn.Module
    loss_fn: Callable[[Any, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    loader: DataLoader
    device: torch.device

    def __post_init__(self) -> None:
        parts = {"model": self.model, "loss": self.loss_fn}
        parts |= {"optimizer": self.optimizer, "scheduler": self.scheduler}
        self.parts = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
        sampler = getattr(self.loader, "sampler", None)
        self.batches = sampler if isinstance(sampler, EpochBatches) else None

    def settings(self) -> dict[str, str]:
        """What must not change between the interrupted and the resumed run, in words."""
        schedule = self.scheduler.state_dict() if self.scheduler else {}
        given = inspect.signature(type(self.scheduler)).parameters if self.scheduler else {}
        constant = {name: value for name, value in schedule.items() if name in given and name != "last_epoch"}
        return {
            "model": type(self.model).__name__,
            "loss": getattr(self.loss_fn, "__name__", type(self.loss_fn).__name__),
            "optimizer": f"{type(self.optimizer).__name__} {self.optimizer.defaults}",
            "parameter groups": str([len(group["params"]) for group in self.optimizer.param_groups]),
            "scheduler": f"{type(self.scheduler).__name__} {constant}",
            "loader": repr(self.batches) if self.batches else f"{len(self.loader)} batches",
        }

    def write(self, rows: list[dict[str, float]]) -> None:
        state = {
            "settings": self.settings(),
            "rows": rows,
            "batches_epoch": self.batches.epoch if self.batches else None,
            "random": _random_state(self.device),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        if unsafe:
            raise CheckpointError(
                f"{self.path} would hold {', '.join(unsafe)}, which a safe load refuses; it was not written"
            )
        try:
            write_atomically(self.path, file.getvalue())
        except OSError as error:
            raise CheckpointError(
                f"could not write {self.path}: {error}. A file there before is untouched"
            ) from error

    def resume(self, epochs: int) -> list[dict[str, float]]:
        """Load the file into every part and return its history; all checks come before the first change."""
        if not self.path.exists():
            return []
        saved = _read_checkpoint(self.path)
        if not isinstance(saved, dict) or not {"settings", "rows", "random", *self.parts} <= saved.keys():
            raise CheckpointError(f"{self.path} is no checkpoint of this run; delete it or give another path")
        old, new = saved["settings"], self.settings()
        changed = [f"{key} was {old.get(key)}, is {new[key]}" for key in new if old.get(key) != new[key]]
        if changed:
            raise CheckpointError(
                f"{self.path} belongs to another run: {'; '.join(changed)}. Delete it or give another path"
            )
        for name in ("model", "loss"):
            if name in self.parts:
                _require_same_shapes(self.path, self.parts[name].state_dict(), saved[name])
        if len(saved["rows"]) > epochs:
            raise CheckpointError(
                f"{self.path} has run {len(saved['rows'])} epochs, more than the {epochs} asked for; "
                "ask for as many or give another path"
            )
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        if self.batches:
            self.batches.epoch = saved["batches_epoch"]
        _set_random_state(saved["random"], self.device)
        return saved["rows"]


def _require_same_shapes(path: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    here, there = (
        {name: tuple(value.shape) if isinstance(value, Tensor) else () for name, value in state.items()}
        for state in (expected, found)
    )
    differing = [name for name in here | there if here.get(name) != there.get(name)]
    if differing:
        listed = "; ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in differing[:3])
        raise CheckpointError(f"{path} holds another model, {len(differing)} tensors differ: {listed}")


def _read_checkpoint(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare check sums
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong check sum in {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects other than tensors and plain values, which could run code; it was not "
            "loaded. Delete it or give another path"
        ) from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or no checkpoint ({error}); delete it to start again"
        ) from error


def _random_state(device: torch.device) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    state = {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}
    state["torch"] = torch.get_rng_state()
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])

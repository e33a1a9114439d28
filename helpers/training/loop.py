"""One training loop for every chapter: a seeded and exactly resumable `fit`, and `embed`."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from helpers.training.batches import ends_in_one
from helpers.training.checkpoint import Checkpoint
from helpers.training.history import Epoch, History, named
from helpers.training.modes import evaluating

_CHECK_EVERY = 100  # steps between two looks at the losses on an accelerator: each look waits for the device


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices) and ask torch for deterministic algorithms.

    On the CPU two runs with one seed are then equal bit for bit. An operation without a deterministic version
    on the accelerator warns and runs. Raises ValueError for a seed outside 0 .. 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed!r}; expected a whole number from 0 to 2**32 - 1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms first imports inductor, 4 s


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for (ValueError if it is not there), else the first of cuda, mps and cpu that is."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, there in present.items() if there]
    if device is None:
        return torch.device(available[0])
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; expected one of {', '.join(available)}") from error
    count = torch.cuda.device_count() if wanted.type == "cuda" else 1
    if wanted.type not in available or (wanted.index or 0) >= count:
        raise ValueError(f"device {str(wanted)!r} is not there; this machine has {', '.join(available)}")
    return wanted


def fit(
    model: nn.Module,
    loss_fn: Callable[[Any, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    scheduler_per_step: bool = False,
    device: str | torch.device | None = None,
    amp: bool | None = None,
    clip_norm: float | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    metrics: Callable[[Any, Tensor], dict[str, Tensor]] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place for `epochs` epochs; it is left on `device` in evaluation mode.

    The model is put in training mode at the start of every epoch (one with frozen layers overrides `train`).
    `evaluate` sees it in evaluation mode without gradients.

    Args:
        loss_fn: (outputs, labels) to a scalar with a gradient. A module is moved to the device; its
            parameters learn only if the caller gave them to `optimizer`.
        loader: batches of (images, labels). Those of this room resume exactly; another does if its order
            comes from torch's global generator.
        epochs: in all, those of the checkpoint included.
        scheduler: stepped after every epoch, or with `scheduler_per_step` after every batch.
            `ReduceLROnPlateau` watches the mean training loss of the epoch.
        device: see `pick_device`.
        amp: forward pass in bfloat16 autocast; None means on CUDA only (where images are also channels-last).
            The loss always sees float32.
        clip_norm: bound on the L2 norm of the gradient of all parameters of the optimiser; None is no bound.
        evaluate: called after every epoch; its values join the row of that epoch.
        metrics: (outputs, labels) to 0-dim tensors, averaged over the images of an epoch like the loss.
        checkpoint: file that holds everything after every finished epoch, replaced atomically. If it exists,
            the run goes on from it and ends, on the CPU bit for bit, where the uninterrupted one does. What a
            loss keeps outside its `state_dict` (the queue of PML's CrossBatchMemory) is not in it.
        progress: one bar for the whole call, shown after a second and gone at the end. The environment
            variable TQDM_DISABLE=1 hides it too, for batch runs that keep what is displayed.

    Raises:
        NonFiniteLoss: a NaN or infinite loss; the checkpoint keeps the last whole epoch. On the CPU every
            loss is looked at before its step, so the weights are as before. On an accelerator, where a look
            would make every step wait, it is every 100 steps and at the end of the epoch: the weights may be
            spoilt by then.
        CheckpointError: an unreadable checkpoint, one of another run, or a failed write (the old file stays).
        ValueError: epochs below 1, no batch, a schedule that does not fit the run, a last batch of one image
            on which batch norm cannot train, a loss that is no scalar or has no gradient, a metric that is no
            scalar or takes the name of another column. All but the last two before the first step.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}; expected a whole number from 1 up")
    if len(loader) == 0:
        raise ValueError("the loader gives no batch; check its dataset, batch size and drop_last")
    _check_schedule(scheduler, scheduler_per_step, epochs, len(loader))
    device = pick_device(device)
    channels_last = device.type == "cuda"
    amp = device.type == "cuda" if amp is None else amp
    model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    if isinstance(loss_fn, nn.Module):
        loss_fn.to(device)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def train_step(images: Tensor, labels: Tensor, epoch: Epoch) -> None:
        layout = torch.channels_last if channels_last and images.ndim == 4 else torch.preserve_format
        images = images.to(device, non_blocking=True, memory_format=layout)
        labels = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            outputs = model(images)
        outputs = _float32(outputs) if amp else outputs
        loss = loss_fn(outputs, labels)
        with torch.no_grad():
            measured = metrics(outputs, labels) if metrics else {}
        epoch.add(loss, measured, len(labels), optimizer.param_groups[0]["lr"])
        if device.type == "cpu" or len(epoch.sizes) % _CHECK_EVERY == 0:
            epoch.check()
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(weights, clip_norm)
        optimizer.step()
        if scheduler is not None and scheduler_per_step:
            scheduler.step()

    history, saved = History(), None
    if checkpoint is not None:
        saved = Checkpoint(Path(checkpoint), model, loss_fn, optimizer, scheduler, loader, device)
        history.rows = saved.resume(epochs)
    done, lone = len(history.rows), ends_in_one(loader)
    with _progress_bar(done * len(loader), epochs * len(loader), progress) as bar:
        for number in range(done + 1, epochs + 1):
            model.train()
            epoch = Epoch(number, device)
            for images, labels in loader:
                if lone:
                    _check_batch_of_one(model, images[:1].to(device), amp)
                    lone = False
                train_step(images, labels, epoch)
                bar.update()
            row = epoch.row()
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(row["loss"])
            elif scheduler is not None and not scheduler_per_step:
                scheduler.step()
            if evaluate is not None:
                with torch.no_grad(), evaluating(model):
                    row |= {name: float(value) for name, value in named(evaluate(model), row).items()}
            history.rows.append(row)
            bar.set_postfix(epoch=number, loss=row["loss"], refresh=False)
            if saved is not None:
                saved.write(history.rows)
    model.eval()
    return history


def _check_schedule(scheduler: LRScheduler | None, per_step: bool, epochs: int, batches: int) -> None:
    if isinstance(scheduler, ReduceLROnPlateau) and (per_step or scheduler.mode != "min"):
        raise ValueError(
            f"ReduceLROnPlateau with mode={scheduler.mode!r} and scheduler_per_step={per_step}: fit gives it "
            "the mean loss of every epoch; expected mode='min' and scheduler_per_step=False"
        )
    steps, planned = epochs * batches if per_step else epochs, getattr(scheduler, "total_steps", None)
    if planned is not None and planned < steps:
        raise ValueError(
            f"the scheduler ends after {planned} steps, this run takes {steps}: give it total_steps={steps}"
        )


def _check_batch_of_one(model: nn.Module, images: Tensor, amp: bool) -> None:
    """Try the batch of one image that ends every epoch before the first step; buffers and seed stay."""
    kept = [buffer.clone() for buffer in model.buffers()]
    generators = [images.device] if images.is_cuda else []
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=amp)
    try:
        with torch.random.fork_rng(generators), torch.no_grad(), autocast:
            model(images)
    except ValueError as error:
        raise ValueError(
            f"the last batch of an epoch holds one image, on which this network cannot train ({error}); "
            "make the loader with drop_last=True or another batch_size"
        ) from error
    finally:
        for buffer, value in zip(model.buffers(), kept, strict=True):
            buffer.data.copy_(value)


def _progress_bar(done: int, total: int, shown: bool) -> tqdm:
    hidden = not shown or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(
        initial=done, total=total, unit="batch", leave=False, delay=1, mininterval=0.5, disable=hidden
    )


def _float32(outputs: Any) -> Any:
    """Outputs of a model (a tensor, or tuples, lists and dicts of them) with every float in float32."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return type(outputs)((key, _float32(value)) for key, value in outputs.items())
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*map(_float32, outputs))
    return type(outputs)(map(_float32, outputs)) if isinstance(outputs, list | tuple) else outputs


@torch.no_grad()
def read_out(model: nn.Module, images: Tensor, output: str, *, batch_size: int = 256) -> Tensor:
    """One named output (N, ...) of a network in its present mode for images (N, C, S, S), on the CPU."""
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    found = [getattr(model(batch.to(device)), output) for batch in images.split(batch_size)]
    return torch.cat(found).cpu()


@torch.no_grad()
def embed(
    model: nn.Module, dataset: Dataset, *, device: str | torch.device | None = None, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 (N, D) and labels (N,) of a whole dataset, in its order, on the CPU.

    Runs in evaluation mode, restores the mode of every layer and draws no random number. `device` None means
    where the model is. If the model returns several things, the one named `.embedding` is taken.

    Raises ValueError for an empty dataset, a batch size below 1, or outputs that are not (B, D).
    """
    if len(dataset) == 0 or batch_size < 1:
        raise ValueError(f"{len(dataset)} images in batches of {batch_size}; expected at least 1 of both")
    if device is None:
        device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    else:
        device = pick_device(device)
        model.to(device)
    embeddings, labels = [], []
    with evaluating(model):
        for start in range(0, len(dataset), batch_size):
            images, batch_labels = dataset[list(range(start, min(start + batch_size, len(dataset))))]
            outputs = model(images.to(device))
            outputs = getattr(outputs, "embedding", outputs)
            if not isinstance(outputs, Tensor) or outputs.ndim != 2:
                shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise ValueError(f"the model gives {shape}; expected embeddings of shape (B, D)")
            embeddings.append(outputs.float())
            labels.append(batch_labels)
    return torch.cat(embeddings).cpu(), torch.cat(labels).cpu()

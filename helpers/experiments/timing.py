"""Seconds of several calls, taken in turn so that a busy moment of the machine strikes all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def in_turn(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | str = "cpu",
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each action, one entry per round; in a round each action runs once.

    Args:
        actions: what to time, by name.
        device: where they run; an accelerator is synchronised before and after each.
        warm_up: rounds that run first and do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + warm_up):
        for name, action in actions.items():
            taken = _seconds(action, str(device).partition(":")[0])
            if number >= warm_up:
                times[name].append(taken)
    return times


def training_step(
    model: nn.Module, loss: Callable[..., Tensor], images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """One whole step of plain gradient descent on the same batch, as an action to time."""
    import torch  # seconds to import

    optimizer = torch.optim.SGD(model.to(images.device).train().parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()

    return step


def _seconds(action: Callable[[], object], kind: str) -> float:
    """Wall time; on CUDA the time between two events on an idle stream."""
    import torch  # seconds to import

    if kind == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    start = time.perf_counter()
    action()
    if kind == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start

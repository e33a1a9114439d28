"""What tests with the fixture `device` share: one body for the CPU and for CUDA, which the CPU proves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_waiting() -> Iterator[None]:
    """Within it, whatever makes the host wait for the GPU raises RuntimeError."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(call: Callable[[], object], device: torch.device) -> int:
    """How often the host waits for a value of the device during the call."""
    if device.type == "cpu":  # nothing waits; what would, on a GPU, asks for a number
        with _NumbersAsked() as asked:
            call()
        return asked.count
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in said)


class _NumbersAsked(TorchFunctionMode):
    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        asks = ("item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__")
        self.count += getattr(function, "__name__", "") in asks
        return function(*args, **(kwargs or {}))


def replayed(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """A call that runs the step again: the replay of a CUDA graph, on a CPU the step itself.

    The step reads and writes tensors that stay where they are.
    """
    if device.type == "cpu":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up outside the capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay

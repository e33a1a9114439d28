"""Independent runs side by side: one process per core on a CPU, one after another on an accelerator.

A worker is a fresh Python process with a pipe of its own; nothing else is shared, no lock, queue or thread
that one side could wait for when the other has gone. Its death shows at the pipe, and who no longer needs it
kills it instead of asking it to leave. Workers stay for the next call, as loading PyTorch takes seconds, and
leave after a minute without work, or with the process that started them.
"""

from __future__ import annotations

import atexit
import functools
import io
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
import joblib
import psutil
from joblib.externals.loky.backend import get_context

if TYPE_CHECKING:
    import torch

IDLE_SECONDS = 60
_REUSED_WITHIN = 45  # well before an idle worker leaves


class _Pickler(cloudpickle.CloudPickler):
    """cloudpickle takes a notebook's function by value, but not one that `functools.cache` has wrapped."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, functools._lru_cache_wrapper) and value.__module__ == "__main__":
            return _cached_again, (value.__wrapped__, value.cache_parameters())
        return super().reducer_override(value)


def _cached_again(function: Callable, parameters: dict[str, Any]) -> Callable:
    return functools.lru_cache(**parameters)(function)


def _as_code(function: Callable) -> bytes:
    _Pickler(file := io.BytesIO()).dump(function)
    return file.getvalue()


class Outcome(NamedTuple):
    """How one run ended; ``index`` is its place in the plan, ``error`` None when it succeeded."""

    index: int
    result: Any = None
    error: Exception | None = None


def run_all(
    function: Callable[..., Any], plan: Sequence[tuple], *, device: torch.device | str = "cpu"
) -> list[Any]:
    """``[function(*arguments) for arguments in plan]``, in that order.

    Runs on a CPU are spread over the cores, each with one thread, which suits small networks better than one
    run with many threads, and gives the same numbers for any number of workers. The function and what it
    refers to are copied to the workers, so it may stand in a notebook; it must return its result and not
    change shared state. Environment variable ``CTG_WORKERS`` sets the number of processes; 1 means none.

    Raises the first error of a run, with the worker's traceback as its cause, and stops the others;
    RuntimeError when a worker was killed.
    """
    results: list[Any] = [None] * len(plan)
    with closing(outcomes(function, plan, device=device)) as done:
        for index, result, error in done:
            if error is not None:
                raise error
            results[index] = result
    return results


def outcomes(
    function: Callable[..., Any], plan: Sequence[tuple], *, device: torch.device | str = "cpu"
) -> Iterator[Outcome]:
    """As `run_all`, but each run as soon as it has ended, and errors given instead of raised.

    Close the iterator to stop the runs under way.
    """
    workers, on_cpu = min(worker_count(), len(plan)), str(device).partition(":")[0] == "cpu"
    if workers > 1 and on_cpu:
        yield from _side_by_side(function, plan, workers)
        return
    for index, arguments in enumerate(plan):
        try:
            with _one_thread() if on_cpu else nullcontext():
                outcome = Outcome(index, function(*arguments))
        except Exception as error:
            outcome = Outcome(index, error=error)
        yield outcome


def worker_count() -> int:
    """How many processes may run side by side: ``CTG_WORKERS``, or the cores that this process may use.

    Affinity and the CPU quota of a container (cgroup) count. Raises ValueError when ``CTG_WORKERS`` is not a
    whole number above 0.
    """
    text = os.environ.get("CTG_WORKERS", "").strip()
    if not text:
        return joblib.cpu_count()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"CTG_WORKERS is {text!r}; expected a number of processes above 0, or nothing")
    return int(text)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: sums over several threads would round otherwise, and a resumed sweep end elsewhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _side_by_side(function: Callable[..., Any], plan: Sequence[tuple], workers: int) -> Iterator[Outcome]:
    code = _as_code(function)
    waiting = deque(enumerate(plan))
    busy: dict[Connection, tuple[_Worker, int]] = {}

    def give(worker: _Worker, with_code: bool) -> None:
        index, arguments = waiting.popleft()
        busy[worker.connection] = worker, index
        worker.send(code if with_code else None, arguments)

    try:
        for worker in [_Worker.take() for _ in range(workers)]:
            give(worker, with_code=True)
        while busy:
            for connection in wait(list(busy)):
                worker, index = busy[connection]
                outcome = worker.receive(index)
                del busy[connection]
                if waiting:
                    alive = worker.is_alive()
                    give(worker if alive else _Worker.take(), with_code=not alive)
                elif worker.is_alive():
                    worker.rest()
                yield outcome
    finally:
        for worker, _ in busy.values():
            worker.kill()


class _Worker:
    """A process that runs one thing at a time, as told through its pipe."""

    def __init__(self) -> None:
        self.connection, other = Pipe()
        environment = {"OMP_NUM_THREADS": "1", "CTG_WORKERS": "1"}
        self.process = get_context("loky").Process(
            target=_serve, args=(other, os.getpid()), daemon=True, env=environment
        )
        self.process.start()
        other.close()  # so that the worker's end is the last, and its death shows here
        self.rested = time.monotonic()

    @classmethod
    def take(cls) -> _Worker:
        """One that is idle, or a new one."""
        while _idle:
            worker = _idle.pop()
            if time.monotonic() - worker.rested < _REUSED_WITHIN and worker.is_alive():
                return worker
            worker.kill()
        return cls()

    def rest(self) -> None:
        self.rested = time.monotonic()
        _idle.append(self)

    def is_alive(self) -> bool:
        return not self.connection.closed and self.process.is_alive()

    def send(self, code: bytes | None, arguments: tuple) -> None:
        with suppress(OSError):  # it has died, which `receive` will tell
            self.connection.send_bytes(cloudpickle.dumps((code, arguments)))

    def receive(self, index: int) -> Outcome:
        try:
            result, error, text = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self.kill()
            message = f"the process of run number {index} was killed (exit code {self.process.exitcode})"
            return Outcome(index, error=RuntimeError(f"{message}: is there too little memory for it?"))
        if error is not None:
            error.__cause__ = RuntimeError(f"in a worker process\n{text}")
        return Outcome(index, result, error)

    def kill(self) -> None:
        self.connection.close()
        with suppress(psutil.NoSuchProcess):
            psutil.Process(self.process.pid).kill()
        self.process.join(5)


_idle: list[_Worker] = []


@atexit.register
def _dismiss() -> None:
    """Kill the workers that wait for a next call."""
    while _idle:
        _idle.pop().kill()


def _serve(connection: Connection, parent: int) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it decides
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    function = None
    while connection.poll(IDLE_SECONDS):
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            code, arguments = pickle.loads(message)
            if code is not None:
                function = None  # if the new one cannot be loaded, the old one must not run
                function = pickle.loads(code)
            reply = cloudpickle.dumps((function(*arguments), None, ""))
        except Exception as error:
            reply = cloudpickle.dumps((None, _portable(error), traceback.format_exc()))
        connection.send_bytes(reply)


def _portable(error: Exception) -> Exception:
    """The error, or what can be said of it where it does not survive the way to another process."""
    try:
        return pickle.loads(cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _leave_with(parent: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    os._exit(1)

"""Runs side by side give what a loop gives, in order; errors come through; nothing hangs."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest
import torch

from helpers import PROJECT_ROOT
from helpers.experiments import parallel, run_all, worker_count

PATIENCE = 150  # seconds; a test of this file takes a few, starting workers on a busy machine some more


@pytest.fixture(autouse=True)
def _watchdog():
    """Should a pool ever hang: the stack of every thread, and the end of this process."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def two_workers(monkeypatch):
    monkeypatch.setenv("CTG_WORKERS", "2")


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_same_results_and_order_as_a_loop(two_workers):
    scale = torch.tensor(3.0)

    def run(a, b):
        return (scale * a + b).item(), os.getpid(), torch.get_num_threads()

    plan = [(i, 10 * i) for i in range(11)]
    results = run_all(run, plan)
    assert [r[0] for r in results] == [13.0 * i for i in range(11)]
    assert os.getpid() not in {r[1] for r in results}
    assert {r[2] for r in results} == {1}


def test_a_function_that_a_notebook_has_wrapped_in_a_cache_goes_to_the_workers_with_it(two_workers):
    notebook = {"__name__": "__main__"}
    exec(
        "import functools, os, uuid\n"
        "@functools.lru_cache(1)\ndef draw(seed):\n    return uuid.uuid4().hex\n"
        "def run(seed):\n    return os.getpid(), draw(seed), draw.cache_parameters()['maxsize']",
        notebook,
    )
    drawn = run_all(notebook["run"], [(7,)] * 6)
    assert os.getpid() not in {process for process, _, _ in drawn}
    assert len({draw for _, draw, _ in drawn}) == len({process for process, _, _ in drawn})  # once in each
    assert {size for _, _, size in drawn} == {1}


def test_one_worker_or_an_accelerator_stays_in_this_process(monkeypatch):
    plan = [(), (), ()]
    monkeypatch.setenv("CTG_WORKERS", "1")
    assert set(run_all(os.getpid, plan)) == {os.getpid()}
    monkeypatch.setenv("CTG_WORKERS", "2")
    assert set(run_all(os.getpid, plan, device=torch.device("cuda", 0))) == {os.getpid()}
    assert run_all(os.getpid, []) == []


def test_a_run_on_the_cpu_has_one_thread_wherever_it_runs(monkeypatch):
    monkeypatch.setenv("CTG_WORKERS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert run_all(torch.get_num_threads, [()] * 2) == [1, 1]
        assert run_all(torch.get_num_threads, [()] * 2, device="cuda") == [3, 3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_a_run_is_raised_here_with_where_it_happened(two_workers):
    def run(i):
        if i == 3:
            raise ValueError("run three failed")
        return i

    with pytest.raises(ValueError, match="run three failed") as caught:
        run_all(run, [(i,) for i in range(6)])
    assert "in run" in str(caught.value.__cause__)
    assert run_all(run, [(0,), (1,)]) == [0, 1]


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize("error", [Odd(1, 2), ValueError(threading.Lock())], ids=["arguments", "content"])
def test_an_error_that_cannot_travel_is_told(two_workers, error):
    def run(made):
        raise made()

    make = (lambda: Odd(1, 2)) if isinstance(error, Odd) else (lambda: ValueError(threading.Lock()))
    with pytest.raises(RuntimeError, match=type(error).__name__):
        run_all(run, [(make,), (make,)])


def test_a_function_or_result_that_cannot_travel_is_an_error_and_not_a_wait(two_workers):
    lock = threading.Lock()
    with pytest.raises(TypeError, match="pickle"):
        run_all(lambda i: lock, [(0,), (1,)])
    with pytest.raises(TypeError, match="pickle"):
        run_all(lambda i: threading.Lock(), [(0,), (1,)])


def test_a_killed_worker_is_an_error_at_once_and_the_others_go_on(two_workers):
    def run(i):
        if i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    run_all(abs, [(1,), (2,)])  # so that starting processes does not count below
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"run number 1 was killed \(exit code -9\)"):
        run_all(run, [(i,) for i in range(4)])
    assert time.monotonic() - start < 15
    found = {o.index: o for o in parallel.outcomes(run, [(i,) for i in range(4)])}
    assert [found[i].result for i in (0, 2, 3)] == [0, 2, 3]
    assert isinstance(found[1].error, RuntimeError)


def test_twenty_pools_in_a_row_use_two_processes(two_workers):
    processes = set()
    for i in range(20):
        found = run_all(lambda a, i=i: (a + i, os.getpid()), [(a,) for a in range(4)])
        assert [value for value, _ in found] == [a + i for a in range(4)]
        processes |= {pid for _, pid in found}
    assert len(processes) <= 2
    parallel._dismiss()
    assert wait_until(lambda: not any(map(is_running, processes)))


def test_idle_workers_leave(two_workers, monkeypatch):
    pids = set(run_all(os.getpid, [()] * 4))
    monkeypatch.setattr(parallel, "_REUSED_WITHIN", 0)  # as if they had waited for a minute
    assert not pids & set(run_all(os.getpid, [()] * 4))
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_an_interrupt_ends_the_workers(two_workers):
    pids = run_all(os.getpid, [()] * 4)  # those that will work
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_all(time.sleep, [(600,), (600,)])
    assert wait_until(lambda: not any(map(is_running, pids)))
    assert run_all(abs, [(-1,), (-2,)]) == [1, 2]


SCRIPT = """
import os, sys, time
from helpers.experiments import run_all
os.environ["CTG_WORKERS"] = "2"
def run(seconds):
    time.sleep(seconds)
    return os.getpid()
print(*run_all(run, [(0.2,)] * 4), flush=True)
if len(sys.argv) > 1:
    run_all(run, [(600,), (600,)])
"""


def test_a_script_that_used_workers_ends_at_once():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=PATIENCE
    )  # would wait for a worker that held its pipes
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(is_running(int(pid)) for pid in done.stdout.split())
    assert time.monotonic() - start < parallel.IDLE_SECONDS


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_leave_with_the_process_that_started_them(ending):
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "stay"],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 4
    time.sleep(0.5)
    assert all(map(is_running, pids))
    parent.send_signal(ending)
    assert parent.wait(20) != 0
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_workers_are_as_many_as_this_process_may_use(monkeypatch):
    monkeypatch.delenv("CTG_WORKERS", raising=False)
    assert 1 <= worker_count() <= os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            assert worker_count() == 1
        finally:
            os.sched_setaffinity(0, allowed)
    monkeypatch.setenv("CTG_WORKERS", "7")
    assert worker_count() == 7
    monkeypatch.setenv("CTG_WORKERS", " ")
    assert worker_count() <= os.cpu_count()
    for nonsense in ("many", "0", "-1", "2.5"):
        monkeypatch.setenv("CTG_WORKERS", nonsense)
        with pytest.raises(ValueError, match=f"CTG_WORKERS is '{nonsense}'; expected a number"):
            worker_count()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 5),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 5),
    ],
)
def test_the_quota_of_a_container_counts(monkeypatch, files, cores):
    there = {f"/sys/fs/cgroup/{name}": content for name, content in files.items()}
    exists, read = os.path.exists, open

    def look(path):
        return path in there if str(path).startswith("/sys/fs/cgroup") else exists(path)

    def fetch(path, *more, **options):
        return io.StringIO(there[path]) if path in there else read(path, *more, **options)

    monkeypatch.delenv("CTG_WORKERS", raising=False)
    monkeypatch.setattr(os.path, "exists", look)
    monkeypatch.setattr("builtins.open", fetch)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)
    assert worker_count() == cores


def test_seconds_come_one_per_round_and_in_turn():
    from helpers.experiments import in_turn

    order = []
    actions = {"slow": lambda: (order.append("slow"), time.sleep(0.02)), "fast": lambda: order.append("fast")}
    times = in_turn(actions, rounds=3)
    assert {name: len(seconds) for name, seconds in times.items()} == {"slow": 3, "fast": 3}
    assert order == ["slow", "fast"] * 4  # the first round warms up
    assert min(times["slow"]) >= 0.02 > max(times["fast"])

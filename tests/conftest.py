"""Settings for every test: one core per worker, and where the real data sets are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers import PROJECT_ROOT

if TYPE_CHECKING:
    import torch

# A shell starts what runs in its background with interrupts ignored, and whatever that starts inherits it: a
# test that interrupts a run would wait for its end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Kernels that tests start inherit these; numerical libraries read theirs when they load. Without them each
# worker of pytest-xdist would start as many threads and processes as there are cores.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "CTG_WORKERS"):
        os.environ.setdefault(name, "1")

LONGEST_FIRST = (
    *("test_lab.py", "test_notebooks.py", "test_environment.py", "test_grid.py", "test_study.py"),
    "test_gpu.py",
    "test_experiments_parallel.py",
)
"""A worker takes a file as a whole, and has the next one waiting behind it: what takes minutes must neither
be the last nor wait behind another such file."""

LIGHT_TORCH = """\
class cuda:
    is_available = staticmethod(lambda: False)
class backends:
    mps = cuda
get_num_threads = lambda: 1
set_num_threads = lambda count: None
"""

CTG_DATA = os.environ.get("CTG_DATA")  # before any test sets it for its own ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of LONGEST_FIRST, in that order, then the others as they were."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is not None:
        import torch  # seconds to load

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device is here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The same test on the CPU and, where there is one, on a GPU, without TF32's rounding."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield torch.device(request.param)


@pytest.fixture
def ctg_data() -> Path:
    """Folder of the real data sets; skips the test where the environment variable CTG_DATA names none."""
    if not CTG_DATA:
        pytest.skip("CTG_DATA is not set: it names the folder of the real data sets")
    from helpers.data import data_root  # loads torch, which few tests need

    if not (folder := data_root(CTG_DATA)).is_dir():
        pytest.skip(f"CTG_DATA={CTG_DATA!r} is no folder")
    return folder.resolve()


@pytest.fixture
def light_processes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes without torch and a grammar of IRIs: both take seconds to load, small notebooks need none."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "torch.py").write_text(LIGHT_TORCH)
    (folder / "rfc3987_syntax.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{PROJECT_ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a cell of a grid must not take this from its surroundings

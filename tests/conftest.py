"""Settings for every test: one core per worker, and where the real data sets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Kernels that tests start inherit these; numerical libraries read theirs when they load. Without them each
# worker of pytest-xdist would start as many threads and processes as there are cores.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "CTG_WORKERS"):
        os.environ.setdefault(name, "1")

LONGEST_FIRST = ("test_lab.py", "test_notebooks.py", "test_files.py", "test_environment.py", "test_grid.py")
"""A worker takes a file as a whole, and has the next one waiting behind it: what takes minutes must neither
be the last nor wait behind another such file."""

CTG_DATA = os.environ.get("CTG_DATA")  # before any test sets it for its own ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of LONGEST_FIRST, in that order, then the others as they were."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture
def ctg_data() -> Path:
    """Folder of the real data sets; skips the test where the environment variable CTG_DATA names none."""
    if not CTG_DATA:
        pytest.skip("CTG_DATA is not set: it names the folder of the real data sets")
    from helpers.data import data_root  # loads torch, which few tests need

    if not (folder := data_root(CTG_DATA)).is_dir():
        pytest.skip(f"CTG_DATA={CTG_DATA!r} is no folder")
    return folder.resolve()

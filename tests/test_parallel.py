"""Runs side by side give what a loop gives, in order; errors come through."""

from __future__ import annotations

import os

import pytest
import torch

from helpers.experiments.parallel import run_all


@pytest.fixture
def two_workers(monkeypatch):
    monkeypatch.setenv("CTG_WORKERS", "2")


def test_same_results_and_order_as_a_loop(two_workers):
    scale = torch.tensor(3.0)

    def run(a, b):
        return (scale * a + b).item(), os.getpid(), torch.get_num_threads()

    plan = [(i, 10 * i) for i in range(11)]
    results = run_all(run, plan)
    assert [r[0] for r in results] == [13.0 * i for i in range(11)]
    assert os.getpid() not in {r[1] for r in results}
    assert {r[2] for r in results} == {1}


def test_one_worker_or_an_accelerator_stays_in_this_process(monkeypatch):
    plan = [(), (), ()]
    monkeypatch.setenv("CTG_WORKERS", "1")
    assert set(run_all(os.getpid, plan)) == {os.getpid()}
    monkeypatch.setenv("CTG_WORKERS", "2")
    assert set(run_all(os.getpid, plan, device="cuda")) == {os.getpid()}
    assert run_all(os.getpid, []) == []


def test_an_error_in_a_run_is_raised_here(two_workers):
    def run(i):
        if i == 3:
            raise ValueError("run three failed")
        return i

    with pytest.raises(ValueError, match="run three failed"):
        run_all(run, [(i,) for i in range(6)])

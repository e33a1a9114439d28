"""Each benchmark runs to its end on tiny sizes and writes figures that hold together."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from helpers import PROJECT_ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a benchmark's main() on the CPU; gives its module and its report."""
    monkeypatch.syspath_prepend(PROJECT_ROOT / "benchmarks")

    def run(name: str, *options: str) -> tuple[ModuleType, dict]:
        module = importlib.import_module(name)
        path = tmp_path / "figures" / "report.json"
        monkeypatch.setattr(
            sys, "argv", [name, "--device", "cpu", "--threads", "1", "--json", str(path), *options]
        )
        threads = torch.get_num_threads()
        try:
            with torch.random.fork_rng():
                module.main()
        finally:
            torch.set_num_threads(threads)
        report = json.loads(path.read_text(encoding="utf-8"))
        assert report["device"].startswith("cpu: ")
        assert report["torch"] == torch.__version__
        return module, report

    return run


def measured(report: dict) -> dict[str, float]:
    """The figures by what they measure, all of them there and finite."""
    assert not [row["what"] for row in report["rows"] if row["measured"] is None]
    figures = {row["what"]: row["measured"] for row in report["rows"]}
    assert len(figures) == len(report["rows"]) > 0
    assert all(map(math.isfinite, figures.values()))
    return figures


def test_svmax_routes(benchmark):
    _, report = benchmark("svmax_routes", "--quick")
    assert [(row["B"], row["D"]) for row in report["rows"]] == [(12, 3), (3, 12)]
    for row in report["rows"]:
        assert min(row["svd_ms"], row["gram_ratio"], row["polar_ratio"]) > 0


def test_two_head_losses(benchmark):
    """Also what the figures are for: memory of the cubic definition grows faster than that of ours."""
    module, report = benchmark("two_head_losses", "--quick", "--repeats", "1")
    figures = measured(report)
    growth = {what.split(", ")[2].split(":")[0]: figure for what, figure in figures.items()
              if what.startswith("semi-hard, classes of 4, ") and "grows" in what}  # fmt: skip
    assert growth[module.OURS] < 2 < growth[module.CUBE]
    assert module.exponent([(b, 3 * b**2.5) for b in (16, 32, 64)]) == pytest.approx(2.5)


def test_a_rival_that_fails_is_left_out_and_ours_is_measured(benchmark, monkeypatch):
    module = importlib.import_module("two_head_losses")

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nand much more")

    monkeypatch.setattr(module, "cubed", fails)
    monkeypatch.setattr(module, "assert_equal", lambda: None)
    _, report = benchmark("two_head_losses", "--quick", "--repeats", "1")
    skipped = {point["route"]: point["skipped"] for point in report["curve"] if "skipped" in point}
    assert skipped == {
        module.CUBE: "OutOfMemoryError: CUDA out of memory",
        module.CUBE_LEAN: skipped[module.CUBE],
    }
    assert all(point["ms"] > 0 for point in report["curve"] if point["route"] in (module.OURS, module.PML))


def test_two_head_steps(benchmark):
    module, report = benchmark("two_head_steps", "resnet18", "--quick")
    figures = measured(report)
    assert len(figures) == 5
    assert all(what.startswith("step, resnet18, 64 px, batch 8, fp32: ") for what in figures)
    assert all(0 < row["pooled_weights"] <= row["unpooled_weights"] for row in report["rows"])
    calls = {"short": lambda: torch.ones(1), "long": lambda: torch.rand(200, 200) @ torch.rand(200, 200)}
    assert module.rounds_within(0.0, calls, torch.device("cpu"), 3, 50) == 3
    assert module.rounds_within(1e9, calls, torch.device("cpu"), 3, 50) == 50


def test_l2_caf_speed(benchmark):
    _, report = benchmark("l2_caf_speed", "--quick")
    figures = measured(report)
    assert {what[:3] for what in figures} == {"(a)", "(b)", "(c)", "(d)", "(e)", "(f)", "(g)"}
    assert min(figures.values()) > 0

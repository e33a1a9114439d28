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
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus

from helpers import PROJECT_ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a benchmark's main() on the CPU, with other constants; gives its module and its report."""
    monkeypatch.syspath_prepend(PROJECT_ROOT / "benchmarks")

    def run(name: str, *options: str, **constants: object) -> tuple[ModuleType, dict]:
        module = importlib.import_module(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
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
    _, report = benchmark("svmax_routes", "--repeats", "1", SHAPES=[(12, 3), (3, 12)])
    assert [(row["B"], row["D"]) for row in report["rows"]] == [(12, 3), (3, 12)]
    for row in report["rows"]:
        assert min(row["svd_ms"], row["gram_ratio"], row["polar_ratio"]) > 0


def test_two_head_speed(benchmark):
    """Also what the figures are for: memory of the cubic definition grows faster than that of ours."""
    module, report = benchmark("two_head_speed", "--quick", "--repeats", "1")
    figures = measured(report)
    growth = {what.split(", ")[2].split(":")[0]: figure for what, figure in figures.items()
              if what.startswith("semi-hard, classes of 4, ") and "grows" in what}  # fmt: skip
    assert growth[module.OURS] < 2 < growth[module.CUBE]
    assert sum("over plain" in row["unit"] for row in report["rows"]) == 5
    assert module.exponent([(b, 3 * b**2.5) for b in (16, 32, 64)]) == pytest.approx(2.5)


def test_l2_caf_speed(benchmark):
    """Without Score-CAM, whose hundreds of forward passes no size makes fast."""
    package = {"Grad-CAM": GradCAM, "Grad-CAM++": GradCAMPlusPlus}
    _, report = benchmark(
        "l2_caf_speed", "--repeats", "1", SIDE=64, BATCH=2, ALONE=2, STEPS=2, PACKAGE=package,
        NETWORKS={"resnet18": "layer4", "timm/convnext_atto": "stages"},
    )  # fmt: skip
    figures = measured(report)
    assert {what[:3] for what in figures} == {"(a)", "(b)", "(c)", "(d)", "(e)", "(f)"}
    assert min(figures.values()) > 0

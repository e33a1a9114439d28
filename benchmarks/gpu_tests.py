"""Run the tests that have a GPU in them, and keep what they said.

    python benchmarks/gpu_tests.py [--device cuda] [--quick] [--json FILE]

On CUDA the tests marked `cuda`; on a CPU the same bodies there, in a trial those of a few. The report is
written after every test, so that one that hangs or kills the process takes nothing with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from _timing import Row, arguments_of, started, write

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/test_devices_losses.py", "tests/test_devices_methods.py")
TRIAL = "(semi-hard and not compiled) or two_heads or measures or goes_on"  # compiling takes a minute


class Report:
    """A pytest plugin that writes down how each test ended."""

    def __init__(self, path: Path | None, device: torch.device) -> None:
        self.path, self.device, self.complete = path, device, False
        self.ended: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
        self.why: Row = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.removeprefix("tests/")
        self.ended[report.outcome].append(name)
        if report.failed:
            self.why[name] = str(report.longrepr)[-1500:]
        self.write()

    def pytest_sessionfinish(self) -> None:
        self.complete = True
        self.write()

    def write(self) -> None:
        if self.path is not None:
            counts = {outcome: len(names) for outcome, names in self.ended.items()}
            head = {"what": "tests of methods and losses on a device", "complete": self.complete} | counts
            packages = ["torchvision", "pytorch-metric-learning"]
            write(self.path, head, packages, self.device, failures=self.why, names=self.ended["passed"])


def main() -> int:
    arguments, device = started(arguments_of(__doc__, None))
    chosen = ["-m", "cuda" if device.type == "cuda" else "not cuda"]
    if arguments.quick:
        chosen += ["-k", TRIAL]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={ROOT}", "--show-capture=no"]
    report = Report(arguments.json, device)
    files = [str(ROOT / name) for name in TESTS]
    status = int(pytest.main([*options, *chosen, *files], plugins=[report]))
    if status == 0 and not report.ended["passed"]:
        raise SystemExit("no test ran: their names no longer fit this script")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Run steps one after the other, each in a process of its own, and remember which are done.

Whenever this is stopped, every file it has written is complete: `build/gpu/NAME.json` says how a step ended,
`NAME.log` what it printed, and `build/gpu.tar.gz` holds all that is worth carrying to another machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
from _gpu_plan import Step

from helpers.files import write_atomically

KEPT = (
    "build/gpu/*.json", "build/gpu/*.log", "build/grids/*_gpu", "data/cache/results", "reproduce/grids",
    "reproduce/results/*_gpu.json", "reproduce/evidence/*_gpu.json",
)  # fmt: skip
"""What a second run goes on from, and what the run has found."""
SHORTEST = 30
"""Seconds below which no step is begun."""


class Runner:
    """Runs steps until the time is up.

    Args:
        root: the project, or the copy of it for a trial.
        device: on which it runs; what was done on another is done again.
        seconds: of the whole run.
    """

    def __init__(self, root: Path, device: str, seconds: float) -> None:
        self.root, self.device, self.end = root, device, time.monotonic() + seconds
        self.folder = root / "build" / "gpu"
        self.process: subprocess.Popen | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, steps: list[Step]) -> int:
        """Run what is left of the steps, say what is left then; 0 when all are done."""
        signal.signal(signal.SIGTERM, self._stopped)
        for step in steps:
            left = self.end - time.monotonic()
            if self.done(step):
                print(f"{step.name}: done before", flush=True)
            elif step.needs and not (self.root / step.needs).is_dir():
                print(f"{step.name}: left out, {step.needs} is not there (data/README.md)", flush=True)
            elif left < SHORTEST:
                print(f"{step.name}: no time left", flush=True)
            else:
                self._run(step, min(60 * step.limit, left))
        rest = [step for step in steps if not self.done(step)]
        minutes = sum(step.minutes for step in rest)
        print(
            f"left: {', '.join(step.name for step in rest)}, about {minutes:.1f} minutes; the same command "
            "goes on" if rest else "all done", flush=True,
        )  # fmt: skip
        return int(bool(rest))

    def done(self, step: Step) -> bool:
        """Whether this very command has ended well on this kind of device."""
        try:
            record = json.loads((self.folder / f"{step.name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return record["ended"] == "well" and record["arguments"] == self._arguments(step)

    def _arguments(self, step: Step) -> list[str]:
        return [word.replace(str(self.root), "") for word in step.command[2:]]

    def _run(self, step: Step, limit: float) -> None:
        print(f"{step.name}: {step.what}, at most {limit / 60:.1f} minutes", flush=True)
        began, log = time.monotonic(), self.folder / f"{step.name}.log"
        with log.open("w", encoding="utf-8") as file, Watch() as watch:
            self.process = subprocess.Popen(
                step.command, stdout=file, stderr=subprocess.STDOUT, cwd=self.folder.parent.parent
            )
            try:
                status = self.process.wait(limit)
                ended = "well" if status == 0 else f"with status {status}"
            except subprocess.TimeoutExpired:
                ended = "stopped at its limit"
            finally:
                self._kill()
        seconds = round(time.monotonic() - began, 1)
        record = {
            "step": step.name, "ended": ended, "seconds": seconds, "limit": round(limit),
            "device": self.device, "arguments": self._arguments(step), "gpu": watch.seen(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_atomically(self.folder / f"{step.name}.json", json.dumps(record, indent=1) + "\n")
        self._pack()
        used = "".join(f", {what} {value}" for what, value in record["gpu"].items())
        print(f"{step.name}: ended {ended} after {seconds} s{used}", flush=True)
        if ended != "well":
            print(_last_lines(log), flush=True)

    def _pack(self) -> None:
        """All of KEPT in one file, to be unpacked in the project's folder; whole or not at all."""
        target = self.root / "build" / "gpu.tar.gz"
        part = target.with_suffix(".part")
        with tarfile.open(part, "w:gz") as archive:
            for pattern in KEPT:
                for path in sorted(self.root.glob(pattern)):
                    archive.add(path, path.relative_to(self.root))
        os.replace(part, target)

    def _kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            kill_with_children(self.process.pid)
            self.process.wait()

    def _stopped(self, *_: Any) -> None:
        self._kill()
        raise SystemExit("stopped; the same command goes on")


def kill_with_children(pid: int) -> None:
    """End a process and all that it has started, such as a notebook's kernel and its workers."""
    try:
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


def _last_lines(log: Path, count: int = 15) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line[:200]}" for line in lines[-count:])


class Watch:
    """Asks nvidia-smi every few seconds how busy the GPU is; sees nothing where there is none."""

    def __enter__(self) -> Watch:
        self.samples: list[tuple[float, float]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(10)

    def _look(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        while not self.over.is_set():
            try:
                said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout
                busy, memory = said.splitlines()[0].split(",")
                self.samples.append((float(busy), float(memory)))
            except (OSError, ValueError, IndexError, subprocess.SubprocessError):
                return
            self.over.wait(2)

    def seen(self) -> dict[str, float]:
        """Mean share of the time in which the GPU worked, in per cent, and the most memory, in MiB."""
        if not self.samples:
            return {}
        busy, memory = zip(*self.samples, strict=True)
        return {"busy %": round(mean(busy), 1), "most MiB": max(memory)}

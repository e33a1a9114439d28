"""What there is to do on a GPU, as data: the most valuable first, 25 minutes in all."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GROCERY = "data/grocery"
QUICK_STUDIES = {
    "02": {
        "seeds": 2, "generations": 2, "species": 5, "per_class": 4, "per_test": 4, "epochs": 2,
        "digit_epochs": 1, "retrieval_epochs": 1,
    },
    "05": {
        "seeds": 2, "species": 6, "per_species": 16, "unseen": 8, "per_test": 4, "steps": 20,
        "embedding_dim": 8,
    },
}  # fmt: skip
"""Parameters with which a study takes seconds."""


@dataclass(frozen=True)
class Step:
    """One process: a name, what it finds out, the minutes it is thought to take, and its command.

    Attributes:
        limit: minutes after which it is stopped; what it has finished by then is kept.
        needs: a folder of the project without which it cannot run.
    """

    name: str
    what: str
    minutes: float
    command: tuple[str, ...]
    limit: float
    needs: str = ""


def plan(quick: bool, device: str, root: Path = HERE.parent) -> list[Step]:
    """All steps; their results are written in `root`."""
    results, tiny = root / "reproduce" / "results", ("--quick",) * quick
    more = 10 if quick else 1  # a trial is not about time

    def script(name: str, *options: str) -> tuple[str, ...]:
        return (sys.executable, str(HERE / f"{name}.py"), *options)

    def step(name: str, what: str, minutes: float, benchmark: str, *options: str) -> Step:
        to = ("--device", device, "--json", str(results / f"{name}_gpu.json"), *tiny)
        return Step(name, what, minutes, script(benchmark, *options, *to), 2 * minutes * more)

    def study(chapter: str, what: str, minutes: float, needs: str = "") -> Step:
        command = script("gpu_study", chapter, "--root", str(root))
        return Step(f"study_{chapter}", what, minutes, command, 1.5 * minutes * more, "" if quick else needs)

    networks = ("resnet18",) if quick else ("resnet50", "densenet161", "inception_v3")
    return [
        step("cuda_tests", "every method and loss against its CPU value", 3, "gpu_tests"),
        *(
            step(f"two_head_{network}", f"what a second head adds to a step of {network}", 1.5,
                 "two_head_steps", network)
            for network in networks
        ),
        step("two_head_losses", "ranking losses against PML and B x B x B, up to B = 8192", 1.5,
             "two_head_losses"),
        step("l2_caf_speed", "L2-CAF on GoogLeNet and eleven more networks", 2, "l2_caf_speed"),
        step("svmax_routes", "routes to the mean singular value", 0.5, "svmax_routes"),
        step("seconds_per_step", "a training step of each of the thesis's grids, for its cost", 1,
             "seconds_per_step", "--root", str(root)),
        study("05", "two heads on an ImageNet network, birds of 96 px, six seeds", 7),
        study("02", "Knowledge Evolution of ResNet-18, groceries of 112 px, six seeds", 5.5, GROCERY),
    ]  # fmt: skip


def table(steps: list[Step]) -> str:
    """The plan with its minutes, for a terminal."""
    wide = max(len(step.name) for step in steps)
    lines = [f"{step.name:<{wide}}  {step.minutes:>5.1f} min  {step.what}" for step in steps]
    return "\n".join([*lines, f"{'in all':<{wide}}  {sum(step.minutes for step in steps):>5.1f} min"])

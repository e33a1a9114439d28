"""Settings of an arm, chosen on validation images with seeds that do not count afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers.experiments.arms import Arm
from helpers.experiments.sweep import RunFunction, sweep

if TYPE_CHECKING:
    import torch


def tune(
    arm: Arm,
    run: RunFunction,
    settings: Mapping[str, Sequence[Any]],
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    choose: str,
    device: torch.device | str = "cpu",
) -> Arm:
    """The arm with the combination of settings whose mean of `choose` is the highest, each at its best rate.

    The trials are a sweep called "tuning ARM"; a trial's name is its values: "0.3, 0.2". Without seeds the
    arm comes back as it is.

    Args:
        settings: values to combine, by name of the setting.
        choose: a metric of validation images, never of test images.
    """
    if not len(seeds):
        return arm
    combinations = [
        dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())
    ]
    trials = [
        Arm(", ".join(f"{v:g}" for v in c.values()), arm.color, **arm.settings | c) for c in combinations
    ]
    name = f"tuning {arm.name}"
    found = sweep(name, run, arms=trials, rates=rates, seeds=seeds, choose=choose, device=device)
    best = max(trials, key=lambda trial: found.values(trial, choose).mean())
    return Arm(arm.name, arm.color, **best.settings)

"""Comparisons that look beyond each arm's own learning rate, and beyond the length of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.experiments.arms import Arm
from helpers.experiments.comparison import Gate, Paired
from helpers.experiments.results import Results
from helpers.experiments.sweep import RunFunction, sweep

if TYPE_CHECKING:
    import torch


def at_rate(results: Results, rate: float) -> Results:
    """The same runs with `rate` as every arm's; ValueError when the sweep had no such rate."""
    there = sorted(results.table["rate"].unique())
    if rate not in there:
        raise ValueError(f"no rate {rate:g} in {results.name!r}; there are {there}")
    chosen = dict.fromkeys(results.chosen, rate)
    return Results(results.name, results.arms, results.table, chosen, results._items, results.source)


def over_rates(results: Results, rates: Sequence[float], arm: Arm, other: Arm, metric: str) -> Paired:
    """Arm minus the other, each metric a mean over the same rates; by seed and test item."""
    found = [at_rate(results, rate) for rate in rates]
    differences = [
        [ours - theirs for ours, theirs in zip(at.items(arm, metric), at.items(other, metric), strict=True)]
        for at in found
    ]
    return Paired.of([np.mean(of_seed, axis=0) for of_seed in zip(*differences, strict=True)])


def own_rates(
    results: Results, rates: Sequence[float], arm: Arm, other: Arm, metric: str, choose: str
) -> Paired:
    """Arm at the best of some rates, by the mean of `choose`, minus the other at the rate it chose of all."""
    best = max((at_rate(results, rate) for rate in rates), key=lambda found: found.values(arm, choose).mean())
    pairs = zip(best.items(arm, metric), results.items(other, metric), strict=True)
    return Paired.of([ours - theirs for ours, theirs in pairs])


def learned(results: Results, arms: Sequence[Arm], metric: str, chance: float) -> Gate:
    """Whether every one of the arms reaches three times chance at its chosen rate."""
    times = {arm.name: results.values(arm, metric).mean() / chance for arm in arms}
    said = ", ".join(f"{name} {value:.1f}" for name, value in times.items())
    return Gate("learned", bool(min(times.values()) >= 3), f"{metric} in times of chance: {said}")


def converged(
    results: Results,
    run: RunFunction,
    arms: Sequence[Arm],
    metric: str,
    *,
    chance: float,
    smallest: float,
    device: torch.device | str = "cpu",
) -> Gate:
    """Whether the arms reach three times chance, and twice the steps add less than `smallest` to any.

    Runs each arm, which must have a setting `times`, once more with ``times=2``, at its chosen rate and with
    the same seeds.
    """
    reached, added = learned(results, arms, metric, chance), {}
    for arm in arms:
        seeds = results.at_chosen(metric)["seed"].unique().tolist()
        twice = Arm(arm.name, arm.color, **arm.settings | {"times": 2})
        name = f"twice {results.name}, {arm.name}"
        more = sweep(name, run, arms=[twice], rates=[results.chosen[arm.name]], seeds=seeds, device=device)
        added[arm.name] = more.values(arm, metric).mean() - results.values(arm, metric).mean()
    said = ", ".join(f"{name} {gain:+.3f}" for name, gain in added.items())
    held = bool(reached.passed and max(added.values()) < smallest)
    return Gate("converged", held, f"{reached.text}; twice the steps add: {said}")

"""Run every arm at every rate with every seed: side by side, each run kept by itself, one table out."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.experiments.arms import Arm
from helpers.experiments.cache import CACHE, entry, keep, read
from helpers.experiments.fingerprint import fingerprint
from helpers.experiments.parallel import outcomes
from helpers.experiments.progress import Progress, duration
from helpers.experiments.results import Results, Run

if TYPE_CHECKING:
    import torch

TABLE_MIME = "application/vnd.closing-the-gap.table+json"
_NAMED_FAILURES = 5

Place = tuple[Arm, int, float]
RunFunction = Callable[[Arm, int, float], Mapping[str, Any]]


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the others are kept, and `__cause__` is the first error."""


def sweep(
    name: str,
    run: RunFunction,
    *,
    arms: Sequence[Arm],
    rates: Sequence[float],
    seeds: Sequence[int],
    choose: str | None = None,
    device: torch.device | str = "cpu",
    folder: Path = CACHE,
) -> Results:
    """``run(arm, seed, rate)`` for all of them; what has run before, and is unchanged, is not run again.

    Args:
        name: of the sweep, in the cache and in the evidence.
        run: gives a dict of metric -> value: a number; one value per test item (a sequence or 1-D tensor,
            whose mean is the metric); or a curve as a dict of step -> number.
        rates: learning rates. With several, each arm gets the one with the highest mean of `choose` over the
            seeds: a metric of validation images, never of test images.
        device: on a CPU the runs are spread over the cores, elsewhere they follow each other.

    Raises:
        SweepError: runs failed; it names them, the others have finished and are kept.
        ValueError: two arms share a name, there is nothing to run, or several rates and no `choose`.
        TypeError: `run` reaches something whose content cannot be compared (see `fingerprint`).
    """
    _check(arms, rates, seeds, choose)
    code = fingerprint(run, "run")
    places = [(arm, seed, rate) for seed in seeds for arm in arms for rate in rates]
    paths = [entry(name, fingerprint([code, str(device), *p], p[0].name), folder) for p in places]
    found: list[Run | None] = [read(path)[1] for path in paths]
    missing = [i for i, kept in enumerate(found) if kept is None]
    progress = Progress(name, len(missing))
    try:
        failed = []
        with closing(outcomes(_Measured(run, code), [places[i] for i in missing], device=device)) as done:
            for index, result, error in done:
                i = missing[index]
                if error is None:
                    found[i] = keep(paths[i], result)
                else:
                    failed.append((places[i], error))
                progress.step(_said(places[i]))
        if failed:
            raise _error(failed, len(places)) from failed[0][1]
        results = Results.of_runs(name, arms, dict(zip(places, found, strict=True)), choose)
    except BaseException:
        finished = sum(run is not None for run in found)
        text = f"{name}: {finished} of {len(places)} runs are finished, and kept for the next time"
        progress.close({"text/plain": text})
        raise
    progress.close(_bundle(results, len(places), len(missing), progress.seconds))
    return results


def _check(arms: Sequence[Arm], rates: Sequence[float], seeds: Sequence[int], choose: str | None) -> None:
    for what, given in {"arms": arms, "rates": rates, "seeds": seeds}.items():
        keys = [arm.name if isinstance(arm, Arm) else arm for arm in given]
        if not keys:
            raise ValueError(f"{what} is empty: there is nothing to run")
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{what} holds {twice[0]!r} twice")
    if len(rates) > 1 and choose is None:
        raise ValueError(f"rates are {list(rates)}: name in choose= the validation metric that decides")


class _Measured:
    """A run that gives JSON data, made by the code of who asked for it."""

    def __init__(self, run: RunFunction, code: str) -> None:
        self.run, self.code, self.is_same = run, code, None

    def __call__(self, arm: Arm, seed: int, rate: float) -> Run:
        if self.is_same is None:
            self.is_same = fingerprint(self.run, "run") == self.code
        if not self.is_same:
            raise RuntimeError(
                "this process found other code in helpers/ than the notebook has loaded: restart it"
            )
        return {metric: _plain(metric, value) for metric, value in self.run(arm, seed, rate).items()}


def _plain(metric: str, value: Any) -> float | list:
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return [[int(step), float(v)] for step, v in value.items()]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim > 1 or not array.size:
        raise TypeError(
            f"metric {metric!r} is {value!r:.80}; expected a number, one number per test item, or a dict of "
            "step -> number"
        )
    return float(array) if array.ndim == 0 else (array + 0).tolist()


def _said(place: Place) -> str:
    return f"{place[0].name}, rate {place[2]:g}, seed {place[1]}"


def _error(failed: Sequence[tuple[Place, Exception]], total: int) -> SweepError:
    lines = [
        f"arm {arm.name!r}, seed {seed}, rate {rate:g}: {type(error).__name__}: {error}"
        for (arm, seed, rate), error in failed[:_NAMED_FAILURES]
    ]
    more = [f"and {len(failed) - len(lines)} more"] if len(failed) > len(lines) else []
    head = f"{len(failed)} of {total} runs failed; the others have finished and are kept."
    return SweepError("\n".join([head, *lines, *more]))


def _bundle(results: Results, total: int, fresh: int, seconds: float) -> dict[str, Any]:
    runs = f"{total} run{'s' if total > 1 else ''} of {len(results.arms)} arm{'s' * (len(results.arms) > 1)}"
    kept = f" ({total - fresh} of them kept from before)" if 0 < fresh < total else ""
    text = f"{runs} in {duration(seconds)}{kept}" if fresh else f"{runs}, kept from before"
    payload = {"name": results.name, "table": results.columns(), "best": results.chosen}
    return {"text/plain": text, TABLE_MIME: payload}

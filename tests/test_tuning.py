"""Tuning picks by validation alone, a timed step is a step of gradient descent, dumbbells are means."""

from __future__ import annotations

import copy
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import plotting
from helpers.experiments import Arm, Results, sweep, training_step, tune

WEIGHTS, MARGINS, RATES, PILOTS = (0.3, 1.0, 3.0), (0.1, 0.2), (0.01, 0.1), range(500, 503)
ARM = Arm("semi-hard", "blue", weight=1.0, margin=0.2, own="embedding")
SPACE = {"weight": WEIGHTS, "margin": MARGINS}
seen: list[tuple] = []


def quality(weight: float, margin: float, rate: float, seed: int) -> float:
    """Best at weight 3 and margin 0.1, there at rate 0.01; one seed is misled."""
    misled = 0.05 * (seed == 500) * (weight == 0.3)
    return 0.5 + 0.1 * weight - margin + 0.2 * (rate == 0.01) * (weight == 3.0) + misled


def run(arm: Arm, seed: int, rate: float) -> dict:
    seen.append((arm.weight, arm.margin, arm.own, seed, rate))
    validation = quality(arm.weight, arm.margin, rate, seed)
    return {"validation accuracy": validation, "test accuracy": 1 - validation}  # the best is worst on test


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("CTG_WORKERS", "1")
    monkeypatch.delenv("CTG_CACHE", raising=False)
    monkeypatch.setattr("helpers.experiments.tuning.sweep", partial(sweep, folder=tmp_path))
    seen.clear()


def tuned(**changed) -> Arm:
    options = {"rates": RATES, "seeds": PILOTS, "choose": "validation accuracy"} | changed
    return tune(ARM, run, SPACE, **options)


def test_the_best_on_validation_is_chosen_whatever_the_test_says():
    best = tuned()
    assert best.settings == {"weight": 3.0, "margin": 0.1, "own": "embedding"}
    assert (best, best.color) == (ARM, "blue")  # the same arm, so that figures and tables know it
    assert ARM.settings == {"weight": 1.0, "margin": 0.2, "own": "embedding"}
    every = {(w, m, "embedding", s, r) for w in WEIGHTS for m in MARGINS for s in PILOTS for r in RATES}
    assert set(seen) == every
    assert len(seen) == len(every)


def test_the_choice_is_that_of_a_search_by_hand():
    means = {
        (w, m): max(np.mean([quality(w, m, r, s) for s in PILOTS]) for r in RATES)
        for w in WEIGHTS
        for m in MARGINS
    }
    best = tuned()
    assert (best.weight, best.margin) == max(means, key=means.get)


def test_a_choice_by_another_metric_is_another():
    best = tuned(choose="test accuracy")
    assert (best.weight, best.margin) == (0.3, 0.2)


def test_without_seeds_the_arm_comes_back():
    assert tuned(seeds=range(0)) is ARM
    assert seen == []


def test_trials_are_a_sweep_of_their_own(tmp_path, capsys):
    tuned()
    assert "36 runs of 6 arms" in capsys.readouterr().out
    kept = [file.name for file in tmp_path.iterdir()]
    assert len(kept) == 36
    assert all(name.startswith("tuning-semi-hard-") for name in kept)


# ---- one step, to be timed


def test_a_timed_step_is_a_step_of_gradient_descent():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout(0.0), nn.Linear(5, 3)).eval()
    twin = copy.deepcopy(model)
    images, labels = torch.randn(8, 3, 2, 2), torch.arange(8) % 3
    step = training_step(model, F.cross_entropy, images, labels)
    assert model.training  # as a step in training is
    for _ in range(3):  # gradients do not pile up
        assert step() is None
        slopes = torch.autograd.grad(F.cross_entropy(twin(images), labels), list(twin.parameters()))
        with torch.no_grad():
            for weight, slope in zip(twin.parameters(), slopes, strict=True):
                weight -= 0.01 * slope
        for one, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-7)


# ---- dumbbells


@pytest.fixture
def shown(monkeypatch):
    figures = []
    monkeypatch.setattr(plotting, "show", lambda figure, alt: figures.append((figure, alt)))
    yield figures
    plt.close("all")


def tail(values: dict[str, list[float]], source: str = "this run", seeds: int = 2) -> Results:
    """Accuracy at 3 and 12 training images of each arm; seeds lie 0.1 apart around it."""
    rows = [
        (arm, 0.1, seed, step, "accuracy", value + 0.1 * (seed - (seeds - 1) / 2))
        for arm, both in values.items()
        for seed in range(seeds)
        for step, value in zip((12, 3), both, strict=True)
    ]
    columns = zip(("arm", "rate", "seed", "step", "metric", "value"), zip(*rows, strict=True), strict=True)
    return Results.of_table("tail", dict(columns), {}, source)


def dots(figure) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(map(tuple, line.get_xydata().round(9))) for line in figure.axes[0].lines}


OWN = {"shuffled": [0.9, 0.3], "equal": [0.8, 0.5]}


def test_a_dumbbell_joins_the_means_of_the_arms_at_each_step(shown):
    tail(OWN).dumbbells("accuracy", "training images", title="Rare classes gain")
    ((figure, alt),) = shown
    (axes,) = figure.axes
    assert dots(figure) == {"shuffled": [(0.3, 0), (0.9, 1)], "equal": [(0.5, 0), (0.8, 1)]}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["3", "12"]
    segments = [np.round(s, 9).tolist() for s in axes.collections[0].get_segments()]
    assert segments == [[[0.3, 0], [0.5, 0]], [[0.8, 1], [0.9, 1]]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("accuracy (this run, 2 seeds)", "training images")
    assert alt == (
        "Rare classes gain. Accuracy against training images, mean over seeds: "
        "shuffled 0.30 at 3, 0.90 at 12; equal 0.50 at 3, 0.80 at 12."
    )


def test_kept_evidence_is_drawn_in_place_of_this_run(shown):
    kept = tail({"equal": [0.6, 0.4], "centre": [0.7, 0.2]}, "study", seeds=4)
    tail(OWN).dumbbells("accuracy", "training images", kept=kept)
    ((figure, alt),) = shown
    assert dots(figure) == {"equal": [(0.4, 0), (0.6, 1)], "centre": [(0.2, 0), (0.7, 1)]}
    assert figure.axes[0].get_xlabel() == "accuracy (kept evidence (study), 4 seeds)"
    assert "equal 0.40 at 3, 0.60 at 12; centre 0.20 at 3, 0.70 at 12." in alt
    assert "0.9" not in alt
    with pytest.raises(ValueError, match="no curve 'loss'"):
        tail(OWN).dumbbells("loss", "training images")

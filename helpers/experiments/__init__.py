"""The experiment layer: arms, rates and seeds in, one tidy table out; cached, side by side, comparable."""

from helpers.experiments.arms import Arm
from helpers.experiments.cache import cached
from helpers.experiments.comparison import (
    Gate,
    Interval,
    Paired,
    paired_interval,
    prediction_interval,
    seeds_needed,
)
from helpers.experiments.evidence import Evidence, all_evidence, evidence
from helpers.experiments.parallel import run_all, worker_count
from helpers.experiments.results import Results
from helpers.experiments.sweep import SweepError, sweep
from helpers.experiments.timing import in_turn, training_step
from helpers.experiments.tuning import tune

__all__ = [
    "Arm",
    "Evidence",
    "Gate",
    "Interval",
    "Paired",
    "Results",
    "SweepError",
    "all_evidence",
    "cached",
    "evidence",
    "in_turn",
    "paired_interval",
    "prediction_interval",
    "run_all",
    "seeds_needed",
    "sweep",
    "training_step",
    "tune",
    "worker_count",
]

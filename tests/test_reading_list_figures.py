"""Pictures of the reading list: their alt text tells the numbers that they draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from helpers.experiments.comparison import Interval
from helpers.figures import evaluation, feature_augmentation, ranking_losses, teachers
from helpers.plotting import PALETTE


def heights(figure: Figure, panel: int = 0) -> list[float]:
    return [bar.get_width() for bar in figure.axes[panel].patches]


def test_diagnostics_are_in_margins_and_say_where_they_end() -> None:
    path = pd.DataFrame({"loss": [0.4] * 30, "active triplets": [1.0] * 30})
    paths = {("batch-all", 0.1): path / 2, ("batch-hard", 0.1): path, ("batch-hard", 1.0): path / 4}
    figure, alt = ranking_losses.diagnostics_figure(paths, margin=0.4)
    assert len(figure.axes) == 4  # two rates, two rows
    assert "batch-all at 0.1: 50% active, loss 0.50 margins; batch-hard at 0.1: 100% active" in alt
    assert "batch-hard at 1: 25% active, loss 0.25 margins" in alt


def test_the_weight_s_alt_text_says_where_half_of_it_is_reached() -> None:
    line = torch.linspace(-1, 1, 201)
    curves = {"early": (line > 0.205).float(), "never": torch.zeros(201)}
    _, alt = ranking_losses.weights_figure(line, curves, {"here": 0.2})
    assert "early: half its weight at 0.21; never: half its weight at no similarity" in alt


def test_spreading_tells_the_first_and_the_last_accuracy() -> None:
    runs = np.array([[0.2, 0.4, 0.9], [0.4, 0.6, 0.7]])
    _, alt = ranking_losses.spreading_figure(
        {"dense": runs, "near": runs / 2}, {"dense": runs, "near": runs}, (1, 2, 30)
    )
    assert "dense: 0.30 after 1, 0.80 after 30; near: 0.15 after 1, 0.40 after 30" in alt


def test_scores_are_bars_of_their_length() -> None:
    figure, alt = feature_augmentation.bars_figure({"S": 0.125, "M": 0.5}, "recall", "Found")
    assert heights(figure) == [0.125, 0.5]
    assert alt == "Found. recall: S 0.125, M 0.500."


def test_rows_of_images_are_named() -> None:
    figure, alt = feature_augmentation.rows_figure(
        {"up": torch.rand(4, 3, 8, 8), "down": torch.rand(4, 3, 8, 8)}
    )
    assert len(figure.axes) == 8
    assert "4 images in each of the rows up, down" in alt


def test_moments_say_how_far_the_kinds_lie_apart() -> None:
    kind = torch.arange(40) % 2
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    far = noise + 20 * kind[:, None]
    _, alt = feature_augmentation.moments_figure(torch.rand(40, 4, 2), noise, far, kind)
    gaps = [
        float(word)
        for word in alt.replace(",", " ").split()
        if word.replace(".", "", 1).isdigit() and "." in word
    ]
    assert gaps[0] < 0.6
    assert gaps[1] > 1.5


def test_powers_and_matchings_tell_their_ends_and_means() -> None:
    _, alt = feature_augmentation.powers_figure([1.0, 10.0], {"spot": [0.1, 0.9], "even": [0.2, 0.2]})
    assert "p from 1 to 10: spot from 0.10 to 0.90; even from 0.20 to 0.20" in alt
    kept = {"not matched": [0.0, 0.2], "released": [0.5, 0.1], "Hungarian": [1.0, 0.8]}
    _, alt = feature_augmentation.kept_figure(kept, chance=0.125)
    assert "not matched 0.10, released 0.30, Hungarian 0.90" in alt


def test_spaces_share_their_axes_and_tell_their_scores() -> None:
    labels = torch.tensor([0, 1, 2])
    spaces = {"near": (torch.eye(3)[:, :2], labels), "far": (5 * torch.eye(3)[:, :2], labels)}
    scores = {"near": {"P@1": 0.5}, "far": {"P@1": 1.0}}
    figure, alt = evaluation.spaces_figure(spaces, scores, "Found")
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == (-0.5, 5.5)
    assert alt == "Found. Points of three classes in the plane. near: P@1 0.50; far: P@1 1.00."


def test_rankings_tell_where_they_are_right() -> None:
    _, alt = evaluation.rankings_figure([[True, False, True]], {"P@1": [1.0], "MAP@R": [0.25]})
    assert "right at 1, 3: P@1 1.00, MAP@R 0.25" in alt


def test_epochs_are_counted_from_one() -> None:
    curves = {"validation": torch.tensor([0.2, 0.6]), "these classes": torch.tensor([0.5, 0.3])}
    figure, alt = evaluation.epochs_figure(curves, {"these classes": 0}, "recall@1")
    assert figure.axes[0].lines[-1].get_xdata()[0] == 1
    assert "epoch 1, chosen on these classes: validation 0.20, these classes 0.50" in alt


def test_optimism_is_the_mean_over_draws_after_the_last_epoch() -> None:
    gains = {"these classes": torch.tensor([[0.0, 0.2], [0.0, 0.4]]), "other classes": torch.zeros(2, 2)}
    figure, alt = evaluation.optimism_figure(gains)
    assert alt == "Mean gain of the best of 2 epochs: these classes +0.300, other classes +0.000."
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2]


def test_leads_of_this_run_are_hollow_and_the_band_is_what_does_not_count() -> None:
    lead = Interval(0.05, 0.01, 0.09, 0.02, 7.0)
    figure, alt = evaluation.leads_figure(
        {"kept evidence (study)": {"new": lead}, "this run": {"new": lead}}, 0.03, "lead"
    )
    faces = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert faces[1] == "white" != faces[0]
    assert "kept evidence (study): new +0.050; this run: new +0.050. Below 0.03 nothing counts." in alt


def test_a_turned_teacher_is_told_with_both_losses_at_its_angle() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    curves = {"absolute": [0.0, 2.0, 0.0], "relative": [0.0, 0.0, 0.0]}
    figure, alt = teachers.turned_figure(rows, rows, curves, 90)
    assert "turned by 90 degrees" in alt
    assert "absolute 1.00, relative 0.00" in alt  # half way from 0 to 180 degrees
    assert len(figure.axes[0].lines) == 4  # two links, teacher and student


def test_batches_tell_the_first_and_the_last_loss() -> None:
    _, alt = teachers.batches_figure((8, 16), {"mean over pairs": [0.1, 0.1], "norm": [1.0, 2.0]})
    assert alt == "For 8 to 16 images: mean over pairs from 0.10 to 0.10; norm from 1.00 to 2.00."


def test_an_exchange_within_the_seeds_is_grey() -> None:
    figure, alt = teachers.exchanges_figure([0.2, 0.3], {"in": 0.3, "out": 0.31}, "score", "Found")
    inside, outside = (line.get_color() for line in figure.axes[0].lines)
    assert inside == PALETTE["grey"] != outside
    assert alt == "Found. score: nothing exchanged 0.20 to 0.30; in 0.30, out 0.31."

"""The training loop: exact repeats, exact resumes, and files that survive kills, full disks and strangers.

Run as a script, `python test_training.py CHECKPOINT`, it trains until it hangs in the middle of writing its
third checkpoint; a test starts it that way to kill it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import itertools
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import nn
from torch.utils.data import DataLoader, Dataset

from helpers.training import (
    CheckpointError,
    NonFiniteLoss,
    embed,
    fit,
    loader,
    pick_device,
    pk_loader,
    seed_everything,
)
from helpers.training import loop as training
from helpers.training.batches import ends_in_one
from helpers.training.history import Epoch

EPOCHS = 4


class Toy(Dataset):
    """Images (N, 1, 4, 4) with classes of unequal size; counts how often it is asked."""

    def __init__(self, sizes=(6, 5, 3, 9, 2)):
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        self.images = torch.rand(len(self.labels), 1, 4, 4, generator=generator)
        self.images += 0.3 * self.labels[:, None, None, None]
        self.calls = 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.calls += 1
        return self.images[index], self.labels[index]


def make_model(width=6):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, width)
    )


class Run:
    """All that has a state: Adam, a schedule, proxies in the loss, dropout, batch norm, P x K batches."""

    def __init__(self, path=None, *, seed=0, per_step=False, lr=0.01, width=6, planned=EPOCHS):
        seed_everything(seed)
        self.model = make_model(width)
        self.loss = ProxyAnchorLoss(5, width)
        self.optimizer = torch.optim.Adam([*self.model.parameters(), *self.loss.parameters()], lr=lr)
        self.loader = pk_loader(Toy(), 3, 2, batches=3, seed=seed)
        if per_step:
            schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, total_steps=planned * 3)
        else:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, planned)
        self.options = {"scheduler": schedule, "scheduler_per_step": per_step, "checkpoint": path}

    def fit(self, epochs=EPOCHS, loss=None, **options):
        options = {"evaluate": lambda model: {"random": torch.rand(())}, **self.options, **options}
        if loss is not None:
            self.loss.forward, plain = loss(self.loss.forward), self.loss.forward
        try:
            self.history = fit(
                self.model, self.loss, self.optimizer, self.loader, epochs=epochs, device="cpu", **options
            )
        finally:
            if loss is not None:
                self.loss.forward = plain
        return self

    def state(self):
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in self.history.rows]
        randoms = [torch.rand(2), np.random.rand(2).tolist(), random.random()]  # noqa: NPY002
        parts = [self.model, self.loss, self.optimizer, self.options["scheduler"]]
        return [rows, randoms, *(part.state_dict() for part in parts)]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def stopping(after, error=KeyboardInterrupt):
    """Make a loss that works `after` times and then raises."""

    def wrap(plain):
        calls = itertools.count()

        def loss(*args):
            if next(calls) == after:
                raise error
            return plain(*args)

        return loss

    return wrap


@pytest.fixture(scope="module")
def whole():
    """The final states of the uninterrupted runs, schedule per epoch and per step."""
    return {per_step: Run(per_step=per_step).fit().state() for per_step in (False, True)}


# ---- seeds and devices


def test_seeding_repeats_every_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002

    seed_everything(5)
    first, second = draw(), draw()
    seed_everything(5)
    assert draw() == first != second
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, None])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed is"):
        seed_everything(seed)


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device() == torch.device(best)
    with pytest.raises(ValueError, match=r"'banana'; expected one of .*cpu"):
        pick_device("banana")
    with pytest.raises(ValueError, match=r"is not there; this machine has .*cpu"):
        pick_device("cuda:99")


# ---- batches


def batches_of(made):
    return [(images.clone(), labels.clone()) for images, labels in made]


def test_pk_batches_hold_p_classes_of_k_images_gathered_at_once():
    toy = Toy()
    made = batches_of(pk_loader(toy, 4, 3, batches=7))
    assert len(made) == toy.calls == 7
    for images, labels in made:
        assert images.shape == (12, 1, 4, 4)
        assert sorted(labels.bincount()[labels.unique()].tolist()) == [3, 3, 3, 3]
        for label in labels.unique().tolist():
            own = toy.images[toy.labels == label].flatten(1)
            drawn = images[labels == label].flatten(1).unique(dim=0)
            assert all((own == image).all(1).any() for image in drawn)
            assert len(drawn) == 3 if len(own) >= 3 else 1 <= len(drawn) <= len(own)
    seen = torch.cat([labels for _, labels in made]).unique()
    assert seen.tolist() == [0, 1, 2, 3, 4]


def test_a_loader_depends_on_seed_and_epoch_alone():
    np.random.seed(1)  # noqa: NPY002
    first = pk_loader(Toy(), 3, 2, batches=4, seed=3)
    epochs = [batches_of(first) for _ in range(3)]
    assert not equal(epochs[0], epochs[1])
    np.random.seed(2)  # noqa: NPY002
    second, other = (pk_loader(Toy(), 3, 2, batches=4, seed=s) for s in (3, 4))
    for epoch in epochs:  # interleaved with another loader
        assert equal(batches_of(second), epoch)
        assert not equal(batches_of(other), epoch)
    second.sampler.epoch = 1
    assert equal(batches_of(second), epochs[1])


@pytest.mark.parametrize("make", [lambda: pk_loader(Toy(), 3, 2, batches=4), lambda: loader(Toy(), 4)])
def test_loaders_leave_the_global_generators_alone(make):
    seed_everything(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    batches_of(make())
    assert equal(before, (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()))  # noqa: NPY002
    from pytorch_metric_learning.utils import common_functions

    assert common_functions.NUMPY_RANDOM is np.random


def test_plain_loader_visits_every_image_once():
    toy = Toy()
    made = loader(toy, 4, seed=1)
    first, second = batches_of(made), batches_of(made)
    assert [len(labels) for _, labels in first] == [4] * 6 + [1]
    assert len(made) == 7
    for epoch in (first, second):
        assert sorted(torch.cat([images for images, _ in epoch]).flatten(1).sum(1).tolist()) == pytest.approx(
            sorted(toy.images.flatten(1).sum(1).tolist())
        )
    assert not equal(first, second)
    in_order = batches_of(loader(toy, 4, shuffle=False))
    assert torch.equal(torch.cat([labels for _, labels in in_order]), toy.labels)
    assert [len(labels) for _, labels in loader(toy, 4, drop_last=True)] == [4] * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pk_loader(Toy(), 6, 2, 1), "classes_per_batch is 6; the dataset has 5 classes"),
        (lambda: pk_loader(Toy(), 0, 2, 1), "classes_per_batch is 0"),
        (lambda: pk_loader(Toy(()), 1, 2, 1), "the dataset has 0 classes"),
        (lambda: pk_loader(Toy(), 2, 1, 1), "images_per_class is 1; expected at least 2"),
        (lambda: pk_loader(Toy(), 2, 2, 0), "batches is 0"),
        (lambda: loader(Toy(()), 4), "0 images in batches of 4"),
        (lambda: loader(Toy(), 0), "in batches of 0"),
        (lambda: loader(Toy(), 26, drop_last=True), r"25 images in batches of 26 \(drop_last=True\)"),
    ],
)
def test_impossible_batches_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- fit


def test_fit_equals_the_loop_written_by_hand():
    seed_everything(0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    fit(model, nn.CrossEntropyLoss(), optimizer, loader(Toy(), 8), epochs=2, scheduler=schedule, device="cpu")

    seed_everything(0)
    twin = make_model().train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    batches = loader(Toy(), 8)
    for lr in (0.1, 0.05):
        optimizer.param_groups[0]["lr"] = lr
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(images), labels).backward()
            optimizer.step()
    assert equal(model.state_dict(), twin.state_dict())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("per_step", [False, True])
def test_two_runs_with_one_seed_are_equal_bit_for_bit(whole, per_step):
    assert equal(Run(per_step=per_step).fit().state(), whole[per_step])
    assert not equal(Run(per_step=per_step, seed=1).fit().state()[2], whole[per_step][2])


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("stop", ["after epoch 1", "after epoch 3", "in epoch 1", "in epoch 3"])
def test_an_interrupted_run_resumes_exactly(tmp_path, whole, per_step, stop):
    path, epoch = tmp_path / "deep" / "run.pt", int(stop[-1])
    first = Run(path, per_step=per_step)
    if stop.startswith("after"):
        first.fit(epoch)
    else:
        with pytest.raises(KeyboardInterrupt):
            first.fit(loss=stopping(after=3 * (epoch - 1) + 1))
    assert path.exists() == (stop != "in epoch 1")
    resumed = Run(path, per_step=per_step)
    if path.exists():
        torch.rand(5)  # the random state of the process before the resume must not matter
        resumed.loader.sampler.epoch = 17
    assert equal(resumed.fit().state(), whole[per_step])


def test_the_same_objects_can_resume_after_an_interrupt(tmp_path, whole):
    run = Run(tmp_path / "run.pt")
    with pytest.raises(KeyboardInterrupt):
        run.fit(loss=stopping(after=7))
    assert equal(run.fit().state(), whole[False])


def test_a_plain_data_loader_resumes_exactly_too(tmp_path):
    def run(path, epochs):
        run = Run(path)
        run.loader = DataLoader(Toy(), batch_size=8, shuffle=True)
        return run.fit(epochs)

    run(tmp_path / "run.pt", 2)
    assert equal(run(tmp_path / "run.pt", EPOCHS).state(), run(None, EPOCHS).state())


def test_a_finished_run_is_loaded_not_repeated(tmp_path, whole):
    Run(tmp_path / "run.pt").fit()
    again = Run(tmp_path / "run.pt").fit(loss=stopping(after=0, error=AssertionError("it trained")))
    assert equal(again.state(), whole[False])
    assert not again.model.training


def test_the_history_has_one_row_per_epoch():
    run = Run(per_step=False).fit()
    frame = run.history.frame()
    assert frame["epoch"].tolist() == [1, 2, 3, 4]
    assert list(frame.columns) == ["epoch", "loss", "lr", "seconds", "random"]
    assert frame["lr"].tolist() == pytest.approx([0.005 * (1 + np.cos(np.pi * k / 4)) for k in range(4)])
    assert (frame["seconds"] > 0).all()


def test_a_per_step_schedule_advances_with_every_batch():
    model = nn.Linear(16, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 + step)
    images = loader(Flat(), 4)
    history = fit(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        images,
        epochs=3,
        scheduler=schedule,
        scheduler_per_step=True,
        device="cpu",
    )
    assert [row["lr"] for row in history.rows] == pytest.approx([1e-3, 8e-3, 15e-3])


class Flat(Toy):
    """The same images as vectors (N, 16)."""

    def __getitem__(self, index):
        images, labels = super().__getitem__(index)
        return images.flatten(1), labels


def linear_run(loss_fn=None, epochs=1, dataset=None, batch_size=4, lr=0.1, **options):
    torch.manual_seed(0)
    model = nn.Linear(16, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    history = fit(
        model,
        loss_fn or nn.CrossEntropyLoss(),
        optimizer,
        loader(dataset or Flat(), batch_size),
        epochs=epochs,
        device="cpu",
        **options,
    )
    return model, history


def test_loss_and_metrics_are_means_over_images_not_batches():
    """25 images in batches of 4: the last batch holds one."""
    _, history = linear_run(
        lambda outputs, labels: 0 * outputs.sum() + labels.float().mean(),
        epochs=3,
        metrics=lambda outputs, labels: {
            "even": (labels % 2 == 0).float().mean(),
            "gradient": float(torch.is_grad_enabled()),
        },
    )
    toy = Toy()
    for row in history.rows:
        assert row["loss"] == pytest.approx(toy.labels.float().mean().item())
        assert row["even"] == pytest.approx((toy.labels % 2 == 0).float().mean().item())
        assert row["gradient"] == 0


def test_the_loss_falls_on_a_problem_that_can_be_learnt():
    _, history = linear_run(epochs=30, lr=0.05)
    assert history.rows[-1]["loss"] < 0.75 * history.rows[0]["loss"]


def test_evaluate_sees_evaluation_mode_and_training_mode_returns():
    seen, modes = [], []
    seed_everything(0)
    model = make_model()

    def loss(outputs, labels):
        modes.append(model.training)
        return nn.functional.cross_entropy(outputs, labels)

    def evaluate(evaluated):
        seen.append((evaluated.training, evaluated[4].training, torch.is_grad_enabled()))
        return {"answer": np.float64(42), "tensor": torch.tensor(1.5)}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, loss, optimizer, loader(Toy(), 8), epochs=2, evaluate=evaluate, device="cpu")
    assert seen == [(False, False, False)] * 2
    assert all(modes)
    assert [(row["answer"], row["tensor"]) for row in history.rows] == [(42.0, 1.5)] * 2
    assert not model.training


def test_clipping_bounds_the_step_and_is_off_by_default():
    def moved(**options):
        torch.manual_seed(0)
        before = nn.utils.parameters_to_vector(nn.Linear(16, 5).parameters())
        model, _ = linear_run(
            lambda o, y: 100 * nn.functional.cross_entropy(o, y), batch_size=25, lr=1.0, **options
        )
        return (nn.utils.parameters_to_vector(model.parameters()) - before).norm().item()

    assert moved() > 10
    assert moved(clip_norm=0.5) == pytest.approx(0.5, rel=1e-4)


def test_amp_runs_the_model_in_bfloat16_and_the_loss_in_float32():
    inner, outer = [], []
    Heads = collections.namedtuple("Heads", "logits embedding")

    class TwoHeads(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            inner.append(out.dtype)
            return Heads(out, [out, {"again": out}])

    def loss(outputs, labels):
        assert type(outputs) is Heads
        outer.extend([outputs.logits.dtype, outputs.embedding[0].dtype, outputs.embedding[1]["again"].dtype])
        return nn.functional.cross_entropy(outputs.logits, labels)

    for amp, expected in ((True, torch.bfloat16), (None, torch.float32)):
        inner.clear()
        model = TwoHeads(16, 5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, loss, optimizer, loader(Flat(), 8), epochs=1, amp=amp, device="cpu")
        assert set(inner) == {expected}
        assert set(outer) == {torch.float32}
        assert next(model.parameters()).dtype == torch.float32


def test_a_plateau_schedule_watches_the_mean_loss_of_the_epoch(tmp_path):
    """A loss that never falls: after two epochs without progress a tenth of the rate, also over a resume."""

    def run(epochs, path=None):
        torch.manual_seed(0)
        model = nn.Linear(16, 5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=1)
        history = fit(
            model,
            lambda outputs, labels: 0 * outputs.sum() + 1,
            optimizer,
            loader(Flat(), 5),
            epochs=epochs,
            scheduler=schedule,
            checkpoint=path,
            device="cpu",
        )
        return [row["lr"] for row in history.rows]

    rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.001]
    assert run(6) == pytest.approx(rates)
    assert run(2, tmp_path / "run.pt") == pytest.approx(rates[:2])
    assert run(6, tmp_path / "run.pt") == pytest.approx(rates)


@pytest.mark.parametrize(
    ("schedule", "per_step", "message"),
    [
        (lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o), True, "scheduler_per_step=True"),
        (lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, mode="max"), False, "mode='max'"),
        (
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1, total_steps=13),
            True,
            "ends after 13 steps, .* 14",
        ),
        (
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1, total_steps=1),
            False,
            "ends after 1 steps, .* 2",
        ),
    ],
)
def test_a_schedule_that_would_fail_later_is_refused_before_the_first_step(schedule, per_step, message):
    model = nn.Linear(16, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.clone()
    with pytest.raises(ValueError, match=message):
        fit(model, nn.CrossEntropyLoss(), optimizer, loader(Flat(), 4), epochs=2, device="cpu",
            scheduler=schedule(optimizer), scheduler_per_step=per_step)  # fmt: skip
    assert torch.equal(model.weight, before)


def normed(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5), *layers, nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize(
    "batches",
    [loader(Toy(), 8), loader(Toy(), 1), DataLoader(Toy(), batch_size=8), DataLoader(Toy(), batch_size=24)],
)
def test_batch_norm_on_a_last_batch_of_one_is_refused_before_the_first_step(batches):
    model = normed(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)).eval()
    model(Toy().images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"last batch of an epoch holds one image.*drop_last=True"):
        fit(model, nn.CrossEntropyLoss(), optimizer, batches, epochs=1, device="cpu")
    assert equal(before, dict(model.state_dict()))


@pytest.mark.parametrize("layers", [(nn.BatchNorm2d(4),), (nn.Flatten(), nn.LayerNorm(16))])
def test_trying_a_last_batch_of_one_leaves_no_trace(layers):
    """What can train on one image trains as by hand: same dropout, same running statistics."""
    model = normed(*layers)
    model.eval()(Toy().images)
    twin = copy.deepcopy(model).train()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin)]
    torch.manual_seed(1)
    fit(model, nn.CrossEntropyLoss(), optimizers[0], loader(Toy(), 8), epochs=1, device="cpu")
    torch.manual_seed(1)
    for images, labels in loader(Toy(), 8):
        optimizers[1].zero_grad()
        nn.functional.cross_entropy(twin(images), labels).backward()
        optimizers[1].step()
    assert equal(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (loader(Toy(), 8), True),
        (loader(Toy(), 8, drop_last=True), False),
        (loader(Toy(), 1, drop_last=True), True),
        (loader(Toy(), 7), False),
        (pk_loader(Toy(), 3, 2, batches=3), False),
        (DataLoader(Toy(), batch_size=8), True),
        (DataLoader(Toy(), batch_size=8, drop_last=True), False),
        (DataLoader(Toy(), batch_sampler=[[0], [1, 2]]), False),  # it does not tell
        ([1], False),
    ],
)
def test_which_loaders_end_in_one_image(batches, expected):
    assert ends_in_one(batches) is expected
    if expected:
        assert len(list(batches)[-1][1]) == 1


def test_short_runs_print_nothing(capsys):
    linear_run(epochs=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("progress", "variable", "hidden"),
    [(True, None, False), (True, "0", False), (True, "1", True), (False, None, True)],
)
def test_the_bar_can_be_hidden_and_counts_every_batch(monkeypatch, progress, variable, hidden):
    bars = []

    class Bar(training.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"delay": 0, "file": io.StringIO()})
            bars.append((self, options["disable"]))

    monkeypatch.setattr(training, "tqdm", Bar)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if variable is not None:
        monkeypatch.setenv("TQDM_DISABLE", variable)
    linear_run(epochs=2, progress=progress)
    ((bar, disabled),) = bars
    assert disabled is hidden
    assert hidden or (bar.n, bar.total) == (14, 14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_run(epochs=0), "epochs is 0"),
        (lambda: linear_run(epochs=True), "epochs is True"),
        (lambda: linear_run(epochs=1.5), "epochs is 1.5"),
        (lambda: fit(None, None, None, [], epochs=1), "the loader gives no batch"),
        (lambda: linear_run(nn.CrossEntropyLoss(reduction="none")), r"the loss has shape \(4,\)"),
        (lambda: linear_run(lambda o, y: o.detach().mean()), "requires_grad=False"),
        (lambda: linear_run(metrics=lambda o, y: {"per_image": y.float()}), r"'per_image' has shape \(4,\)"),
        (
            lambda: linear_run(metrics=lambda o, y: {"lr": y.float().mean()}),
            "gives lr, already in the history",
        ),
        (lambda: linear_run(evaluate=lambda m: {"loss": 1.0}), "gives loss, already in the history"),
        (
            lambda: linear_run(
                metrics=lambda o, y: {"acc": y.float().mean()}, evaluate=lambda m: {"acc": 1.0}
            ),
            "gives acc, already",
        ),
    ],
)
def test_bad_arguments_give_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- losses that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_its_step_and_keeps_the_checkpoint(tmp_path, whole, bad):
    path, weights = tmp_path / "run.pt", []

    def spoil(plain):
        calls = itertools.count()

        def loss(*args):
            value = plain(*args)
            if next(calls) == 7:  # the second step of the third epoch
                weights.append({k: v.clone() for k, v in run.model.named_parameters()})
                return value * bad
            return value

        return loss

    run = Run(path)
    with pytest.raises(
        NonFiniteLoss, match=r"step 2 of epoch 3 with learning rate 0\.005; last finite"
    ) as caught:
        run.fit(loss=spoil)
    assert (caught.value.epoch, caught.value.step, caught.value.lr) == (3, 2, pytest.approx(0.005))
    assert len(caught.value.last_losses) == 1
    assert f"{caught.value.last_losses[0]:.4g}" in str(caught.value)
    assert equal(weights[0], dict(run.model.named_parameters()))
    assert equal(Run(path).fit().state(), whole[False])


def test_a_late_look_at_the_losses_names_the_first_bad_step():
    """What an accelerator does: many steps are added before the losses are looked at."""
    epoch = Epoch(2, torch.device("cpu"))
    for step, value in enumerate([1.0, 2.0, float("inf"), 4.0, float("nan")]):
        epoch.add(torch.tensor(value, requires_grad=True), {}, 4, 0.1 * (step + 1))
    with pytest.raises(NonFiniteLoss, match="the loss is inf at step 3 of epoch 2") as caught:
        epoch.row()
    assert caught.value.last_losses == [1.0, 2.0]
    assert caught.value.lr == pytest.approx(0.3)


# ---- checkpoints that cannot be trusted


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.pt"
    Run(path).fit(2)
    return path


def refused(run, match, epochs=EPOCHS):
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (run.model, run.loss)]
    with pytest.raises(CheckpointError, match=match) as caught:
        run.fit(epochs, loss=stopping(after=0, error=AssertionError("it trained")))
    assert equal(before, [dict(part.state_dict()) for part in (run.model, run.loss)])
    assert str(run.options["checkpoint"]) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_checkpoint_is_refused(saved, share):
    whole_file = saved.read_bytes()
    saved.write_bytes(whole_file[: int(share * len(whole_file))])
    refused(Run(saved), "truncated, damaged or no checkpoint")


def test_a_checkpoint_with_a_flipped_byte_is_refused(saved):
    raw = bytearray(saved.read_bytes())
    place = raw.index(torch.load(saved, weights_only=True)["model"]["0.weight"].numpy().tobytes())
    raw[place] ^= 0xFF
    saved.write_bytes(raw)
    refused(Run(saved), "wrong check sum")


class Evil:
    """What a hostile pickle looks like: loading it creates a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return Path.touch, (Path(self.target),)


@pytest.mark.parametrize("form", ["pickle", "legacy", "zip", "hidden in a real one"])
def test_a_checkpoint_with_foreign_objects_is_refused_and_not_run(saved, tmp_path, form):
    evil, target = Evil(tmp_path / "ran"), tmp_path / "ran"
    if form == "pickle":
        saved.write_bytes(pickle.dumps(evil))
    elif form == "hidden in a real one":
        torch.save(torch.load(saved, weights_only=True) | {"rows": evil}, saved)
    else:
        torch.save(evil, saved, _use_new_zipfile_serialization=form == "zip")
    refused(Run(saved), "could run code|no checkpoint")
    assert not target.exists()
    if form in ("zip", "hidden in a real one"):
        torch.load(saved, weights_only=False)
        assert target.exists()  # it would have run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 7}, r"holds another model, \d+ tensors differ: .*\(6, 16\) there"),
        ({"lr": 0.02}, "belongs to another run: optimizer was Adam"),
        ({"per_step": True}, "scheduler was CosineAnnealingLR .* is OneCycleLR"),
        ({"planned": 9}, "scheduler was CosineAnnealingLR .*'T_max': 4.*'T_max': 9"),
        ({"seed": 1}, "loader was seed 0, 3 batches of 6, is seed 1"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(saved, change, message):
    refused(Run(saved, **change), message)


def test_a_checkpoint_beyond_the_asked_epochs_is_refused(saved):
    refused(Run(saved), "has run 2 epochs, more than the 1 asked for", epochs=1)


def test_other_files_and_folders_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"weights": torch.ones(3)}, path)
    refused(Run(path), "no checkpoint of this run")
    torch.save([1, 2], path)
    refused(Run(path), "no checkpoint of this run")
    refused(Run(tmp_path), "Is a directory")


# ---- writes that fail


def broken_replace(monkeypatch):
    def replace(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)


def broken_disk(monkeypatch):
    def fsync(descriptor):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("breaks", [broken_replace, broken_disk])
def test_a_failed_write_leaves_the_previous_checkpoint(saved, whole, breaks):
    before = saved.read_bytes()
    with pytest.MonkeyPatch.context() as monkeypatch:
        breaks(monkeypatch)
        with pytest.raises(CheckpointError, match=r"No space left on device.*untouched"):
            Run(saved).fit()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    assert equal(Run(saved).fit().state(), whole[False])


@contextlib.contextmanager
def file_size_limit(limit):
    """A disk that is really full after `limit` bytes, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_really_full_disk_leaves_the_previous_checkpoint(saved, whole):
    before = saved.read_bytes()
    with (
        file_size_limit(len(before) // 2),
        pytest.raises(CheckpointError, match=r"could not write .*run\.pt"),
    ):
        Run(saved).fit()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    assert equal(Run(saved).fit().state(), whole[False])


def test_a_checkpoint_behind_a_symbolic_link_is_written_where_the_link_leads(tmp_path, whole):
    """A big disk elsewhere, linked into the project."""
    (tmp_path / "big").mkdir()
    link = tmp_path / "run.pt"
    link.symlink_to(tmp_path / "big" / "kept.pt")
    Run(link).fit(2)
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["kept.pt"]
    assert equal(Run(link).fit().state(), whole[False])
    assert link.is_symlink()
    assert len(torch.load(tmp_path / "big" / "kept.pt", weights_only=True)["rows"]) == EPOCHS


def test_state_that_could_not_be_read_back_is_refused_when_written(tmp_path):
    class Odd(nn.CrossEntropyLoss):
        def get_extra_state(self):
            return Path("x")

        def set_extra_state(self, state):
            pass

    with pytest.raises(CheckpointError, match=r"pathlib.*which a safe load refuses"):
        linear_run(Odd(), checkpoint=tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_resumes_exactly(tmp_path, whole):
    """SIGKILL with two epochs done, the third trained and half of its checkpoint written."""
    path = tmp_path / "run.pt"
    child = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    try:
        assert child.stdout.readline() == b"hanging\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    (part,) = set(tmp_path.iterdir()) - {path}
    assert part.read_bytes() == b"half of it"
    assert len(torch.load(path, weights_only=True)["rows"]) == 2
    assert equal(Run(path).fit().state(), whole[False])


# ---- embed


@pytest.mark.parametrize("batch_size", [1, 7, 25, 1000])
def test_embed_is_the_model_in_evaluation_mode_in_order(batch_size):
    model, toy = make_model(), Toy()
    model(toy.images)  # moves the running statistics of batch norm away from their start
    model[1].eval()
    modes = [module.training for module in model.modules()]
    random_state, statistics = torch.get_rng_state(), model[1].running_mean.clone()
    embeddings, labels = embed(model, toy, batch_size=batch_size)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(model[1].running_mean, statistics)
    assert toy.calls == -(-25 // batch_size)
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    assert torch.equal(labels, toy.labels)
    assert torch.allclose(embeddings, model.eval()(toy.images), atol=1e-6)


def test_embed_takes_the_embedding_of_several_outputs_and_models_without_weights():
    class Heads(nn.Module):
        def forward(self, x):
            flat = x.flatten(1).double()
            return collections.namedtuple("Out", "logits embedding")(flat[:, :2], flat)

    embeddings, _ = embed(Heads(), Toy(), device="cpu")
    assert torch.equal(embeddings, Toy().images.flatten(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embed(make_model(), Toy(())), "0 images"),
        (lambda: embed(make_model(), Toy(), batch_size=0), "batches of 0"),
        (lambda: embed(nn.Conv2d(1, 2, 3), Toy()), r"the model gives \(25, 2, 2, 2\)"),
        (lambda: embed(nn.Identity(), Toy(), device="cuda:99"), "is not there"),
    ],
)
def test_embed_refuses_what_it_cannot_embed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_embed_restores_the_modes_after_an_error():
    model = nn.Conv2d(1, 2, 3)
    with pytest.raises(ValueError, match="gives"):
        embed(model, Toy())
    assert model.training


def _train_until_it_hangs(path):
    plain_fsync, writes = os.fsync, itertools.count(1)

    def fsync(descriptor):
        if next(writes) < 3:
            return plain_fsync(descriptor)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, b"half of it", 0)
        print("hanging", flush=True)
        return time.sleep(120)

    os.fsync = fsync
    Run(path).fit()


if __name__ == "__main__":
    _train_until_it_hangs(sys.argv[1])

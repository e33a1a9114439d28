"""Every loss on every device: the CPU's value and gradient; in any precision, captured and compiled."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from devices import replayed, without_waiting
from losses import CLASSES, LOSSES, D
from networks import seeded
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.two_head import BatchHardTripletLoss, SemiHardTripletLoss, TripletCentreLoss

EACH = 3
RANKING = {
    "semi-hard": SemiHardTripletLoss(),
    "batch-hard": BatchHardTripletLoss(),
    "batch-hard, soft": BatchHardTripletLoss("soft"),
    "triplet centre": TripletCentreLoss(CLASSES, D),
}
WHOLE = Version(torch.__version__).release >= (2, 14)
"""torch 2.11 breaks the graph where a loss asks whether the device has autocast."""
NEVER_WAIT = sorted(LOSSES.keys() - {"by svd", "spread out"})
"""Whose docstrings say so; no solver for singular values is among them."""
all_losses = pytest.mark.parametrize("name", LOSSES)


def batch(device, seed=0, dtype=torch.float32):
    """Embeddings that half precision holds exactly, around one direction, and their classes."""
    rows = torch.randn(EACH * CLASSES, D, generator=seeded(seed)) + torch.randn(D, generator=seeded(9))
    labels = torch.arange(EACH * CLASSES).roll(seed) % CLASSES
    return rows.half().bfloat16().to(device, dtype), labels.to(device)


def value_and_gradient(loss, rows, labels, autocast=None):
    leaf = rows.detach().clone().requires_grad_()
    with torch.autocast(rows.device.type, autocast) if autocast else contextlib.nullcontext():
        value = loss(leaf, labels)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def assert_alike(found, expected, tolerance):
    """Value and gradient, wherever they are, up to a share of their size."""
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours.cpu().double(), theirs.cpu().double()
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("seed", [0, 1])
def test_no_choice_of_a_neighbour_hangs_on_rounding(seed):
    """Else gradients could differ where nothing is wrong."""
    rows, labels = batch("cpu", seed, torch.float64)
    distances = torch.cdist(*[torch.nn.functional.normalize(rows)] * 2).square()
    same = labels[:, None] == labels
    negatives = distances.masked_fill(same, torch.inf)
    for anchor, positive in (same & ~torch.eye(len(labels), dtype=bool)).nonzero().tolist():
        others = negatives[anchor].sort().values[:-EACH]
        farther = others[others > distances[anchor, positive]]
        assert (others - distances[anchor, positive]).abs().min() > 2e-6
        assert (farther.diff()[:1] > 2e-6).all()
    nearest = negatives.sort(1).values[:, :2].diff(dim=1)
    assert nearest.min() > 2e-6


@all_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_those_of_the_cpu(name, dtype, device):
    expected = value_and_gradient(LOSSES[name], *batch("cpu", dtype=torch.float64))
    value, gradient = value_and_gradient(LOSSES[name], *batch(device, dtype=dtype))
    assert value.device.type == gradient.device.type == device.type
    assert value.dtype == torch.float32
    assert_alike([value], expected[:1], 1e-4)
    assert_alike([gradient], expected[1:], 1e-3 + torch.finfo(dtype).eps)


@all_losses
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(name, autocast, device):
    data = batch(device)
    found = value_and_gradient(LOSSES[name], *data, autocast)
    assert_alike(found, value_and_gradient(LOSSES[name], *data), 1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("name", NEVER_WAIT)
def test_the_host_never_waits(name):
    data = batch("cuda")
    expected = value_and_gradient(LOSSES[name], *data)  # the first call sets libraries up
    with without_waiting():
        found = value_and_gradient(LOSSES[name], *data)
    assert_alike(found, expected, 1e-5)


@pytest.mark.parametrize("name", NEVER_WAIT)
def test_the_value_asks_for_no_number_of_a_gpu_that_is_not_there(name):
    """A GPU without content: a number asked for, or a tensor left on the CPU, raises."""
    with FakeTensorMode(), torch.device("cuda"):
        rows, labels = torch.randn(EACH * CLASSES, D), torch.arange(EACH * CLASSES) % CLASSES
        assert LOSSES[name](rows, labels).device.type == "cuda"


@pytest.mark.parametrize("name", RANKING)
def test_a_captured_step_follows_its_input(name, device):
    """Captured on one batch, replayed on another: no value of the first may be left in it."""
    loss = copy.deepcopy(RANKING[name]).to(device)
    (rows, labels), (others, classes) = batch(device), batch(device, seed=1)
    leaf, value, gradient = (
        rows.clone().requires_grad_(),
        torch.zeros((), device=device),
        torch.zeros_like(rows),
    )

    def step():
        found = loss(leaf, labels)
        gradient.copy_(torch.autograd.grad(found, leaf)[0])
        value.copy_(found.detach())

    again = replayed(step, device)
    with torch.no_grad():
        leaf.copy_(others)
        labels.copy_(classes)
    again()
    expected = value_and_gradient(loss.cpu(), others.cpu(), classes.cpu())
    assert_alike([value, gradient], expected, 1e-3)


@pytest.mark.parametrize(
    ("name", "autocast"), [*((name, None) for name in RANKING), ("semi-hard", torch.bfloat16)]
)
def test_a_compiled_loss_is_the_loss(name, autocast, device):
    loss = copy.deepcopy(RANKING[name]).to(device)
    torch.compiler.reset()
    backend = "inductor" if device.type == "cuda" else "aot_eager"  # the first needs a compiler on a CPU
    compiled = torch.compile(loss, fullgraph=WHOLE, backend=backend)
    rounding = torch.finfo(autocast).eps if autocast else 0  # torch compiles the backward pass under autocast
    for seed in (0, 1):
        data = batch(device, seed)
        found = value_and_gradient(compiled, *data, autocast)
        assert_alike(found, value_and_gradient(loss, *data), 1e-3 + rounding)

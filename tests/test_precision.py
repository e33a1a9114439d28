"""Half precision, autocast, and devices without float64: the numbers of float32, in every room."""

from __future__ import annotations

import math

import pytest
import torch
from losses import LOSSES, B, D, batch
from networks import WithoutFloat64, seeded
from torch import nn
from torch.nn import functional as F

from helpers.l2_caf import L2CAF
from helpers.retrieval import nearest_neighbours, retrieval_metrics
from helpers.svmax import collapse_diagnostics, mean_singular_value, unit_rows

all_losses = pytest.mark.parametrize("name", LOSSES)


def value_and_gradient(loss, dtype, autocast=None):
    rows, labels = batch(dtype)
    rows.requires_grad_(True)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        value = loss(rows, labels)
    return value.detach(), torch.autograd.grad(value, rows)[0].float()


@all_losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_those_of_float32(name, dtype):
    value, gradient = value_and_gradient(LOSSES[name], dtype)
    expected, slope = value_and_gradient(LOSSES[name], torch.float32)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert slope.abs().max() > 0
    smallest = torch.finfo(dtype).smallest_normal * math.sqrt(B * D)  # below it float16 has no gradients
    assert (gradient - slope).norm() <= 2 * torch.finfo(dtype).eps * slope.norm() + smallest


@all_losses
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_under_autocast_are_those_without(name, dtype, autocast):
    expected, slope = value_and_gradient(LOSSES[name], dtype)
    value, gradient = value_and_gradient(LOSSES[name], dtype, autocast)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-4 * slope.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_diagnostics_and_metrics_of_half_precision_are_those_of_float32(dtype):
    rows, labels = batch(dtype)
    expected = collapse_diagnostics(rows.float())
    assert collapse_diagnostics(rows) == pytest.approx(expected, rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert collapse_diagnostics(rows) == pytest.approx(expected, rel=1e-6)
        found = retrieval_metrics(rows.float(), labels)
    assert found == retrieval_metrics(rows, labels) == retrieval_metrics(rows.float(), labels)


def test_a_float16_batch_whose_squares_overflow_has_unit_rows():
    rows = 500 * batch(torch.float16)[0]
    assert rows.isfinite().all()
    assert rows.square().sum(1).isinf().all()
    found = unit_rows(rows)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), F.normalize(rows.float()), atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------ no float64 on the device


def test_the_device_without_float64_refuses_it():
    rows = torch.ones(3)
    with WithoutFloat64():
        assert rows.device.type == "mps"
        for wrong in (
            lambda: rows.double(),
            lambda: rows.to(torch.float64),
            lambda: rows.new_zeros(2, dtype=torch.float64),
            lambda: rows.cpu().double().to(rows.device),
            lambda: torch.zeros(2, dtype=torch.float64, device=rows.device),
            lambda: rows.numpy(),
        ):
            with pytest.raises(TypeError):
                wrong()
        assert rows.cpu().double().to(rows).device.type == "mps"


@pytest.mark.parametrize("solver", ["exact", "gradient"])
@pytest.mark.parametrize("targets", [None, [0, 2]])
def test_attention_without_float64(solver, targets):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    model, images = nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8, generator=seeded(3))
    options = {"max_iterations": 10, "tolerance": 0}
    expected = L2CAF(model, "1", solver, **options)(images, targets)
    with WithoutFloat64():
        found = L2CAF(model, "1", solver, **options)(images, targets)
        assert found.filters.device.type == "mps"
        maps = found.heatmaps()
    torch.testing.assert_close(found.filters, expected.filters)
    torch.testing.assert_close(maps, expected.heatmaps())


@all_losses
def test_losses_without_float64(name):
    expected, slope = value_and_gradient(LOSSES[name], torch.float32)
    with WithoutFloat64():
        rows, labels = (values.to("mps") for values in batch())
        value = LOSSES[name](rows.requires_grad_(True), labels)
        assert value.device.type == "mps"
    (gradient,) = torch.autograd.grad(value, rows)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)  # another route to the singular values
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-3 * slope.abs().max().item())


def test_diagnostics_and_metrics_without_float64():
    rows, labels = batch()
    everything = (
        collapse_diagnostics,
        lambda e: mean_singular_value(e, "gram").item(),
        lambda e: retrieval_metrics(e, labels, include=("recall", "map@r", "nmi")),
        lambda e: [found.tolist() for found in nearest_neighbours(e, 3)],
    )
    for function in everything:
        expected = function(rows)
        with WithoutFloat64():
            assert function(rows) == expected

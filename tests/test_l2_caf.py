"""L2-CAF: closed forms against brute force and descent, detection, untouched networks, batches, refusals."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import DependsOnData, Net, compiled, seeded
from PIL import Image
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from torch import nn
from torch.nn import functional as F
from torchvision import models

from helpers.l2_caf import L2CAF, Attention, attention
from helpers.l2_caf.closed_form import nearest_to_ones


def randn(*size, seed=0, dtype=torch.float32):
    return torch.randn(*size, generator=seeded(seed), dtype=dtype)


def trunk(width=6):
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())


def pooled(width=6, classes=4, *between, after=()):
    """Trunk, then dropout and the like, global average pooling, and a linear layer."""
    layers = trunk(width)
    torch.manual_seed(1)
    return nn.Sequential(
        layers, *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *after, nn.Linear(width, classes)
    ).eval()


def images(count=2, pixels=10, seed=3, channels=3):
    return randn(count, channels, pixels, pixels, seed=seed)


def network(forward, width=6, **layers):
    features = trunk(width)
    torch.manual_seed(2)
    return Net(forward, trunk=features, **layers).eval()


def filtered(model, layer, x, f):
    """The output with the layer's features times f, by a hook of the test's own."""
    handle = layer.register_forward_hook(lambda _, inputs, out: out * f.unsqueeze(-3))
    try:
        with torch.no_grad():
            return model(x)
    finally:
        handle.remove()


def cosine(a, b):
    return F.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())


def random_norms(model, seed=5):
    """Statistics of batch norm as after training, so that maps vary."""
    generator = seeded(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
    return model.eval()


# ------------------------------------------------------------------------- least squares on the sphere


def squares(matrix, f):
    return (matrix @ (f - 1)[..., None]).square().sum((-1, -2))


def random_units(n, count=3000):
    return F.normalize(randn(count, n, seed=11, dtype=torch.float64), dim=1)


def descended(matrix, start, steps=500):
    """Projected gradient on the sphere."""
    f = start / start.norm()
    rate = 0.5 / torch.linalg.matrix_norm(matrix, 2).square()
    for _ in range(steps):
        f = f - rate * matrix.T @ (matrix @ (f - 1))
        f = f / f.norm()
    return f


@settings(deadline=None, max_examples=40)
@given(k=st.integers(1, 9), n=st.integers(1, 9), seed=st.integers(0, 999), spread=st.floats(0, 3))
def test_nearest_is_a_minimum_over_the_sphere(k, n, seed, spread):
    m = randn(k, n, seed=seed, dtype=torch.float64) * torch.logspace(0, -spread, n, dtype=torch.float64)
    f = nearest_to_ones(m[None])[0]
    assert f.norm() == pytest.approx(1, abs=1e-12)
    best = squares(m, f)
    assert (best <= squares(m, random_units(n)) + 1e-9).all()
    # Karush-Kuhn-Tucker: the residual of the normal equations is -mu f, with mu >= 0: a global minimum
    pull = m.T @ (m @ (1 - f))
    mu = pull @ f
    size = (m.T @ m).abs().max()
    assert mu >= -1e-9 * size
    assert (pull - mu * f).abs().max() <= 1e-7 * size


@pytest.mark.parametrize("shape", [(3, 3), (8, 5), (2, 7), (1, 4)])
def test_nearest_is_not_worse_than_projected_gradient(shape):
    m = randn(*shape, seed=sum(shape), dtype=torch.float64)
    best = squares(m, nearest_to_ones(m[None])[0])
    for start in randn(4, shape[1], seed=4, dtype=torch.float64):
        reached = squares(m, descended(m, start))
        assert best <= reached + 1e-10


def test_nearest_of_one_row_by_hand():
    # m = (3, 4): the ones vector's part in the row space is 7/25 (3, 4), of length 7/5 > 1; f is (3, 4)/5
    f = nearest_to_ones(torch.tensor([[[3.0, 4.0]]], dtype=torch.float64))[0]
    assert f.tolist() == pytest.approx([0.6, 0.8])


def test_identity_gives_the_uniform_filter():
    f = nearest_to_ones(torch.eye(9, dtype=torch.float64)[None])[0]
    torch.testing.assert_close(f, torch.full((9,), 1 / 3, dtype=torch.float64))


def test_hard_case_reaches_zero_and_is_nearest_to_uniform():
    m = torch.tensor([[1.0, -1, 0, 0], [0, 0, 2, -1.0]], dtype=torch.float64)
    f = nearest_to_ones(m[None])[0]
    assert squares(m, f) < 1e-24
    assert f.norm() == pytest.approx(1)
    # every other solution: the part in the row space, and any direction of the null space, to length 1
    inside = torch.linalg.pinv(m) @ m @ torch.ones(4, dtype=torch.float64)
    assert inside.norm() < 1
    null = torch.linalg.svd(m)[2][2:]
    sides = random_units(2) @ null * (1 - inside.square().sum()).sqrt()
    assert f.sum() >= (inside + sides).sum(1).max() - 1e-9


def test_rank_deficient_and_zero_matrices():
    low = randn(6, 2, seed=1, dtype=torch.float64) @ randn(2, 9, seed=2, dtype=torch.float64)
    f = nearest_to_ones(low[None])[0]
    assert (squares(low, f) <= squares(low, random_units(9)) + 1e-9).all()
    zero = nearest_to_ones(torch.zeros(2, 3, 4))
    torch.testing.assert_close(zero, torch.full((2, 4), 0.5))


@settings(deadline=None, max_examples=30)
@given(
    k=st.integers(1, 6), n=st.integers(1, 8), seed=st.integers(0, 99), power=st.sampled_from([-30, -8, 8, 30])
)
def test_scale_does_not_matter(k, n, seed, power):
    m = randn(1, k, n, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(nearest_to_ones(m * 10.0**power), nearest_to_ones(m), atol=1e-6, rtol=0)


def test_columns_of_very_different_size():
    m = randn(5, 5, seed=8, dtype=torch.float64) * torch.logspace(0, -6, 5, dtype=torch.float64)
    f = nearest_to_ones(m[None])[0]
    assert f.norm() == pytest.approx(1)
    assert (squares(m, f) <= squares(m, random_units(5, 20000)) + 1e-15).all()
    pull = m.T @ (m @ (1 - f))
    assert (pull - (pull @ f) * f).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batched_spheres_equal_single_ones(dtype):
    m = randn(5, 4, 6, seed=9, dtype=dtype)
    m[1] = 0
    m[2] *= 1e-8
    m[3] *= 1e8
    m[4, :, 0] = 0
    f = nearest_to_ones(m)
    assert f.dtype == dtype
    for row, single in zip(f, m, strict=True):
        torch.testing.assert_close(row, nearest_to_ones(single[None])[0])


# ------------------------------------------------------------------------- closed form and descent agree


def agree(model, layer, x, targets, at_least=0.9999, **options):
    exact = L2CAF(model, layer, "exact", **options)(x, targets)
    slow = L2CAF(model, layer, "gradient", tolerance=0, max_iterations=300, **options)(x, targets)
    assert (exact.solver, slow.solver) == ("exact", "gradient")
    torch.testing.assert_close(exact.filters.flatten(-2).norm(dim=-1), torch.ones(exact.filters.shape[:-2]))
    scale = slow.loss.abs().max() + 1e-6
    assert (exact.loss <= slow.loss + 1e-4 * scale).all()
    assert (cosine(exact.filters, slow.filters) >= at_least).all()
    return exact, slow


@pytest.mark.parametrize("center", [True, False])
def test_class_specific_solvers_agree(center):
    model = pooled(8, 5)
    with torch.no_grad():
        model[-1].weight *= 200  # as a trained network would have it: not lost in the rounding of the loss
    agree(model, model[0], images(3), [0, 1, 4], center_logits=center)


@pytest.mark.parametrize("seed", range(3))
def test_class_oblivious_solvers_agree(seed):
    model = pooled(24, 30)
    agree(model, model[0], images(2, 8, seed), None)


NETWORKS = {
    "resnet18": (lambda: models.resnet18(num_classes=6), "layer4", 64),
    "googlenet": (
        lambda: models.googlenet(num_classes=6, aux_logits=False, init_weights=False),
        "inception5b",
        64,
    ),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=6), "features", 64),
    "efficientnet_b0": (lambda: models.efficientnet_b0(num_classes=6), "features", 64),
    "inception_v3": (
        lambda: models.inception_v3(num_classes=6, aux_logits=False, init_weights=False),
        "Mixed_7c",
        80,
    ),
    "densenet121": (lambda: models.densenet121(num_classes=6), "relu", 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_solvers_agree_on_known_networks(name):
    make, layer, pixels = NETWORKS[name]
    torch.manual_seed(0)
    model = random_norms(make())
    x = images(1, pixels)
    caf = L2CAF(model, layer, "exact")
    features = caf.features(x)
    assert features.std() > 0
    exact = caf.from_features(features * (10 / features.std()), 2)  # maps of a size that training would give
    slow = L2CAF(model, layer, "gradient", tolerance=0, max_iterations=200).from_features(
        features * (10 / features.std()), 2
    )
    assert cosine(exact.filters, slow.filters).item() >= 0.9999
    direct = caf(x, 2)
    assert cosine(exact.filters, direct.filters).item() >= 0.9999
    node = L2CAF(model, layer, "exact")(x)
    slow = L2CAF(model, layer, "gradient", max_iterations=10)(x)
    assert (node.loss <= slow.loss + 1e-6 * slow.loss.abs() + 1e-12).all()


# ------------------------------------------------------------------------- closed forms


def cams(model, x):
    maps = model[0](x)
    return torch.einsum("kc,bchw->bkhw", model[-1].weight, maps)


def unit(maps):
    return F.normalize(maps.flatten(1), dim=1).reshape(maps.shape)


@torch.no_grad()
def test_closed_form_is_the_contrast_of_class_activation_maps():
    model, x = pooled(8, 5), images(3)
    every, c = cams(model, x), torch.tensor([0, 3, 4])
    own = every[torch.arange(3), c]
    plain = L2CAF(model, model[0], center_logits=False)(x, c).filters
    torch.testing.assert_close(plain, unit(2 * own - every.sum(1)), atol=1e-5, rtol=0)
    centred = L2CAF(model, model[0])(x, c).filters
    torch.testing.assert_close(centred, unit(own - every.mean(1)), atol=1e-5, rtol=0)


def by_hand():
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([[2.0], [-1.0]]))
        model[3].bias.copy_(torch.tensor([5.0, 7.0]))
    return model


def test_hand_computed_case():
    # one channel (3, 4), logits (2 p + 5, 7 - p) with p = (3 f1 + 4 f2) / 2: class 0 wants f along (3, 4)
    model, x = by_hand(), torch.tensor([[[[3.0, 4.0]]]])
    found = L2CAF(model, model[0], center_logits=False)(x, [[0, 1]])
    torch.testing.assert_close(found.filters, torch.tensor([[[[0.6, 0.8]], [[-0.6, -0.8]]]]))
    # p = 2.5 and -2.5; loss is logit 1 - logit 0 = 2 - 3 p, and its negative
    torch.testing.assert_close(found.loss, torch.tensor([[-5.5, -9.5]]))
    # oblivious: M = (3, -1.5)' (3, 4) / ... only 3 f1 + 4 f2 counts, 7 is out of reach, 5 the most
    oblivious = L2CAF(model, model[0])(x)
    torch.testing.assert_close(oblivious.filters, torch.tensor([[[0.6, 0.8]]]))
    # p is 2.5 and not 3.5: the logits change by -2 and 1, mean square 2.5
    torch.testing.assert_close(oblivious.loss, torch.tensor([2.5]))


@torch.no_grad()
def test_what_all_classes_share_counts_only_without_centring():
    model, x = pooled(8, 5), images(2)
    shifted = copy.deepcopy(model)
    shifted[-1].weight += 3 * randn(8, seed=1)
    for center, same in ((True, True), (False, False)):
        before, after = (L2CAF(m, m[0], center_logits=center)(x, 1).filters for m in (model, shifted))
        assert bool((cosine(before, after) > 0.9999).all()) is same


@pytest.mark.parametrize("solver", ["exact", "gradient"])
def test_no_gradient_gives_a_uniform_filter_and_an_empty_map(solver):
    model = pooled(4, 3)
    for targets in (None, 1):
        found = L2CAF(model, model[0], solver).from_features(torch.zeros(2, 4, 3, 3), targets)
        torch.testing.assert_close(found.filters, torch.full((2, 3, 3), 1 / 3))
        assert found.heatmaps().abs().max() == 0


def test_classes_that_look_at_the_same_have_no_contrast():
    model = pooled(4, 3)
    with torch.no_grad():
        model[-1].weight[:] = model[-1].weight[0].clone()
    found = L2CAF(model, model[0])(images(2), 1)
    torch.testing.assert_close(found.filters, torch.full((2, 5, 5), 0.2))
    assert found.heatmaps().max() == 0


# ------------------------------------------------------------------------- detection


class Curved(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


def hooked_linear():
    layer = nn.Linear(6, 4)
    layer.register_forward_hook(lambda _, inputs, out: out.abs())
    return layer


def patched_linear():
    layer = nn.Linear(6, 4)
    layer.forward = lambda x: F.linear(x, layer.weight).exp()
    return layer


def sequence(*layers):
    return lambda: pooled_with(
        *(layer() if callable(layer) and not isinstance(layer, nn.Module) else layer for layer in layers)
    )


def pooled_with(*layers):
    features = trunk(6)
    torch.manual_seed(4)
    return network_of(nn.Sequential(features, *copy.deepcopy(layers)))


def network_of(model):
    vars(model)["trunk"] = model[0]  # a name for the test, not a second module
    return model.eval()


def written(forward, **layers):
    return lambda: network(forward, **{name: make() for name, make in layers.items()})


def linear():
    torch.manual_seed(7)
    return nn.Linear(6, 4)


GAP, FLAT = nn.AdaptiveAvgPool2d(1), nn.Flatten()
# name: (network, exact solution exists and is found)
TAILS = {
    "plain": (sequence(GAP, FLAT, linear), True),
    "dropout_before": (sequence(nn.Dropout2d(), GAP, FLAT, linear), True),
    "dropout_after": (sequence(GAP, FLAT, nn.Dropout(), linear), True),
    "identity": (sequence(GAP, nn.Identity(), FLAT, linear), True),
    "two_linear": (sequence(GAP, FLAT, nn.Linear(6, 6), linear), True),
    "no_linear": (sequence(GAP, FLAT), True),
    "batch_norm": (sequence(GAP, FLAT, nn.BatchNorm1d(6), linear), True),
    "batch_norm_of_the_batch": (sequence(GAP, FLAT, nn.BatchNorm1d(6, track_running_stats=False)), False),
    "layer_norm": (sequence(GAP, FLAT, nn.LayerNorm(6), linear), False),
    "conv_after": (sequence(GAP, nn.Conv2d(6, 4, 1), FLAT), True),
    "conv_after_padded": (sequence(GAP, nn.Conv2d(6, 4, 1, padding=1), FLAT), False),
    "conv_before": (sequence(nn.Conv2d(6, 6, 1), GAP, FLAT, linear), False),
    "conv_before_strided": (sequence(nn.Conv2d(6, 6, 1, 2), GAP, FLAT, linear), False),
    "relu_before": (sequence(nn.Conv2d(6, 6, 1), nn.ReLU(), GAP, FLAT, linear), False),
    "relu_after": (sequence(GAP, nn.ReLU(), FLAT, linear), False),
    "relu_last": (sequence(GAP, FLAT, linear, nn.ReLU()), False),
    "max_pool": (sequence(nn.AdaptiveMaxPool2d(1), FLAT, linear), False),
    "pool_2x2": (sequence(nn.AdaptiveAvgPool2d(2), FLAT, nn.Linear(24, 4)), False),
    "flatten_all": (sequence(FLAT, nn.Linear(150, 4)), False),
    "linear_on_columns": (sequence(nn.Linear(5, 5), GAP, FLAT, linear), False),
    "subclass": (sequence(GAP, FLAT, Curved(6, 4)), False),
    "hook": (sequence(GAP, FLAT, hooked_linear), False),
    "patched": (sequence(GAP, FLAT, patched_linear), False),
    "mean": (written(lambda s, x: s.fc(s.trunk(x).mean((2, 3))), fc=linear), True),
    "mean_last": (written(lambda s, x: s.fc(torch.mean(s.trunk(x), dim=[-1, -2])), fc=linear), True),
    "mean_kept": (written(lambda s, x: s.fc(s.trunk(x).mean((2, 3), True).flatten(1)), fc=linear), True),
    "mean_kept_name": (
        written(lambda s, x: s.fc(s.trunk(x).mean(dim=(2, 3), keepdim=True).flatten(1)), fc=linear),
        True,
    ),
    "mean_numpy": (
        written(lambda s, x: s.fc(torch.mean(s.trunk(x), axis=(2, 3), keepdims=True).flatten(1)), fc=linear),
        False,
    ),
    "mean_of_channels": (written(lambda s, x: s.trunk(x).mean((1, 3))), False),
    "mean_twice": (written(lambda s, x: s.fc(s.trunk(x).mean(-1).mean(-1)), fc=linear), False),
    "functional": (
        written(
            lambda s, x: F.linear(torch.flatten(F.adaptive_avg_pool2d(s.trunk(x), (1, 1)), 1), s.fc.weight),
            fc=linear,
        ),
        True,
    ),
    "functional_2x2": (
        written(lambda s, x: torch.flatten(F.adaptive_avg_pool2d(s.trunk(x), (2, 2)), 1)),
        False,
    ),
    "view": (
        written(lambda s, x: s.fc(s.gap(s.trunk(x)).view(x.size(0), -1)), gap=lambda: GAP, fc=linear),
        False,
    ),
    "squeeze_each": (
        written(lambda s, x: s.fc(s.gap(s.trunk(x)).squeeze(-1).squeeze(-1)), gap=lambda: GAP, fc=linear),
        True,
    ),
    "squeeze_all": (
        written(lambda s, x: s.fc(s.gap(s.trunk(x)).squeeze()), gap=lambda: GAP, fc=linear),
        False,
    ),
    "flatten_batch": (
        written(
            lambda s, x: s.one(s.gap(s.trunk(x)).flatten(1)).flatten(0),
            gap=lambda: GAP,
            one=lambda: nn.Linear(6, 1),
        ),
        False,
    ),
    "unit_length": (written(lambda s, x: F.normalize(s.fc(s.trunk(x).mean((2, 3)))), fc=linear), False),
    "cosine": (
        written(
            lambda s, x: F.linear(F.normalize(s.trunk(x).mean((2, 3))), F.normalize(s.fc.weight)), fc=linear
        ),
        False,
    ),
    "two_pools": (
        written(lambda s, x: (lambda a: s.fc(a.mean((2, 3)) + a.amax((2, 3))))(s.trunk(x)), fc=linear),
        False,
    ),
    "two_pools_cat": (
        written(
            lambda s, x: (lambda a: s.fc(torch.cat([s.gap(a).flatten(1), a.amax((2, 3))], 1)))(s.trunk(x)),
            gap=lambda: GAP,
            fc=lambda: nn.Linear(12, 4),
        ),
        False,
    ),
    "squared": (
        written(lambda s, x: (lambda p: s.fc(p) * p.sum(1, True))(s.trunk(x).mean((2, 3))), fc=linear),
        False,
    ),
    "passing": (
        written(lambda s, x: s.fc(s.trunk(x).mean((2, 3))) + x.mean((2, 3)).sum(1, True), fc=linear),
        False,
    ),
    "always_dropout": (
        written(lambda s, x: s.fc(F.dropout(s.trunk(x).mean((2, 3)), 0.01)), fc=linear),
        False,
    ),
    "eval_dropout": (
        written(lambda s, x: s.fc(F.dropout(s.trunk(x).mean((2, 3)), 0.5, s.training)), fc=linear),
        True,
    ),
    "own_attention": (
        written(
            lambda s, x: (lambda a: s.fc((a * a.sum(1, True).sigmoid()).mean((2, 3))))(s.trunk(x)), fc=linear
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_exact_only_where_the_rest_is_affine(name):
    make, expected = TAILS[name]
    model, x = make(), images(3)
    caf = L2CAF(model, model.trunk, max_iterations=60)
    assert (caf.solver == "exact") is expected, caf.why_not_exact
    found = caf(x)
    assert found.solver == caf.solver
    torch.testing.assert_close(found.filters.flatten(1).norm(dim=1), torch.ones(3))
    if name in ("always_dropout", "batch_norm_of_the_batch"):
        return  # the output of an image is not a function of it alone
    reached = filtered(model, model.trunk, x, found.filters)
    loss = (reached - model(x)).square().flatten(1).mean(1) if reached.ndim > 1 else (reached - model(x)) ** 2
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-3, atol=1e-5)
    if expected:  # affine: T(a f + (1 - a) g) = a T(f) + (1 - a) T(g), for signed f and g
        f, g = randn(3, 5, 5, seed=1), randn(3, 5, 5, seed=2)
        mixed = filtered(model, model.trunk, x, 1.7 * f - 0.7 * g)
        line = 1.7 * filtered(model, model.trunk, x, f) - 0.7 * filtered(model, model.trunk, x, g)
        torch.testing.assert_close(mixed, line, rtol=1e-4, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="no exact solution"):
            L2CAF(model, model.trunk, "exact")


def test_maps_without_flattening_have_an_exact_solution():
    model = nn.Sequential(trunk(6), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1)).eval()
    exact, slow = (
        L2CAF(model, model[0], s, tolerance=0, max_iterations=150)(images(2)) for s in ("exact", "gradient")
    )
    assert (exact.loss <= slow.loss + 1e-5).all()
    assert exact.loss.shape == (2,)


def test_several_outputs_as_dict_and_tuple():
    for wrap, pick in (
        (lambda y: {"out": y}, lambda o: o["out"]),
        (lambda y: (y, y * 2), lambda o: o[0]),
        (lambda y: [y], lambda o: o[0]),
    ):
        model = network(lambda s, x, w=wrap: w(s.fc(s.trunk(x).mean((2, 3)))), fc=linear())
        assert L2CAF(model, "trunk").solver == "gradient"
        with pytest.raises(ValueError, match="wrap it in a module that returns one tensor"):
            L2CAF(model, "trunk")(images())
        plain = network(lambda s, x: s.fc(s.trunk(x).mean((2, 3))), fc=linear())
        wrapped = Net(lambda s, x, p=pick: p(s.inner(x)), inner=model).eval()
        found = L2CAF(wrapped, model.trunk)(images(), 1)
        torch.testing.assert_close(found.filters, L2CAF(plain, "trunk")(images(), 1).filters)


def test_exact_is_refused_where_impossible():
    model = pooled()
    with pytest.raises(ValueError, match="no exact solution"):
        L2CAF(model, model[0], "exact", shape="softmax")


def test_functions_as_targets_have_no_exact_solution():
    model = pooled()
    with pytest.raises(ValueError, match="functions"):
        L2CAF(model, model[0], "exact")(images(2), [lambda row: row[0] ** 2] * 2)
    assert L2CAF(model, model[0])(images(2), [lambda row: row[0] ** 2] * 2).solver == "gradient"


# ------------------------------------------------------------------------- networks stay as they are


def state(model):
    """Everything of a network that could change: tensors, gradients, modes, hooks, attributes."""
    modules = dict(model.named_modules())
    tensors = {
        n: (t, t.clone(), t.requires_grad, t.grad) for n, t in model.state_dict(keep_vars=True).items()
    }
    hooks = {n: [dict(m._forward_hooks), dict(m._forward_pre_hooks)] for n, m in modules.items()}
    modes = {n: m.training for n, m in modules.items()}
    attributes = {n: list(vars(m)) for n, m in modules.items()}
    world = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_rng_state()
    return tensors, hooks, modes, attributes, world


def assert_same(before, after):
    (tensors, hooks, modes, attributes, world), (tensors2, hooks2, modes2, attributes2, world2) = (
        before,
        after,
    )
    assert tensors.keys() == tensors2.keys()
    for name, (tensor, values, needs, grad) in tensors.items():
        assert tensors2[name][0] is tensor
        assert torch.equal(tensors2[name][1], values)
        assert tensors2[name][2] == needs
        assert tensors2[name][3] is grad
    assert (hooks, modes, attributes) == (hooks2, modes2, attributes2)
    assert world[:2] == world2[:2]
    assert torch.equal(world[2], world2[2])


untraceable = DependsOnData
CONTEXTS = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("mode", ["eval", "train", "mixed", "frozen"])
def test_the_network_is_untouched(traced, context, mode):
    model = pooled(4, 3, nn.Dropout2d())
    layer = model[0]
    model = model if traced else untraceable(model)
    model.train(mode != "eval")
    if mode == "mixed":
        layer[1].eval()
    model.requires_grad_(mode != "frozen")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    layer[1].register_forward_hook(lambda *_: None)
    before = state(model)
    with CONTEXTS[context]():
        inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        x = images().requires_grad_(context == "grad")
        for solver in ("auto", "gradient"):
            caf = L2CAF(model, layer, solver, max_iterations=3)
            found = caf(x, 1)
            assert caf.solver == ("exact" if traced and solver == "auto" else "gradient")
            caf(x)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == inside
    assert x.grad is None
    assert not found.filters.requires_grad
    assert_same(before, state(model))


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("stage", ["layer", "trunk", "tail", "targets"])
def test_the_network_is_untouched_after_errors(traced, stage):
    model = pooled(4, 3)
    layer = model[0]
    model = (model if traced else untraceable(model)).train()
    failing = {"trunk": layer[0], "tail": model[-1] if traced else model.inner[-1]}.get(stage)
    if failing is not None:
        failing.register_forward_hook(lambda *_: 1 / 0)
    before = state(model)

    def run():
        caf = L2CAF(model, "nowhere" if stage == "layer" else layer, "gradient")
        caf(images(), 99 if stage == "targets" else 1)

    with pytest.raises((ZeroDivisionError, ValueError)):
        run()
    assert_same(before, state(model))


def test_the_trace_leaves_nothing_behind():
    def forward(self, x):
        x = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 2
        self.last = self.trunk(x)
        return self.fc(self.last.mean((2, 3)))

    model = network(forward, fc=linear())
    before = state(model)
    for solver in ("exact", "gradient"):
        L2CAF(model, "trunk", solver, max_iterations=2)(images())
        assert_same(before, state(model))


def test_inputs_and_features_are_not_changed_in_place():
    model = nn.Sequential(
        trunk(), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU(inplace=True), GAP, FLAT
    ).eval()
    x = images()
    kept = x.clone()
    caf = L2CAF(model, model[2], max_iterations=5)
    features = caf.features(x)
    assert (features < 0).any()
    known = features.clone()
    first = caf.from_features(features)
    assert torch.equal(features, known)
    assert torch.equal(x, kept)
    torch.testing.assert_close(first.filters, caf(x).filters)


# ------------------------------------------------------------------------- cutting the network


def curved_net():
    """Something the exact solver refuses, and that needs different numbers of iterations."""
    return network(lambda s, x: F.normalize(s.fc(s.trunk(x).mean((2, 3)).tanh())), fc=linear())


def test_untraceable_networks_give_the_same():
    model, x = curved_net(), images(3)
    twin = untraceable(model)
    for targets in (None, [0, 1, 2], [[0, 1], [1, 2], [3, 0]]):
        a, b = (L2CAF(m, model.trunk, max_iterations=100)(x, targets) for m in (model, twin))
        torch.testing.assert_close(a.filters, b.filters, atol=1e-4, rtol=1e-3)
        assert torch.equal(a.iterations, b.iterations)
    with pytest.raises(ValueError, match="goes past"):
        L2CAF(twin, model.trunk).from_features(L2CAF(twin, model.trunk).features(x))


def test_loops_over_the_batch_and_parts_without_gradients():
    model, x = curved_net(), images(3)

    def forward(self, x):
        with torch.no_grad():
            maps = self.trunk(x)
            rows = [maps[i] for i in range(len(x))]
        return F.normalize(self.fc(torch.stack(rows).mean((2, 3)).tanh()))

    twin = Net(forward, trunk=model.trunk, fc=model.fc).eval()
    a, b = (L2CAF(m, "trunk", max_iterations=100)(x, 1) for m in (model, twin))
    torch.testing.assert_close(a.filters, b.filters, atol=1e-4, rtol=1e-3)


def test_networks_that_cannot_be_cut_do_not_run_early_layers_again():
    """`both` runs before and after the target layer: only its first result is kept."""
    first, both, runs = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1), []

    def forward(self, x):
        maps = self.trunk(self.before(x))
        return self.fc(self.both(maps[:, :3]).repeat(1, 2, 1, 1).mean((2, 3)).tanh())

    model = network(forward, before=nn.Sequential(first, both, nn.ReLU(True)), both=both, fc=linear())
    x, twin = images(3), untraceable(model)
    first.register_forward_hook(lambda *_: runs.append(1))
    for targets in ([0, 1, 2], [[0, 1], [1, 2], [3, 0]]):
        runs.clear()
        caf = L2CAF(twin, model.trunk, max_iterations=20, tolerance=0)
        found = caf(x, targets)
        assert caf.why_not_exact.startswith("torch.fx cannot follow")
        assert len(runs) == 1
        expected = L2CAF(model, "trunk", max_iterations=20, tolerance=0)(x, targets)
        torch.testing.assert_close(found.filters, expected.filters, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("inside", [True, False])
def test_values_that_go_past_an_uncut_layer_may_change_in_place(inside):
    """In a layer, so that its result alone is not enough and it runs each time; or in between."""

    def forward(self, x):
        x = self.first(x)
        y = self.changes(x) if inside else x.mul_(-2).clone()
        return self.fc((self.trunk(x + y) + x.mean()).mean((2, 3)).tanh())

    changes = Net(lambda s, x: x.mul_(-2).clone())
    model = network(forward, first=nn.Conv2d(3, 3, 1), changes=changes, fc=linear())
    found = L2CAF(untraceable(model), model.trunk, max_iterations=20)(images(), 1)
    reached = filtered(model, model.trunk, images(), found.filters)
    torch.testing.assert_close(found.loss, 2 * (reached.mean(1) - reached[:, 1]).detach())


def test_hooks_on_composite_layers_and_on_the_network_count():
    for where in ("trunk", "whole"):
        model = network(lambda s, x: s.fc(s.trunk(x).mean((2, 3))), fc=linear())
        part = model.trunk if where == "trunk" else model
        part.register_forward_hook(lambda _, inputs, out: out * out.sum(1, keepdim=True).tanh())
        caf = L2CAF(model, model.trunk[0], max_iterations=20)
        assert caf.solver == "gradient"
        found = caf(images())
        reached = filtered(model, model.trunk[0], images(), found.filters)
        torch.testing.assert_close(found.loss, (reached - model(images())).square().mean(1).detach())


def other_branch(x):
    """5 while torch.fx traces, 1 when it runs."""
    return 1.0 if isinstance(x, torch.Tensor) else 5.0


def test_a_wrong_trace_is_noticed():
    model = network(
        lambda s, x: s.fc((s.trunk(x) * other_branch(x)).mean((2, 3)).exp()),
        fc=linear(),
    )
    found = L2CAF(model, "trunk", max_iterations=20)(images())
    reached = filtered(model, model.trunk, images(), found.filters)
    torch.testing.assert_close(found.loss, (reached - model(images())).square().mean(1).detach())
    with pytest.raises(ValueError, match="follows the network wrongly"):
        L2CAF(model, "exp")(images())


def test_exact_is_refused_where_the_trace_is_wrong():
    def forward(self, x):
        head = self.fc if isinstance(x, torch.Tensor) else self.other
        return head(self.trunk(x).mean((2, 3)))

    model = network(forward, fc=linear(), other=nn.Linear(6, 4))
    caf = L2CAF(model, "trunk", "exact")
    for _ in range(2):
        with pytest.raises(ValueError, match="no exact solution"):
            caf(images())
    assert L2CAF(model, "trunk")(images(), 1).solver == "gradient"


def test_a_wrong_trace_before_the_layer_does_no_harm():
    model = network(lambda s, x: s.fc(s.trunk(x * other_branch(x)).mean((2, 3))), fc=linear())
    found = L2CAF(model, "trunk", "exact")(images())
    reached = filtered(model, model.trunk, images(), found.filters)
    torch.testing.assert_close(found.loss, (reached - model(images())).square().mean(1).detach())


def test_every_call_runs_the_network_once():
    for head, solver in ((lambda v: v, "exact"), (torch.exp, "gradient")):
        model, runs = network(lambda s, x, h=head: s.fc(h(s.trunk(x).mean((2, 3)))), fc=linear()), []
        model.trunk[0].register_forward_hook(lambda *_, runs=runs: runs.append(1))
        caf = L2CAF(model, "trunk", solver, max_iterations=3)
        for calls in (1, 2):
            caf(images(), 1)
            assert len(runs) == calls


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: untraceable(model)])
def test_what_follows_may_change_the_features_in_place(wrap):
    def forward(self, x):
        maps = self.trunk(x)
        maps += 3.0
        return self.fc(maps.mean((2, 3)).tanh())

    model = network(forward, fc=linear())
    caf = L2CAF(wrap(model), model.trunk, max_iterations=20)
    with torch.no_grad():
        torch.testing.assert_close(caf.features(images()), model.trunk(images()))
    found = caf(images())
    reached = filtered(model, model.trunk, images(), found.filters)
    torch.testing.assert_close(found.loss, (reached - model(images())).square().mean(1).detach())


def test_from_features_equals_the_call_and_leaves_the_trunk_alone():
    for model in (pooled(), curved_net()):
        layer = model[0] if isinstance(model, nn.Sequential) else model.trunk
        runs = []
        caf, x = L2CAF(model, layer, max_iterations=60), images(3, 12)
        layer.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        features = caf.features(x)
        whole = caf(x, [0, 1, 2])
        assert runs
        runs.clear()
        part = caf.from_features(features, [0, 1, 2], image_size=(12, 12))
        assert not runs
        torch.testing.assert_close(part.filters, whole.filters)
        torch.testing.assert_close(part.heatmaps(), whole.heatmaps())
        assert caf.from_features(features, 1).image_size == (6, 6)


def test_what_goes_past_the_layer():
    model = network(
        lambda s, x: (lambda a: s.fc((s.conv(a).relu() + a).mean((2, 3))))(s.trunk(x)),
        conv=nn.Conv2d(6, 6, 3, padding=1),
        fc=linear(),
    )
    x = images(3)
    caf = L2CAF(model, "conv", max_iterations=100)
    with pytest.raises(ValueError, match="goes past the target layer"):
        caf.from_features(caf.features(x))
    found = caf(x, [[0, 1], [1, 2], [2, 3]])
    for t in range(2):
        single = caf(x, [t, t + 1, t + 2])
        torch.testing.assert_close(found.filters[:, t], single.filters, atol=2e-3, rtol=0)


def test_weights_that_go_past_the_layer_are_no_part_of_the_images(monkeypatch):
    monkeypatch.setattr(attention, "CHECK_EVERY", 5)
    # as many classes as images: rows of the weights must not leave with rows of the batch
    model = network(
        lambda s, x: F.linear(F.normalize(s.trunk(x).mean((2, 3))), F.normalize(s.fc.weight)), fc=linear()
    )
    model, x = model.double(), images(4).double()  # Adam makes rounding large where the gradient is zero
    caf = L2CAF(model, "trunk", tolerance=1e-4)
    together = caf.from_features(caf.features(x), [0, 1, 2, 3])
    for i in range(4):
        alone = caf(x[i : i + 1], i)
        torch.testing.assert_close(together.filters[i : i + 1], alone.filters, atol=1e-3, rtol=0)


def test_nodes_and_names_and_layers():
    model = models.densenet121(num_classes=4).eval()
    x = images(1, 64)
    caf = L2CAF(model, "relu")
    torch.testing.assert_close(caf.features(x), F.relu(model.features(x)).detach())
    by_name, by_layer = (L2CAF(model, layer).features(x) for layer in ("features", model.features))
    torch.testing.assert_close(by_name, by_layer)
    inner = L2CAF(pooled(), "0.0").features(images())
    torch.testing.assert_close(inner, pooled()[0][0](images()).detach())


def test_layers_that_cannot_be_used():
    shared = nn.Conv2d(3, 3, 1)
    for model in (
        Net(lambda s, x: s.a(s.a(x)).mean((2, 3)), a=shared),
        Net(lambda s, x: s.b(s.a(x)).mean((2, 3)), a=shared, b=shared),
        untraceable(Net(lambda s, x: s.a(s.a(x)).mean((2, 3)), a=shared)),
    ):
        with pytest.raises(ValueError, match="2 times"):
            L2CAF(model, shared)(images())
    unused = Net(lambda s, x: x.mean((2, 3)), a=shared)
    for model in (unused, untraceable(unused)):
        with pytest.raises(ValueError, match="0 times"):
            L2CAF(model, shared)(images())
    idle = Net(lambda s, x: (s.a(x), x.mean((2, 3)))[1], a=shared)
    for model in (idle, untraceable(idle)):
        with pytest.raises(ValueError, match="influence"):
            L2CAF(model, shared)(images())
    cut_off = Net(lambda s, x: s.a(x).detach().mean((2, 3)), a=shared)
    with pytest.raises(ValueError, match="no gradient"):
        L2CAF(cut_off, shared, "gradient")(images())
    for wrong in ("nowhere", nn.Conv2d(3, 3, 1), "", [shared], None):
        for model in (pooled(), untraceable(pooled())):
            with pytest.raises(ValueError, match="layer"):
                L2CAF(model, wrong)
    model = pooled()
    with pytest.raises(ValueError, match="features"):
        L2CAF(model, model[-1])(images())


def test_a_layer_that_depends_on_data_leaves_the_tail_alone():
    """Only what follows the target layer runs at every step, whatever cannot be traced elsewhere."""
    first, last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
    before, after, runs = DependsOnData(first), DependsOnData(last), []
    model = network(
        lambda s, x: s.fc(s.after(s.trunk(s.before(x))).mean((2, 3))), before=before, after=after, fc=linear()
    )
    plain = network(
        lambda s, x: s.fc(s.after(s.trunk(s.before(x))).mean((2, 3))), before=first, after=last, fc=model.fc
    )
    first.register_forward_hook(lambda *_: runs.append(1))
    caf = L2CAF(model, "trunk", max_iterations=20, tolerance=0)
    found = caf(images(), 1)
    assert len(runs) == 1
    torch.testing.assert_close(caf.from_features(caf.features(images()), 1).filters, found.filters)
    expected = L2CAF(plain, "trunk", max_iterations=20, tolerance=0)(images(), 1)
    torch.testing.assert_close(found.filters, expected.filters)
    assert L2CAF(model, "after").solver == "exact"


def test_timms_tensorflow_padding_is_cut_like_any_network():
    torch.manual_seed(0)
    model, runs = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=5).eval(), []
    model.conv_stem.register_forward_hook(lambda *_: runs.append(1))
    x = images(1, 64)
    L2CAF(model, "blocks.5", max_iterations=5, tolerance=0)(x, 1)
    assert len(runs) == 1
    assert L2CAF(model, "bn2", "exact")(x, 1).solver == "exact"


# ------------------------------------------------------------------------- where the channels are


# ways from (B, C, H, W) to (B, H, W, C) and back; the module between them is the target layer
REORDERED = {
    "permute": (lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2)),
    "movedim": (lambda x: x.movedim(1, -1), lambda x: x.movedim(-1, 1)),
    "transpose": (lambda x: x.transpose(1, 2).transpose(2, 3), lambda x: x.transpose(1, 3).mT),
    "torch": (lambda x: torch.permute(x, (0, 2, 3, 1)), lambda x: torch.moveaxis(x, 3, 1)),
    "flat": (
        lambda x: x.flatten(2).mT.unflatten(1, x.shape[2:]),
        lambda x: x.flatten(1, 2).mT.unflatten(2, x.shape[1:3]),
    ),
}


@pytest.mark.parametrize("side", [10, 12])  # maps 5 x 5, as many lines as channels, and 6 x 6
@pytest.mark.parametrize("wrap", [lambda model: model, DependsOnData], ids=["cut", "hooked"])
@pytest.mark.parametrize("way", REORDERED)
def test_channels_last_give_the_map_of_channels_first(way, wrap, side):
    there, back = REORDERED[way]
    features = trunk(5)
    torch.manual_seed(2)
    fc = nn.Linear(5, 4)
    first = Net(lambda s, x: F.normalize(s.fc(s.trunk(x).mean((2, 3)).tanh())), trunk=features, fc=fc).eval()
    last = Net(
        lambda s, x: F.normalize(s.fc(back(s.layer(there(s.trunk(x)))).mean((2, 3)).tanh())),
        trunk=features,
        layer=nn.Identity(),
        fc=fc,
    ).eval()
    x = randn(2, 3, side, side, seed=1)
    for targets in (None, [[0, 1], [2, 3]]):
        expected = L2CAF(first, "trunk", max_iterations=20, tolerance=0)(x, targets)
        caf = L2CAF(wrap(last), last.layer, max_iterations=20, tolerance=0)
        found = caf(x, targets)
        torch.testing.assert_close(found.filters, expected.filters, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.heatmaps(), expected.heatmaps(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(caf.features(x), features(x).detach())
        if wrap is not DependsOnData:
            again = caf.from_features(caf.features(x), targets, image_size=(side, side))
            torch.testing.assert_close(again.filters, found.filters)


@pytest.mark.parametrize(
    ("layer", "maps"),
    [
        (nn.LayerNorm(6), "last"),
        (nn.Linear(6, 6), "last"),
        (nn.LayerNorm([6, 5, 5]), "first"),
        (nn.GroupNorm(2, 6), "first"),
        (nn.BatchNorm2d(6), "first"),
        (nn.MaxPool2d(3, 1, 1), "first"),
        (nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU(), nn.Dropout(), nn.ZeroPad2d(1)), "first"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_layers_that_fix_the_axis_of_the_channels(layer, maps):
    """Reached is the loss that the filter gives by hand, over the axes of height and width."""

    def forward(self, x):
        x = self.layer(x.reshape(-1).reshape(x.shape))  # by a reshape the axis is lost
        return self.fc(x.mean((1, 2) if maps == "last" else (2, 3)).tanh())

    x = randn(2, 5, 5, 6, seed=1) if maps == "last" else randn(2, 6, 5, 5, seed=1)
    model = Net(forward, layer=layer, fc=linear()).eval()
    found = L2CAF(model, "layer", max_iterations=20)(x, 1)
    with torch.no_grad():
        features = layer(x)
        f = found.filters[:, :, :, None] if maps == "last" else found.filters[:, None]
        assert f.shape == (2, *features.shape[1:-1], 1) if maps == "last" else (2, 1, *features.shape[2:])
        logits = model.fc((features * f).mean((1, 2) if maps == "last" else (2, 3)).tanh())
    torch.testing.assert_close(found.loss, 2 * (logits.mean(1) - logits[:, 1]), atol=1e-5, rtol=1e-4)


def test_images_have_their_channels_first():
    model = Net(lambda s, x: s.fc(s.layer(x).tanh().mean((2, 3))), layer=nn.Identity(), fc=nn.Linear(3, 4))
    assert L2CAF(model.eval(), "layer").features(images()).shape == images().shape


def test_a_mean_over_other_axes_than_height_and_width_is_searched():
    model = network(lambda s, x: s.fc(s.trunk(x).mean((1, 2))), fc=nn.Linear(5, 4))
    found = L2CAF(model, "trunk", max_iterations=20)(images(), 1)
    assert found.solver == "gradient"
    reached = filtered(model, model.trunk, images(), found.filters)
    torch.testing.assert_close(found.loss, 2 * (reached.mean(1) - reached[:, 1]).detach())
    with pytest.raises(ValueError, match="no exact solution"):
        L2CAF(model, "trunk", "exact")(images(), 1)


def swin():
    torch.manual_seed(0)
    return models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=3).eval()


@pytest.mark.parametrize("layer", ["features", "features.1", "features.3.0", "norm"])
def test_swin_gives_maps_over_its_height_and_width(layer):
    model, x = swin(), randn(2, 3, 32, 64, seed=1)
    found = L2CAF(model, layer, max_iterations=20)(x, [0, 2])
    assert found.filters.shape == ((2, 8, 16) if layer == "features.1" else (2, 4, 8))
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _, i, out: out * found.filters[..., None]
    )
    with torch.no_grad():
        logits = model(x)
    handle.remove()
    expected = 2 * (logits.mean(1) - logits[[0, 1], [0, 2]])
    torch.testing.assert_close(found.loss, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("layer", ["norm", "permute"])
def test_the_permuted_head_of_swin_has_the_exact_solution(layer):
    agree(swin(), layer, randn(2, 3, 32, 32, seed=1), [0, 2], at_least=0.999)


def test_what_is_no_map_is_refused():
    vit = models.VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=3).eval()
    with pytest.raises(ValueError, match=r"shape \(2, 17, 8\); expected features \(B, C, H, W\)"):
        L2CAF(vit, "encoder")(images(2, 16))
    solid = Net(
        lambda s, x: s.fc(s.layer(x).mean((2, 3, 4))), layer=nn.Conv3d(3, 6, 3, padding=1), fc=linear()
    ).eval()
    with pytest.raises(ValueError, match=r"\(2, 6, 4, 5, 5\) with channels in axis 1; expected .*sequence"):
        L2CAF(solid, "layer")(randn(2, 3, 4, 5, 5))
    video = Net(lambda s, x: s.fc(s.layer(x).mean((1, 2, 3))), layer=nn.LayerNorm(6), fc=linear()).eval()
    with pytest.raises(ValueError, match=r"\(2, 4, 5, 5, 6\) with channels in axis 4; expected"):
        L2CAF(video, "layer")(randn(2, 4, 5, 5, 6))
    pair = Net(lambda s, x: s.layer(x)[0].mean((2, 3)), layer=Net(lambda s, x: (x + 1, x))).eval()
    with pytest.raises(ValueError, match="are tuple; expected a tensor"):
        L2CAF(pair, "layer")(images())


# ------------------------------------------------------------------------- compiled, scripted, exported


@pytest.mark.parametrize("how", ["whole", "in place", "part"])
def test_compiled_networks_give_the_maps_of_the_original(how):
    model, x = curved_net(), images()
    expected = L2CAF(model, "trunk.0", max_iterations=20, tolerance=0)(x, 1)
    network = compiled(model, how, "trunk")
    network(x)
    layers = ["trunk.0", *(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d))]
    for layer in (*layers, network.get_submodule(layers[-1])):
        found = L2CAF(network, layer, max_iterations=20, tolerance=0)(x, 1)
        torch.testing.assert_close(found.filters, expected.filters)
    torch.testing.assert_close(network(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_and_exported_networks_are_refused_in_one_sentence():
    model, x = pooled(), images()
    for frozen in (torch.jit.script(model), torch.jit.trace(model, x)):
        for layer in ("0", model[0]):
            with pytest.raises(ValueError, match="its layers are out of reach; pass the original"):
                L2CAF(frozen, layer)
    exported = torch.export.export(model, (x,))
    for flat in (exported, exported.module()):
        with pytest.raises(ValueError, match="runs no layers"):
            L2CAF(flat, "0")
    half = nn.Sequential(torch.jit.script(model[0]), nn.Identity(), *model[1:]).eval()
    for layer in ("0", "0.1"):
        with pytest.raises(ValueError, match="its layers are out of reach"):
            L2CAF(half, layer)
    torch.testing.assert_close(L2CAF(half, "1")(x, 1).filters, L2CAF(model, "0")(x, 1).filters)


# ------------------------------------------------------------------------- batches, targets, frames


@pytest.mark.parametrize("make", [pooled, curved_net])
def test_batched_equals_one_by_one(make, monkeypatch):
    monkeypatch.setattr(attention, "CHECK_EVERY", 10)
    model, x, c = make(), images(5), [0, 1, 2, 3, 0]
    x *= torch.tensor([1.0, 0.1, 5, 2, 0.5])[:, None, None, None]
    layer = next(model.children())
    for targets in (None, c):
        caf = L2CAF(model, layer, tolerance=1e-5, max_iterations=300)
        together = caf(x, targets)
        if make is curved_net:
            assert len(set(together.iterations.tolist())) > 1
        for i in range(5):
            alone = caf(x[i : i + 1], targets and c[i])
            torch.testing.assert_close(together.filters[i], alone.filters[0], atol=2e-3, rtol=0)
            torch.testing.assert_close(together.loss[i], alone.loss[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("solver", ["exact", "gradient"])
def test_several_targets_equal_single_calls(solver):
    model, x = pooled(), images(3)
    targets = torch.tensor([[0, 1], [2, 2], [3, 0]])
    caf = L2CAF(model, model[0], solver, max_iterations=60)
    found = caf(x, targets)
    assert found.filters.shape == (3, 2, 5, 5)
    assert found.loss.shape == found.iterations.shape == (3, 2)
    assert found.heatmaps().shape == (3, 2, 10, 10)
    for t in range(2):
        single = caf(x, targets[:, t].numpy())
        torch.testing.assert_close(found.filters[:, t], single.filters, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.loss[:, t], single.loss)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_sequences_have_a_filter_for_each_frame(flat, cell):
    def forward(self, clips):
        maps = self.maps(clips.flatten(0, 1))
        maps = self.layer(maps if flat else maps.unflatten(0, (-1, 3)))
        vectors = maps.mean((-2, -1))
        outputs, _ = self.cell(vectors.unflatten(0, (-1, 3)) if flat else vectors)
        return self.fc(outputs[:, -1])

    torch.manual_seed(0)
    layers = {
        "maps": trunk(5),
        "layer": nn.Identity(),
        "cell": cell(5, 4, batch_first=True),
        "fc": nn.Linear(4, 3),
    }
    model = Net(forward, **layers).eval()
    clips = randn(2, 3, 3, 8, 12, seed=1)
    caf = L2CAF(model, "layer", max_iterations=50)
    found = caf(clips, [0, 2])
    assert found.solver == "gradient"
    assert found.filters.shape == (2, 3, 4, 6)
    torch.testing.assert_close(found.filters.flatten(-2).norm(dim=-1), torch.ones(2, 3))
    assert found.heatmaps().shape == (2, 3, 8, 12)
    uniform = torch.full_like(found.filters, 24**-0.5)
    weights = torch.tensor([[-4.0, 2, 2], [2, 2, -4]]) / 3
    loss = (filtered(model, model.layer, clips, uniform.flatten(0, 1) if flat else uniform) * weights).sum(1)
    assert (found.loss < loss).all()
    for i, c in enumerate((0, 2)):
        torch.testing.assert_close(found.filters[i], caf(clips[i : i + 1], c).filters[0], atol=1e-3, rtol=0)
    several = caf(clips, [[0, 1], [1, 2]])
    torch.testing.assert_close(several.filters[0, 0], found.filters[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(several.filters[1, 1], found.filters[1], atol=1e-3, rtol=0)


def test_targets_of_grad_cam():
    model, x = pooled(), images(2)
    caf = L2CAF(model, model[0])
    by_class = caf(x, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    assert by_class.solver == "exact"
    assert torch.equal(by_class.filters, caf(x, [1, 3]).filters)
    soft = caf(x, [ClassifierOutputSoftmaxTarget(1), ClassifierOutputSoftmaxTarget(3)])
    plain = caf(x, [lambda row: row.softmax(0)[1], lambda row: row.softmax(0)[3]])
    assert soft.solver == "gradient"
    torch.testing.assert_close(soft.filters, plain.filters)
    reached = filtered(model, model[0], x, soft.filters).softmax(1)[[0, 1], [1, 3]]
    torch.testing.assert_close(soft.loss, -reached)
    one = nn.Sequential(model[:-1], nn.Linear(6, 1)).eval()
    binary = L2CAF(one, model[0])(x, [BinaryClassifierOutputTarget(1), BinaryClassifierOutputTarget(0)])
    torch.testing.assert_close(
        binary.loss, filtered(one, model[0], x, binary.filters)[:, 0] * torch.tensor([-1.0, 1])
    )
    with pytest.raises(ValueError, match="not among"):
        caf(x, [ClassifierOutputTarget(99)] * 2)


# ------------------------------------------------------------------------- shapes and maps


@pytest.mark.parametrize("shape", ["softmax", "gaussian", "l2"])
def test_shapes_of_filters_on_maps_that_are_not_square(shape):
    model, x = pooled(), randn(2, 3, 8, 14, seed=1)
    f = L2CAF(model, model[0], shape=shape, max_iterations=60)(x, 1)
    assert f.filters.shape == (2, 4, 7)
    size = f.filters.flatten(1).norm(dim=1) if shape == "l2" else f.filters.sum((1, 2))
    torch.testing.assert_close(size, torch.ones(2))
    again = L2CAF(model, model[0], shape=shape, max_iterations=60)(x, 1)
    assert torch.equal(f.filters, again.filters)
    if shape != "l2":
        assert (f.filters >= 0).all()
        best = filtered(model, model[0], x, torch.full((2, 4, 7), 1 / 28))
        assert (f.loss <= (best * (torch.tensor([2.0, -6, 2, 2]) / 4)).sum(1) + 1e-3).all()


def test_optimum_of_softmax_filters_is_one_position():
    # a linear loss over the simplex is least at a corner: the position whose CAM stands out most
    model, x = pooled(), images(2)
    found = L2CAF(model, model[0], shape="softmax")(x, 1)
    with torch.no_grad():
        best = (lambda maps: maps[:, 1] - maps.mean(1))(cams(model, x))
    assert found.filters.flatten(1).argmax(1).tolist() == best.flatten(1).argmax(1).tolist()


@pytest.mark.parametrize("sign", ["both", "positive", "negative"])
def test_heatmaps(sign):
    f = unit(randn(2, 3, 4, seed=2))
    found = Attention(f, torch.zeros(2), torch.zeros(2), "exact", (3, 4))
    shown = {"both": f.abs(), "positive": f.clamp(0), "negative": (-f).clamp(0)}[sign]
    low, high = shown.amin((1, 2), keepdim=True), shown.amax((1, 2), keepdim=True)
    torch.testing.assert_close(found.heatmaps(sign=sign), (shown - low) / (high - low))
    large = Attention(f, torch.zeros(2), torch.zeros(2), "exact", (9, 11)).heatmaps(sign=sign)
    assert large.shape == (2, 9, 11)
    assert large.amin((1, 2)).tolist() == [0, 0]
    assert large.amax((1, 2)).tolist() == [1, 1]
    with pytest.raises(ValueError, match="sign"):
        found.heatmaps(sign="none")
    only = Attention(f.abs(), torch.zeros(2), torch.zeros(2), "exact", (3, 4))
    assert only.heatmaps(sign="negative").abs().max() == 0


def test_the_search_takes_the_steps_it_may():
    model = curved_net()
    with torch.no_grad():
        normal, features = model(images()), model.trunk(images())
    for steps in (1, 7):
        found = L2CAF(model, "trunk", max_iterations=steps, tolerance=0)(images())
        assert found.iterations.tolist() == [steps, steps]
        assert torch.allclose(found.filters.flatten(1).norm(dim=1), torch.ones(2))
        with torch.no_grad():
            filtered = F.normalize(model.fc((features * found.filters[:, None]).mean((2, 3)).tanh()))
        assert torch.allclose(found.loss, (filtered - normal).square().mean(1), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = pooled().to(dtype)
    found = L2CAF(model, model[0])(images().to(dtype), 1)
    assert found.filters.dtype == dtype
    assert np.asarray(found).dtype == np.float32
    assert (cosine(found.filters, L2CAF(pooled(), "0")(images(), 1).filters) > 0.98).all()


def test_outputs_with_one_dimension():
    model = network(lambda s, x: s.fc(s.trunk(x).mean((2, 3))).squeeze(-1).tanh(), fc=nn.Linear(6, 1))
    found = L2CAF(model, "trunk", max_iterations=50)(images(3))
    reached = filtered(model, model.trunk, images(3), found.filters)
    torch.testing.assert_close(found.loss, (reached - model(images(3))).square().detach())


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (4, "not among 4"),
        (-1, "not among 4"),
        ([0, 9], "not among 4"),
        ([0, 1, 2], "3 images"),
        ([[0, 1]], "1 images"),
        (1.0, "expected classes"),
        ([0.0, 1.0], "expected classes"),
        (True, "expected classes"),
        ([True, False], "expected classes"),
        ([], "expected classes"),
        (torch.zeros(2, 0, dtype=torch.long), "expected classes"),
        (torch.zeros(0, dtype=torch.long), "expected classes"),
        (torch.zeros(2, 1, 1, dtype=torch.long), "expected classes"),
        ("cat", "expected classes"),
        ([[0], [1, 2]], "expected classes"),
        ([None, 1], "expected classes"),
        (lambda row: row[0], "expected classes"),
        ([lambda row: row[0]], "1 targets for 2 images"),
        ([lambda row: row] * 2, "single number"),
        ([lambda row: 1.0] * 2, "single number"),
        ([lambda row: torch.tensor(1.0)] * 2, "no gradient"),
    ],
)
def test_wrong_targets(targets, message):
    model = pooled()
    for solver in ("auto", "gradient"):
        with pytest.raises(ValueError, match=message):
            L2CAF(model, model[0], solver, max_iterations=2)(images(2), targets)


def test_wrong_images_features_and_outputs():
    model = pooled()
    caf = L2CAF(model, model[0])
    for value in (float("nan"), float("inf")):
        x = images()
        x[1, 0, 0, 0] = value
        with pytest.raises(ValueError, match="images are not finite"):
            caf(x)
        with pytest.raises(ValueError, match="features are not finite"):
            caf.from_features(x.mean(1, True).expand(-1, 6, -1, -1))
    for call in (lambda: caf(images(0)), lambda: caf.from_features(torch.zeros(0, 6, 5, 5))):
        with pytest.raises(ValueError, match="no image"):
            call()
    with pytest.raises(ValueError, match="expected a tensor"):
        caf(images().numpy())
    with pytest.raises(ValueError, match=r"images are \(3, 10, 10\); expected .*such as image\[None"):
        caf(images()[0])
    with pytest.raises(ValueError, match="expected features"):
        caf.from_features(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="expected a tensor"):
        caf.from_features(np.zeros((2, 6, 5, 5)))
    one = pooled(6, 1)
    with pytest.raises(ValueError, match="two classes"):
        L2CAF(one, one[0])(images(), 0)
    maps = nn.Sequential(trunk(), nn.Conv2d(6, 4, 1)).eval()
    with pytest.raises(ValueError, match="need logits"):
        L2CAF(maps, maps[0])(images(), 0)
    broken = pooled()
    with torch.no_grad():
        broken[-1].bias[0] = float("nan")
    with pytest.raises(ValueError, match="output is not finite"):
        L2CAF(broken, broken[0])(images())
    total = network(lambda s, x: s.trunk(x).exp().sum())
    with pytest.raises(ValueError, match="one row for each image"):
        L2CAF(total, "trunk")(images())


@pytest.mark.parametrize(
    "option",
    [
        {"solver": "fast"},
        {"shape": "ball"},
        {"max_iterations": 0},
    ],
)
def test_unknown_options(option):
    model = pooled()
    with pytest.raises(ValueError, match=next(iter(option))):
        L2CAF(model, model[0], **option)


def test_no_warnings():
    model = pooled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        L2CAF(model, model[0])(images(), 1).heatmaps()
        L2CAF(model, model[0], "gradient", max_iterations=2)(images())


@pytest.mark.real_data
@pytest.mark.parametrize(("photo", "classes"), [("dog_butterfly", (207, 323)), ("dog_ball", (242, 852))])
def test_centred_logits_tell_two_objects_of_a_photograph_apart(ctg_data, photo, classes):
    files = sorted((ctg_data / "photos").glob(f"{photo}.*"))
    weights = ctg_data / "weights" / "mobilenet_v2_tfquant.pth"
    if not files or not weights.is_file():
        pytest.skip(f"{ctg_data} holds no {photo} or no MobileNetV2")
    model = models.mobilenet_v2()
    model.load_state_dict(torch.load(weights, weights_only=True))
    pixels = torch.from_numpy(np.array(Image.open(files[0]).convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
    image = F.interpolate(pixels[None], (224, 224), mode="bilinear", antialias=True)
    alike = {}
    for center in (False, True):
        first, second = L2CAF(model, "features", center_logits=center)(image, [classes]).filters[0].flatten(1)
        alike[center] = F.cosine_similarity(first, second, dim=0).item()
    assert alike[False] > 0.99
    assert alike[True] < 0.7


def test_vgg_whose_head_has_relus_is_searched():
    torch.manual_seed(0)
    with torch.device("meta"):
        model = models.vgg11_bn(num_classes=3)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 8), nn.ReLU(), nn.Linear(8, 3))
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            nn.init.ones_(layer.weight)
    caf = L2CAF(model, "features", max_iterations=20)
    found = caf(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)), [0, 2])
    assert (found.solver, found.filters.shape) == ("gradient", (2, 2, 3))
    assert torch.allclose(found.filters.flatten(1).norm(dim=1), torch.ones(2))

"""Maps by the package grad-cam: what they must be behind average pooling, and what removal says of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.rivals import removal_scores, rival_maps

WEIGHT = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> nn.Sequential:
    """Its features are its inputs (B, 6, H, W), so every map is known in closed form."""
    same, head = nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6, 5, bias=False)
    same.weight.data.copy_(torch.eye(6)[..., None, None])
    head.weight.data.copy_(WEIGHT)
    network = nn.Sequential(same, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return network.eval()


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.rand(4, 6, 5, 7, generator=torch.Generator().manual_seed(2))


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4)


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """As the package scales them: from 0 at the lowest to 1 at the highest."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-9)


def test_behind_average_pooling_grad_cam_is_cam(model, inputs):
    classes = torch.tensor([0, 4, 2, 2])
    cam = torch.einsum("bc,bchw->bhw", WEIGHT[classes], inputs).clamp(min=0)
    assert alike(rival_maps(model, model[0], inputs, classes)["Grad-CAM"], scaled(cam))


def test_finer_cam_sets_the_class_against_its_three_likeliest_rivals(model, inputs):
    classes = torch.tensor([0, 4, 2, 2])
    pooled = inputs.mean((2, 3)).requires_grad_(True)  # the gradient to a position is that to the average
    for c, row in zip(classes.tolist(), pooled @ WEIGHT.T, strict=True):
        rivals = [k for k in row.topk(4).indices.tolist() if k != c][:3]
        shares = row.softmax(0)[rivals]
        (shares * (row[c] - row[rivals])).sum().div(shares.sum()).backward(retain_graph=True)
    cam = torch.einsum("bc,bchw->bhw", pooled.grad, inputs).clamp(min=0)
    assert alike(rival_maps(model, model[0], inputs, classes)["Finer-CAM"], scaled(cam))


def test_functions_of_the_output_are_explained_and_have_no_finer_cam(model, inputs):
    others = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    maps = rival_maps(model, model[0], inputs, [lambda out, o=o: out @ o for o in others])
    shares = torch.einsum("bd,dc,bchw->bhw", others, WEIGHT, inputs).clamp(min=0)
    assert alike(maps["Grad-CAM"], scaled(shares))
    assert set(maps) == {"Grad-CAM", "Grad-CAM++", "Eigen-CAM"}
    assert all(m.shape == (4, 5, 7) for m in maps.values())


def test_the_network_keeps_no_gradient_and_no_hook(model, inputs):
    rival_maps(model, model[0], inputs, torch.tensor([0, 1, 2, 3]))
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_removing_what_counts_costs_more_than_removing_the_rest():
    """The network reads the left half alone: a map of the left half is right, its opposite is wrong."""

    class Left(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images[..., : images.shape[-1] // 2].mean((1, 2, 3))
            return torch.stack([bright, -bright], 1)

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[..., :8] += 4  # what lies to the right fills it in with less
    left = torch.zeros(2, 4, 4)
    left[..., :2] = 1
    found = removal_scores(Left(), images, {"left": left, "right": 1 - left}, torch.tensor([0, 0]))
    assert set(found) == {"left: removal", "right: removal"}
    assert (found["left: removal"] > 0.05).all()
    assert torch.allclose(found["left: removal"], -found["right: removal"], atol=0.3)
    assert (found["right: removal"] < -0.05).all()

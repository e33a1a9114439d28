"""Networks by name: their sizes are what the formula says, and what cannot be built is refused."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from helpers.backbones import make_backbone, small_network


@pytest.mark.parametrize(
    ("channels", "outputs", "widths"), [(1, 10, (16, 32, 64)), (3, 7, (4, 8)), (2, 3, (4,))]
)
def test_a_small_network_has_the_weights_of_its_layers(channels, outputs, widths):
    expected, inputs = 0, channels
    for place, width in enumerate(widths):
        expected += inputs * width * (25 if place == 0 else 9) + 2 * width  # kernel, batch norm
        inputs = width
    expected += (inputs + 1) * outputs
    model = small_network(channels, outputs, widths)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model(torch.rand(2, channels, 16, 16)).shape == (2, outputs)


@pytest.mark.parametrize("side", [8, 24, 64])
def test_the_map_is_a_quarter_of_the_image(side):
    model = small_network(3, 5)
    features = nn.Sequential(*list(model)[:-3])(torch.rand(2, 3, side, side))
    assert features.shape == (2, 64, side // 4, side // 4)
    pooled = model[-1](features.mean((2, 3)))
    assert torch.allclose(pooled, nn.Sequential(*list(model)[-3:])(features), atol=1e-6)


@pytest.mark.parametrize("place", range(4))
def test_a_shift_by_whole_steps_of_the_map_moves_no_logit(place):
    model = small_network(3, 4).eval()
    images = torch.zeros(1, 3, 48, 48)
    images[:, :, 20:23, 20:23] = 1
    moved = images.roll((4 * place, -4 * place), (2, 3))
    assert torch.allclose(model(images), model(moved), atol=1e-6)


def test_small_is_the_small_network():
    torch.manual_seed(0)
    by_name = make_backbone("small", 1, 10)
    torch.manual_seed(0)
    made = small_network(1, 10)
    assert all(map(torch.equal, by_name.state_dict().values(), made.state_dict().values()))


@pytest.mark.parametrize(
    ("name", "features"), [("resnet18", 512), ("squeezenet1_1", 512), ("mobilenet_v3_small", 1024)]
)
def test_torchvisions_classifiers_come_without_trained_weights(name, features):
    torch.manual_seed(0)
    model = make_backbone(name, 3, 11)
    assert type(model) is type(getattr(torchvision.models, name)())
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 11)
    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    assert last.weight.shape[:2] == (11, features)
    again = make_backbone(name, 3, 11)  # other random weights
    assert not torch.equal(next(model.parameters()), next(again.parameters()))


@pytest.mark.parametrize("name", ["resnet", "large", "fasterrcnn_resnet50_fpn", "r3d_18"])
def test_what_is_no_classifier_is_refused(name):
    with pytest.raises(ValueError, match=f"no network is called '{name}'; expected 'small' or one of"):
        make_backbone(name, 3, 10)


def test_grey_images_need_the_small_network():
    with pytest.raises(ValueError, match="resnet18 takes 3 channels, the images have 1; load them with"):
        make_backbone("resnet18", 1, 10)
    assert make_backbone("small", 1, 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)

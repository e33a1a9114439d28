"""Small members of five families: what they cost, what they give, and that they are torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet
from torchvision.models.inception import Inception3
from torchvision.models.mobilenetv2 import MobileNetV2

from helpers.reading_list.families import FAMILIES, NarrowResNet, embedder, multiply_adds

CLASSES = {
    "ResNet": resnet.ResNet,
    "DenseNet": DenseNet,
    "Inception v3": Inception3,
    "MobileNetV2": MobileNetV2,
    "EfficientNet": EfficientNet,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_torchvisions_own_class_and_embeds_small_images(family: str) -> None:
    network = embedder(family, 7)
    assert isinstance(network, CLASSES[family])
    images = torch.rand(2, 3, 48, 48)
    loss = network(images).square().sum()
    assert network(images).shape == (2, 7)
    loss.backward()
    assert all(weight.grad is not None for weight in network.parameters())
    same = network.eval()(images)
    assert torch.equal(same, network(images))  # nothing is dropped at random


def test_all_cost_about_the_same() -> None:
    with torch.device("meta"):
        image = torch.empty(1, 3, 48, 48)
        costs = {family: multiply_adds(embedder(family, 64), image) for family in FAMILIES}
    assert max(costs.values()) < 1.2 * min(costs.values()), costs


def test_multiply_adds_of_a_network_counted_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    assert multiply_adds(network, torch.rand(1, 3, 4, 4)) == 16 * 8 * 3 * 9 + 128 * 5
    assert multiply_adds(network, torch.rand(2, 3, 4, 4)) == 2 * (16 * 8 * 3 * 9 + 128 * 5)
    assert network.training
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    assert multiply_adds(depthwise, torch.rand(1, 6, 4, 4)) == 16 * 6 * 9


def test_counting_leaves_the_statistics_of_batch_norm_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    multiply_adds(network, torch.rand(2, 3, 4, 4))
    assert network[1].running_mean.tolist() == [0, 0, 0, 0]


def test_a_residual_network_of_full_width_is_torchvisions() -> None:
    wide = NarrowResNet(64, 1000)
    theirs = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    wide.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 48, 48)
    assert torch.equal(wide.eval()(images), theirs.eval()(images))


def test_inception_of_full_width_is_torchvisions_less_repetitions() -> None:
    make, _ = FAMILIES["Inception v3"]
    with torch.device("meta"):
        ours = make(16, 1000).state_dict()
        theirs = Inception3(1000, aux_logits=False, init_weights=False).state_dict()
    left_out = {name.split(".")[0] for name in theirs.keys() - ours.keys()}
    assert left_out == {"Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c"}  # repetitions
    assert {n: v.shape for n, v in ours.items()} == {n: theirs[n].shape for n in ours}


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="no family is called 'VGG'; there are ResNet, DenseNet"):
        embedder("VGG", 8)

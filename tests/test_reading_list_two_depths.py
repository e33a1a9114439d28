"""Maps of a large network and of a small one that is its beginning."""

from __future__ import annotations

import pytest
import torch

from helpers.backbones import load_backbone
from helpers.data import seen_and_unseen
from helpers.reading_list.two_depths import CHANNELS, DEEP, SHALLOW, first_blocks, small, two_depths


def test_the_first_blocks_continue_to_the_network_s_own_output() -> None:
    images, backbone = torch.rand(2, 3, 64, 64), load_backbone(output_stride=16)
    net = backbone.network
    with torch.no_grad():
        maps = first_blocks(DEEP)(backbone.normalize(images))
        rest = net.forward_head(net.bn2(net.conv_head(net.blocks[DEEP:](maps))))
        assert torch.allclose(rest, backbone(images), atol=1e-5)


@pytest.mark.parametrize("count", [0, 8])
def test_blocks_that_are_not_there_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}; the network has blocks 1 to 7"):
        first_blocks(count)


@pytest.mark.parametrize(("side", "smaller"), [(96, 64), (224, 160), (32, 32), (48, 32)])
def test_the_small_network_sees_two_thirds(side: int, smaller: int) -> None:
    grey = torch.full((1, 3, side, side), 0.25)
    assert small(grey).shape == (1, 3, smaller, smaller)
    assert torch.allclose(small(grey), torch.tensor(0.25))


def test_both_depths_are_of_the_same_pictures_in_order() -> None:
    drawn = two_depths("birds", 3, size=96, seen=3, unseen=4, images=(4, 2))
    parts = seen_and_unseen("birds", 3, size=96, siblings=1, seen=3, unseen=4, images=(4, 1, 1, 2))
    normalize, images = load_backbone(output_stride=16).normalize, parts.unseen[:][0]
    with torch.no_grad():
        assert torch.allclose(drawn.test.deep, first_blocks(DEEP)(normalize(images)), atol=1e-5)
        shallow = first_blocks(SHALLOW)(normalize(small(images)))
    assert torch.allclose(drawn.test.shallow, shallow, atol=1e-5)
    assert drawn.train.deep.shape == (12, CHANNELS[DEEP], 6, 6)
    assert drawn.train.shallow.shape == (12, CHANNELS[SHALLOW], 4, 4)
    assert torch.equal(drawn.test.labels, parts.unseen.labels)
    assert torch.equal(drawn.places, parts.new)
    assert drawn.total == 60

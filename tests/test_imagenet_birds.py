"""Birds off the middle, and the two halves of the ImageNet network: together they are the network."""

import torch

from helpers import imagenet_birds
from helpers.backbones import load_backbone


def test_the_halves_make_the_whole():
    birds = imagenet_birds.placed_birds(0, images=(8, 2)).test.subset(torch.arange(3))
    lower = imagenet_birds.lower_maps(birds)
    upper = imagenet_birds.upper_half(1000).eval()
    whole = load_backbone(output_stride=16)
    upper[-1].load_state_dict(whole.network.classifier.state_dict())
    with torch.no_grad():
        assert torch.allclose(upper(lower.tensors[0]), whole(birds[:][0]), atol=1e-4)
    side = imagenet_birds.POSITIONS
    assert lower.tensors[0].shape[2:] == (side, side)
    assert torch.equal(lower.labels, birds.labels)


def test_the_birds_are_off_the_middle_and_a_map_on_them_scores_one():
    birds = imagenet_birds.placed_birds(1, images=(8, 4)).test
    middle = (birds.boxes[:, :2] + birds.boxes[:, 2:]) / 2 - imagenet_birds.SIDE / 2
    assert middle.abs().max(1).values.mean() > 5
    size = imagenet_birds.SIDE
    at = torch.arange(size) + 0.5
    x1, y1, x2, y2 = birds.boxes.T[:, :, None]
    inside = ((at >= y1) & (at < y2))[:, :, None] & ((at >= x1) & (at < x2))[:, None]
    scores = imagenet_birds.in_the_box({"ours": inside.float()}, birds)
    assert set(scores) == {"ours: in the box", "blob in the centre: in the box"}
    assert torch.allclose(scores["ours: in the box"], torch.ones(len(birds)))

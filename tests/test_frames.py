"""Sequences of frames, and the recurrent network that reads them."""

from __future__ import annotations

import torch
from networks import seeded

from helpers.frames import FrameReader, one_sharp_frame
from helpers.l2_caf import L2CAF


def test_one_frame_is_the_image_and_the_others_are_smoother():
    images = torch.rand(6, 3, 40, 40, generator=seeded(0))
    frames = one_sharp_frame(images)
    assert frames.shape == (6, 4, 3, 40, 40)
    roughness = frames.diff(dim=-1).abs().mean((2, 3, 4))
    for i, (image, four, rough) in enumerate(zip(images, frames, roughness, strict=True)):
        sharp = i % 4
        assert torch.equal(four[sharp], image)
        others = [t for t in range(4) if t != sharp]
        assert rough[others].max() < 0.2 * rough[sharp]
        assert torch.equal(four[others[0]], four[others[1]])


def test_the_reader_knows_the_order_of_frames_and_takes_a_filter_for_each():
    torch.manual_seed(0)
    reader = FrameReader(5, 3).eval()
    maps = torch.rand(2, 4, 5, 3, 3, generator=seeded(1))
    logits = reader(maps)
    assert logits.shape == (2, 3)
    assert not torch.allclose(logits, reader(maps.flip(1)))
    shuffled = maps.flatten(3)[..., torch.randperm(9, generator=seeded(2))].view_as(maps)
    assert torch.allclose(logits, reader(shuffled), atol=1e-6)  # positions of a frame are averaged
    found = L2CAF(reader, reader.frames, max_iterations=5).from_features(maps)
    assert found.filters.shape == (2, 4, 3, 3)
    assert torch.allclose(found.filters.flatten(2).norm(dim=2), torch.ones(2, 4))

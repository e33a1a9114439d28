"""What needs no connection: tiles that share no pixel, the network's last map, birds in boxes."""

from __future__ import annotations

import torch

from helpers import offline


def test_tiles_of_a_photograph_make_the_photograph():
    tiles = offline.photograph_tiles(side=16, across=3)
    assert len(tiles) == 9 * len(offline.SOURCES)
    assert tiles.class_names[0] == "cat"
    square = (255 * offline._square("chelsea", 48)).round() / 255
    first = tiles[list(range(9))][0].view(3, 3, 3, 16, 16)  # row, column, channel
    torch.testing.assert_close(first.permute(2, 0, 3, 1, 4).reshape(3, 48, 48), square)


def test_the_average_of_the_last_map_is_what_the_classifier_reads():
    images = offline.photograph_tiles(side=64)[[0, 40]][0]
    maps = offline.last_maps(images)
    assert maps.shape == (2, 1280, 4, 4)
    network = offline.network()
    with torch.no_grad():
        logits = network.network.classifier(maps.mean((2, 3)))
        torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-4)


def test_scenes_have_boxes_inside_a_wider_canvas_and_other_places_for_another_seed():
    train, test = offline.scenes(3, size=16, species=4, images=(3, 2))
    assert (len(train), len(test)) == (12, 8)
    assert train.image_shape == (3, 24, 24)
    assert ((test.boxes >= 0) & (test.boxes <= 24)).all()
    other = offline.scenes(4, size=16, species=4, images=(3, 2))[1]
    assert not torch.equal(test.boxes, other.boxes)


def test_brightness_in_the_box_by_hand():
    part = offline.scenes(3, size=16, species=4, images=(3, 2))[1]
    x1, y1, x2, y2 = part.boxes[0].round().int().tolist()
    inside = -torch.ones(8, 24, 24)  # negative parts do not count
    inside[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = 1.0
    found = offline.in_the_box({"map": inside}, part)
    assert found.keys() == {"map: in the box", "blob in the centre: in the box"}
    assert found["map: in the box"][0] == 1
    assert 0 < found["blob in the centre: in the box"][0] < 1

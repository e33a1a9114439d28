"""The embedding explorer of chapter 1: what it draws is what `helpers.retrieval` finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.figures.neighbours import neighbour_figure, plane_of
from helpers.retrieval import nearest_neighbours

NAMES = ["crested slate finch", "plain-winged mossy dove", "sandy thrush"]
LABELS = torch.arange(12) % 3


def parts(seed: int = 0, dim: int = 6) -> dict:
    generator = torch.Generator().manual_seed(seed)
    spaces = {name: torch.randn(12, dim, generator=generator) for name in ("triplet", "pixels")}
    images = torch.rand(12, 3, 8, 8, generator=generator)
    return {"spaces": spaces, "labels": LABELS, "images": images, "names": NAMES}


def near_of(embeddings: Tensor, image: int, k: int = 5) -> list[int]:
    return nearest_neighbours(embeddings, k)[0][image].tolist()


@pytest.mark.parametrize("space", ["triplet", "pixels"])
@pytest.mark.parametrize("image", [0, 7, 11])
def test_the_alt_text_counts_the_right_neighbours(image, space):
    given = parts()
    right = sum(int(LABELS[i] == LABELS[image]) for i in near_of(given["spaces"][space], image))
    figure, alt = neighbour_figure(image, space, **given)
    assert f"Image {image}, {NAMES[image % 3]}, in the embedding {space}" in alt
    assert f"of its 5 nearest neighbours {right} are of the same class" in alt
    titles = [ax.get_title(loc="center") for ax in figure.axes]
    assert titles.count("right") == right
    assert titles.count("wrong") == 5 - right
    assert titles.count("query") == 1


def test_the_pictures_are_the_query_and_its_neighbours_nearest_first():
    given = parts(3)
    figure, _ = neighbour_figure(4, "triplet", **given)
    shown = [torch.as_tensor(ax.images[0].get_array()).permute(2, 0, 1) for ax in figure.axes if ax.images]
    expected = given["images"][[4, *near_of(given["spaces"]["triplet"], 4)]]
    torch.testing.assert_close(torch.stack(shown).to(expected), expected)


@pytest.mark.parametrize("k", [1, 4, 11])
def test_any_number_of_neighbours(k):
    figure, alt = neighbour_figure(2, "triplet", **parts(), k=k)
    assert sum(bool(ax.images) for ax in figure.axes) == k + 1
    assert f"its {k} nearest" in alt


def test_grey_images_and_one_dimension():
    given = parts(dim=1)
    given["images"] = given["images"][:, :1]
    figure, _ = neighbour_figure(1, "pixels", **given)
    assert figure.axes[1].images[0].get_array().shape == (8, 8, 3)


def test_the_plane_keeps_the_two_largest_axes_and_does_not_flip():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, 5, generator=generator)
    points = plane_of(rows)
    unit = torch.nn.functional.normalize(rows.double())
    spectrum = torch.linalg.svdvals(unit - unit.mean(0))
    torch.testing.assert_close(points.double().norm(dim=0), spectrum[:2], atol=1e-5, rtol=0)
    assert (points.amax(0) >= -points.amin(0)).all()
    torch.testing.assert_close(points, plane_of(7 * rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": 12}, "image is 12; expected a whole number from 0 to 11"),
        ({"image": -1}, "image is -1"),
        ({"image": 1.0}, "image is 1.0"),
        ({"image": True}, "image is True"),
        ({"k": 12}, "k is 12; expected a whole number from 1 to 11"),
        ({"k": 0}, "k is 0"),
        ({"space": "N-pair"}, "space is 'N-pair'; expected one of 'triplet', 'pixels'"),
        ({"names": NAMES[:2]}, "names has 2 entries, but a label is 2"),
        ({"labels": LABELS[:11]}, "images has 12 rows and labels 11"),
        ({"spaces": {"triplet": torch.randn(9, 4)}}, r"spaces\['triplet'\] has 9 rows and labels 12"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        neighbour_figure(**{"image": 0, "space": "triplet", **parts(), **change})

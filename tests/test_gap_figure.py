"""The explorer of chapter 6: it draws the arm, the part and the generation that were chosen."""

from itertools import product

import numpy as np
import pytest

from helpers.figures.gap import arm_name, gap_figure

NAMES = [arm_name(*tools) for tools in product((False, True), repeat=3)]


@pytest.fixture
def paths():
    draw = np.random.default_rng(0)
    found = {name: {"dense": draw.uniform(0.2, 0.8, (3, 4, 2))} for name in [*NAMES, "triplet"]}
    for name in NAMES:
        if "Evolution" in name or name == "all":
            found[name]["slim"] = draw.uniform(0.2, 0.8, (3, 4, 2))
    return found


def test_eight_names():
    assert len(set(NAMES)) == 8
    assert arm_name(False, False, False) == "softmax"
    assert arm_name(True, True, True) == "all"
    assert arm_name(True, False, True) == "two heads + SVMax"


@pytest.mark.parametrize("generation", [1, 2, 4])
def test_the_alt_text_says_what_is_drawn(paths, generation):
    figure, alt = gap_figure(paths, generation, "with", "with", "with", "slim")
    accuracy, recall = paths["all"]["slim"][:, generation - 1].mean(0)
    assert f"all, the slim network, after generation {generation}, at accuracy {accuracy:.3f}" in alt
    assert f"recall {recall:.3f}" in alt
    (axes,) = figure.axes
    assert any(np.allclose(line.get_xydata(), [[accuracy, recall]]) for line in axes.lines)


def test_an_arm_without_generations_has_no_slim_network(paths):
    figure, alt = gap_figure(paths, 4, "with", "without", "without", "slim")
    assert "two heads, the dense network, after generation 4 (no slim network" in alt
    (axes,) = figure.axes
    assert any("no slim network" in axes.get_title(loc=side) for side in ("left", "center"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation": 5}, "generation is 5; expected 1 to 4"),
        ({"generation": 0}, "generation is 0; expected 1 to 4"),
        ({"svmax": "yes"}, "SVMax is 'yes'; expected one of 'with', 'without'"),
        ({"part": "half"}, "part is 'half'; expected one of 'dense', 'slim'"),
    ],
)
def test_wrong_choices_are_refused(paths, options, message):
    with pytest.raises(ValueError, match=message):
        gap_figure(paths, **options)

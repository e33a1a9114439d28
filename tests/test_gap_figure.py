"""Figures of chapter 6: they draw the arm, the part and the generation that were chosen, and name them."""

from itertools import product

import numpy as np
import pytest

from helpers.experiments import Arm, Results
from helpers.figures import factorial, four_tools, thesis
from helpers.figures.gap import (
    FAMILY,
    GROUPS,
    METRICS,
    PLANE,
    STYLES,
    arm_name,
    gap_figure,
    paths_of,
    plane_figure,
)

NAMES = [arm_name(*tools) for tools in product((False, True), repeat=3)]
IN_GENERATIONS = [name for name in STYLES if "KE" in name or name.startswith("all")]


@pytest.fixture
def paths():
    draw = np.random.default_rng(0)
    found = {name: {"dense": draw.uniform(0.2, 0.8, (3, 4, 2))} for name in [*NAMES, "triplet"]}
    for name in NAMES:
        if "KE" in name or name == "all":
            found[name]["slim"] = draw.uniform(0.2, 0.8, (3, 4, 2))
        else:
            found[name]["dense"] = found[name]["dense"][:, -1:]
    return found


def results(source: str = "study", seeds: int = 3) -> Results:
    """Every arm with accuracies that tell who it is: 0.2 + 0.03 * its number + 0.001 * the seed."""
    runs = {}
    for number, name in enumerate(STYLES):
        for seed in range(seeds):
            value = 0.2 + 0.03 * number + 0.001 * seed
            run = dict.fromkeys((*METRICS, *PLANE), value)
            if name in IN_GENERATIONS:
                for metric, prefix in product(METRICS, ("", "slim ")):
                    run[f"{prefix}{metric} by generation"] = [[g, value - 0.05 * (3 - g)] for g in (1, 2, 3)]
            runs[Arm(name), seed, 0.03] = run
    found = Results.of_runs("gap", [Arm(name) for name in STYLES], runs, None)
    found.source = source
    return found


def test_eight_names():
    assert list(FAMILY) == NAMES
    assert arm_name(False, False, False) == "softmax"
    assert arm_name(True, True, True) == "all"
    assert arm_name(True, False, True) == "two heads + SVMax"
    assert {name for group in GROUPS.values() for name in group} == set(STYLES)


@pytest.mark.parametrize("generation", [1, 2, 4])
def test_the_alt_text_says_what_is_drawn(paths, generation):
    figure, alt = gap_figure(paths, generation, "with", "with", "with", "slim")
    accuracy, recall = paths["all"]["slim"][:, generation - 1].mean(0)
    assert f"all, the slim network, generation {generation}, at accuracy {accuracy:.3f}" in alt
    assert f"recall {recall:.3f}" in alt
    (axes,) = figure.axes
    assert any(np.allclose(line.get_xydata(), [[accuracy, recall]]) for line in axes.lines)


def test_an_arm_without_generations_stands_at_its_end(paths):
    figure, alt = gap_figure(paths, 4, "with", "without", "without", "slim")
    assert "two heads, the dense network, one long run (no generations, no slim network)" in alt
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


def test_the_paths_of_a_sweep_are_its_curves_and_ends():
    paths = paths_of(results())
    assert paths["softmax"]["dense"].shape == (3, 1, 2)
    assert paths["all"]["slim"].shape == (3, 3, 2)
    place = list(STYLES).index("all")
    assert np.allclose(paths["all"]["dense"][2, :, 0], 0.2 + 0.03 * place + 0.002 - np.array([0.1, 0.05, 0]))


def test_the_plane_names_every_arm_and_tells_kept_from_own():
    figure, alt = plane_figure(results("this run", 2), results())
    assert len(figure.axes) == len(GROUPS)
    for axes, names in zip(figure.axes, GROUPS.values(), strict=True):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(names)
    assert "softmax 0.20, 0.20 (kept evidence (study))" in alt
    assert "softmax 0.20, 0.20 (this run)" in alt
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == [
        "kept evidence (study), 3 seeds, with 95 % intervals",
        "this run, 2 seeds",
        "all other arms",
    ]


def test_the_interaction_panels_draw_the_means_of_the_cube():
    figure, alt = factorial.interactions_figure(results())
    assert len(figure.axes) == 6
    value = {name: 0.2 + 0.03 * list(STYLES).index(name) + 0.001 for name in FAMILY}
    without_heads = [(value["softmax"] + value["SVMax"]) / 2, (value["KE"] + value["KE + SVMax"]) / 2]
    with_heads = [
        (value["two heads"] + value["two heads + SVMax"]) / 2,
        (value["two heads + KE"] + value["all"]) / 2,
    ]
    drawn = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 2]
    assert any(np.allclose(y, [without_heads[0], with_heads[0]]) for y in drawn)
    assert any(np.allclose(y, [without_heads[1], with_heads[1]]) for y in drawn)
    assert f"two heads by KE: {with_heads[0] - without_heads[0]:+.3f}" in alt


def test_the_courses_follow_dense_and_slim_over_the_generations():
    figure, alt = factorial.courses_figure(results(), ["all", "all, restarts"], ["two heads + SVMax"])
    assert len(figure.axes) == 2
    assert "slim test accuracy of all" in alt
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    named = ["all", "all, restarts", "two heads + SVMax, one long run", "dense", "slim"]
    assert texts == [*named, "lowest to highest seed"]


def test_the_opening_picture_names_the_four_tools():
    _, alt = four_tools.tools_figure()
    assert all(tool in alt for tool in ("Knowledge Evolution", "two heads", "SVMax", "L2-CAF"))


def test_the_paragraphs_count_every_effect_once():
    stand = thesis.standing()
    whole = thesis.whole_effects(stand)
    counts = [sum(s.best.verdict in verdicts for s in whole) for verdicts in thesis.WORDS.values()]
    assert sum(counts) == len(whole)
    text = thesis.paragraphs(stand).data
    for title, count in zip(thesis.WORDS, counts, strict=True):
        assert f"**{title}.** {count} of {len(whole)} effects" in text

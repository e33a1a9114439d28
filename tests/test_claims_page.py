"""The report on the claims: complete, offline, readable without colours, its plots true to the record."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from helpers.chapters.run import stored_reports
from helpers.claims import recording as claims
from helpers.claims.figure import claim_figure, forest_figure, forest_svg
from helpers.claims.ledger import load_ledger
from helpers.claims.measurement import Measurement, Result
from helpers.claims.report import SIGNS, claims_page, provenance_rows
from helpers.claims.standing import standings
from helpers.claims.verdict import VERDICTS
from helpers.editions.book import PARTS
from helpers.experiments.comparison import Paired
from helpers.files import chapter_number, find_notebooks
from helpers.plotting import PALETTE

ROW = {
    "id": "gain",
    "chapter": "03",
    "short": "it helps <b>",
    "claim": "It helps a < b & <script>",
    "source": "Paper, table 2",
    "published": {"value": 3.1, "setting": "CUB, ResNet-50"},
    "measure": "recall, with minus without",
    "kind": "effect",
    "direction": "greater",
    "smallest": 0.5,
    "unit": "points",
    "thesis_setting": "CUB",
    "refuting": ["weak", "strong"],
}
IDENTITY = {
    **{k: v for k, v in ROW.items() if k not in ("direction", "smallest", "refuting")},
    "kind": "identity",
    "tolerance": 1e-5,
}
WHOLE = {k: v for k, v in ROW.items() if k not in ("direction", "smallest", "unit", "refuting")} | {
    "id": "whole",
    "kind": "composite",
    "components": ["gain", "none"],
}
EFFECTS = [1.0, 1.2, 0.8]
ARMS = {"without": [70.0, 71.0, 72.0], "with <it>": [71.0, 72.2, 72.8]}
CONTROLS = {"weak": [2.0, 2.1, 1.9], "strong": [0.0, -0.1, 0.2], "other": [1.0, -1.0, 0.1]}
GAIN = Measurement("gain", "digits", EFFECTS, summaries=ARMS, controls=CONTROLS, note="A note.")


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "claims.yaml").write_text(yaml.safe_dump(list(rows)))
    return folder / "claims.yaml"


def kept(tier: str, *measurements: Measurement) -> SimpleNamespace:
    return SimpleNamespace(
        tier=tier, claims={m.claim_id: asdict(m) for m in measurements}, chapter="03", command="make study",
        parameters={"seed": 100}, plan_committed=True, date="2026-02-03", device="another device",
        wall_seconds=600.0, versions={},
    )  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> BeautifulSoup:
    later = {**IDENTITY, "id": "later", "chapter": "04", "published": None}
    none = {**ROW, "id": "none", "published": None, "refuting": []}
    ledger = write(tmp_path, later, ROW, none, {**IDENTITY, "id": "holds"}, WHOLE)
    stamp = {"date": "2026-01-02", "device": "a device", "versions": {"torch": "2.14.1"}}
    found = (
        GAIN,
        Measurement("none", "digits", [1.0, -1.0, 0.1]),
        Measurement("holds", "any batch", violation=1e-7),
    )
    study = kept("study", Measurement("none", "longer", [-1.0, -1.1, -0.9, -1.0, -1.2, -1.05]))
    results = [Result(measurement, "03_c.ipynb", stamp) for measurement in found]
    own = [Result(Measurement("none", "digits", [1.0, 1.1, 0.9]), "03_c.ipynb", {})]
    text = claims_page(
        standings(results, [study], own=own, ledger=ledger),
        titles={"03": "Chapter 3 · X"},
        runs=provenance_rows(results, [study], own),
        pages={"03": "03_c.ipynb"},
    )
    return BeautifulSoup(MarkdownIt().render(text), "html.parser")


def cards(page: BeautifulSoup) -> dict[str, Any]:
    """The card of each claim by its id, which stands before its heading as `(id)=`."""
    names = [re.fullmatch(r"\((.+)\)=", words(p)) for p in page.find_all("p")]
    return dict(zip([found[1] for found in names if found], page.select(".claim"), strict=True))


def words(tag: Any) -> str:
    return " ".join(tag.get_text(" ").split())


def test_the_page_fetches_nothing_and_leads_to_its_chapters(page: BeautifulSoup) -> None:
    assert page.find_all(["script", "link", "iframe", "object", "base"]) == []
    assert all(tag["src"].startswith("data:image/png;base64,") for tag in page.find_all(src=True))
    assert not re.search(r"url\(|@import|https?:", str(page))
    targets = [a["href"] for a in page.find_all("a")]
    assert targets == ["03_c.ipynb", *(f"03_c.html#claim-{i}" for i in ("gain", "none", "holds"))]
    headings = [tag.get_text() for tag in page.find_all(["h1", "h2"])]
    assert headings[1:] == ["Chapter 3 · X", "Chapter 4", "Where these numbers come from"]


def test_every_claim_has_its_verdict_in_words_its_numbers_and_its_plot(page: BeautifulSoup) -> None:
    articles = cards(page)
    assert list(articles) == ["gain", "none", "holds", "whole", "later"]
    assert [i for i, card in articles.items() if "part" in card["class"]] == ["gain", "none"]
    assert {i: words(a.select_one(".verdict")) for i, a in articles.items()} == {
        "gain": "✔ supported, provisional",
        "none": "✘ contradicted (reversed), provisional",
        "holds": "✔✔ reproduced",
        "whole": "✘ contradicted, provisional",
        "later": "– not run",
    }
    gain = articles["gain"]
    assert gain.find_previous("h3").get_text() == "It helps a < b & <script>"
    lines = {words(line.dt): words(line.dd) for line in gain.select("dl div")}
    assert lines["Published"] == "3.1 (CUB, ResNet-50)"
    assert lines["Laptop"].startswith("supported, provisional: +1.000 [+0.503, +1.497] points, 3 seeds")
    assert lines["Setting"] == "digits"
    assert lines["Arms, mean ± sd over seeds"] == "without 71 ± 1; with <it> 72 ± 0.92"
    assert lines["Lead over weak"].startswith("beaten: +2.000")
    assert lines["Lead over strong"].startswith("explains it: +0.033")
    assert lines["Lead over other"].startswith("for comparison: +0.033")
    assert lines["Note"] == "A note."
    assert "no verified figure" in articles["later"].get_text()
    both = [words(line) for line in articles["none"].select("dl div")]
    assert both[0].startswith("Study contradicted (reversed), provisional: -1.042")
    assert any(line.startswith("Laptop inconclusive: +0.033") for line in both)
    assert "gain supported" in [words(line) for line in articles["whole"].select("dl div")]
    alts = {i: [img["alt"] for img in a.find_all("img")] for i, a in articles.items()}
    assert {i: len(found) for i, found in alts.items()} == {
        "gain": 1, "none": 1, "holds": 1, "whole": 0, "later": 0,
    }  # fmt: skip
    assert "effect, Laptop +1.000 [+0.503, +1.497]" in alts["gain"][0]
    assert "over strong: explains it +0.033" in alts["gain"][0]
    assert "violation 1e-07, allowed up to 1e-05" in alts["holds"][0]


def test_a_card_says_at_a_glance_how_its_claim_stands(page: BeautifulSoup) -> None:
    assert words(page.strong) == (
        "1 effect: 0 supported (0 explained by a control), 1 contradicted, 0 inconclusive, 0 not tested; "
        "1 of 2 identities hold."
    )
    glance = {
        i: [words(p) for p in card.find_all("p", recursive=False)] + [words(li) for li in card.select("li")]
        for i, card in cards(page).items()
    }
    assert glance["gain"] == [
        "✔ supported, provisional +1.000 [+0.503, +1.497] points, 3 seeds, laptop",
        "Because of the method? no, strong explains it.",
        "This copy's own run: not run",
        *("Laptop supported, provisional (✔)", "Study not run –", "Real images not run –", "GPU not run –"),
    ]
    assert glance["none"][0].startswith("✘ contradicted (reversed), provisional -1.042")
    assert glance["none"][1] == "This copy's own run: supported +1.000 [+0.752, +1.248] points, 3 seeds"
    assert glance["holds"][0] == "✔✔ reproduced violation 1e-07 of 1e-05 allowed, laptop"
    assert glance["whole"][0].endswith("components: 1 supported, 1 contradicted")
    runs = [words(li) for li in page.select(".runs li")]
    assert runs[0] == "03_c.ipynb (laptop) on 2026-01-02, a device, unknown torch 2.14.1"
    assert "make study (study) on 2026-02-03, another device, 10 min unknown" in runs


def test_a_verdict_is_readable_without_colour_and_its_colours_have_contrast() -> None:
    assert set(SIGNS) == set(VERDICTS)
    assert len(set(SIGNS.values())) == len(VERDICTS)
    style = (PARTS / "static" / "claims.css").read_text()

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for verdict in VERDICTS:
        rule = rf"\.{verdict.replace(' ', '-')} {{ color: #(\w{{6}}); background: #(\w{{6}});"
        ink, ground = re.search(rule, style).groups()
        assert (luminance(ground) + 0.05) / (luminance(ink) + 0.05) >= 4.5


# ---- the plot of a claim


def dots(figure: Figure, axes: int) -> list[list[float]]:
    """The values of each row of dots in one panel."""
    return [list(line.get_xdata()) for line in figure.axes[axes].lines if line.get_marker() == "o"]


def names(figure: Figure, axes: int) -> list[str]:
    return [" ".join(t.get_text().split()) for t in figure.axes[axes].get_yticklabels()]


def drawn(
    folder: Path, row: dict[str, Any], measurement: Measurement, *evidences: SimpleNamespace
) -> tuple[Figure, str] | None:
    found = [Result(measurement, "n.ipynb", {})] if measurement else []
    return claim_figure(standings(found, evidences, ledger=write(folder, row))[0])


def test_the_plot_of_an_effect_shows_the_recorded_numbers(tmp_path: Path) -> None:
    figure, _ = drawn(tmp_path, ROW, GAIN)
    assert dots(figure, 0) == list(ARMS.values())
    assert names(figure, 0) == list(ARMS)
    assert dots(figure, 1) == [EFFECTS, *CONTROLS.values()]
    assert names(figure, 1) == [
        "effect, Laptop", "over weak: beaten", "over strong: explains it", "over other: for comparison",
    ]  # fmt: skip
    bands = [(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[1].patches]
    intervals = [Paired(values).interval() for values in (EFFECTS, *CONTROLS.values())]
    assert bands == [pytest.approx((i.low, i.high)) for i in intervals]
    colours = [to_hex(p.get_facecolor()) for p in figure.axes[1].patches]
    assert colours == [PALETTE[name].lower() for name in ("blue", "blue", "orange", "grey")]


def test_kept_evidence_is_solid_and_stands_above_the_laptop_run(tmp_path: Path) -> None:
    study = Measurement("gain", "longer", [1.0, 1.1, 1.2, 0.9], controls={"weak": [0.3, 0.2, 0.1, 0.4]})
    figure, _ = drawn(tmp_path, ROW, GAIN, kept("study", study))
    assert names(figure, 0) == ["effect, Study", "effect, Laptop", "over weak: beaten"]
    assert dots(figure, 0) == [study.effects.effects, EFFECTS, study.controls["weak"].effects]
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in lines] == [False, True, False]


@pytest.mark.parametrize(
    ("direction", "lines", "label"),
    [
        ("greater", [0, 0.5], "points; counts from +0.5 (dashed)"),
        ("less", [0, -0.5], "points; counts from -0.5 (dashed)"),
    ],
)
def test_zero_and_the_smallest_effect_that_counts_are_drawn(
    tmp_path: Path, direction: str, lines: list[float], label: str
) -> None:
    axes = drawn(tmp_path, {**ROW, "direction": direction}, GAIN)[0].axes[1]
    assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == lines
    assert axes.get_xlabel() == label


def test_without_arms_or_spread_or_a_run(tmp_path: Path) -> None:
    figure, alt = drawn(tmp_path, {**ROW, "refuting": []}, Measurement("gain", "digits", [1.0, 1.0, 1.0]))
    assert len(figure.axes) == 1
    assert dots(figure, 0) == [[1.0, 1.0, 1.0]]
    assert len(figure.axes[0].patches) == 0  # no interval is known
    assert "Mean of each arm" not in alt
    assert "+1.000 [unknown, unknown]" in alt
    assert drawn(tmp_path, ROW, None) is None


@pytest.mark.parametrize(
    ("violation", "tolerance", "shape", "text"),
    [
        (1e-7, 1e-5, "o", "1e-07"),
        (2e-5, 1e-5, "X", "2e-05"),
        (0.0, 1e-5, "<", "exactly 0"),
        (0.0, 0.0, "<", "exactly 0"),
    ],
)
def test_the_number_line_of_an_identity(
    tmp_path: Path, violation: float, tolerance: float, shape: str, text: str
) -> None:
    row = {**IDENTITY, "tolerance": tolerance}
    (axes,) = drawn(tmp_path, row, Measurement("gain", "x", violation=violation))[0].axes
    (point,) = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    assert point.get_marker() == shape
    assert [t.get_text() for t in axes.texts] == [text]
    left, right = axes.get_xlim()
    if violation:
        assert list(point.get_xdata()) == [violation]
    assert left < point.get_xdata()[0] < right
    if tolerance:
        assert left < tolerance < right
        assert [p.get_x() + p.get_width() for p in axes.patches] == [pytest.approx(tolerance)]


# ---- the forest plot


def test_the_forest_shows_every_effect_in_multiples_of_what_counts(tmp_path: Path) -> None:
    less = {**ROW, "id": "less", "short": "it saves", "direction": "less", "smallest": 0.25, "refuting": []}
    unseen = {**ROW, "id": "unseen", "short": "never run"}
    undecided = {**ROW, "id": "none", "short": "it may", "refuting": []}
    whole = {**WHOLE, "components": ["gain", "less"]}
    ledger = write(tmp_path, ROW, {**IDENTITY, "id": "holds"}, less, unseen, whole, undecided)
    saved = Paired.of(np.random.default_rng(0).normal(-0.5, 0.1, (8, 1000)), redrawn=True)
    noise = Paired([1.0, -1.0, 0.2])
    found = (GAIN, Measurement("holds", "x", violation=0.0), Measurement("none", "x", noise))
    results = [Result(m, "n.ipynb", {}) for m in found]
    study = kept("study", Measurement("less", "x", saved))
    axes = forest_figure(standings(results, [study], ledger=ledger), {"03": "Chapter 3 · X: y"}).axes[0]
    assert [text.get_text() for text in axes.texts] == [
        "Chapter 3 · X", "it helps <b>", "✔ supported, but explained", "it saves", "✔ supported",
        "it may", "? inconclusive",
    ]  # fmt: skip
    gain, saves = Paired(EFFECTS).interval(), saved.interval()
    whiskers = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    assert [line[0] for line in whiskers[:2]] == [0, 1]
    assert whiskers[2] == pytest.approx([gain.low / 0.5, gain.high / 0.5])
    assert sorted(whiskers[3]) == pytest.approx([-saves.high / 0.25, -saves.low / 0.25])
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx(
        [gain.mean / 0.5, -saves.mean / 0.25, np.mean(noise.effects) / 0.5]
    )
    assert [line.get_color() for line in points] == [PALETTE[name] for name in ("grey", "blue", "grey")]
    assert [line.get_markerfacecolor() == "white" for line in points] == [
        True,
        False,
        True,
    ]  # provisional, firm, open
    svg = forest_svg(standings(results, [study], ledger=ledger))
    assert svg == forest_svg(standings(results, [study], ledger=ledger))
    assert "<dc:date>" not in svg
    assert svg.count("<text") == 0  # glyphs are drawn, whatever fonts the reader has


# ---- the project's own claims


def test_the_stored_reports_are_current() -> None:
    stale = [
        path.name
        for path, text in stored_reports().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: python -m helpers.chapters report"


def test_no_row_waits_for_a_chapter_that_does_not_exist() -> None:
    there = {chapter_number(path) for path in find_notebooks()}
    assert [i for i, row in load_ledger().items() if row.chapter not in there] == []


def test_every_measured_claim_of_the_stored_chapters_has_a_plot() -> None:
    results = claims.collect(find_notebooks())
    page = BeautifulSoup(MarkdownIt().render(claims_page(standings(results))), "html.parser")
    drawn = {name for name, card in cards(page).items() if card.find("img", alt=True)}
    assert drawn == {r.measurement.claim_id for r in results}
    assert len(cards(page)) == len(load_ledger())


def test_made_data_are_not_judged_in_the_real_tier(tmp_path: Path) -> None:
    made = {**ROW, "id": "made", "synthetic": True, "refuting": []}
    ledger = write(tmp_path, {**ROW, "refuting": []}, made)
    found = [Measurement(name, "x", [1.0, 1.1, 0.9]) for name in ("gain", "made")]
    stand = standings([], [kept("study", *found), kept("real", *found)], ledger=ledger)
    assert {s.row.id: [tier for tier in ("study", "real") if tier in s.measurements] for s in stand} == {
        "gain": ["study", "real"],
        "made": ["study"],
    }

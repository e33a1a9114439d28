"""The report on the claims: complete, offline, readable without colours, its plots true to the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from helpers.chapters.run import stored_reports
from helpers.claims import recording as claims
from helpers.claims.figure import claim_figure
from helpers.claims.ledger import VERDICTS, Claim, Measurement, Result, load_ledger, paired_interval
from helpers.claims.page import SIGNS, STYLE, claims_page
from helpers.files import find_chapters

ROW = {
    "id": "gain",
    "chapter": "03",
    "claim": "It helps a < b & <script>",
    "source": "Paper, table 2",
    "published": {"value": 3.1, "setting": "CUB, ResNet-50"},
    "measure": "recall, with minus without",
    "kind": "effect",
    "direction": "greater",
    "tolerance": 0.5,
    "unit": "points",
    "thesis_setting": "CUB",
}
IDENTITY = {**{k: v for k, v in ROW.items() if k != "direction"}, "kind": "identity", "tolerance": 1e-5}
EFFECTS = [1.0, 1.2, 0.8]
ARMS = {"without": [70.0, 71.0, 72.0], "with <it>": [71.0, 72.2, 72.8]}
CONTROLS = {"weak": [2.0, 2.1, 1.9], "strong": [1.0, -1.0, 0.1]}


@pytest.fixture
def page(tmp_path: Path) -> BeautifulSoup:
    rows = [
        {**IDENTITY, "id": "later", "chapter": "04", "published": None},
        ROW,
        {**ROW, "id": "none", "published": None},
        {**IDENTITY, "id": "holds"},
    ]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(rows))
    stamp = {"date": "2026-01-02", "device": "a device", "versions": {"torch": "2.14.1"}}
    results = [
        Result(measurement, "03_c.ipynb", stamp)
        for measurement in (
            Measurement("gain", "digits", EFFECTS, summaries=ARMS, controls=CONTROLS, note="A note."),
            Measurement("none", "digits", [1.0, -1.0, 0.1]),
            Measurement("holds", "any batch", violation=1e-7),
        )
    ]
    text = claims_page(
        results, titles={"03": "Chapter 3 · X"}, pages={"03": "03_c.html"}, ledger=tmp_path / "claims.yaml"
    )
    return BeautifulSoup(text, "html.parser")


def test_the_page_fetches_nothing_and_every_link_inside_leads_somewhere(page: BeautifulSoup) -> None:
    assert page.find_all(["script", "link", "iframe", "object", "base"]) == []
    assert all(tag["src"].startswith("data:image/png;base64,") for tag in page.find_all(src=True))
    assert not re.search(r"url\(|@import|https?:", str(page))
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for a in page.find_all("a")}
    assert targets - {f"#{i}" for i in ids} == {"03_c.html"}
    assert page.html["lang"] == "en"
    headings = [tag.get_text() for tag in page.find_all(["h1", "h2"])]
    assert headings[1:] == ["Chapter 3 · X", "Chapter 4", "Where these numbers come from"]


def test_every_claim_has_its_verdict_in_words_its_numbers_and_its_plot(page: BeautifulSoup) -> None:
    articles = {a["aria-labelledby"]: a for a in page.find_all("article")}
    assert list(articles) == ["gain", "none", "holds", "later"]
    verdicts = {i: " ".join(a.select_one(".verdict").get_text().split()) for i, a in articles.items()}
    assert verdicts == {
        "gain": "↗ same direction",
        "none": "✘ not reproduced",
        "holds": "✔ reproduced",
        "later": "– not run here",
    }
    gain = articles["gain"]
    assert gain.h3.get_text() == "It helps a < b & <script>"
    lines = {tr.th.get_text(): tr.td.get_text() for tr in gain.select(".lines tr")}
    assert lines["Published"] == "3.1 (CUB, ResNet-50)"
    assert lines["Here"] == "digits"
    assert lines["Result"].startswith("Mean effect +1 [+0.503, +1.5] points over 3 seeds")
    assert lines["with <it>"] == "72 ± 0.92 over seeds"
    assert lines["Controls"] == "NOT beaten"
    assert lines["Note"] == "A note."
    assert "Published" in articles["later"].get_text()
    assert "no verified figure" in articles["later"].get_text()
    alts = {i: [img["alt"] for img in a.find_all("img")] for i, a in articles.items()}
    assert {i: len(found) for i, found in alts.items()} == {"gain": 1, "none": 1, "holds": 1, "later": 0}
    assert "[+0.503, +1.5] points over 3 seeds" in alts["gain"][0]
    assert "does not beat strong" in alts["gain"][0]
    assert "Violation 1e-07, at most the tolerance 1e-05" in alts["holds"][0]


def test_the_overview_is_a_real_table_with_a_row_for_each_claim(page: BeautifulSoup) -> None:
    table = page.select_one("table.overview")
    assert all(th["scope"] == "col" for th in table.thead.find_all("th"))
    rows = [tr for tr in table.select("tbody tr") if tr.td]
    assert [tr.th["scope"] for tr in rows] == ["row"] * 4
    cells = [" ".join(td.get_text().split()) for td in rows[0].find_all("td")]
    assert cells == [
        "↗ same direction",
        "+1.00 (+0.50 to +1.50) points, 3 seeds",
        "beats weak; does not beat strong",
        "3.1CUB, ResNet-50",  # two lines on the page
    ]
    assert [tr.find_all("td")[1].get_text() for tr in rows[2:]] == ["holds to 1e-05", ""]
    assert "2026-01-02 a device torch 2.14.1" in " ".join(page.get_text(" ").split())


def test_a_verdict_is_readable_without_colour_and_its_colours_have_contrast() -> None:
    assert set(SIGNS) == set(VERDICTS)
    assert len(set(SIGNS.values())) == len(VERDICTS)

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for verdict in VERDICTS:
        rule = rf"\.{verdict.replace(' ', '-')} {{ color: #(\w{{6}}); background: #(\w{{6}});"
        ink, ground = re.search(rule, STYLE).groups()
        assert (luminance(ground) + 0.05) / (luminance(ink) + 0.05) >= 4.5


# ---- the plots


def dots(figure: Figure, axes: int) -> list[list[float]]:
    """The values of each row of dots in one panel."""
    return [list(line.get_xdata()) for line in figure.axes[axes].lines if line.get_marker() == "o"]


def effect(**changes: Any) -> tuple[Figure, str]:
    measurement = Measurement("gain", "digits", EFFECTS, summaries=ARMS, controls=CONTROLS)
    return claim_figure(Claim(**{**ROW, **changes}), measurement)


def test_the_plot_of_an_effect_shows_the_recorded_numbers() -> None:
    figure, _ = effect()
    assert dots(figure, 0) == list(ARMS.values())
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(ARMS)
    assert dots(figure, 1) == [EFFECTS, *CONTROLS.values()]
    names = [" ".join(t.get_text().split()) for t in figure.axes[1].get_yticklabels()]
    assert names == ["the effect", "over weak: beaten", "over strong: not beaten"]
    bands = [(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[1].patches]
    intervals = [paired_interval(values) for values in (EFFECTS, *CONTROLS.values())]
    assert bands == [pytest.approx((i.low, i.high)) for i in intervals]
    hollow = [
        line.get_markerfacecolor() == "white" for line in figure.axes[1].lines if len(line.get_xdata()) == 3
    ]
    assert hollow == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "lines", "label"),
    [
        ({}, [0, 0.5], "points; counts from +0.5 (dashed)"),
        ({"direction": "less"}, [0, -0.5], "points; counts from -0.5 (dashed)"),
        ({"tolerance": 0}, [0], "points; counts when greater than 0"),
    ],
)
def test_zero_and_the_smallest_effect_that_counts_are_drawn(
    changes: dict[str, Any], lines: list[float], label: str
) -> None:
    axes = effect(**changes)[0].axes[1]
    assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == lines
    assert axes.get_xlabel() == label


def test_without_arms_only_the_differences_are_drawn() -> None:
    figure, alt = claim_figure(Claim(**ROW), Measurement("gain", "digits", EFFECTS))
    assert len(figure.axes) == 1
    assert dots(figure, 0) == [EFFECTS]
    assert "Mean of each arm" not in alt


@pytest.mark.parametrize(
    ("violation", "tolerance", "shape", "text"),
    [
        (1e-7, 1e-5, "o", "1e-07"),
        (2e-5, 1e-5, "X", "2e-05"),
        (0.0, 1e-5, "<", "exactly 0"),
        (0.0, 0.0, "<", "exactly 0"),
    ],
)
def test_the_number_line_of_an_identity(violation: float, tolerance: float, shape: str, text: str) -> None:
    row = Claim(**{**IDENTITY, "tolerance": tolerance})
    (axes,) = claim_figure(row, Measurement("gain", "x", violation=violation))[0].axes
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


# ---- the project's own claims


def test_the_stored_reports_are_current() -> None:
    stale = [path.name for path, text in stored_reports().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m helpers.chapters report"


def test_no_row_waits_for_a_chapter_that_does_not_exist() -> None:
    there = {path.name[:2] for path in find_chapters()}
    assert [i for i, row in load_ledger().items() if row.chapter not in there] == []


def test_every_measured_claim_of_the_stored_chapters_has_a_plot() -> None:
    results = claims.collect(find_chapters())
    page = BeautifulSoup(claims_page(results), "html.parser")
    drawn = {img.find_parent("article")["aria-labelledby"] for img in page.find_all("img", alt=True)}
    assert drawn == {r.measurement.claim_id for r in results}
    assert len(page.find_all("article")) == len(load_ledger())

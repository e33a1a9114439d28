"""The ledger's rules, and the way of a measurement from a notebook to the reports."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import yaml

from helpers.claims import ClaimError, Gate, load_ledger, record
from helpers.claims import recording as claims
from helpers.claims.measurement import Measurement
from helpers.claims.recording import record_lead
from helpers.claims.report import ledger_table, provenance_rows, readme_block, results_markdown
from helpers.claims.standing import standings
from helpers.experiments.arms import Arm
from helpers.experiments.comparison import Paired
from helpers.experiments.results import Results

EFFECT = {
    "id": "svmax.recall",
    "chapter": "03",
    "short": "SVMax helps",
    "claim": "SVMax raises recall",
    "source": "SVMax, Table 2",
    "published": {"value": 3.1, "setting": "CUB, ResNet-50"},
    "measure": "Recall@1, with minus without",
    "kind": "effect",
    "direction": "greater",
    "smallest": 0.5,
    "unit": "points",
    "thesis_setting": "CUB-200-2011, ResNet-50",
}
IDENTITY = {
    **{k: v for k, v in EFFECT.items() if k not in ("direction", "smallest")},
    "id": "svmax.bound",
    "published": None,
    "kind": "identity",
    "tolerance": 1.0e-5,
}
WHOLE = {
    **{k: v for k, v in EFFECT.items() if k not in ("direction", "smallest", "unit")},
    "id": "svmax.both",
    "kind": "composite",
    "components": ["svmax.recall", "svmax.bound"],
}


def write(path: Path, rows: Any) -> Path:
    path.write_text(yaml.safe_dump(rows, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return write(tmp_path / "claims.yaml", [EFFECT, IDENTITY])


# ---- the ledger


def test_ledger_keeps_rows_and_order(tmp_path: Path) -> None:
    rows = load_ledger(write(tmp_path / "claims.yaml", [WHOLE, EFFECT, IDENTITY]))
    assert list(rows) == ["svmax.both", "svmax.recall", "svmax.bound"]
    assert rows["svmax.recall"].published.value == 3.1
    assert (rows["svmax.recall"].sign, rows["svmax.recall"].smallest) == (1, 0.5)
    assert (rows["svmax.bound"].direction, rows["svmax.bound"].smallest) == (None, None)
    assert rows["svmax.both"].components == ("svmax.recall", "svmax.bound")
    (less,) = load_ledger(write(tmp_path / "claims.yaml", [{**EFFECT, "direction": "less"}])).values()
    assert less.sign == -1


@pytest.mark.parametrize("name", ["chapter", "claim", "source", "published", "measure", "kind"])
def test_missing_field_is_named(tmp_path: Path, name: str) -> None:
    row = {k: v for k, v in EFFECT.items() if k != name}
    with pytest.raises(ClaimError, match=rf"row 1 \(svmax.recall\): field '{name}' is missing"):
        load_ledger(write(tmp_path / "claims.yaml", [row]))


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (EFFECT, "direction"),
        (EFFECT, "smallest"),
        (EFFECT, "unit"),
        (IDENTITY, "tolerance"),
        (WHOLE, "components"),
    ],
)
def test_each_kind_has_fields_of_its_own(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    short = {k: v for k, v in row.items() if k != name}
    with pytest.raises(ClaimError, match=rf"field '{name}' must be .* for kind '{row['kind']}', got"):
        load_ledger(write(tmp_path / "claims.yaml", [short, EFFECT, IDENTITY]))
    for other in (EFFECT, IDENTITY, WHOLE):
        if name not in other:
            with pytest.raises(ClaimError, match=f"field '{name}' must be left out for kind"):
                load_ledger(write(tmp_path / "claims.yaml", [{**other, name: row[name]}]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smallest", 0),
        ("smallest", -0.1),
        ("smallest", math.nan),
        ("smallest", "1e-6"),
        ("smallest", True),
        ("chapter", 3),
        ("chapter", "3"),
        ("kind", "trend"),
        ("direction", "up"),
        ("direction", None),
        ("claim", "  "),
        ("source", 7),
        ("unit", None),
        ("published", {"value": 3.1}),
        ("published", {"value": 3.1, "setting": "x", "page": 2}),
        ("published", {"value": None, "setting": "x"}),
        ("published", 3.1),
        ("refuting", "equal epochs"),
        ("refuting", [3]),
        ("items", "pixels"),
        ("gate", ""),
        ("id", ""),
    ],
)
def test_malformed_field_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ClaimError, match=rf"row 1 .*field '{name}' must be"):
        load_ledger(write(tmp_path / "claims.yaml", [{**EFFECT, name: value}]))


@pytest.mark.parametrize("value", [-0.1, math.nan, "1e-6", True])
def test_malformed_tolerance_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ClaimError, match="field 'tolerance' must be a number >= 0"):
        load_ledger(write(tmp_path / "claims.yaml", [{**IDENTITY, "tolerance": value}]))


def test_other_broken_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    with pytest.raises(FileNotFoundError, match="no claims ledger"):
        load_ledger(path)
    for rows, message in [
        ([{**EFFECT, "tolerence": 1}], "unknown field 'tolerence'"),
        ([EFFECT, EFFECT], r"row 2 \(svmax.recall\): field 'id'"),
        ([WHOLE, EFFECT], "component 'svmax.bound' must be the id"),
        ([{**WHOLE, "components": ["svmax.both"]}], "component 'svmax.both' must be the id"),
        ([WHOLE, {**WHOLE, "id": "again"}, EFFECT, IDENTITY], "already belongs to svmax.both"),
        (["text"], "row 1: expected a mapping"),
        ([], "non-empty YAML list"),
        ({"a": 1}, "non-empty YAML list"),
    ]:
        with pytest.raises(ClaimError, match=message):
            load_ledger(write(path, rows))
    path.write_text("- id: a\n  id: b\n")
    with pytest.raises(ClaimError, match="key 'id' appears twice"):
        load_ledger(path)
    path.write_text("- id: [")
    with pytest.raises(ClaimError, match="cannot be read"):
        load_ledger(path)


def test_the_projects_ledger_names_what_counts_and_what_could_refute_it() -> None:
    rows = load_ledger().values()
    effects = [row for row in rows if row.kind == "effect"]
    assert [row.id for row in effects if row.refuting is None] == []
    assert [row.id for row in rows if not 0 < len(row.short) <= 42] == []
    assert len({row.short for row in rows}) == len(rows)
    rings = {f"svmax-{name}" for name in ("unsupervised", "unrolled")}
    untrained = {"svmax-mitigates-collapse", *rings, *(f"{row}-tenfold" for row in rings)}
    assert {row.id for row in effects if row.gate is None} == untrained
    assert [row.id for row in effects if row.plan is None] == []


# ---- recording


def test_record_converts_and_prints(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = torch.tensor([1.0, 1.1, 0.9], dtype=torch.float64)
    summaries = {"triplet": np.array([70.0, 71, 72]), "with SVMax": (71.0, 72.1, 72.9)}
    made = record("svmax.recall", tensor, setting="digits", summaries=summaries, ledger=ledger)
    assert made.effects == Paired([1.0, 1.1, 0.9])
    assert made.summaries["triplet"] == [70.0, 71.0, 72.0]
    printed = capsys.readouterr().out
    assert printed.startswith(
        "supported, provisional · SVMax helps · +1.000 [+0.752, +1.248] points, 3 seeds\n"
    )
    assert "triplet 71 ± 1; with SVMax" in printed
    assert record("svmax.bound", violation=np.float32(0), setting="any batch", ledger=ledger).violation == 0.0
    items = Paired.of(np.random.default_rng(0).normal(1, 1, (3, 50)), redrawn=True)
    controls = {"rival": items, "other": [1, 2, 3]}
    gate = Gate("fitted", True, "training accuracy .99")
    made = record("svmax.recall", items, setting="x", controls=controls, gate=gate, ledger=ledger)
    assert made.effects is items
    assert made.controls == {"rival": items, "other": Paired([1.0, 2.0, 3.0])}
    assert made.gate == gate


def test_a_lead_over_the_first_is_recorded_and_the_rest_are_controls(ledger: Path) -> None:
    arms = [Arm("ours"), Arm("theirs"), Arm("rival")]
    scores = {"ours": [0.9, 0.8], "theirs": [0.5, 0.6], "rival": [0.4, 0.1]}
    runs = {
        (arm, s, 0.1): {"recall": scores[arm.name][s], "loss": -scores[arm.name][s]}
        for arm in arms
        for s in (0, 1)
    }
    found = Results.of_runs("x", arms, runs, None)
    made = record_lead("svmax.recall", found, "recall", arms[0], arms[1], "rival", setting="x", ledger=ledger)
    assert made.effects.effects == pytest.approx([0.4, 0.2])
    assert {n: c.effects for n, c in made.controls.items()} == {"rival": pytest.approx([0.5, 0.7])}
    less = record_lead("svmax.recall", found, "loss", "ours", "theirs", setting="x", less=True, ledger=ledger)
    assert less.effects.effects == pytest.approx([0.4, 0.2])
    assert less.controls == {}


@pytest.mark.parametrize(
    ("claim_id", "arguments", "message"),
    [
        ("svmax.recal", {"effects": [1, 2, 3]}, "unknown claim 'svmax.recal'.*svmax.recall"),
        ("svmax.recall", {"effects": [1]}, ">= 2 finite numbers"),
        ("svmax.recall", {"effects": Paired([1.0])}, ">= 2 finite numbers"),
        ("svmax.recall", {"effects": []}, ">= 2 finite numbers"),
        ("svmax.recall", {"effects": [1, 2, math.nan]}, ">= 2 finite numbers"),
        ("svmax.recall", {"effects": [1, 2, math.inf]}, ">= 2 finite numbers"),
        ("svmax.recall", {"effects": [[1, 2, 3]]}, ">= 2 finite numbers"),
        ("svmax.recall", {"effects": ["a", 2, 3]}, "must be numbers"),
        ("svmax.recall", {}, "pass effects="),
        ("svmax.recall", {"violation": 0.0}, "pass effects="),
        ("svmax.recall", {"effects": [1, 2, 3], "violation": 0.0}, "pass effects="),
        ("svmax.recall", {"effects": [1, 2, 3], "summaries": {"a": [1, 2, 3, 4]}}, "summary 'a' has 4 seeds"),
        ("svmax.recall", {"effects": [1, 2, 3], "controls": {"a": [1, math.nan, 3]}}, "control 'a'"),
        ("svmax.recall", {"effects": [1, 2, 3], "setting": " "}, "setting must say"),
        ("svmax.bound", {"effects": [1, 2, 3]}, "pass violation="),
        ("svmax.bound", {"violation": -1e-9}, "violation must be a finite number >= 0"),
        ("svmax.bound", {"violation": math.nan}, "violation must be a finite number >= 0"),
        ("svmax.bound", {"violation": 0.0, "controls": {"a": [1, 2, 3]}}, "is an identity"),
        ("svmax.both", {"effects": [1, 2, 3]}, "composite: record its components, svmax.recall, svmax.bound"),
    ],
)
def test_record_refuses(tmp_path: Path, claim_id: str, arguments: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "claims.yaml", [EFFECT, IDENTITY, WHOLE])
    with pytest.raises(ClaimError, match=message):
        record(claim_id, **{"setting": "digits", **arguments}, ledger=path)


def test_a_declared_control_must_be_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "claims.yaml", [{**EFFECT, "refuting": ["equal epochs"]}])
    with pytest.raises(ClaimError, match="refuting control 'equal epochs'"):
        record("svmax.recall", [1, 2, 3], setting="x", controls={"other": [1, 2, 3]}, ledger=path)


def displayed(monkeypatch: pytest.MonkeyPatch, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The MIME bundle that `record` leaves in a notebook."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(claims, "get_ipython", lambda: object())
    monkeypatch.setattr(claims, "display", lambda bundle, raw: shown.append(bundle))
    record(*args, **kwargs)
    assert len(shown) == 1
    return shown[0]


def test_the_card_is_folded_escaped_and_has_no_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "claims.yaml", [{**EFFECT, "claim": "a < b & <script>"}])
    controls = {"<i>": [0.0, 0.1, -0.1]}
    bundle = displayed(
        monkeypatch, "svmax.recall", [1, 1.1, 0.9], setting="x", controls=controls, ledger=path
    )
    html = bundle["text/html"]
    assert "a &lt; b &amp; &lt;script&gt;" in html
    assert "<script>" not in html
    assert "<i>" not in html
    assert "color" not in html
    folded = re.fullmatch(r"<details><summary>(.*)</summary>\s*<table>.*</table></details>\s*", html, re.S)
    assert folded[1] == (
        "(✔) <strong>supported, provisional</strong> · SVMax helps · +1.000 [+0.752, +1.248] points, 3 seeds"
    )
    assert "explains it: +0.000 [-0.248, +0.248]" in html


# ---- collecting


def notebook(path: Path, *bundles: dict[str, Any]) -> Path:
    v4 = nbformat.v4
    cells = [v4.new_code_cell("record()", outputs=[v4.new_output("display_data", b)]) for b in bundles]
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), *cells])
    stamp = {"date": "2026-01-02T03:04:05+00:00", "device": "CPU (2 cores)", "versions": {"torch": "2.14.1"}}
    nb.metadata["closing_the_gap"] = stamp
    nbformat.write(nb, path)
    return path


def test_measurement_survives_the_notebook(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = Paired.of(np.random.default_rng(0).normal(1, 0.1, (3, 50)), redrawn=True)
    gate = Gate("fitted", False, "training accuracy .4")
    arguments = {"setting": "digits | birds", "controls": {"c": [1, 1.1, 1]}, "gate": gate}
    bundle = displayed(monkeypatch, "svmax.recall", items, **arguments, ledger=ledger)
    path = notebook(tmp_path / "03_svmax.ipynb", bundle)
    results = claims.collect([path], ledger)
    expected = Measurement(
        "svmax.recall", "digits | birds", items, controls={"c": Paired([1.0, 1.1, 1.0])}, gate=gate
    )
    assert [r.measurement for r in results] == [expected]
    bundle[claims.MIME]["effects"] = [1.0, 1.1, 0.9]  # as the first edition wrote it
    (old,) = claims.collect([notebook(path, bundle)], ledger)
    assert old.measurement.effects == Paired([1.0, 1.1, 0.9])


def test_collect_refuses_what_does_not_fit(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = displayed(monkeypatch, "svmax.recall", [1, 1, 1], setting="x", ledger=ledger)

    def changed(**changes: Any) -> Path:
        other = copy.deepcopy(bundle)
        other[claims.MIME] |= changes
        return notebook(tmp_path / "03_d.ipynb", other)

    twice = notebook(tmp_path / "03_a.ipynb", bundle, bundle)
    once, again = notebook(tmp_path / "03_b.ipynb", bundle), notebook(tmp_path / "04_c.ipynb", bundle)
    (tmp_path / "03_cut.ipynb").write_text('{"cells": [')
    for make, message in [
        (lambda: [twice], r"'svmax.recall' is measured twice: 03_a.ipynb and 03_a.ipynb"),
        (lambda: [once, again], r"measured twice: 03_b.ipynb and 04_c.ipynb"),
        (lambda: [changed(claim_id="gone")], r"03_d.ipynb measures 'gone', which is not in the ledger"),
        (lambda: [changed(claim_id="svmax.bound")], r"'svmax.bound' in another way than its kind, identity"),
        (lambda: [changed(violation=0.1)], r"in another way than its kind, effect"),
        (lambda: [tmp_path / "03_cut.ipynb"], r"03_cut.ipynb is not a notebook"),
        (lambda: [changed(effect=[1, 2, 3])], r"03_d.ipynb holds a malformed claim"),
        (lambda: [changed(effects={"effects": ["a"]})], r"03_d.ipynb holds a malformed claim"),
        (lambda: [changed(effects=[])], r"03_d.ipynb holds a malformed claim"),
    ]:
        with pytest.raises(ClaimError, match=message):
            claims.collect(make(), ledger)


# ---- reports


def test_reports_tell_what_a_notebook_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "claims.yaml", [EFFECT, {**IDENTITY, "short": "a | bound"}])
    arguments = {"setting": "digits | birds", "controls": {"c": [1, 1, 1.01]}, "ledger": path}
    bundle = displayed(monkeypatch, "svmax.recall", [1, 1.1, 0.9], **arguments)
    results = claims.collect([notebook(tmp_path / "03_svmax.ipynb", bundle)], path)
    counted = "1 effect: 1 supported (0 explained by a control), 0 contradicted, 0 inconclusive, 0 not tested"
    stand = standings(results, ledger=path)
    text = ledger_table(stand)
    lines = text.splitlines()
    assert re.split(" {2,}", lines[1])[:3] == ["svmax.recall", "supported, provisional", "(✔) – – –"]
    assert re.split(" {2,}", lines[2])[:3] == ["svmax.bound", "not run", "– – – –"]
    assert f"{counted}; 0 of 1 identities hold." in text
    page = results_markdown(stand, {"03": "Chapter 3 · SVMax"}, provenance_rows(results))
    row = (
        "| [SVMax helps](#svmax.recall) | **supported, provisional** +1.000 [+0.752, +1.248] points, "
        "3 seeds, laptop | yes, controls beaten: 1 | (✔) – – – |"
    )
    assert row in page.splitlines()
    assert "| [a \\| bound](#svmax.bound) | **not run**  |  | – – – – |" in page.splitlines()
    assert re.findall("(?m)^##+ (.*)", page) == [
        "Chapter 3 · SVMax",
        '<a id="svmax.recall"></a>SVMax raises recall',
        '<a id="svmax.bound"></a>SVMax raises recall',
        "Where these numbers come from",
    ]
    assert "- **Setting:** digits \\| birds\n" in page
    assert "- **Published:** 3.1 (CUB, ResNet-50)\n" in page
    assert "- **Measure:** Recall@1, with minus without [points; counts from +0.5]\n" in page
    assert "- **Lead over c:** beaten: +1.003 [+0.989, +1.018]\n" in page
    assert "| laptop | 03\\_svmax.ipynb | 2026-01-02T03:04:05+00:00 | CPU (2 cores) | unknown |" in page
    assert "This copy's own run" not in page
    own = results_markdown(standings([], own=results, ledger=path))
    assert "| – – – – | supported +1.000 [+0.752, +1.248] points, 3 seeds |\n" in own


def test_without_measurements_all_is_not_run(ledger: Path) -> None:
    page = results_markdown(standings([], ledger=ledger))
    assert page.count("- **Verdict:** not run\n") == 2
    assert "## Chapter 3\n" in page
    assert "Where these numbers come from" not in page


def test_texts_of_a_claim_cannot_become_markdown(tmp_path: Path) -> None:
    path = write(tmp_path / "claims.yaml", [{**EFFECT, "claim": "*a* < `b`\n# c", "source": "<b>x_1</b>"}])
    page = results_markdown(standings([], ledger=path))
    assert "\\*a\\* \\< \\`b\\` # c\n" in page
    assert "- **Source:** \\<b>x\\_1\\</b>\n" in page


def test_the_readme_says_every_verdict_in_words(tmp_path: Path) -> None:
    rows = [
        {**EFFECT, "id": "a", "short": "first"},
        {**EFFECT, "id": "b", "short": "second", "refuting": ["rival"]},
        {**EFFECT, "id": "c", "short": "third", "gate": "has learned"},
        {**EFFECT, "id": "d", "short": "fourth", "chapter": "04"},
        {**EFFECT, "id": "e", "short": "fifth", "chapter": "04", "direction": "less"},
        {**IDENTITY, "chapter": "04"},
        {**WHOLE, "id": "w", "short": "the whole", "components": ["d", "e"], "chapter": "04"},
        {**EFFECT, "id": "l", "short": "a paper's", "chapter": "reading_list/04"},
    ]
    path = write(tmp_path / "claims.yaml", rows)
    low, high = Paired([-1.0, -1.1, -0.9]), Paired([1.0, 1.1, 0.9])
    measured = [
        Measurement("a", "x", Paired([0.5, 2.0, -1.0])),
        Measurement("b", "x", high, controls={"rival": Paired([0.0, 0.1, -0.1])}),
        Measurement("c", "x", low),
        Measurement("d", "x", high),
        Measurement("e", "x", low),
        Measurement("svmax.bound", "x", violation=1.0),
        Measurement("l", "x", high),
    ]
    results = [claims.Result(m, "n.ipynb", {}) for m in measured]
    told = readme_block(standings(results, ledger=path), {"03": "Chapter 3 · X: y"})
    first, third, fourth, count = told.split("\n\n")
    assert "](reproduce/forest.svg)" in first
    assert third == (
        "**Chapter 3 · X.** Provisionally supported: second (but rival explains it). Inconclusive: first. "
        "Not tested: third."
    )
    assert fourth == "**Chapter 4.** Provisionally supported: the whole. Identities: 0 of 1 hold."
    assert count == (
        "**4 effects: 2 supported (1 explained by a control), 0 contradicted, 1 inconclusive, 1 not tested; "
        "0 of 1 identities hold. The reading list: "
        "1 effect: 1 supported (0 explained by a control), 0 contradicted, 0 inconclusive, 0 not tested.**\n"
    )

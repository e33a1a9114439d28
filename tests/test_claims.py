"""The ledger's rules, the judge's arithmetic, and the way of a measurement from a notebook to the table."""

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
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.claims import ClaimError, Measurement, judge, load_ledger, record
from helpers.claims import recording as claims
from helpers.claims.ledger import Claim
from helpers.claims.report import results_markdown

EFFECT = {
    "id": "svmax.recall",
    "chapter": "03",
    "claim": "SVMax raises recall",
    "source": "SVMax, Table 2",
    "published": {"value": 3.1, "setting": "CUB, ResNet-50"},
    "measure": "Recall@1, with minus without",
    "kind": "effect",
    "direction": "greater",
    "tolerance": 0.5,
    "unit": "points",
    "thesis_setting": "CUB-200-2011, ResNet-50",
}
IDENTITY = {
    **{k: v for k, v in EFFECT.items() if k != "direction"},
    "id": "svmax.bound",
    "published": None,
    "kind": "identity",
    "tolerance": 1.0e-5,
}


def write(path: Path, rows: Any) -> Path:
    path.write_text(yaml.safe_dump(rows, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return write(tmp_path / "claims.yaml", [EFFECT, IDENTITY])


def effect_row(**changes: Any) -> Claim:
    return Claim(**{**EFFECT, **changes})


def measured(effects: list[float], **more: Any) -> Measurement:
    return Measurement("svmax.recall", "digits", effects=effects, **more)


# ---- the ledger


def test_ledger_keeps_rows_and_order(ledger: Path) -> None:
    rows = load_ledger(ledger)
    assert list(rows) == ["svmax.recall", "svmax.bound"]
    assert rows["svmax.recall"].published == {"value": 3.1, "setting": "CUB, ResNet-50"}
    assert rows["svmax.bound"].direction is None


@pytest.mark.parametrize("name", sorted(set(EFFECT) - {"direction", "id"}))
def test_missing_field_is_named(tmp_path: Path, name: str) -> None:
    row = {k: v for k, v in EFFECT.items() if k != name}
    with pytest.raises(ClaimError, match=rf"row 1 \(svmax.recall\): field '{name}' is missing"):
        load_ledger(write(tmp_path / "claims.yaml", [row]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tolerance", -0.1),
        ("tolerance", math.nan),
        ("tolerance", "1e-6"),
        ("tolerance", True),
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
        ("id", ""),
    ],
)
def test_malformed_field_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ClaimError, match=rf"row 1 .*field '{name}' must be"):
        load_ledger(write(tmp_path / "claims.yaml", [{**EFFECT, name: value}]))


def test_other_broken_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    with pytest.raises(FileNotFoundError, match="no claims ledger"):
        load_ledger(path)
    for rows, message in [
        ([{**EFFECT, "tolerence": 1}], "unknown field 'tolerence'"),
        ([EFFECT, EFFECT], r"row 2 \(svmax.recall\): field 'id'"),
        ([{**IDENTITY, "direction": "less"}], "field 'direction' must be left out"),
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


# ---- the judge


def test_interval_is_the_paired_t_interval() -> None:
    effects = [1.0, 2.5, 0.5, 3.0]
    expected = stats.ttest_1samp(effects, 0.0).confidence_interval(0.95)
    interval = claims.paired_interval(effects)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.mean == pytest.approx(1.75)


@pytest.mark.parametrize(
    ("effects", "direction", "verdict"),
    [
        ([1.0, 1.1, 0.9], "greater", "same direction"),
        ([-1.0, -1.1, -0.9], "greater", "not reproduced"),
        ([-1.0, -1.1, -0.9], "less", "same direction"),
        ([1.0, 1.1, 0.9], "less", "not reproduced"),
        ([0.40, 0.41, 0.42], "greater", "not reproduced"),  # clear of 0, yet below the tolerance
        ([3.0, -1.0, 1.0], "greater", "not reproduced"),  # above the tolerance, yet within its spread
        ([0.5, 0.5, 0.5], "greater", "same direction"),  # no spread, exactly the tolerance
        ([0.0, 0.0, 0.0], "greater", "not reproduced"),
    ],
)
def test_effect_verdicts(effects: list[float], direction: str, verdict: str) -> None:
    row = effect_row(direction=direction)
    assert judge(row, measured(effects)).verdict == verdict
    promoted = "reproduced" if verdict == "same direction" else verdict
    assert judge(row, measured(effects, thesis_setting=True)).verdict == promoted


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=8))
def test_an_effect_and_its_mirror_never_both_count(effects: list[float]) -> None:
    verdicts = [judge(effect_row(direction=d), measured(effects)).verdict for d in ("greater", "less")]
    assert verdicts.count("same direction") <= 1
    mirrored = judge(effect_row(direction="less"), measured([-e for e in effects])).verdict
    assert mirrored == verdicts[0]


def test_zero_tolerance_still_needs_an_interval_clear_of_zero() -> None:
    row = effect_row(tolerance=0)
    assert judge(row, measured([0.0, 0.0, 0.0])).verdict == "not reproduced"
    assert judge(row, measured([1e-3, 1.1e-3, 0.9e-3])).verdict == "same direction"


def test_identity_and_absent_measurement(ledger: Path) -> None:
    row = load_ledger(ledger)["svmax.bound"]
    assert judge(row, Measurement(row.id, "x", violation=1e-5)).verdict == "reproduced"
    assert judge(row, Measurement(row.id, "x", violation=1.1e-5)).verdict == "not reproduced"
    assert judge(row, None).verdict == "not run here"


def test_a_control_that_is_not_beaten_shows() -> None:
    controls = {"equal epochs": [1.0, 1.1, 0.9], "random mask": [0.5, -0.5, 0.1]}
    verdict = judge(effect_row(), measured([1.0, 1.1, 0.9], controls=controls))
    assert verdict.verdict == "same direction"
    assert verdict.controls_beaten is False
    assert "beats equal epochs" in verdict.controls["equal epochs"]
    assert "does not beat random mask" in verdict.controls["random mask"]
    declared = judge(effect_row(refuting=("equal epochs",)), measured([1.0, 1.1, 0.9], controls=controls))
    assert declared.controls_beaten is True
    assert judge(effect_row(), measured([1.0, 1.1, 0.9])).controls_beaten is None
    less = judge(
        effect_row(direction="less"), measured([-1.0, -1.1, -0.9], controls={"a": [-1.0, -1.1, -0.9]})
    )
    assert less.controls_beaten is True


# ---- recording


def test_record_converts_and_prints(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = torch.tensor([1.0, 1.1, 0.9], dtype=torch.float64)
    summaries = {"triplet": np.array([70.0, 71, 72]), "with SVMax": (71.0, 72.1, 72.9)}
    made = record("svmax.recall", tensor, setting="digits", summaries=summaries, ledger=ledger)
    assert made.effects == [1.0, 1.1, 0.9]
    assert made.summaries["triplet"] == [70.0, 71.0, 72.0]
    printed = capsys.readouterr().out
    assert "same direction" in printed
    assert "triplet: 71 ± 1" in printed
    assert record("svmax.bound", violation=np.float32(0), setting="any batch", ledger=ledger).violation == 0.0


@pytest.mark.parametrize(
    ("claim_id", "arguments", "message"),
    [
        ("svmax.recal", {"effects": [1, 2, 3]}, "unknown claim 'svmax.recal'.*svmax.recall"),
        ("svmax.recall", {"effects": [1, 2]}, ">= 3 finite numbers"),
        ("svmax.recall", {"effects": []}, ">= 3 finite numbers"),
        ("svmax.recall", {"effects": [1, 2, math.nan]}, ">= 3 finite numbers"),
        ("svmax.recall", {"effects": [1, 2, math.inf]}, ">= 3 finite numbers"),
        ("svmax.recall", {"effects": [[1, 2, 3]]}, ">= 3 finite numbers"),
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
    ],
)
def test_record_refuses(ledger: Path, claim_id: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ClaimError, match=message):
        record(claim_id, **{"setting": "digits", **arguments}, ledger=ledger)


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


def test_html_is_escaped_and_has_no_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "claims.yaml", [{**EFFECT, "claim": "a < b & <script>"}])
    controls = {"<i>": [0.0, 0.0, 0.0]}
    html = displayed(monkeypatch, "svmax.recall", [1, 1, 1], setting="x", controls=controls, ledger=path)[
        "text/html"
    ]
    assert "a &lt; b &amp; &lt;script&gt;" in html
    assert "<script>" not in html
    assert "<i>" not in html
    assert "color" not in html
    assert "<strong>same direction</strong>" in html
    assert "<strong>NOT beaten</strong>" in html


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
    bundle = displayed(
        monkeypatch,
        "svmax.recall",
        [1, 1.1, 0.9],
        setting="digits | birds",
        controls={"c": [1, 1, 1]},
        ledger=ledger,
    )
    path = notebook(tmp_path / "03_svmax.ipynb", bundle)
    results = claims.collect([path], ledger)
    expected = Measurement("svmax.recall", "digits | birds", [1.0, 1.1, 0.9], controls={"c": [1.0, 1.0, 1.0]})
    assert [r.measurement for r in results] == [expected]
    text = claims.ledger_table(results, ledger=ledger)
    lines = text.splitlines()
    assert "same direction" in lines[1]
    assert "not run here" in lines[2]
    assert "2 claims: 0 reproduced, 1 same direction, 0 not reproduced, 1 not run here." in text
    page = results_markdown(results, {"03": "Chapter 3 · SVMax"}, ledger=ledger)
    assert "| 03 | 0 | 1 | 0 | 1 |" in page
    assert re.findall("(?m)^##+ (.*)", page) == [
        "Chapter 3 · SVMax",
        "SVMax raises recall",
        "SVMax raises recall",
        "Where these numbers come from",
    ]
    assert "- **Here:** digits | birds\n" in page
    assert "- **Published:** 3.1 (CUB, ResNet-50)\n" in page
    assert "- **Thesis's setting:** CUB-200-2011, ResNet-50\n" in page
    assert "2026-01-02T03:04:05+00:00 | CPU (2 cores) | torch 2.14.1" in page
    assert "over 3 seeds" in page
    assert [line for line in page.splitlines() if "Verdict" in line] == [
        "- **Verdict:** same direction",
        "- **Verdict:** not run here",
    ]


def test_collect_refuses_what_does_not_fit(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = displayed(monkeypatch, "svmax.recall", [1, 1, 1], setting="x", ledger=ledger)
    twice = notebook(tmp_path / "03_a.ipynb", bundle, bundle)
    with pytest.raises(ClaimError, match=r"'svmax.recall' is measured twice: 03_a.ipynb and 03_a.ipynb"):
        claims.collect([twice], ledger)
    once, again = notebook(tmp_path / "03_b.ipynb", bundle), notebook(tmp_path / "04_c.ipynb", bundle)
    with pytest.raises(ClaimError, match=r"measured twice: 03_b.ipynb and 04_c.ipynb"):
        claims.collect([once, again], ledger)
    stranger = copy.deepcopy(bundle)
    stranger[claims.MIME]["claim_id"] = "gone"
    with pytest.raises(ClaimError, match=r"03_d.ipynb measures 'gone'"):
        claims.collect([notebook(tmp_path / "03_d.ipynb", stranger)], ledger)
    (tmp_path / "03_cut.ipynb").write_text('{"cells": [')
    with pytest.raises(ClaimError, match=r"03_cut.ipynb is not a notebook"):
        claims.collect([tmp_path / "03_cut.ipynb"], ledger)
    broken = copy.deepcopy(bundle)
    broken[claims.MIME]["effect"] = broken[claims.MIME].pop("effects")
    with pytest.raises(ClaimError, match=r"03_e.ipynb holds a malformed claim"):
        claims.collect([notebook(tmp_path / "03_e.ipynb", broken)], ledger)


def test_table_without_measurements_is_all_not_run(ledger: Path) -> None:
    page = results_markdown([], ledger=ledger)
    assert page.count("- **Verdict:** not run here") == 2
    assert "## Chapter 3\n" in page
    assert "Where these numbers come from" not in page


def test_texts_of_a_claim_cannot_become_markdown(tmp_path: Path) -> None:
    path = write(tmp_path / "claims.yaml", [{**EFFECT, "claim": "*a* < `b`\n# c", "source": "<b>x_1</b>"}])
    page = results_markdown([], ledger=path)
    assert "### \\*a\\* \\< \\`b\\` # c\n" in page
    assert "- **Source:** \\<b>x\\_1\\</b>\n" in page

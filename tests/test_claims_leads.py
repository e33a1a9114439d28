"""What a chapter says of kept evidence: every lead with the interval that the judge would see."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_claims import EFFECT, IDENTITY

from helpers.claims import ClaimError, leads, measured
from helpers.claims.measurement import Measurement
from helpers.claims.report import interval_text
from helpers.experiments import Evidence, Paired, paired_interval

SOFTMAX = Paired.of(np.random.default_rng(0).normal(0.05, 0.02, (5, 40)), redrawn=True)
SECOND, LONGER = Paired.of([0.01, -0.01, 0.02]), Paired.of([0.03, 0.05])


def kept(*measurements: Measurement, chapter: str = "05") -> Evidence:
    facts = dict.fromkeys(
        ("command", "commit", "source_hash", "numbers_hash", "code_hash", "device", "system", "date"), "x"
    )
    return Evidence(
        **facts, chapter=chapter, tier="study", grid=f"{chapter}_study.yaml", parameters={}, versions={},
        plan_committed=True, wall_seconds=1, claims={m.claim_id: asdict(m) for m in measurements},
    )  # fmt: skip


ACCURACY = Measurement(
    "twohead-accuracy", "birds", SOFTMAX, controls={"second softmax": SECOND, "longer": LONGER}
)
RETRIEVAL = Measurement("twohead-retrieval", "birds", LONGER, controls={"pooled head": SECOND})


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_each_lead_stands_with_its_interval_and_gaps_stay_empty(tmp_path: Path) -> None:
    evidence = kept(RETRIEVAL, ACCURACY)
    evidence.write(tmp_path)
    head, _, *body = cells(leads(evidence, "softmax", "twohead-accuracy", "twohead-retrieval").data)
    assert head == ["lead over", "twohead-accuracy", "twohead-retrieval"]  # in the order asked for
    text = [interval_text(paired_interval(paired)) for paired in (SOFTMAX, SECOND, LONGER)]
    assert body == [
        ["softmax", text[0], text[2]],
        ["second softmax", text[1], ""],
        ["longer", text[2], ""],
        ["pooled head", "", text[1]],
    ]


def test_a_lead_by_hand() -> None:
    # 0.03 and 0.05: mean 0.04, standard error 0.01, and 12.706 of them with one degree of freedom
    table = leads(kept(RETRIEVAL), "softmax", "twohead-retrieval").data
    assert "| softmax | +0.040 [-0.087, +0.167] |" in table


def test_only_what_was_asked_for_is_told() -> None:
    table = leads(kept(RETRIEVAL, ACCURACY), "softmax", "twohead-accuracy").data
    assert "retrieval" not in table
    assert "pooled" not in table


@pytest.mark.parametrize("evidence", [None, kept(), kept(RETRIEVAL)])
def test_where_nothing_is_kept_that_is_said(evidence: Evidence | None) -> None:
    assert leads(evidence, "softmax", "twohead-accuracy").data == "No evidence is kept here yet."


def test_measurements_come_back_as_they_were_kept(tmp_path: Path) -> None:
    assert measured(None) == {}
    assert measured(kept(ACCURACY, RETRIEVAL)) == {
        "twohead-accuracy": ACCURACY,
        "twohead-retrieval": RETRIEVAL,
    }
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([EFFECT, IDENTITY]))
    holds = Measurement("svmax.bound", "x", violation=0.25)
    assert measured(kept(holds, chapter="03"), ledger=path) == {"svmax.bound": holds}


def test_what_does_not_belong_to_the_chapter_is_refused() -> None:
    with pytest.raises(
        ClaimError, match=r"06_study.json measures 'twohead-accuracy', which belongs to chapter 05"
    ):
        measured(kept(ACCURACY, chapter="06"))
    with pytest.raises(
        ClaimError, match=r"05_study.json measures 'twohead-gone', which is not in the ledger"
    ):
        measured(kept(Measurement("twohead-gone", "birds", SECOND)))

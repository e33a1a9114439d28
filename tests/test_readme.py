"""The README's claims table is the one that the stored notebooks give, and its links lead somewhere."""

from __future__ import annotations

import re

from helpers import PROJECT_ROOT
from helpers.chapters.run import readme_with_claims
from helpers.claims.ledger import Measurement, Result
from helpers.claims.report import ledger_summary

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def test_the_claims_table_is_current():
    assert readme_with_claims() == README
    assert README.count("| **") >= 8


def test_links_and_commands_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (PROJECT_ROOT / link).exists()] == []
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert {"reproduce", "test", "lab"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_an_altered_or_markerless_readme(tmp_path):
    (tmp_path / "README.md").write_text("no markers here\n")
    assert readme_with_claims(tmp_path) == "no markers here\n"


def test_summary_names_the_controls_that_stand(tmp_path):
    ledger = tmp_path / "claims.yaml"
    ledger.write_text(
        "- {id: a, chapter: '03', claim: It helps, source: s, published: null, measure: m, kind: effect,\n"
        "   direction: less, tolerance: 0.1, unit: u, thesis_setting: t}\n"
        "- {id: b, chapter: '04', claim: Not yet, source: s, published: null, measure: m, kind: identity,\n"
        "   tolerance: 0.1, unit: u, thesis_setting: t}\n"
    )
    controls = {"weak": [-2.0, -2.1, -1.9], "strong": [1.0, -1.0, 0.0]}
    measurement = Measurement("a", "here", effects=[-1.0, -1.1, -0.9], controls=controls)
    table = ledger_summary([Result(measurement, "03.ipynb", {})], ledger=ledger)
    violated = Result(Measurement("b", "here", violation=0.3), "04.ipynb", {})
    broken = ledger_summary([violated], ledger=ledger).splitlines()[-1]
    assert "Violation 0.3, above the tolerance 0.1 (u). |  | **not reproduced**" in broken
    rows = table.splitlines()[2:]
    assert "-1.00 (-1.25 to -0.75) u, 3 seeds" in rows[0]
    assert "beats weak; does not beat strong" in rows[0]
    assert "**same direction**" in rows[0]
    assert "**not run here**" in rows[1]

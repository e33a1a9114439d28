"""The README's lines on the claims are those that the stored evidence gives, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import PROJECT_ROOT
from helpers.chapters.run import readme_with_claims
from helpers.claims.ledger import load_ledger

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def test_what_it_says_of_the_claims_is_current() -> None:
    assert readme_with_claims() == README
    told = README.partition("<!-- claims -->")[2].partition("<!-- end of claims -->")[0]
    assert re.findall(r"^\*\*Chapter (\d)", told, re.MULTILINE) == list("123456")
    short = [row.short for row in load_ledger().values() if row.kind != "identity"]
    assert sum(name in told for name in short) >= 30


def test_links_and_commands_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (PROJECT_ROOT / link).exists()] == []
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert {"reproduce", "test", "lab"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_an_altered_or_markerless_readme(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no markers here\n")
    assert readme_with_claims(tmp_path) == "no markers here\n"

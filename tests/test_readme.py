"""The README's lines on the claims are those that the stored evidence gives, and its links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from helpers import PROJECT_ROOT
from helpers.chapters.run import readme_with_claims
from helpers.claims.ledger import load_ledger
from helpers.files import find_notebooks

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def test_what_it_says_of_the_claims_is_current() -> None:
    assert readme_with_claims() == README
    told = README.partition("<!-- claims -->")[2].partition("<!-- end of claims -->")[0]
    assert re.findall(r"^\*\*Chapter (\d)", told, re.MULTILINE) == list("123456")
    short = [row.short for row in load_ledger().values() if row.kind != "identity"]
    assert sum(name in told for name in short) >= 30


def links_in(text: str, folder: Path) -> list[Path]:
    """The files that a Markdown text in `folder` links to."""
    return [folder / link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in (PROJECT_ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_links_commands_and_files_exist(page: str) -> None:
    path = PROJECT_ROOT / page
    text = path.read_text(encoding="utf-8")
    links = links_in(text, path.parent)
    files = re.findall(r"`((?:helpers|tests|reproduce|notebooks)/[\w/.]+)`", text)
    assert links
    there = links + [PROJECT_ROOT / f for f in files]
    assert [f for f in there if "NN" not in f.name and not f.exists()] == []
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    assert page not in PAGES[:2] or {"audit", "test"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("notebook", find_notebooks(), ids=lambda path: path.stem)
def test_files_that_a_notebook_names_exist(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    files = re.findall(r"\b(?:benchmarks|helpers|tests|reproduce)/[\w/]+\.\w+", text)
    there = links_in(text, notebook.parent) + [PROJECT_ROOT / file for file in files]
    assert there
    assert [f for f in there if not f.exists()] == []


def test_the_citation_names_version_and_licence_of_the_package() -> None:
    cited = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (package["version"], package["license"])
    assert cited["references"][0]["authors"] == [{"family-names": "Taha", "given-names": "Ahmed"}]


def test_an_altered_or_markerless_readme(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no markers here\n")
    assert readme_with_claims(tmp_path) == "no markers here\n"

"""Slides of a chapter, cut from its headings and figures: nothing about slides is kept in the notebook.

reveal.js shows them, from files beside the page. A slide for each section has its question, its figure and
its conclusion; further figures stand below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader
from nbformat import NotebookNode

from helpers import PROJECT_ROOT
from helpers.editions import CourseError
from helpers.editions.pages import Page, kind_of, page_of, prose_of, title_and_promise
from helpers.files import find_chapter, fresh_folder

REVEAL = ("reset.css", "reveal.css", "reveal.js")
LONGEST_CODE = 15
PREDICT = re.compile(r"\*\*Predict first[.:]?\*\*[.:]?\s*(.+)")


@dataclass
class Slide:
    """What one slide shows; texts are Markdown."""

    title: str
    question: str = ""
    figure: str = ""
    formula: str = ""
    code: str = ""
    conclusion: str = ""
    claims: list[str] = field(default_factory=list)
    """The verdicts that the section ends in, as HTML."""
    more: list[Slide] = field(default_factory=list)


def write_slides(chapter: str, root: Path = PROJECT_ROOT) -> Path:
    """Write the slides of a chapter as it is stored, and what they need, into a folder; returns its page.

    Raises:
        CourseError: reveal.js is not installed.
        ChapterError: there is no such chapter.
        OSError: the folder cannot be written.
    """
    source = find_chapter(chapter, root)
    nb, page = nbformat.read(source, as_version=4), Page(source.stem)
    slides = slides_of(page_of(nb, page, set(), ""))
    out = Path(root) / "build" / "slides" / source.stem
    with fresh_folder(out) as made:
        page.write_pictures(made)
        for name, content in _reveal().items():
            (made / name).write_bytes(content)
        (made / "index.html").write_text(_page(slides), encoding="utf-8")
    return out / "index.html"


def _reveal() -> dict[str, bytes]:
    try:
        folder = files("sphinx_revealjs") / "_static" / "revealjs" / "dist"
    except ModuleNotFoundError as error:
        raise CourseError("slides need reveal.js: pip install -e '.[book]' brings sphinx-revealjs") from error
    deck = files("helpers.editions") / "deck"
    own = {name: (deck / name).read_bytes() for name in ("deck.css", "deck.js")}
    return own | {name: (folder / name).read_bytes() for name in REVEAL}


def slides_of(nb: NotebookNode) -> list[Slide]:
    """The title and then a slide for each section of a prepared notebook (`page_of`)."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    first, *others = sections
    return [_title(first), *(_slide(cells) for cells in others)]


def _title(cells: list[NotebookNode]) -> Slide:
    figures = [figure for figure, _ in _figures(cells)]
    return Slide(*title_and_promise(cells), figure="".join(figures[:1]))


def _slide(cells: list[NotebookNode]) -> Slide:
    heading, _, _ = cells[0].source.partition("\n")
    prose = prose_of(cells).removeprefix(heading)
    asked = PREDICT.search(prose)
    paragraphs = [p for p in re.split(r"\n{2,}", prose) if re.match(r"[\w*(]", p) and not PREDICT.match(p)]
    opening = _sentences(paragraphs[0]) if paragraphs else []
    question = asked[1] if asked else next((s for s in opening if s.endswith("?")), " ".join(opening[:2]))
    slide = Slide(heading.removeprefix("## "), question)
    found = _figures(cells)
    if len(found) > 1 and asked:  # what comes before the question is not its answer
        start = next(
            i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and PREDICT.search(cell.source)
        )
        later = _figures(cells[start:])
        found = later + [pair for pair in found if pair not in later] if later else found
    if found:
        slide.figure, slide.conclusion = found[0]
        slide.more = [Slide(slide.title, figure=figure, conclusion=said) for figure, said in found[1:]]
    if not asked and (formulas := re.findall(r"(?s)\$\$.+?\$\$", prose)):
        slide.formula = next((f for f in formulas if r"\boxed" in f), formulas[0])
    slide.claims = re.findall(r'(?s)<div class="claim-card".*?<summary>(.*?)</summary>', _html(cells))
    if not (found or slide.formula or slide.claims):
        slide.code = _short_code(cells)
    return slide


def _figures(cells: list[NotebookNode]) -> list[tuple[str, str]]:
    """Every figure, as HTML, with what the prose says right after it."""
    found = []
    for place, cell in enumerate(cells):
        html = _html([cell])
        after = next((c.source for c in cells[place + 1 :] if c.cell_type == "markdown"), "")
        said = [p for p in after.split("\n\n") if not PREDICT.search(p) and not re.match(r"[#|<$]", p)]
        conclusion = " ".join(_sentences(said[0])[:2]) if said else ""
        found += [(figure, conclusion) for figure in re.findall(r"(?s)<figure>.*?</figure>", html)]
    return found


def _short_code(cells: list[NotebookNode]) -> str:
    """The first definition that fits on a slide."""
    for cell in cells:
        if cell.cell_type == "code" and not kind_of(cell) and "exercise" not in cell.metadata.get("tags", []):
            lines = cell.source.splitlines()
            if len(lines) <= LONGEST_CODE and re.search(r"(?m)^(def|class) ", cell.source):
                return f"```python\n{cell.source}\n```"
    return ""


def _html(cells: list[NotebookNode]) -> str:
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("data", {}).get("text/html", "") for output in outputs)


def _sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z*$(])", " ".join(paragraph.split()))


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    from helpers.editions.formulas import mathml

    def write(tex: str, options: dict[str, bool]) -> str:
        return mathml(tex, display=options["display_mode"])

    return MarkdownIt("commonmark").use(dollarmath_plugin, renderer=write)


def _page(slides: list[Slide]) -> str:
    environment = Environment(
        loader=PackageLoader("helpers.editions", "deck"), autoescape=True, trim_blocks=True
    )
    environment.filters["markdown"] = lambda text: _markdown().render(text)
    environment.filters["inline"] = lambda text: _markdown().renderInline(text)
    return environment.get_template("deck.html.j2").render(slides=slides)

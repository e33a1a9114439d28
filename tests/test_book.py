"""The book: complete offline, every link leads somewhere, no barrier at any width, in light and in dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import lab
import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output
from small_notebooks import ONE, notebook

from helpers import PROJECT_ROOT
from helpers.claims.measurement import MIME
from helpers.claims.report import claims_page
from helpers.claims.standing import standings
from helpers.editions.book import write_book
from helpers.editions.formulas import mathml
from helpers.editions.slides import write_slides
from helpers.files import find_notebooks

if TYPE_CHECKING:
    from playwright.sync_api import Page

# ---- formulas


@pytest.mark.parametrize(
    "tex",
    [
        r"s_\mu = \frac{1}{r} \sum_{i=1}^{r} \sigma_i",
        r"\frac{\lVert E \rVert_F}{\sqrt{b}} \le s_\mu",
        r"\begin{cases} 1 & x < 0 \\ 0 & \text{otherwise} \end{cases}",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}",
        r"\Big\lfloor \frac{a}{b} \Big\rfloor \bigl\lVert x \bigr\rVert",
        r"\operatorname*{arg\,max}_{\lVert f \rVert_2 = 1} \left[ m + d \right]_+",
    ],
)
def test_formulas_become_well_formed_mathml(tex: str) -> None:
    tree = ElementTree.fromstring(mathml(tex, display=True))
    assert (tree.tag, tree.get("display")) == ("math", "block")
    letters = "".join(tree.itertext())
    assert "\\" not in letters
    assert "&" not in letters


@pytest.mark.parametrize("tex", [r"\frac{1}{", r"\unheardof{x}", r"a & b", "", r"\left( x"])
def test_formulas_that_cannot_be_shown_are_named(tex: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"formula {tex!r}")):
        mathml(tex)


def test_letters_of_another_alphabet_are_other_letters() -> None:
    """Browsers heed no mathvariant but "normal"."""
    made = mathml(r"\mathbf{W 1} \boldsymbol{\sigma} \mathcal{L} \mathbb{R} \mathfrak{C} \mathrm{dx}")
    assert "".join(ElementTree.fromstring(made).itertext()) == "𝐖𝟏𝝈ℒℝℭdx"
    assert set(re.findall(r'mathvariant="(.+?)"', made)) == {"normal"}


# ---- a small book with one thing of every kind

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAADklEQVR4nGP8z8AARAwABA0BA1OLzX4AAAAASUVORK5CYII="
WIDGET = {
    "application/vnd.jupyter.widget-view+json": {"model_id": "a"},
    "text/plain": "interactive(children=...)",
}
STATE = {
    "a": {"state": {"children": ["IPY_MODEL_b", "IPY_MODEL_c"]}},
    "b": {"state": {"description": "step", "value": 0.5, "min": 0.0, "max": 3}},
    "c": {"state": {"value": f'<img src="data:image/png;base64,{PNG}" width="2" alt="played &lt;once&gt;">'}},
}
TABLE = "<div><style scoped>p {}</style><table><thead><tr><th></th><th>n</th></tr></thead></table></div>"
CLAIM = {MIME: {"claim_id": "a-claim"}, "text/html": "<details><summary>a card</summary>x</details>"}
PROSE = """# Bound $x^2$

**After this chapter you can read.**

[next](reading_list/04_c.ipynb#top), [here](#place),
[results](../reproduce/RESULTS.md), [code](../x.py), [words](../docs/glossary.md#arms)

<a id="place"></a>A word of $\\mathbf w$.

<details><summary>Hint</summary>

Use $w$.

</details>"""
SECTION = """## 1 Section

**Predict first.** Will it *grow*?

$$\\boxed{\\frac{a}{b}}$$"""


def code(source: str, *outputs: dict, tag: str = "", **more: object) -> nbformat.NotebookNode:
    about = {"image/png": {"alt": "a <plot>"}}
    made = [new_output("display_data", d, metadata=about if "image/png" in d else {}) for d in outputs]
    return new_code_cell(source, outputs=made, metadata={"tags": [tag] if tag else [], **more})


def everything() -> nbformat.NotebookNode:
    made = notebook(
        PROSE,
        code("import os", jupyter={"source_hidden": True}),
        SECTION,
        code("def draw(long_name):\n    return 'a' * 80  # " + "wide " * 20, {"image/png": PNG}),
        "# ## not a heading\n\nIt grows. Indeed. And so on.",
        code("answer = ...", tag="exercise"),
        code("exercises.check(answer)", {"text/plain": "no"}, nbgrader={"grade": True}),
        code("### BEGIN SOLUTION", {"text/plain": "secret"}, tag="solution"),
        code("play", WIDGET),
        code("bare", {**WIDGET, "application/vnd.jupyter.widget-view+json": {"model_id": "gone"}}),
        code("frame", {"text/html": TABLE}),
        code("latex", {"text/latex": "$y^2$", "text/plain": "y2"}),
        code("md", {"text/markdown": "so $z^3$ holds\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"}),
        code("html", {"text/html": "<b>bold</b><script src='http://x'></script>"}),
        code("js", {"application/javascript": "alert(1)", "text/plain": "js"}),
        code("claim", CLAIM),
        parameters=ONE,
    )
    made.cells.insert(0, made.cells.pop(1))
    made.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": STATE}}
    return made


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a small book, and what it could not show."""
    root = tmp_path_factory.mktemp("project")
    texts = root / "notebooks"
    (texts / "reading_list").mkdir(parents=True)
    names = {name: texts / f"{name}.ipynb" for name in ("02_bad", "03_c", "reading_list/04_c")}
    names["02_bad"].write_text("{")
    nbformat.write(everything(), names["03_c"])
    before = names["03_c"].read_bytes()
    listed = "# Listed\n\n## Top\n\n[back](../03_c.ipynb) $\\unheardof$"
    nbformat.write(notebook(listed), names["reading_list/04_c"])
    (texts / "reading_list" / "README.md").write_text("# The list\n\n[listed](04_c.ipynb), [none](../../x)\n")
    (root / "docs").mkdir()
    links = "[three](../notebooks/03_c.ipynb), [list](../notebooks/reading_list/README.md)"
    (root / "docs" / "glossary.md").write_text(f"# Glossary\n\n## Arms\n\n{links}\n")
    pages = {"03": "03_c.ipynb"}
    problems = write_book(names, claims_page(standings([]), pages=pages), root / "build" / "html", texts)
    assert names["03_c"].read_bytes() == before
    return root / "build" / "html", problems


@pytest.fixture(scope="module")
def page(book: tuple[Path, list[str]]) -> BeautifulSoup:
    return BeautifulSoup((book[0] / "03_c.html").read_text(), "html.parser")


def test_what_cannot_be_shown_is_told_and_stops_nothing_else(book: tuple[Path, list[str]]) -> None:
    site, problems = book
    assert [line.split(":")[0] for line in problems] == ["02_bad", "reading_list/04_c"]
    assert "formula '\\\\unheardof'" in problems[1]
    assert "cannot be shown" in (site / "02_bad.html").read_text()
    assert "\\unheardof" in (site / "reading_list" / "04_c.html").read_text()
    assert [p.name for p in site.parent.iterdir()] == ["html"]  # nothing half made is left


def test_a_failed_build_leaves_the_old_book(book: tuple[Path, list[str]], tmp_path: Path) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "old").touch()
    with pytest.raises(TypeError):
        write_book({}, None, tmp_path / "html", tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["html", "html/old"]


def test_a_page_is_complete_without_network_and_kernel(page: BeautifulSoup) -> None:
    article = page.article
    assert article.find_all(["script", "iframe", "object"]) == []
    assert {img["alt"] for img in article.find_all("img")} == {"a <plot>", "played <once>"}
    for img in article.find_all("img"):
        assert (img["loading"], img["width"], img["height"]) == ("lazy", "2", "1")
    assert len(article.find_all("math")) == 6
    assert article.h1.math is not None
    assert article.find("details", string=None).math is not None
    text = article.get_text()
    assert text.count("An explorer: in JupyterLab") == 2
    assert "Here: step 0.5 (from 0 to 3)." in text
    assert "interactive(children" not in text
    assert article.find("td", string="2") is not None  # a table in Markdown
    assert article.select_one(".scroller[tabindex] table") is not None
    assert article.b.get_text() == "bold"


def test_what_a_reader_need_not_see_is_folded_under_its_name(page: BeautifulSoup) -> None:
    folds = {d.summary.get_text(): d.get_text() for d in page.select("details.fold")}
    assert list(folds) == ["Plumbing", "How the answer is checked", "A solution"]
    assert "import os" in folds["Plumbing"]
    assert "secret" in folds["A solution"]
    assert all(not d.has_attr("open") for d in page.select("details.fold"))


def test_links_lead_from_page_to_page_and_between_claims_and_chapters(
    book: tuple[Path, list[str]], page: BeautifulSoup
) -> None:
    links = {a.get_text(): a.get("href") for a in page.article.find_all("a")}
    assert links["next"] == "reading_list/04_c.html#top"
    assert links["here"] == "#place"
    assert links["results"] == "claims.html"
    assert "code" not in links
    assert links["words"] == "glossary.html#arms"
    words = (book[0] / "glossary.html").read_text()
    assert {f'href="{there}.html"' in words for there in ("03_c", "reading_list/README")} == {True}
    assert links["All that is known of this claim"] == "claims.html#a-claim"
    assert page.find(id="claim-a-claim") is not None
    assert 'href="03_c.html"' in (book[0] / "claims.html").read_text()
    assert dangling(book[0]) == {"03_c.html: claims.html#a-claim"}  # the ledger has no such row


def pages_of(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def dangling(site: Path) -> set[str]:
    """Local links and sources of every page that lead nowhere, or out of the site."""
    texts = {path: path.read_text() for path in pages_of(site)}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    wrong = set()
    for path, text in texts.items():
        for target in re.findall(r'<(?:a|img|script|link)\b[^>]*?\b(?:href|src)="([^"]*)"', text):
            if re.match(r"https?:|mailto:", target):
                continue
            local, _, fragment = target.partition("#")
            there = (path.parent / local.partition("?")[0]).resolve() if local else path
            if not there.is_file() or (fragment and fragment not in ids.get(there, ())):
                wrong.add(f"{path.relative_to(site)}: {target}")
    return wrong


# ---- the project's own notebooks


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book of the stored notebooks, which can all be shown."""
    texts, out = PROJECT_ROOT / "notebooks", tmp_path_factory.mktemp("whole") / "html"
    names = {path.relative_to(texts).with_suffix("").as_posix(): path for path in find_notebooks()}
    pages = {}
    assert write_book(names, claims_page(standings([]), pages=pages), out, texts) == []
    return out


def test_the_stored_notebooks_make_a_whole_book(whole: Path) -> None:
    assert dangling(whole) == set()
    fetched = r'<(?:img|script|link|iframe)[^>]+(?:src|href)="(?:https?:)?//[^"]+'
    assert [re.findall(fetched, path.read_text()) for path in pages_of(whole)] == [[]] * len(pages_of(whole))
    for path in whole.rglob("[0-9][0-9]_*.html"):
        article = BeautifulSoup(path.read_text(), "html.parser").article
        assert all(img["alt"] for img in article.find_all("img")), path.name
        cells = nbformat.read(
            PROJECT_ROOT / "notebooks" / path.relative_to(whole).with_suffix(".ipynb"), 4
        ).cells
        outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        explorers = sum("widget-view" in str(list(data)) for data in outputs)
        pictures = sum("image/png" in data for data in outputs)
        assert len(article.find_all("figure")) == pictures + explorers
        assert len(article.select(".explorer img")) == explorers


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """A page of one browser for all, which reaches files alone; what it asks for elsewhere is `broken`."""
    pytest.importorskip("playwright", reason="the package playwright is missing")
    if lab.CHROMIUM is None:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    with lab.browser() as page:
        page.set_default_timeout(lab.START_SECONDS * 1000)
        page.context.set_offline(True)
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.broken.append(r.url))
        page.on("requestfailed", lambda r: "ABORTED" in r.failure or page.broken.append(f"failed: {r.url}"))
        yield page  # what a click leaves behind is aborted


def look(page: Page, path: Path, width: int, scheme: str, fragment: str = "") -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(path.as_uri() + fragment)
    assert page.broken == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


def barriers(page: Page) -> list[str]:
    """What axe-core finds serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is missing")
    options = {"resultTypes": ["violations"], "preload": False}  # else it fetches style sheets
    found = axe.Axe().run(page, options=options).response["violations"]
    found = [v for v in found if v["impact"] in ("serious", "critical")]
    return [f"{v['id']}: {node['html'][:200]}" for v in found for node in v["nodes"]]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
@pytest.mark.parametrize("name", ["index", "03_c", "claims", "reading_list/04_c"])
def test_no_barrier(book: tuple[Path, list[str]], browser: Page, name: str, width: int, scheme: str) -> None:
    look(browser, book[0] / f"{name}.html", width, scheme)
    browser.evaluate("document.querySelectorAll('article details').forEach((d, i) => d.open = i < 9)")
    assert barriers(browser) == []


@pytest.mark.browser
def test_the_book_can_be_leafed_through_searched_and_darkened(
    book: tuple[Path, list[str]], browser: Page
) -> None:
    look(browser, book[0] / "index.html", 1400, "light")
    seen = []
    while (following := browser.locator("a.right-next")).count():
        here = browser.url
        following.click()
        browser.wait_for_url(lambda url, here=here: url != here)
        seen.append(browser.url.rpartition("/html/")[2])
    names = [name.removesuffix(".html") for name in seen]
    assert names == ["02_bad", "03_c", "reading_list/README", "reading_list/04_c", "claims", "glossary"]
    for before in ("claims.html", "04_c.html"):
        browser.locator("a.left-prev").click()
        browser.wait_for_url(lambda url, before=before: url.endswith(before))
    look(browser, book[0] / "search.html", 1400, "light", "?q=grows")
    browser.locator("#search-results a", has_text="Bound").click()
    browser.wait_for_url(re.compile("03_c.html"))
    colour = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(colour) == "rgb(255, 255, 255)"
    browser.emulate_media(color_scheme="dark")
    browser.reload()
    assert browser.evaluate(f"Math.max(...{colour}.match(/\\d+/g).slice(0, 3))") < 40
    assert browser.broken == []


@pytest.mark.browser
def test_a_line_has_a_readers_measure_and_no_chapter_scrolls_sideways(whole: Path, browser: Page) -> None:
    for path in pages_of(whole):
        look(browser, path, 390, "light")
    look(browser, whole / "03_svmax.html", 1400, "light")
    letters = """() => { const p = document.createElement("p"); p.style.width = "max-content";
        p.textContent = document.querySelector("article p:not(.stamp)").textContent.slice(0, 80);
        document.querySelector("article").append(p);
        return document.querySelector("article section > p").clientWidth / (p.clientWidth / 80); }"""
    assert 65 <= browser.evaluate(letters) <= 82
    assert browser.evaluate("getComputedStyle(document.querySelector('menclose')).borderTopWidth") != "0px"


# ---- slides


@pytest.mark.browser
def test_slides_are_cut_from_headings_and_figures(tmp_path: Path, browser: Page) -> None:
    pytest.importorskip("sphinx_revealjs", reason="sphinx-revealjs, which carries reveal.js, is missing")
    (tmp_path / "notebooks").mkdir()
    nbformat.write(everything(), tmp_path / "notebooks" / "03_c.ipynb")
    path = write_slides("3", tmp_path)
    deck = BeautifulSoup(path.read_text(), "html.parser")
    title, section = deck.select(".slides > section")
    assert title.select_one(".question").get_text() == "After this chapter you can read."
    first, *below = section.find_all("section")
    assert first.h2.get_text() == "1 Section"
    assert first.select_one(".question").get_text() == "Will it grow?"
    assert first.img["alt"] == "a <plot>"
    assert first.select_one(".conclusion").get_text() == "It grows. Indeed."
    assert [slide.img["alt"] for slide in below] == ["played <once>"]
    assert [li.get_text() for li in first.select(".claims li")] == ["a card"]
    assert "secret" not in deck.get_text()
    assert dangling(path.parent) == set()
    for scheme in ("light", "dark"):
        look(browser, path, 1280, scheme)
        browser.keyboard.press("ArrowRight")
        browser.locator("h2:visible").first.wait_for()
        assert barriers(browser) == []
    assert browser.locator("section.present:not(.stack) figure img:visible").count() == 1

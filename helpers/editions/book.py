"""The book: every notebook, the claims and what else a reader needs, as a web site without a network.

Sphinx and myst-nb write it from the outputs that notebooks hold; nothing is run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader
from nbformat import NotebookNode

from helpers.editions.pages import FIGURES, Page, offline_markdown, page_of, title_and_promise, with_pictures
from helpers.files import READING_LIST, fresh_folder, write_atomically
from helpers.provenance import STAMP

PARTS = files("helpers.editions") / "book"
SETTINGS: dict[str, Any] = {
    "project": "Closing the Gap",
    "copyright": "the authors; the code is under the MIT licence",
    "html_title": "Closing the Gap",
    "extensions": ["myst_nb", "helpers.editions.sphinx_parts"],
    "html_theme": "sphinx_book_theme",
    "html_theme_options": {
        "show_navbar_depth": 1,
        "show_toc_level": 1,
        "use_download_button": False,
        "use_fullscreen_button": False,
        "search_bar_text": "Search the book",
    },
    "html_static_path": [str(PARTS / "static")],
    "html_css_files": ["book.css", "claims.css"],
    "html_js_files": ["book.js"],
    "html_extra_path": ["extra"],
    "html_math_renderer": "mathml",
    "html_copy_source": False,
    "html_show_search_summary": False,  # it fetches pages, which a browser refuses to a site in a folder
    "language": "en",
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},
    "nb_render_markdown_format": "myst",
    "myst_enable_extensions": ["amsmath", "dollarmath"],
    "myst_heading_anchors": 3,
    "myst_update_mathjax": False,
    "suppress_warnings": ["myst.header", "mystnb.unknown_mime_type"],
}


def write_book(notebooks: Mapping[str, Path], claims: str, out: Path, texts: Path) -> list[str]:
    """Write the site into the folder `out`, whole or not at all.

    Args:
        notebooks: the executed notebook to show by its name in the book: "03_svmax",
            "reading_list/04_losses".
        claims: the page on the claims, as `helpers.claims.report` writes it.
        texts: the notebooks' folder, whose Markdown files, at any depth, are pages too, as is the glossary in
            `docs/` beside it.

    Returns:
        A line for each thing that could not be shown as it should, after its page's name and a colon; the
        rest of the book is complete.
    """
    with fresh_folder(out) as fresh:
        source = fresh.with_name("source")
        problems = _write_sources(notebooks, claims, texts, source)
        return problems + _run_sphinx(source, fresh)


def _write_sources(notebooks: Mapping[str, Path], claims: str, texts: Path, source: Path) -> list[str]:
    """What Sphinx reads: a prepared copy of every page, and its pictures as files of their own."""
    pages = {path.relative_to(texts).with_suffix("").as_posix(): path for path in sorted(texts.rglob("*.md"))}
    if (words := texts.parent / "docs" / "glossary.md").is_file():
        pages["glossary"] = words
    known, entries, problems = {*notebooks, *pages, "claims"}, [], []
    for name, path in notebooks.items():
        page = Page(name)
        try:
            nb = nbformat.read(path, as_version=4)
            text = nbformat.writes(page_of(nb, page, known, _stamp(nb)))
        except Exception as error:  # whatever is wrong with one notebook must not stop the others
            problems.append(f"{name}: {type(error).__name__}: {error}")
            write_atomically(source / f"{name}.md", f"# {name}\n\nThis notebook cannot be shown: `{error}`\n")
            continue
        entries.append(_entry(name, nb, page))
        write_atomically(source / f"{name}.ipynb", text)
        page.write_pictures(source / "extra")
    for name, path in pages.items():
        cell = NotebookNode(source=path.read_text(encoding="utf-8"))
        write_atomically(source / f"{name}.md", offline_markdown(cell, Page(name), known))
    page = Page("claims")
    write_atomically(source / "claims.md", with_pictures(claims, page))
    page.write_pictures(source / "extra")
    write_atomically(source / "index.md", _front(entries, list(notebooks), list(pages), claims))
    return problems


def _entry(name: str, nb: NotebookNode, page: Page) -> dict[str, str]:
    """What the front page says of a notebook: its title, what a reader can do then, its first picture."""
    title, promise = title_and_promise(nb.cells)
    return {
        "name": name,
        "title": title or name,
        "promise": promise,
        "picture": f"{FIGURES}/{next(iter(page.pictures))}" if page.pictures else "",
    }


def _front(entries: list[dict[str, str]], notebooks: list[str], pages: list[str], claims: str) -> str:
    environment = Environment(loader=PackageLoader("helpers.editions", "book"), trim_blocks=True)
    tally = re.search(r"(?m)^\*\*(.+)\*\*$", claims)
    listed = [name for name in (*pages, *notebooks) if name.startswith(f"{READING_LIST}/")]
    return environment.get_template("index.md.j2").render(
        entries=entries,
        chapters=[name for name in notebooks if name not in listed],
        listed=listed,
        others=[name for name in pages if name not in listed],
        tally=tally[1] if tally else "",
    )


def _stamp(nb: NotebookNode) -> str:
    """Where the outputs of a notebook come from."""
    if not (about := nb.metadata.get(STAMP)):
        return "This notebook has not been run."
    return f"Run on {about['date'][:10]}, {about['device']}, in {about['wall_seconds']:.0f} seconds"


def _run_sphinx(source: Path, out: Path) -> list[str]:
    """Build the site; returns Sphinx's warnings, each after the name of its page."""
    from sphinx.application import Sphinx  # slow to import
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    warnings = io.StringIO()
    where = (source, None, out, out.with_name("doctrees"), "html")
    with patch_docutils(), docutils_namespace():  # what extensions tell docutils is forgotten afterwards
        Sphinx(*where, confoverrides=SETTINGS, status=None, warning=warnings, freshenv=True).build()
    lines = re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()).replace(f"{source}/", "").splitlines()
    return [
        re.sub(r"^(\S+?)\.(?:ipynb|md)(?::\d+)?: (?:WARNING: )?", r"\1: ", line) for line in lines if line
    ]

"""A Sphinx extension: how the book writes formulas and folded cells."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.util import logging

from helpers.editions.formulas import mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx, after myst-nb has told it of its folds."""
    app.add_html_math_renderer("mathml", (_formula, None), (_display, None))
    app.add_node(HideCodeCellNode, override=True, html=(_open_fold, _close_fold))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _formula(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_shown(translator, node, display=False))
    raise nodes.SkipNode


def _display(translator: HTML5Translator, node: nodes.math_block) -> None:
    shown = _shown(translator, node, display=True)
    frame = '<div class="formula" role="group" aria-label="A formula" tabindex="0">'  # scrolls on a phone
    translator.body.append(f"{frame}{shown}</div>\n")
    raise nodes.SkipNode


def _shown(translator: HTML5Translator, node: nodes.Element, *, display: bool) -> str:
    """One formula; one that cannot be converted is shown as TeX, and told as a warning."""
    tex = node.astext()
    try:
        return mathml(tex, display=display)
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error, location=node)
        return f"<code>{escape(tex)}</code>"


def _open_fold(translator: HTML5Translator, node: HideCodeCellNode) -> None:
    """myst-nb gives every fold the name "Toggle hidden content"; here a fold has the name that it shows."""
    translator.body.append(f'<details class="fold"><summary>{escape(node["prompt_show"])}</summary>\n')


def _close_fold(translator: HTML5Translator, node: HideCodeCellNode) -> None:
    translator.body.append("</details>\n")

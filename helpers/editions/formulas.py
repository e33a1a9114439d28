"""TeX formulas as MathML, which browsers draw themselves: no script, no network, no fonts to fetch."""

from __future__ import annotations

import re
import unicodedata
from html import unescape
from typing import TYPE_CHECKING

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

ALPHABETS = {
    "bold": "MATHEMATICAL BOLD",
    "bold-italic": "MATHEMATICAL BOLD ITALIC",
    "double-struck": "MATHEMATICAL DOUBLE-STRUCK",
    "script": "MATHEMATICAL SCRIPT",
    "fraktur": "MATHEMATICAL FRAKTUR",
}
"""Browsers ignore every `mathvariant` but "normal" (MathML Core, section 2.2.2): the letter itself must say it."""


def mathml(tex: str, *, display: bool = False) -> str:
    """A TeX formula, without its dollar signs, as MathML.

    Raises:
        ValueError: naming the formula, when it is malformed or uses a command that cannot be converted.
    """
    supported = re.sub(r"\\(begin|end)\{(?:aligned|split)\}", r"\\\1{align*}", tex.strip())
    try:
        result = convert(supported, display="block" if display else "inline")
    except Exception as error:  # latex2mathml's errors share no base class
        raise ValueError(f"formula {tex.strip()!r} is malformed: {type(error).__name__}") from error
    symbols = [unescape(text) for text in re.findall(r">([^<]+)<", result)]
    if unknown := [s for s in symbols if s == "&" or re.fullmatch(r"\\[A-Za-z]+", s)]:
        raise ValueError(
            f"formula {tex.strip()!r}: {unknown[0]} has no MathML form here; write it another way"
        )
    result = re.sub(r'<(m[inost]\w*) mathvariant="([\w-]+)">([^<]+)<', _letters, result)
    return result.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML knows it without


def _letters(found: re.Match[str]) -> str:
    tag, variant, text = found[1], found[2], unescape(found[3])
    if variant not in ALPHABETS:
        return found[0]
    return f"<{tag}>{''.join(_letter(c, ALPHABETS[variant]) for c in text)}<"


def _letter(character: str, alphabet: str) -> str:
    """ "A" in the alphabet named, or itself where Unicode has no such letter."""
    name = unicodedata.name(character, "")
    words = re.fullmatch(r"(?:LATIN|GREEK) (CAPITAL|SMALL) LETTER (\w+)|(DIGIT) (\w+)", name)
    if not words:
        return character
    kind, letter = (words[1], words[2]) if words[1] else (words[3], words[4])
    older = alphabet.removeprefix("MATHEMATICAL ").replace("FRAKTUR", "BLACK-LETTER")
    for full in (f"{alphabet} {kind} {letter}", f"{older} {kind} {letter}"):  # ℒ and ℝ came before the others
        try:
            return unicodedata.lookup(full)
        except KeyError:
            continue
    return character


def _visit(translator: HTML5Translator, node: nodes.math | nodes.math_block, display: bool) -> None:
    """Write one formula; one that cannot be converted is shown as TeX, and told as a warning."""
    tex = node.astext()
    try:
        shown = mathml(tex, display=display)
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error, location=node)
        shown = f"<code>{translator.encode(tex)}</code>"
    translator.body.append(f'<div class="formula" tabindex="0">{shown}</div>\n' if display else shown)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make this the way in which Sphinx writes formulas."""
    app.add_html_math_renderer(
        "mathml",
        (lambda translator, node: _visit(translator, node, False), None),
        (lambda translator, node: _visit(translator, node, True), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}

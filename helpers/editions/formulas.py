"""TeX formulas as MathML, which browsers draw themselves: no script, no network, no fonts to fetch."""

from __future__ import annotations

import re
import unicodedata
from html import unescape

from latex2mathml.converter import convert

ALPHABETS = {
    "bold": "MATHEMATICAL BOLD",
    "bold-italic": "MATHEMATICAL BOLD ITALIC",
    "double-struck": "MATHEMATICAL DOUBLE-STRUCK",
    "script": "MATHEMATICAL SCRIPT",
    "fraktur": "MATHEMATICAL FRAKTUR",
}
"""Browsers heed no `mathvariant` but "normal" (MathML Core, section 2.2.2): the letter itself must say it."""

MENDED = {
    r"<mo>(&#x0?20(?:16|25);|\|)</mo>": r'<mo stretchy="false">\1</mo>',  # else a bar grows with its exponent
    r"<mo>([a-z]{2,})</mo>": r'<mo lspace="0" rspace="0.1em">\1</mo>',  # max, min, lim
    "negativethinmathspace": "-0.167em",
}
"""What latex2mathml writes and browsers draw badly, as a pattern, and what they draw well."""

FENCES = {
    **{"lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩"},
    **{"vert": "|", "lvert": "|", "rvert": "|", "Vert": "‖", "lVert": "‖", "rVert": "‖"},
}
"""Brackets that latex2mathml knows after \\big, \\Big, ... as a character alone."""


def mathml(tex: str, *, display: bool = False) -> str:
    """A TeX formula, without its dollar signs, as MathML.

    Raises:
        ValueError: naming the formula, when it is malformed or uses a command that cannot be converted.
    """
    supported = re.sub(r"\\(begin|end)\{(?:aligned|split)\}", r"\\\1{align*}", tex.strip())
    tall = rf"(\\[bB]igg?[lrm]?)\s*\\({'|'.join(FENCES)})(?![A-Za-z])"
    supported = re.sub(tall, lambda found: found[1] + FENCES[found[2]], supported)
    try:
        result = convert(supported, display="block" if display else "inline")
    except Exception as error:  # latex2mathml's errors share no base class
        raise ValueError(f"formula {tex.strip()!r} is malformed: {type(error).__name__}") from error
    symbols = [unescape(text) for text in re.findall(r">([^<]+)<", result)]
    if unknown := [s for s in symbols if s == "&" or re.fullmatch(r"\\[A-Za-z]+", s)]:
        raise ValueError(
            f"formula {tex.strip()!r}: {unknown[0]} has no MathML form here; write it another way"
        )
    for odd, plain in MENDED.items():
        result = re.sub(odd, plain, result)
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

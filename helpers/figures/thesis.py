"""The whole thesis by its best evidence: every effect in one plot, and paragraphs that count them."""

from __future__ import annotations

from collections.abc import Sequence

from IPython.display import Markdown
from matplotlib.figure import Figure

from helpers.claims import collect, standings
from helpers.claims.figure import forest_figure as forest
from helpers.claims.report import whole_claims
from helpers.claims.standing import Standing
from helpers.experiments import all_evidence
from helpers.files import chapter_titles, find_chapters

HELD = "What held"
WORDS = {
    HELD: ("reproduced", "supported"),
    "What did not": ("contradicted",),
    "What we could not decide": ("mixed", "inconclusive", "not tested", "not run"),
}
"""Title of a paragraph -> the verdicts that it counts."""


def standing(without: str = "06") -> list[Standing]:
    """How every claim of the thesis stands: by kept evidence, and by the stored runs of the chapters.

    Args:
        without: number of a chapter whose stored run does not count, as it is the one that asks.
    """
    stored = [path for path in find_chapters() if not path.name.startswith(without)]
    return [s for s in standings(collect(stored), all_evidence()) if s.row.of_thesis]


def forest_figure(stand: Sequence[Standing]) -> tuple[Figure, str]:
    """Every effect that was run, in multiples of the smallest effect that counts."""
    ran = [s for s in stand if s.row.kind == "effect" and s.best.tiers]
    said = "; ".join(f"{s.row.label}: {s.best.verdict}" for s in ran)
    return forest(stand, chapter_titles(find_chapters())), f"Forest plot of {len(ran)} effects. {said}."


def whole_effects(stand: Sequence[Standing]) -> list[Standing]:
    """The claims about effects; the parts of a composite claim count in their whole."""
    return [s for s in whole_claims(stand) if s.row.kind != "identity"]


def paragraphs(stand: Sequence[Standing]) -> Markdown:
    """What held, what did not and what could not be decided: counts, names, and what the controls say."""
    whole = whole_effects(stand)
    told = []
    for title, verdicts in WORDS.items():
        those = [s for s in whole if s.best.verdict in verdicts]
        told.append(f"**{title}.** {len(those)} of {len(whole)} effects{_named(those)}.")
        if title == HELD:
            beaten, explained, left = (
                [s for s in those if s.shown.because == answer]
                for answer in ("beaten", "explains it", "open")
            )
            told[-1] += (
                f" Every control named in advance is beaten by {len(beaten)}{_named(beaten)}; a control "
                f"explains {len(explained)}{_named(explained)}, and is open for {len(left)}{_named(left)}."
            )
    return Markdown("\n\n".join(told))


def _named(some: Sequence[Standing]) -> str:
    return f" ({'; '.join(s.row.label for s in some)})" if some else ""

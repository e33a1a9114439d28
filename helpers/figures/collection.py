"""A map of the collection: what a retrieval network lacks, the answer, and what the evidence says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.claims.figure import WORD_COLORS
from helpers.claims.report import SIGNS
from helpers.claims.standing import Standing
from helpers.claims.verdict import VERDICTS
from helpers.plotting import PALETTE, titled


def collection_figure(
    lacks: Mapping[str, tuple[str, str]], standings: Sequence[Standing], finding: str = ""
) -> tuple[Figure, str]:
    """A row for each lack: the answer, its chapter, and a square for each of the chapter's claims.

    Args:
        lacks: number of a chapter, "02" -> what is lacking, and the answer to it.
        standings: all claims as they stand (`helpers.claims.standings`).
    """
    figure = Figure(figsize=(11, 1.0 + 0.72 * len(lacks)), layout="constrained")
    axes = figure.subplots()
    most = max(sum(s.row.chapter == chapter for s in standings) for chapter in lacks)
    step = min(0.62, 9 / max(most, 1))  # of the squares, which shall all fit
    said, seen = [], Counter()
    for row, (chapter, (lack, answer)) in enumerate(lacks.items()):
        axes.text(0, row, fill(lack, 34), va="center", fontsize=10.5)
        axes.text(8.2, row, fill(f"{int(chapter)}  {answer}", 30), va="center", fontsize=10.5, weight="bold")
        words = [s.best.verdict for s in standings if s.row.chapter == chapter]
        words = sorted(words, key=VERDICTS.index)
        for place, word in enumerate(words):
            at = (14.5 + step * place, row - 0.28)
            axes.add_patch(Rectangle(at, 0.9 * step, 0.56, color=PALETTE[WORD_COLORS[word]]))
            axes.text(
                at[0] + 0.45 * step, row, SIGNS[word], ha="center", va="center", color="white", fontsize=9
            )
        counted = Counter(words)
        seen += counted
        said.append(f"chapter {int(chapter)}: " + ", ".join(f"{n} {w}" for w, n in counted.items()))
    for place, heading in (
        (0, "what is missing"),
        (8.2, "the thesis's answer"),
        (14.5, "its claims, as they stand"),
    ):
        axes.text(place, -0.75, heading, fontsize=10, color=PALETTE["grey"])
    for word in (w for w in VERDICTS if seen[w]):
        axes.plot([], [], "s", color=PALETTE[WORD_COLORS[word]], markersize=10, label=f"{SIGNS[word]} {word}")
    axes.set(xlim=(-0.2, 24), ylim=(len(lacks) - 0.5, -1.0))
    axes.axis("off")
    figure.legend(loc="outside lower left", ncols=7, handletextpad=0.2)
    return titled(figure, finding, f"What is missing, the answer, and its claims. {'; '.join(said)}.")

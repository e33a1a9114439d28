"""The ledger as a page of the book: a card for each claim.

A verdict is always a word with a sign; its colour only repeats it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.claims.figure import claim_figure
from helpers.claims.ledger import LEDGER
from helpers.claims.report import contents, provenance_rows, render
from helpers.claims.standing import Standing, standings
from helpers.plotting import png_and_width

if TYPE_CHECKING:
    from helpers.claims.report import Kept, Runs, Titles


def claims_page(
    results: Runs,
    evidences: Kept = (),
    *,
    titles: Titles = None,
    pages: Titles = None,
    own: Runs = (),
    ledger: str | Path = LEDGER,
) -> str:
    """The whole ledger as Markdown with cards of HTML inside; arguments and errors as `results_markdown`.

    `pages` holds the address of each chapter in the book by its number, for those that have one.
    """
    stand = standings(results, evidences, own=own, ledger=ledger)
    return render(
        "claims.html.j2",
        plots={s.row.id: _plot(s) for s in stand},
        pages=pages or {},
        runs=provenance_rows(results, evidences, own),
        **contents(stand, titles),
    )


def _plot(s: Standing) -> dict[str, str] | None:
    if (made := claim_figure(s)) is None:
        return None
    png, width = png_and_width(made[0])
    return {"data": base64.b64encode(png).decode(), "width": str(width), "alt": made[1]}

"""Reports on the ledger: one claim as lines and as HTML, the whole ledger as text or Markdown.

`helpers/claims_page.py` makes the HTML page with a plot for each claim from the same lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from helpers.claims.ledger import (
    LEDGER,
    NOT_RUN,
    REPRODUCED,
    VERDICTS,
    Claim,
    Measurement,
    Result,
    Verdict,
    by_claim,
    judge,
    load_ledger,
)
from helpers.tables import aligned, markdown_table

HOW_TO_READ = (
    "An effect counts when its mean over seeds reaches the smallest effect named in advance and its 95 % "
    "interval excludes zero: in the thesis's own setting it is then reproduced, in a smaller one it has the "
    "same direction. An identity is reproduced when it holds to its tolerance. Controls are rival "
    "explanations; one is beaten when the method leads it and the interval of that lead excludes zero."
)


def claim_lines(row: Claim, measurement: Measurement) -> list[tuple[str, str]]:
    """(name, text) of what a reader of the chapter wants to know about one measured claim."""
    verdict = judge(row, measurement)
    return [
        ("Claim", f"{row.claim} ({row.source})"),
        ("Published", _published_text(row)),
        ("Measure", f"{row.measure} [{row.unit}]"),
        ("Here", measurement.setting),
        ("Result", verdict.sentence),
        *[
            (name, f"{np.mean(v):.4g} ± {np.std(v, ddof=1):.2g} over seeds")
            for name, v in measurement.summaries.items()
        ],
        *[("Control", sentence) for sentence in verdict.controls.values()],
        *([("Controls", _controls_text(verdict))] if verdict.controls_beaten is not None else []),
        *([("Note", measurement.note)] if measurement.note else []),
        ("Verdict", verdict.verdict),
    ]


def report_lines(row: Claim, measurement: Measurement | None) -> list[tuple[str, str]]:
    """The lines of a claim under its own heading, away from its chapter; it need not have been measured."""
    published = [
        ("Source", row.source),
        ("Published", _published_text(row)),
        ("Thesis's setting", row.thesis_setting),
    ]
    if measurement is None:
        return [*published, ("Measure", f"{row.measure} [{row.unit}]"), ("Result", judge(row, None).sentence)]
    return published + claim_lines(row, measurement)[2:-1]  # the verdict stands beside the heading


def claim_html(row: Claim, lines: Sequence[tuple[str, str]]) -> str:
    """A table without colours of its own, so that it follows JupyterLab's light or dark theme."""
    style = 'style="text-align:left;vertical-align:top"'
    cells = ""
    for name, text in lines:
        shown = f"<strong>{escape(text)}</strong>" if name in ("Verdict", "Controls") else escape(text)
        cells += f'<tr><th scope="row" {style}>{escape(name)}</th><td {style}>{shown}</td></tr>'
    return (
        f"<table><caption {style}>Claim <code>{escape(row.id)}</code></caption><tbody>{cells}</tbody></table>"
    )


def judged(
    results: Iterable[Result], rows: Mapping[str, Claim]
) -> list[tuple[Claim, Result | None, Verdict]]:
    """Every row of the ledger, in its order, with its result and verdict. Raises ClaimError as `by_claim`."""
    found = by_claim(results, rows)
    pairs = [(row, found.get(i)) for i, row in rows.items()]
    return [(row, result, judge(row, result.measurement if result else None)) for row, result in pairs]


def tally(verdicts: Iterable[Verdict]) -> str:
    """How many claims there are, and how many of each verdict, as a sentence."""
    counts = Counter(v.verdict for v in verdicts)
    return f"{counts.total()} claims: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS) + "."


def ledger_table(results: Sequence[Result], *, ledger: str | Path = LEDGER) -> str:
    """The whole ledger with verdicts as aligned text for a terminal. Raises ClaimError as for `collect`."""
    table = judged(results, load_ledger(ledger))
    lines = [[row.id, v.verdict, _controls_text(v), v.sentence] for row, _, v in table]
    summary = tally(v for _, _, v in table)
    return aligned([["claim", "verdict", "controls", "result"], *lines]) + f"\n\n{summary}\n"


def results_markdown(
    results: Sequence[Result], titles: Mapping[str, str] | None = None, *, ledger: str | Path = LEDGER
) -> str:
    """The whole ledger as a Markdown page: every claim with its lines, then where the numbers come from.

    Args:
        results: what `collect` read.
        titles: heading of each chapter by its number ("03").

    Raises:
        ClaimError: as for `collect`.
    """
    table = judged(results, load_ledger(ledger))
    chapters = sorted({row.chapter for row, _, _ in table})
    counts = Counter((row.chapter, v.verdict) for row, _, v in table)
    body = [[c, *(str(counts[c, v]) for v in VERDICTS)] for c in chapters]
    parts = [
        "# The claims of the thesis, and what was measured",
        f"{tally(v for _, _, v in table)} {HOW_TO_READ}",
        markdown_table(["Chapter", *VERDICTS], body),
    ]
    for chapter in chapters:
        parts.append(f"## {(titles or {}).get(chapter, f'Chapter {int(chapter)}')}")
        for row, result, verdict in (entry for entry in table if entry[0].chapter == chapter):
            lines = report_lines(row, result.measurement if result else None)
            items = [("Verdict", verdict.verdict), *lines, ("Id in the ledger", row.id)]
            parts.append(f"### {_plain(row.claim)}")
            parts.append("\n".join(f"- **{_plain(name)}:** {_plain(text)}" for name, text in items))
    if results:
        parts += ["## Where these numbers come from", markdown_table(*provenance_rows(results))]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_<])", r"\\\1", " ".join(text.split()))


def ledger_summary(results: Sequence[Result], *, ledger: str | Path = LEDGER) -> str:
    """A short Markdown table, one row per claim, for the README. Raises ClaimError as for `collect`."""
    body = [
        [row.chapter, row.claim, short_result(row, v), short_controls(v), f"**{v.verdict}**"]
        for row, _, v in judged(results, load_ledger(ledger))
    ]
    head = ["Chapter", "Claim of the thesis", "Measured here", "Against its controls", "Verdict"]
    return markdown_table(head, body)


def short_controls(verdict: Verdict) -> str:
    """Which controls the method beats, and which it does not."""
    parts = [
        f"{word} {', '.join(names)}"
        for word, answer in (("beats", True), ("does not beat", False))
        if (names := [name for name, beaten in verdict.beaten.items() if beaten == answer])
    ]
    return "; ".join(parts)


def short_result(row: Claim, verdict: Verdict) -> str:
    """The mean effect with its interval, or how far an identity holds; empty for what was not run."""
    if verdict.verdict == NOT_RUN:
        return ""
    if verdict.interval is None:
        return f"holds to {row.tolerance:g}" if verdict.verdict == REPRODUCED else verdict.sentence
    i = verdict.interval
    return f"{i.mean:+.2f} ({i.low:+.2f} to {i.high:+.2f}) {row.unit}, {verdict.seeds} seeds"


def provenance_rows(results: Iterable[Result]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of notebooks that the results were read from."""
    runs = {r.notebook: r.provenance for r in results}
    body = [
        [
            notebook,
            str(stamp.get("date", "unknown")),
            str(stamp.get("device", "unknown")),
            ", ".join(f"{k} {v}" for k, v in stamp.get("versions", {}).items()) or "unknown",
        ]
        for notebook, stamp in runs.items()
    ]
    return ["Notebook", "Date (UTC)", "Device", "Versions"], body


def _controls_text(verdict: Verdict) -> str:
    return {None: "", True: "beaten", False: "NOT beaten"}[verdict.controls_beaten]


def _published_text(row: Claim) -> str:
    return (
        "no verified figure"
        if row.published is None
        else f"{row.published['value']} ({row.published['setting']})"
    )

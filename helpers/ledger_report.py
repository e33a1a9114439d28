"""Reports on the ledger: one claim as lines and as HTML, the whole ledger as text or Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from helpers.ledger import (
    LEDGER,
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


def claim_lines(row: Claim, measurement: Measurement) -> list[tuple[str, str]]:
    """(name, text) of everything that a reader wants to know about one measured claim."""
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


def ledger_table(results: Sequence[Result], *, markdown: bool = False, ledger: str | Path = LEDGER) -> str:
    """The whole ledger with verdicts: aligned text for a terminal, or Markdown with provenance for a file.

    Raises:
        ClaimError: as for `collect`.
    """
    rows = load_ledger(ledger)
    found = by_claim(results, rows)
    verdicts = {i: judge(row, found[i].measurement if i in found else None) for i, row in rows.items()}
    counts = Counter(v.verdict for v in verdicts.values())
    summary = f"{len(rows)} claims: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS) + "."
    if not markdown:
        lines = [[i, v.verdict, _controls_text(v), v.sentence] for i, v in verdicts.items()]
        return aligned([["claim", "verdict", "controls", "result"], *lines]) + f"\n\n{summary}\n"
    parts = ["# Measured claims", summary, _claims_markdown(rows, found, verdicts)]
    if found:
        parts += ["## Where these numbers come from", _provenance_markdown(results)]
    return "\n\n".join(parts) + "\n"


def ledger_summary(results: Sequence[Result], *, ledger: str | Path = LEDGER) -> str:
    """A short Markdown table, one row per claim, for the README. Raises ClaimError as for `collect`."""
    rows = load_ledger(ledger)
    found = by_claim(results, rows)
    body = []
    for i, row in rows.items():
        verdict = judge(row, found[i].measurement if i in found else None)
        controls = _short_controls(verdict)
        body.append([row.chapter, row.claim, _short_result(row, verdict), controls, f"**{verdict.verdict}**"])
    head = ["Chapter", "Claim of the thesis", "Measured here", "Against its controls", "Verdict"]
    return markdown_table(head, body)


def _short_controls(verdict: Verdict) -> str:
    parts = [
        f"{word} {', '.join(names)}"
        for word, answer in (("beats", True), ("does not beat", False))
        if (names := [name for name, beaten in verdict.beaten.items() if beaten == answer])
    ]
    return "; ".join(parts)


def _short_result(row: Claim, verdict: Verdict) -> str:
    if verdict.interval is None:
        return f"holds to {row.tolerance:g}" if verdict.verdict == VERDICTS[0] else ""
    i = verdict.interval
    return f"{i.mean:+.2f} ({i.low:+.2f} to {i.high:+.2f}) {row.unit}, {verdict.seeds} seeds"


def _claims_markdown(
    rows: Mapping[str, Claim], found: Mapping[str, Result], verdicts: Mapping[str, Verdict]
) -> str:
    head = [
        "Claim",
        "Source",
        "Published",
        "Measured",
        "Setting here",
        "Thesis's setting",
        "Controls",
        "Verdict",
    ]
    body = [
        [
            f"**{i}** {row.claim}",
            row.source,
            _published_text(row),
            f"{row.measure}. {verdicts[i].sentence}",
            found[i].measurement.setting if i in found else "",
            row.thesis_setting,
            " ".join([f"{_controls_text(verdicts[i])}.", *verdicts[i].controls.values()]).lstrip("."),
            f"**{verdicts[i].verdict}**",
        ]
        for i, row in rows.items()
    ]
    return markdown_table(head, body)


def _provenance_markdown(results: Iterable[Result]) -> str:
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
    return markdown_table(["Notebook", "Date (UTC)", "Device", "Versions"], body)


def _controls_text(verdict: Verdict) -> str:
    return {None: "", True: "beaten", False: "NOT beaten"}[verdict.controls_beaten]


def _published_text(row: Claim) -> str:
    return (
        "no verified figure"
        if row.published is None
        else f"{row.published['value']} ({row.published['setting']})"
    )

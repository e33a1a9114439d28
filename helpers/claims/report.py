"""The ledger in words: a claim as a card or as lines, all claims as text, as Markdown and for the README."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from IPython.display import Markdown
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from helpers.claims.ledger import Claim
from helpers.claims.measurement import Measurement, Result
from helpers.claims.standing import Standing, measured, standings
from helpers.claims.verdict import DECIDED, POSITIVE, TIERS, VERDICTS, Verdict, judge, too_few_seeds
from helpers.experiments.comparison import Interval
from helpers.experiments.evidence import Evidence, all_evidence
from helpers.tables import aligned, markdown_table

Titles = Mapping[str, str] | None
"""Heading of each chapter by its number ("03")."""

SIGNS = dict(zip(VERDICTS, ("✔✔", "✔", "✘", "≠", "?", "○", "–"), strict=True))
TIER_NAMES = dict(zip(TIERS, ("Laptop", "Study", "Real images", "GPU"), strict=True))


def verdict_text(verdict: Verdict, word: str = "") -> str:
    """A verdict like "contradicted (reversed), provisional"; `word` replaces it by that over all tiers."""
    detail = f" ({verdict.detail})" if verdict.detail and word in ("", verdict.verdict) else ""
    return f"{word or verdict.verdict}{detail}{', provisional' if verdict.provisional else ''}"


def result_text(row: Claim, verdict: Verdict, measurement: Measurement | None) -> str:
    """The effect with its interval, the violation, or what the components say; "" for what was not run."""
    if row.kind == "composite":
        counts = Counter(verdict.parts.values())
        said = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
        return f"components: {said}" if verdict.verdict != "not run" else ""
    if row.kind == "identity":
        return f"violation {measurement.violation:.2g} of {row.tolerance:g} allowed" if measurement else ""
    if verdict.interval is None:
        return ""
    text = f"{interval_text(verdict.interval)} {row.unit}, {verdict.seeds} seeds"
    if verdict.verdict != "inconclusive":
        return text
    if verdict.needed is None:
        return f"{text} (more seeds would not tell)"
    if verdict.needed > verdict.seeds:
        return f"{text} ({verdict.needed} would tell it from 0)"
    return f"{text} (close to the smallest effect that counts)"


def interval_text(interval: Interval) -> str:
    """Mean and bounds, like "+0.066 [+0.045, +0.087]"."""
    low, high = (f"{end:+.3f}" if math.isfinite(end) else "unknown" for end in (interval.low, interval.high))
    return f"{interval.mean:+.3f} [{low}, {high}]"


def leads(evidence: Evidence | None, baseline: str, *claims: str) -> Markdown:
    """Of kept evidence: by how much each claim's method leads its baseline and its controls, as a table."""
    found = measured(evidence)
    over = {i: {baseline: found[i].effects} | found[i].controls for i in claims if i in found}
    names = list(dict.fromkeys(name for lead in over.values() for name in lead))
    body = [
        [name, *(interval_text(over[i][name].interval()) if name in over[i] else "" for i in over)]
        for name in names
    ]
    return Markdown(markdown_table(["lead over", *over], body) if body else "No evidence is kept here yet.")


def verdicts(chapter: str) -> Markdown:
    """What the kept evidence says of a chapter's claims, its identities aside, as a table."""
    stand = [s for s in standings([], all_evidence()) if s.row.chapter == chapter]
    told = [view(s) for s in stand if s.row.kind != "identity"]
    body = [[v["row"].label, v["verdict"], v["result"], v["because"]] for v in told]
    return Markdown(markdown_table(["claim", "verdict", "result", "because of the method?"], body))


def _sign(word: str, provisional: object) -> str:
    """The sign of a verdict, in brackets while it is provisional."""
    return f"({SIGNS[word]})" if provisional else SIGNS[word]


def because_text(verdict: Verdict) -> str:
    """Whether the method is the reason for an effect that was found: what its controls say."""
    if verdict.verdict not in POSITIVE or not verdict.controls:
        return ""
    names = [name for name, answer in verdict.controls.items() if answer == verdict.because]
    if verdict.because == "explains it":
        return f"no, {' and '.join(names)} explain{'s' * (len(names) == 1)} it"
    if verdict.because == "open":
        return f"open: {', '.join(names)}"
    close = f" ({', '.join(verdict.close)} by less than counts)" if verdict.close else ""
    return f"yes, controls beaten: {len(names)}{close}"


def measured_lines(row: Claim, measurement: Measurement, verdict: Verdict) -> list[tuple[str, str]]:
    """(name, text) of one run of one claim: result, setting, arms, controls, precondition, note."""
    arms = [f"{n} {np.mean(v):.3g} ± {np.std(v, ddof=1):.2g}" for n, v in measurement.summaries.items()]
    gate = measurement.gate
    told = f"{'held' if gate.passed else 'failed'}, {gate.text}" if gate else "not measured"
    lines = [
        ("Result", f"{verdict_text(verdict)}: {result_text(row, verdict, measurement)}"),
        ("Setting", measurement.setting),
        ("Arms, mean ± sd over seeds", "; ".join(arms)),
        *(
            (f"Lead over {name}", f"{verdict.controls.get(name, 'for comparison')}: {interval_text(lead)}")
            for name, lead in verdict.leads.items()
        ),
        ("Precondition", f"{row.gate}: {told}" if row.gate else ""),
        ("Provisional", "; ".join(verdict.provisional)),
        ("Note", measurement.note),
    ]
    return [(name, text) for name, text in lines if text]


def row_lines(row: Claim) -> list[tuple[str, str]]:
    """(name, text) of what the ledger says of a claim, its statement aside."""
    bound = {
        "effect": f" [{row.unit}; counts from {row.sign * (row.smallest or 0):+g}]",
        "identity": f" [{row.unit}; holds up to {row.tolerance or 0:g}]",
        "composite": "",
    }
    published = f"{row.published.value} ({row.published.setting})" if row.published else "no verified figure"
    lines = [
        ("Measure", row.measure + bound[row.kind]),
        ("Source", row.source),
        ("Published", published),
        ("Thesis's setting", row.thesis_setting),
        ("Plan", row.plan or ""),
        ("Id in the ledger", row.id),
    ]
    return [(name, text) for name, text in lines if text]


def card(row: Claim, measurement: Measurement) -> tuple[str, str]:
    """A measured claim as text and as folded HTML without colours of its own, for a light or dark theme."""
    verdict = replace(judge(row, measurement), provisional=too_few_seeds(measurement))
    sign = _sign(verdict.verdict, verdict.provisional)
    head = [verdict_text(verdict), row.label, result_text(row, verdict, measurement)]
    lines = [("Claim", row.claim), *measured_lines(row, measurement, verdict), *row_lines(row)]
    text = "\n".join([" · ".join(head), *(f"  {name}: {text}" for name, text in lines)])
    return text, render("card.html.j2", sign=sign, head=head, lines=lines)


def tally(stand: Sequence[Standing]) -> str:
    """How many claims of the thesis there are and how they stand, then those of the reading list."""
    thesis, listed = ([s for s in stand if s.row.of_thesis is own] for own in (True, False))
    return " The reading list: ".join(_tally(part) for part in (thesis, listed) if part)


def _tally(stand: Sequence[Standing]) -> str:
    """Components count in their whole."""
    effects = [s for s in whole_claims(stand) if s.row.kind != "identity"]
    words = Counter(s.best.verdict for s in effects)
    explained = sum(s.best.verdict in POSITIVE and s.shown.because == "explains it" for s in effects)
    said = [f"{words['reproduced'] + words['supported']} supported ({explained} explained by a control)"]
    said += [f"{words[v]} {v}" for v in VERDICTS[2:] if words[v] or v not in ("mixed", "not run")]
    identities = [s.best.verdict for s in stand if s.row.kind == "identity"]
    hold = identities.count("reproduced")
    of = "" if hold == len(identities) else f" of {len(identities)}"
    count = f"; {hold}{of} identities hold" * bool(identities)
    return f"{len(effects)} effect{'s' * (len(effects) != 1)}: {', '.join(said)}{count}."


def whole_claims(stand: Sequence[Standing]) -> list[Standing]:
    """The claims without the components of composite ones."""
    parts = {name for s in stand for name in s.row.components}
    return [s for s in stand if s.row.id not in parts]


def by_chapter(stand: Sequence[Standing], titles: Titles) -> list[tuple[str, str, list[Standing]]]:
    """(number, title, standings) of every chapter in the ledger, in order."""
    numbers = sorted({s.row.chapter for s in stand})
    title = {n: f"Chapter {n.lstrip('0')}" for n in numbers} | dict(titles or {})
    return [(n, title[n], [s for s in stand if s.row.chapter == n]) for n in numbers]


def view(s: Standing) -> dict[str, Any]:
    """What tables and templates say of one claim; texts, but for `row` and the lists `tiers` and `lines`."""
    runs, verdicts, row = s.measurements, s.verdicts, s.row
    best = s.best.tiers if row.kind != "composite" else ()
    lines = list(s.shown.parts.items())
    for tier in [*best, *(tier for tier in runs if tier not in best)]:
        (_, result), setting, *more = measured_lines(row, runs[tier], verdicts[tier])
        lines += [(TIER_NAMES[tier], result), setting, *(more if tier in best else [])]
    tiers = [(TIER_NAMES[t], verdicts[t].verdict, bool(verdicts[t].provisional)) for t in TIERS]
    results = [f"{result_text(row, verdicts[tier], runs[tier])}, {tier}" for tier in best]
    return {
        "row": row,
        "word": s.best.verdict,
        "verdict": verdict_text(s.shown, s.best.verdict),
        "result": "; ".join(results) or result_text(row, s.shown, None),
        "because": because_text(s.shown),
        "tiers": tiers,
        "signs": " ".join(_sign(word, provisional) for _, word, provisional in tiers),
        "own": f"{s.own.verdict} {result_text(row, s.own, None)}".strip(),
        "lines": [*lines, *row_lines(row)],
    }


def ledger_table(stand: Sequence[Standing]) -> str:
    """The whole ledger with verdicts as aligned text for a terminal."""
    columns = ["verdict", "signs", "result", "because", *(["own"] if _has_own(stand) else [])]
    body = [[s.row.id, *(view(s)[name] for name in columns)] for s in stand]
    return f"{aligned([['claim', *columns], *body])}\n\n{tally(stand)}\n"


def results_markdown(
    stand: Sequence[Standing], titles: Titles = None, runs: Sequence[Sequence[str]] = ()
) -> str:
    """The whole ledger as a Markdown page: the table, every claim in full, and where the numbers come from.

    `runs` are what `provenance_rows` says of the runs behind `stand`.
    """
    return render("results.md.j2", **_contents(stand, titles), runs=runs)


def claims_page(
    stand: Sequence[Standing], titles: Titles = None, runs: Sequence[Sequence[str]] = (), pages: Titles = None
) -> str:
    """The same as a page of the book, Markdown with a card of HTML for each claim.

    `pages` holds the address of each chapter in the book by its number, for those that have one. A verdict is
    always a word with a sign; its colour only repeats it.
    """
    from helpers.claims.figure import embedded_figure  # matplotlib is slow to import

    plots = {s.row.id: embedded_figure(s) for s in stand}
    return render("claims.html.j2", **_contents(stand, titles), runs=runs, plots=plots, pages=pages or {})


def _has_own(stand: Sequence[Standing]) -> bool:
    return any(s.own.verdict != "not run" for s in stand)


def _contents(stand: Sequence[Standing], titles: Titles) -> dict[str, Any]:
    return {
        "tally": tally(stand),
        "parts": {name for s in stand for name in s.row.components},
        "has_own": _has_own(stand),
        "chapters": [
            {"number": n, "title": title, "claims": list(map(view, of))}
            for n, title, of in by_chapter(stand, titles)
        ],
    }


def readme_block(stand: Sequence[Standing], titles: Titles = None) -> str:
    """What the README says of the claims: the forest plot, a line of words for each chapter, the count."""
    plot = f"![Forest plot: every measured effect with its interval. {tally(stand)}](reproduce/forest.svg)"
    whole = [s for s in whole_claims(stand) if s.row.of_thesis]
    lines = [f"**{t.split(':')[0]}.** {_in_words(of)}" for _, t, of in by_chapter(whole, titles)]
    return "\n\n".join([plot, *lines, f"**{tally(stand)}**"]) + "\n"


def _in_words(found: Sequence[Standing]) -> str:
    groups: dict[str, list[str]] = {}
    for s in sorted(found, key=lambda s: VERDICTS.index(s.best.verdict)):
        if s.row.kind != "identity":
            answer = because_text(s.shown)
            aside = f" (but {answer.removeprefix('no, ')})" if answer.startswith("no, ") else ""
            firm = s.best.verdict not in DECIDED or not s.shown.provisional
            head = f"{'' if firm else 'provisionally '}{s.best.verdict}"
            groups.setdefault(head, []).append(s.row.label + aside)
    said = [f"{head[0].upper()}{head[1:]}: {', '.join(names)}." for head, names in groups.items()]
    identities = [s.best.verdict for s in found if s.row.kind == "identity"]
    hold = f"Identities: {identities.count('reproduced')} of {len(identities)} hold."
    return " ".join(said + [hold] * bool(identities))


def provenance_rows(
    results: Sequence[Result], evidences: Sequence[Evidence] = (), own: Sequence[Result] = ()
) -> list[list[str]]:
    """Tier, notebook or command, date, device, time and versions of every run that numbers were read from."""
    runs = {("laptop", r.notebook): r.provenance for r in results}
    runs |= {("own", r.notebook): r.provenance for r in own}
    runs |= {(e.tier, e.command): vars(e) for e in evidences}
    return [
        [
            *source,
            stamp.get("date", "unknown"),
            stamp.get("device", "unknown"),
            f"{stamp['wall_seconds'] / 60:.0f} min" if "wall_seconds" in stamp else "unknown",
            ", ".join(map(" ".join, stamp.get("versions", {}).items())) or "unknown",
        ]
        for source, stamp in runs.items()
    ]


def render(template: str, **values: Any) -> str:
    """One of `helpers/claims/templates`; text in HTML is escaped, in Markdown by the filter `plain`."""
    environment = Environment(
        loader=PackageLoader("helpers.claims"),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _plain
    environment.filters["markdown"] = lambda text: Markup(_plain(str(escape(text))).replace("[", r"\["))
    return environment.get_template(template).render(signs=SIGNS, **values)


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_<|])", r"\\\1", " ".join(text.split()))

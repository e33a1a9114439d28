"""The ledger as one HTML page: each claim with its verdict, published number, measurement, controls and plot.

The page needs no network, no kernel and no script. A verdict is always a word with a sign; its colour only
repeats it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from helpers.claims.figure import claim_figure
from helpers.claims.ledger import (
    LEDGER,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    SAME_DIRECTION,
    Claim,
    Measurement,
    Result,
    load_ledger,
)
from helpers.claims.report import (
    HOW_TO_READ,
    judged,
    provenance_rows,
    report_lines,
    short_controls,
    short_result,
    tally,
)
from helpers.plotting import png_and_width

SIGNS = {REPRODUCED: "✔", SAME_DIRECTION: "↗", NOT_REPRODUCED: "✘", NOT_RUN: "–"}

STYLE = """\
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; color: #1f2328; background: #fff;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 2px solid #d0d7de; }
h3 { font-size: 1.15rem; line-height: 1.35; margin: 0 0 .5rem; }
a { color: #0b5cad; } a:focus-visible, [tabindex]:focus-visible { outline: 3px solid #0b5cad; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; }
p { max-width: 48rem; } .lead { font-size: 1.1rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid #e4e7eb; }
thead th { border-bottom: 2px solid #6e7781; white-space: nowrap; }
.overview tbody th { font-weight: 400; min-width: 10rem; } .overview td:nth-child(n+3) { min-width: 11rem; }
.overview .group { font-weight: 600; padding-top: 1.2rem; }
.lines { width: 100%; } .lines th { font-weight: 600; width: 8.5rem; color: #424a53; }
article { margin: 0 0 2rem; padding: 1.25rem; border: 1px solid #d0d7de; border-radius: .5rem; }
.facts { display: grid; gap: 1.5rem; align-items: start; grid-template-columns: minmax(0, 1fr); }
@media (max-width: 64rem) { .facts figure { order: -1; } }
@media (min-width: 64rem) { .facts { grid-template-columns: minmax(0, 1fr) minmax(0, 31rem); } }
figure { margin: 0; } img { max-width: 100%; height: auto; }
.verdict { display: inline-block; white-space: nowrap; font-weight: 600; padding: .1rem .6rem;
  border: 2px solid; border-radius: 1rem; font-size: .85rem; }
article > .verdict { margin: 0 0 .75rem; }
.reproduced { color: #00513b; background: #e3f5ef; }
.same-direction { color: #004b78; background: #e5f1fa; }
.not-reproduced { color: #8a2f00; background: #fdeee5; }
.not-run-here { color: #424a53; background: #f3f4f6; border-style: dashed; }
code { font-size: .85em; color: #424a53; }
@media print { body { max-width: none; padding: 0; } article { break-inside: avoid; }
  .skip { display: none; } }
"""

TEMPLATE = """\
{% macro badge(verdict) -%}
<span class="verdict {{ verdict | replace(' ', '-') }}"><span aria-hidden="true">{{ signs[verdict] }}</span>
{{ verdict }}</span>
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The claims of the thesis, and what was measured</title>
<style>{{ style | safe }}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the claims</a>
<header>
<h1>The claims of the thesis, and what was measured</h1>
<p class="lead">{{ tally }}</p>
<p>{{ how_to_read }}</p>
<nav aria-label="Chapters"><ul>
{% for chapter in chapters %}<li><a href="#chapter-{{ chapter.number }}">{{ chapter.title }}</a></li>
{% endfor %}<li><a href="#provenance">Where these numbers come from</a></li>
</ul></nav>
</header>
<main id="main">
<div class="scroll" role="region" aria-label="All claims" tabindex="0">
<table class="overview">
<caption>All claims at a glance</caption>
<thead><tr><th scope="col">Claim</th><th scope="col">Verdict</th><th scope="col">Measured here</th>
<th scope="col">Against its controls</th><th scope="col">Published</th></tr></thead>
{% for chapter in chapters %}<tbody>
<tr><th class="group" scope="rowgroup" colspan="5">{{ chapter.title }}</th></tr>
{% for claim in chapter.claims %}<tr>
<th scope="row"><a href="#{{ claim.row.id }}">{{ claim.row.claim }}</a></th>
<td>{{ badge(claim.verdict) }}</td><td>{{ claim.result }}</td><td>{{ claim.controls }}</td>
<td>{% if claim.row.published %}
{{ claim.row.published.value }}<br><small>{{ claim.row.published.setting }}</small>
{% else %}no verified figure{% endif %}</td></tr>
{% endfor %}</tbody>
{% endfor %}</table>
</div>
{% for chapter in chapters %}<section aria-labelledby="chapter-{{ chapter.number }}">
<h2 id="chapter-{{ chapter.number }}">{{ chapter.title }}</h2>
{% if chapter.page %}<p><a href="{{ chapter.page }}">Read the chapter</a></p>
{% endif %}{% for claim in chapter.claims %}<article aria-labelledby="{{ claim.row.id }}">
<h3 id="{{ claim.row.id }}">{{ claim.row.claim }}</h3>
{{ badge(claim.verdict) }}
<div class="facts">
<table class="lines">
<caption>Claim <code>{{ claim.row.id }}</code></caption>
<tbody>
{% for name, text in claim.lines %}<tr><th scope="row">{{ name }}</th><td>{{ text }}</td></tr>
{% endfor %}</tbody>
</table>
{% if claim.plot %}<figure><img alt="{{ claim.plot.alt }}" width="{{ claim.plot.width }}"
src="data:image/png;base64,{{ claim.plot.data }}"></figure>
{% endif %}</div>
</article>
{% endfor %}</section>
{% endfor %}<section aria-labelledby="provenance">
<h2 id="provenance">Where these numbers come from</h2>
<div class="scroll" role="region" aria-label="Executed notebooks" tabindex="0">
<table>
<caption>Executed notebooks</caption>
<thead><tr>{% for name in provenance[0] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in provenance[1] %}<tr>{% for text in line %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
</section>
</main>
</body>
</html>
"""


def claims_page(
    results: Sequence[Result],
    *,
    titles: Mapping[str, str] | None = None,
    pages: Mapping[str, str] | None = None,
    ledger: str | Path = LEDGER,
) -> str:
    """The whole ledger as one self-contained page of HTML.

    Args:
        results: what `helpers.claims.collect` read.
        titles: heading of each chapter by its number ("03").
        pages: address of each chapter's reading copy by its number, for those that have one.

    Raises:
        ClaimError: as for `collect`.
    """
    table = judged(results, load_ledger(ledger))
    chapters: dict[str, dict[str, Any]] = {}
    for row, result, verdict in table:
        measurement = result.measurement if result else None
        chapter = chapters.setdefault(
            row.chapter,
            {
                "number": row.chapter,
                "title": (titles or {}).get(row.chapter, f"Chapter {int(row.chapter)}"),
                "page": (pages or {}).get(row.chapter),
                "claims": [],
            },
        )
        claim = {
            "row": row,
            "verdict": verdict.verdict,
            "result": short_result(row, verdict),
            "controls": short_controls(verdict),
            "lines": report_lines(row, measurement),
            "plot": _plot(row, measurement) if measurement else None,
        }
        chapter["claims"].append(claim)
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(
        chapters=[chapters[number] for number in sorted(chapters)],
        tally=tally(verdict for _, _, verdict in table),
        how_to_read=HOW_TO_READ,
        provenance=provenance_rows(results),
        signs=SIGNS,
        style=STYLE,
    )


def _plot(row: Claim, measurement: Measurement) -> dict[str, Any]:
    figure, alt = claim_figure(row, measurement)
    png, width = png_and_width(figure)
    return {"data": base64.b64encode(png).decode(), "width": width, "alt": alt}

"""A notebook as a page: what needs a kernel, a script or the network gives way to what does not."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
import struct
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path, PurePosixPath
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output

from helpers.claims.measurement import MIME as CLAIM
from helpers.editions.learner import is_check, is_solution
from helpers.provenance import STAMP

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
FIGURES = "figures"
ELSEWHERE = {"../reproduce/RESULTS.md": "claims.md", "../docs/glossary.md": "glossary.md"}
"""What notebooks link to outside their folder, and the page of the book that it is."""
SCRIPT = re.compile(r"(?is)<script\b.*?</script>|<style\b.*?</style>")
IMAGE = re.compile(r'<img\b[^>]*?\bsrc="data:(image/\w+);base64,([^"]+)"[^>]*>')
PROMPTS = {
    "solution": ("hide-cell", "A solution"),
    "check": ("hide-cell", "How the answer is checked"),
    "plumbing": ("hide-input", "Plumbing"),
}
"""What is folded: a tag of myst-nb, and the words on the fold."""


@dataclass
class Page:
    """One page in the making: a notebook's name in the book ("reading_list/04_losses") and its pictures."""

    name: str
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Content by file name in the folder `figures/` of the site."""
    anchors: set[str] = field(default_factory=set)
    """Names that the prose gives to places, as `<a id="here"></a>`."""

    @property
    def top(self) -> str:
        """From the page to the top of the site."""
        return "../" * (len(PurePosixPath(self.name).parts) - 1)

    def write_pictures(self, site: Path) -> None:
        """Write the pictures below the folder of a site."""
        (folder := site / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, content in self.pictures.items():
            (folder / name).write_bytes(content)

    def picture(self, mime: str, data: bytes, alt: str, width: int | None = None) -> str:
        """A picture as HTML that is loaded when a reader comes near it, with room kept for it."""
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{mime.removeprefix('image/').removesuffix('+xml')}"
        self.pictures[name] = data
        size = ""
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            across, down = struct.unpack(">II", data[16:24])
            width = width or across
            size = f' width="{width}" height="{round(down * width / across)}"'
        source = f"{self.top}{FIGURES}/{name}"
        return f'<img src="{source}" alt="{escape(alt)}"{size} loading="lazy" decoding="async">'


def page_of(nb: NotebookNode, page: Page, known: set[str], stamp: str) -> NotebookNode:
    """A notebook for myst-nb; its pictures are put into `page`. The notebook given is left as it is.

    Args:
        known: names of all pages; a link to anything else in the project becomes its text.
        stamp: where the outputs come from, told below the title.
    """
    nb = copy.deepcopy(nb)
    page.anchors = set(re.findall(r'<a id="([^"]+)">', "\n".join(cell.source for cell in nb.cells)))
    widgets = nb.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    nb.metadata.pop(STAMP, None)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = offline_markdown(cell, page, known)
        elif cell.cell_type == "code":
            _fold(cell)
            outputs = [_offline(output, widgets, page) for output in cell.outputs]
            cell.outputs = [output for output in outputs if output]
    titles = [i for i, c in enumerate(nb.cells) if c.cell_type == "markdown" and c.source.startswith("# ")]
    if not titles:
        nb.cells.insert(0, new_markdown_cell(f"# {page.name}"))
    after = titles[0] + 1 if titles else 1
    nb.cells.insert(after, new_markdown_cell(f'<p class="stamp">{escape(stamp)}</p>'))
    return nb


def prose_of(cells: list[NotebookNode]) -> str:
    """The text of the Markdown cells."""
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def title_and_promise(cells: list[NotebookNode]) -> tuple[str, str]:
    """A notebook's first heading, and what it says a reader can do after it; "" for what is not there."""
    prose = prose_of(cells)
    title = re.search(r"(?m)^# +(.+?) *$", prose)
    promise = re.search(r"(?m)^\*\*(After this .+?)\*\*$", prose)
    return title[1] if title else "", promise[1] if promise else ""


def offline_markdown(cell: NotebookNode, page: Page, known: set[str]) -> str:
    """The source of a Markdown cell with its attached pictures, and with links that lead somewhere."""
    source = cell.source
    for name, bundle in (cell.pop("attachments", None) or {}).items():
        ((mime, data),) = bundle.items()
        pattern = rf"!\[([^\]]*)\]\(attachment:{re.escape(name)}\)"
        raw = base64.b64decode(data)
        source = re.sub(pattern, lambda m, mime=mime, raw=raw: page.picture(mime, raw, m[1]), source)
    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", lambda m: _link(m, page, known), source)


def _link(found: re.Match[str], page: Page, known: set[str]) -> str:
    text, target = found[1], found[2]
    path, _, fragment = target.partition("#")
    if not path and fragment in page.anchors:
        return f'<a href="#{fragment}">{text}</a>'
    if "://" in target or target.startswith("mailto:") or not path:
        return found[0]
    name = _normal(PurePosixPath(page.name).parent / path)
    name = ELSEWHERE.get(name, name.removeprefix("../notebooks/"))
    if PurePosixPath(name).with_suffix("").as_posix() not in known:
        return text
    return f"[{text}]({page.top}{name}{'#' * bool(fragment)}{fragment})"


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _fold(cell: NotebookNode) -> None:
    """Tag a code cell so that myst-nb folds it, if it is one to fold."""
    if not (kind := kind_of(cell)):
        return
    tag, words = PROMPTS[kind]
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), tag]
    cell.metadata["mystnb"] = {"code_prompt_show": words}


def kind_of(cell: NotebookNode) -> str:
    """ "solution", "check" or "plumbing" for a code cell that a reader need not see at first, else ""."""
    if is_solution(cell) or is_check(cell):
        return "solution" if is_solution(cell) else "check"
    return "plumbing" if cell.metadata.get("jupyter", {}).get("source_hidden") else ""


def _offline(output: NotebookNode, widgets: dict[str, Any], page: Page) -> NotebookNode | None:
    """An output that needs neither a script nor a kernel; None for one that has nothing to show."""
    data = output.get("data")
    if data is None:
        return output
    if WIDGET_VIEW in data:
        return _html(explorer_picture(data[WIDGET_VIEW]["model_id"], widgets, page), output)
    for mime in ("image/png", "image/jpeg"):
        if mime in data:
            about, raw = output.metadata.get(mime, {}), base64.b64decode(data[mime])
            picture = page.picture(mime, raw, about.get("alt", ""), about.get("width"))
            return _html(f"<figure>{picture}</figure>", output)
    if "text/html" in data:
        html = SCRIPT.sub("", data["text/html"]).replace(' style="text-align: right;"', "")
        html = with_pictures(html, page)
        if CLAIM in data:
            html = _claim(html, data[CLAIM]["claim_id"], page)
        return _html(_scroller(html) if "<table" in html and CLAIM not in data else html, output)
    if "text/latex" in data and "text/markdown" not in data:
        tex = data["text/latex"].strip().strip("$")
        return new_output(output.output_type, {"text/markdown": f"$$\n{tex}\n$$"}, metadata={})
    kept = {mime: text for mime, text in data.items() if mime in ("text/markdown", "text/plain")}
    return new_output(output.output_type, kept, metadata={}) if kept else None


def _html(html: str, output: NotebookNode) -> NotebookNode:
    more = {"execution_count": output.execution_count} if output.output_type == "execute_result" else {}
    return new_output(output.output_type, {"text/html": html}, metadata={}, **more)


def with_pictures(html: str, page: Page) -> str:
    """HTML whose embedded pictures became files of the site."""
    return IMAGE.sub(lambda found: _embedded(found, page), html)


def _embedded(found: re.Match[str], page: Page) -> str:
    alt = re.search(r'\balt="([^"]*)"', found[0])
    width = re.search(r'\bwidth="(\d+)"', found[0])
    raw = base64.b64decode(found[2])
    return page.picture(found[1], raw, unescape(alt[1]) if alt else "", int(width[1]) if width else None)


def _scroller(html: str) -> str:
    """A table that a narrow screen scrolls, also from the keyboard, while the page stays."""
    return f'<div class="scroller" role="group" aria-label="A table" tabindex="0">{html}</div>'


def _claim(html: str, claim: str, page: Page) -> str:
    """The card of a claim, with a place of its own and a link to all that is known of it."""
    name = escape(claim)
    link = f'<p><a href="{page.top}claims.html#{name}">All that is known of this claim</a></p></details>'
    return f'<div class="claim-card" id="claim-{name}">{html.replace("</details>", link)}</div>'


def explorer_picture(model: str, widgets: dict[str, Any], page: Page) -> str:
    """The picture that a stored explorer shows, and a sentence on how to play."""
    state = {name: entry["state"] for name, entry in widgets.items()}
    inside = [name.removeprefix("IPY_MODEL_") for name in state.get(model, {}).get("children", [])]
    parts = [state[name] for name in inside if name in state]
    picture = next((m for part in parts if (m := IMAGE.search(str(part.get("value", ""))))), None)
    shown = f"<figure>{_embedded(picture, page)}</figure>" if picture else ""
    controls = [words for part in parts if (words := _control(part))]
    values = f" Here: {'; '.join(controls)}." if controls and shown else ""
    return (
        f'<div class="explorer">{shown}<p>An explorer: in JupyterLab (<code>make lab</code>) its controls '
        f"redraw this picture.{values}</p></div>"
    )


def _control(part: dict[str, Any]) -> str:
    """A slider or chooser with its value and what else it could be."""
    if not (name := part.get("description")):
        return ""
    if options := part.get("_options_labels"):
        return escape(f"{name} {options[part['index']]} (of {', '.join(options)})")
    if "max" in part:
        return escape(f"{name} {part['value']:g} (from {part['min']:g} to {part['max']:g})")
    return ""

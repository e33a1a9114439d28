"""A chapter as one HTML page that needs no network and no kernel: for reading, printing and archiving.

nbconvert's own page fetches MathJax, require.js and a widget manager from the network. Here formulas become
MathML, which browsers draw themselves, widgets give way to the figure next to them, and no script is left.
"""

from __future__ import annotations

import copy
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "<p><em>An interactive part belongs here: open the notebook in JupyterLab to use it.</em></p>"
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
"""


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
    return result.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # headings break on it


class _OfflineRenderer(IPythonRenderer):
    """Markdown with formulas as MathML and with links between notebooks as links between pages."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        page = url if "://" in url else re.sub(r"\.ipynb(?=$|#)", ".html", url)
        return super().link(text, page, title)

    def _html_embed_images(self, html: str) -> str:
        """nbconvert's version parses each piece of HTML alone, which closes an open `<details>` too early."""
        pattern = r'(?i)(<img\b[^>]*?\bsrc=")([^"]+)'
        return re.sub(pattern, lambda m: m[1] + (self._src_to_base64(m[2]) or m[2]), html)


class _OfflineExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """nbconvert's filter of this name, with the renderer above."""
        renderer = _OfflineRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def reading_copy(nb: NotebookNode, folder: Path, title: str) -> str:
    """An executed notebook as a self-contained HTML page.

    Args:
        nb: the executed notebook; it is left as it is.
        folder: where the notebook's relative picture links start.
        title: title of the page.

    Raises:
        ValueError: a formula that cannot be shown offline.
    """
    nb = copy.deepcopy(nb)
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                output["data"] = _offline(output.data, output.metadata)
    loader = DictLoader({"reading_copy.html.j2": TEMPLATE})
    exporter = _OfflineExporter(extra_loaders=[loader], template_file="reading_copy.html.j2")
    page, _ = exporter.from_notebook_node(nb, {"metadata": {"name": title, "path": str(folder)}})
    return page


def _offline(data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """The part of a MIME bundle that needs neither a script nor a kernel."""
    kept = {
        mime: value for mime, value in data.items() if mime not in (WIDGET_VIEW, "application/javascript")
    }
    if WIDGET_VIEW in data and set(kept) <= {"text/plain"}:
        return {"text/html": WIDGET_NOTE}
    if "text/html" in kept:
        return kept | {"text/html": re.sub(r"(?is)<script\b.*?</script>", "", kept["text/html"])}
    if "text/latex" in kept:
        return {"text/html": mathml(kept["text/latex"].strip().strip("$"), display=True)}
    for mime in ("image/png", "image/jpeg"):
        if alt := metadata.get(mime, {}).get("alt"):  # nbconvert drops this description
            return {"text/html": f'<img src="data:{mime};base64,{kept[mime].strip()}" alt="{escape(alt)}">'}
    return kept

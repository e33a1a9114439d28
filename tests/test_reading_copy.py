"""The offline page: every formula, picture and table is in it, and nothing is fetched."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output
from small_notebooks import ONE, notebook

from helpers.chapters.reading_copies import mathml, reading_copy


@pytest.mark.parametrize(
    "tex",
    [
        r"s_\mu = \frac{1}{r} \sum_{i=1}^{r} \sigma_i",
        r"\frac{\lVert E \rVert_F}{\sqrt{b}} \le s_\mu",
        r"\begin{cases} 1 & x < 0 \\ 0 & \text{otherwise} \end{cases}",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}",
        r"\operatorname*{arg\,max}_{\lVert f \rVert_2 = 1} \left[ m + d \right]_+",
    ],
)
def test_formulas_become_well_formed_mathml(tex: str) -> None:
    tree = ElementTree.fromstring(mathml(tex, display=True))
    assert (tree.tag, tree.get("display")) == ("math", "block")
    letters = "".join(tree.itertext())
    assert "\\" not in letters
    assert "&" not in letters


@pytest.mark.parametrize("tex", [r"\frac{1}{", r"\unheardof{x}", r"a & b", "", r"\left( x"])
def test_formulas_that_cannot_be_shown_are_named(tex: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"formula {tex!r}")):
        mathml(tex)


WIDGET = {
    "application/vnd.jupyter.widget-view+json": {"model_id": "a"},
    "text/plain": "interactive(children=...)",
}


def test_the_reading_copy_is_complete_offline(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"dot")
    outputs = [
        new_output("display_data", WIDGET),
        new_output(
            "display_data", {**WIDGET, "image/png": "QUJD"}, metadata={"image/png": {"alt": "a <plot>"}}
        ),
        new_output("display_data", {"text/latex": "$y^2$", "text/plain": "y2"}),
        new_output("display_data", {"text/markdown": "so $z^3$ holds"}),
        new_output("display_data", {"text/html": "<b>table</b><script src='http://x'></script>"}),
        new_output("display_data", {"application/javascript": "alert(1)", "text/plain": "js"}),
    ]
    details = "<details><summary>Hint</summary>\n\nUse $w$.\n\n</details>"
    prose = f"# Bound $x^2$\n\n![a dot](dot.png) and [next](04_l2.ipynb#top)\n\n{details}"
    nb = notebook(prose, new_code_cell("1", outputs=outputs), parameters=ONE)
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    before = nbformat.writes(nb)
    page = reading_copy(nb, tmp_path, "03_c")
    assert nbformat.writes(nb) == before
    soup = BeautifulSoup(page, "html.parser")
    assert soup.find_all(["script", "link", "iframe"]) == []
    assert [tag for tag in soup.find_all(src=True) if not tag["src"].startswith("data:")] == []
    assert not re.search(r"url\(['\"]?http|@import", page)
    assert soup.title.text == "03_c"
    assert len(soup.find_all("math")) == 4
    assert soup.h1.math is not None
    assert soup.details.math is not None
    assert {img["alt"] for img in soup.find_all("img")} == {"a dot", "a <plot>"}
    assert soup.find("a", string="next")["href"] == "04_l2.html#top"
    text = soup.get_text()
    assert text.count("open the notebook in JupyterLab") == 1
    assert "interactive(children" not in text

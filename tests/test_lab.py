"""Every notebook in a real browser: JupyterLab opens it, runs all of it, and its explorer answers a slider.

The runs are small and of another seed; nbval runs the notebooks as they are stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import lab
import nbformat
import pytest
from small_notebooks import KERNELSPEC
from small_runs import SMALL, measured_in

from helpers import PROJECT_ROOT
from helpers.files import chapter_number, find_notebooks

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(lab.CHROMIUM is None, reason="no Chromium: install it, or name it in CHROMIUM"),
]
NOTEBOOKS = find_notebooks()
RUN_SECONDS = 600
BROKEN = """\
from matplotlib.figure import Figure
from helpers.widgets import explorer, slider

def draw(n):
    if n > 2:
        raise ValueError("no drawing of three")
    return Figure(figsize=(1, n)), f"A drawing of {n}"

explorer(draw, n=slider("n", 1, 0, 5))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("playwright", reason="the package playwright is missing")
    root = tmp_path_factory.mktemp("project")
    for path in NOTEBOOKS:
        there = root / path.relative_to(PROJECT_ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        assert path.stem in SMALL, f"add small parameters of {path.stem} to SMALL"
        nb = nbformat.read(path, as_version=4)
        at = next(i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", []))
        given = "\n".join(f"{name} = {value!r}" for name, value in SMALL[path.stem].items())
        nb.cells.insert(at + 1, nbformat.v4.new_code_cell(given))
        nbformat.write(nb, there)
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": KERNELSPEC})
    nb.cells = [nbformat.v4.new_code_cell(source) for source in (BROKEN, "print(1 / 0)", "print('never')")]
    nbformat.write(nb, root / "notebooks" / "broken.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTG_CACHE", "off")
        with lab.server(root, tmp_path_factory.mktemp("jupyter")) as running:
            yield running | {"root": str(root)}


@pytest.fixture(scope="module")
def chromium(site: dict[str, str]) -> Iterator[Browser]:
    with lab.chromium() as running:
        yield running


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Folder for screenshots: CTG_SHOTS, or one of pytest's own."""
    folder = Path(os.environ.get("CTG_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_small_run_measures_every_claim_and_its_explorer_answers(
    path: Path, site: dict[str, str], chromium: Browser, shots: Path
) -> None:
    name = path.relative_to(PROJECT_ROOT).as_posix()
    with lab.page_of(chromium) as page:
        lab.open_notebook(page, site, name)
        lab.run_all(page, RUN_SECONDS)
        assert lab.problems(page) == []
        lab.save(page)
        measured_in(Path(site["root"]) / name, chapter_number(path))
        handle, picture = lab.explorer(page)
        picture.scroll_into_view_if_needed()
        page.screenshot(path=shots / f"{path.stem}-before.png")
        for key in ("ArrowRight", "ArrowLeft", "ArrowRight"):
            old_src, old_alt = picture.get_attribute("src"), picture.get_attribute("alt")
            value = lab.press(page, handle, key)
            lab.wait_for_another(picture, old_src, seconds=60)
            names_value = re.compile(rf"(?<![\d.]){re.escape(value)}(?![\d.]*\d)")
            assert names_value.search(picture.get_attribute("alt"))
            assert picture.get_attribute("alt") != old_alt
        page.screenshot(path=shots / f"{path.stem}-after.png")
        assert lab.problems(page) == []


def test_what_is_broken_is_seen(site: dict[str, str], chromium: Browser) -> None:
    with lab.page_of(chromium) as page:
        lab.open_notebook(page, site, "notebooks/broken.ipynb")
        lab.run_all(page, 60)
        assert "cell 1: ZeroDivisionError: division by zero" in lab.problems(page)
        handle, picture = lab.explorer(page)
        old = picture.get_attribute("src")
        with pytest.raises(AssertionError):
            lab.wait_for_another(picture, old, seconds=1)
        assert lab.press(page, handle, "ArrowRight") == "2"
        lab.wait_for_another(picture, old, seconds=30)
        assert picture.get_attribute("alt") == "A drawing of 2"
        lab.press(page, handle, "ArrowRight")
        page.get_by_text("ValueError: no drawing of three").first.wait_for()
        assert "in a widget: ValueError: no drawing of three" in lab.problems(page)

"""The explorer: redrawn, dimmed and refused in this process, in a live kernel, and in a real browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import lab
import nbformat
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from small_notebooks import KERNELSPEC

from helpers.figures.spheres import drag_figure
from helpers.figures.split import SPLIT_LAYERS, split_figure
from helpers.widgets import NEEDS_A_KERNEL, chooser, explorer, slider

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SLOW = """\
import time
from matplotlib.figure import Figure
from helpers.widgets import explorer, slider

calls = []
def draw(n, m):
    calls.append(n)
    time.sleep(1.5 if len(calls) > 1 else 0)
    return Figure(figsize=(2, 1)), f"A drawing of {n} and {m}"

explorer(draw, n=slider("n", 1, 0, 9), m=slider("m", 1, 0, 9))"""


def plain_figure(n: int, m: int = 1) -> tuple[Figure, str]:
    return Figure(figsize=(2, 1)), f"A drawing of {n} and {m}"


def test_explorer_redraws_and_reports_errors():
    seen = []

    def callback(n):
        seen.append(n)
        if n == 3:
            raise RuntimeError("no <three>")
        return drag_figure(0.0, n / 10)

    box = explorer(callback, n=slider("n", 1, 0, 5))
    control, _, picture = box.children
    before = picture.value
    control.value = 2
    assert seen == [1, 2]
    assert picture.value != before
    assert re.search(r'alt="[^"]*concentration 0, 20% turned', picture.value)
    with pytest.raises(RuntimeError):
        control.value = 3
    assert "no &lt;three&gt;" in picture.value


def test_explorer_redraws_for_a_slider_and_a_dropdown():
    box = explorer(
        split_figure,
        split_rate=slider("split rate", 0.5, 0.1, 0.9, step=0.05),
        layer=chooser("layer", SPLIT_LAYERS, "layer2.0.conv1"),
    )
    rate, layer, _, picture = box.children
    assert "layer2.0.conv1 of ResNet-18 keeps 64 of 128 filters" in picture.value
    layer.value = "fc"
    assert "At split rate 0.50, fc of" in picture.value
    rate.value = 0.8
    assert "At split rate 0.80, fc of" in picture.value


def test_the_picture_is_dimmed_before_the_callback_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr(
        ipywidgets.Widget, "_send", lambda self, msg, buffers=None: events.append((self, msg))
    )

    def callback(n: int) -> tuple[Figure, str]:
        events.append("callback")
        return plain_figure(n)

    box = explorer(callback, n=slider("n", 1, 0, 5))
    control, _, picture = box.children
    old = picture.value
    events.clear()
    control.value = 2
    sent = [event if event == "callback" else (event[0], event[1]["state"]) for event in events]
    classes = [("ctg-explorer", "ctg-busy"), ("ctg-explorer",)]
    dimmed, restored = ((box, {"_dom_classes": names}) for names in classes)
    assert picture.value != old
    assert sent[-4:] == [dimmed, "callback", (picture, {"value": picture.value}), restored]
    assert all(widget is control for widget, _ in sent[:-4])


@pytest.mark.parametrize("error", [RuntimeError("no <three>"), KeyboardInterrupt("no <three>")])
@pytest.mark.parametrize("where", ["callback", "savefig"])
def test_no_picture_stays_under_a_value_that_fails(
    where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    def callback(n: int) -> tuple[Figure, str]:
        figure, alt = plain_figure(n)
        if n == 3:
            fail() if where == "callback" else monkeypatch.setattr(figure, "savefig", fail)
        return figure, alt

    box = explorer(callback, n=slider("n", 1, 0, 5))
    control, _, picture = box.children
    with pytest.raises(type(error)):
        control.value = 3
    assert picture.value == f"<pre>{type(error).__name__}: no &lt;three&gt;</pre>"
    assert box._dom_classes == ("ctg-explorer",)
    control.value = 4
    assert 'alt="A drawing of 4 and 1"' in picture.value


def test_the_last_picture_is_that_of_the_last_values_whichever_thread_draws_it() -> None:
    started, go_on = threading.Event(), threading.Event()

    def callback(n: int, m: int) -> tuple[Figure, str]:
        if (n, m) == (2, 1):
            started.set()
            assert go_on.wait(30)
        return plain_figure(n, m)

    box = explorer(callback, n=slider("n", 1, 0, 5), m=slider("m", 1, 0, 5))
    first, second, _, picture = box.children
    slow = threading.Thread(target=setattr, args=(first, "value", 2))
    fast = threading.Thread(target=setattr, args=(second, "value", 2))
    slow.start()
    assert started.wait(30)
    fast.start()
    fast.join(0.5)  # long enough to overtake, were it let
    assert "ctg-busy" in box._dom_classes
    go_on.set()
    slow.join(30)
    fast.join(30)
    assert 'alt="A drawing of 2 and 2"' in picture.value
    assert box._dom_classes == ("ctg-explorer",)


def test_where_only_text_can_be_shown_a_sentence_says_what_to_do() -> None:
    box = explorer(plain_figure, n=slider("n", 1, 0, 5))
    bundle = box._repr_mimebundle_()
    assert set(bundle) == {"text/plain", WIDGET_VIEW}
    assert bundle["text/plain"] == NEEDS_A_KERNEL
    assert bundle[WIDGET_VIEW]["model_id"] == box.model_id
    assert NEEDS_A_KERNEL in box.children[-2].value


@pytest.mark.notebook
def test_explorer_in_a_live_kernel():
    source = (
        "from helpers.figures.spheres import drag_figure\n"
        "from helpers.widgets import explorer, slider\n"
        "box = explorer(drag_figure, concentration=slider('c', 0.5, 0.0, 4.0, step=0.1),\n"
        "    turned=slider('turned', 0.0, 0.0, 1.0, step=0.1))\n"
        "box"
    )
    move = (
        "pictures = []\nfor share in (0.1, 0.5):\n"
        "    box.children[1].value = share\n    pictures.append(box.children[-1].value)"
    )
    check = "assert len(set(pictures)) == 2\nassert '50% turned' in pictures[1]"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (source, move, check)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert WIDGET_VIEW in output.data
    assert output.data["text/plain"] == NEEDS_A_KERNEL
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    assert any("50% turned" in str(s["state"].get("value")) for s in states)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A JupyterLab with one stored notebook, run in batch, which keeps the state of its explorer."""
    pytest.importorskip("playwright", reason="the package playwright is missing")
    root: Path = tmp_path_factory.mktemp("project")
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": KERNELSPEC})
    nb.cells = [nbformat.v4.new_code_cell(SLOW), nbformat.v4.new_code_cell("print(calls)")]
    NotebookClient(nb, timeout=60, kernel_name="python3").execute()
    nbformat.write(nb, root / "slow.ipynb")
    with lab.server(root, tmp_path_factory.mktemp("jupyter")) as running:
        yield running


needs_chromium = pytest.mark.skipif(
    lab.CHROMIUM is None, reason="no Chromium: install it, or name it in CHROMIUM"
)


@pytest.mark.browser
@needs_chromium
def test_a_stored_explorer_asks_to_be_run_and_shows_no_dead_control(site: dict[str, str]) -> None:
    with lab.browser() as page:
        lab.open_notebook(page, site, "slow.ipynb")
        page.get_by_text(NEEDS_A_KERNEL, exact=True).wait_for()
        assert page.locator(".widget-vbox").count() == 0  # not trusted: text only
        page.evaluate("() => {window.jupyterapp.commands.execute('notebook:trust')}")
        page.locator(".jp-Dialog button.jp-mod-accept").click()
        page.get_by_alt_text("A drawing of 1 and 1").wait_for()
        assert page.get_by_text(NEEDS_A_KERNEL, exact=True).is_visible()
        assert [s.is_visible() for s in page.locator(".widget-slider").all()] == [False, False]
        lab.run_all(page, 60)
        page.locator(".widget-slider").first.wait_for()
        assert not page.get_by_text(NEEDS_A_KERNEL, exact=True).is_visible()


@pytest.mark.browser
@needs_chromium
def test_a_live_explorer_says_that_it_computes_and_ends_at_the_last_values(site: dict[str, str]) -> None:
    with lab.browser() as page:
        lab.open_notebook(page, site, "slow.ipynb")
        lab.run_all(page, 60)
        handle, picture = lab.explorer(page)
        computing = page.get_by_text("computing …")
        assert not computing.is_visible()
        for key in ("ArrowRight",) * 4:
            value = lab.press(page, handle, key)
        second = page.locator(".noUi-handle").nth(1)
        assert (value, lab.press(page, second, "ArrowRight")) == ("5", "2")
        computing.wait_for()
        page.wait_for_function(
            "() => getComputedStyle(document.querySelector('.ctg-explorer img')).opacity < 0.5"
        )
        assert picture.get_attribute("alt") == "A drawing of 1 and 1"
        page.get_by_alt_text("A drawing of 5 and 2").wait_for()
        computing.wait_for(state="hidden")
        assert picture.evaluate("image => getComputedStyle(image).opacity") == "1"
        assert lab.problems(page) == []
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        page.get_by_text(NEEDS_A_KERNEL, exact=True).wait_for()
        assert [s.is_visible() for s in page.locator(".widget-slider").all()] == [False, False]


@pytest.mark.parametrize(("step", "decimals"), [(0.1, 1), (0.05, 2), (0.25, 2), (2.0, 1)])
def test_a_slider_shows_the_decimals_of_its_step(step, decimals):
    assert slider("x", 1.0, 0.0, 9.0, step).readout_format == f".{decimals}f"

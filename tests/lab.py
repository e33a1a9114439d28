"""JupyterLab in a headless Chromium, driven as a person drives it: open a notebook, run it, move a slider.

Needs the package playwright and a Chromium of the system; `playwright install` is not needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
START_SECONDS = 120

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell stays in the page
}

IDLE = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap((cell, i) =>
    (cell.model.outputs?.toJSON() ?? []).filter(out => out.output_type === 'error')
        .map(out => `cell ${i}: ${out.ename}: ${out.evalue}`))"""
FINISHED = f"""() => {{
    const code = window.jupyterapp.shell.currentWidget.content.widgets.filter(
        cell => cell.model.type === 'code' && cell.model.sharedModel.source.trim());
    const stopped = ({ERRORS})().length > 0 || code.every(cell => cell.model.executionCount !== null);
    const waiting = code.some(cell => cell.node.querySelector('.jp-InputPrompt')?.textContent.includes('*'));
    const loading = [...document.querySelectorAll('.jp-OutputArea-output')]
        .some(out => out.textContent.includes('Loading widget'));
    return stopped && !waiting && !loading && ({IDLE})();
}}"""


@contextmanager
def server(root: Path, home: Path) -> Iterator[dict[str, str]]:
    """JupyterLab over the notebooks in `root` on a free port of this machine; yields its `url` and `token`.

    Its configuration, settings and log stay in `home`; those of the user are neither read nor written.
    """
    names = {"CONFIG": "config", "DATA": "data", "RUNTIME": "runtime"}
    env = {f"JUPYTER_{name}_DIR": str(home / folder) for name, folder in names.items()}
    env |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    env |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    overrides = home / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(SETTINGS))
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.port=0"]
    with (home / "lab.log").open("wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={root}"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | env, cwd=root)
    try:
        yield _site(process, home)
    finally:
        process.terminate()  # the server ends its kernels
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()  # kernels watch for the end of their parent
            process.wait()


def _site(process: subprocess.Popen[bytes], home: Path) -> dict[str, str]:
    """What the server writes to its runtime folder once it listens."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            (info,) = (home / "runtime").glob("jpserver-*.json")
            return json.loads(info.read_text())
        except ValueError:  # not there yet, or half written
            time.sleep(0.1)
    raise RuntimeError("JupyterLab did not start:\n" + (home / "lab.log").read_text()[-3000:])


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium for several pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def page_of(running: Browser) -> Iterator[Page]:
    """A page that knows nothing of others; `page.broken` collects the errors of its scripts."""
    page = running.new_page(viewport={"width": 1300, "height": 1100})
    page.broken = []
    page.on("pageerror", lambda error: page.broken.append(f"script: {error}"))
    try:
        yield page
    finally:
        page.close()


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a Chromium of its own."""
    with chromium() as running, page_of(running) as page:
        yield page


def open_notebook(page: Page, site: dict[str, str], path: str) -> None:
    """Open the notebook at `path` (below the server's root) alone, and wait for its kernel."""
    page.set_default_timeout(START_SECONDS * 1000)
    page.goto(f"{site['url']}lab/tree/{path}?reset&token={site['token']}", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-Cell, .jp-Dialog")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.wait_for_function(f"() => document.querySelector('.jp-Dialog') || ({IDLE})()")
    if dialogs := page.locator(".jp-Dialog").all_inner_texts():
        raise AssertionError(f"JupyterLab asks before it opens {path}: {dialogs}")
    page.set_default_timeout(30_000)


def run_all(page: Page, seconds: float) -> None:
    """Clear the stored outputs, choose Run > Run All Cells, and wait until nothing runs any more."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
    page.locator(".lm-Menu [data-command='runmenu:run-all']").click()
    page.wait_for_function(FINISHED, timeout=seconds * 1000, polling=500)


def save(page: Page) -> None:
    """Save the notebook, outputs included."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def problems(page: Page) -> list[str]:
    """What a reader of the page would call broken, one line each."""
    found = page.evaluate(ERRORS) + page.broken
    for output in page.locator(".jp-OutputArea-output").all_inner_texts():
        if "Traceback (most recent call last)" in output or "Error displaying widget" in output:
            found.append(f"shown: {output.strip().splitlines()[-1]}")
    found += [f"in a widget: {text}" for text in page.locator(".widget-html-content pre").all_inner_texts()]
    return found + [f"dialog: {text}" for text in page.locator(".jp-Dialog").all_inner_texts()]


def explorer(page: Page) -> tuple[Locator, Locator]:
    """The first `helpers.widgets.explorer` of the page: the handle of its first slider, and its picture."""
    box = page.locator(".widget-vbox:has(.widget-html-content img):has(.noUi-handle)").first
    return box.locator(".noUi-handle").first, box.locator(".widget-html-content img")


def press(page: Page, handle: Locator, key: str) -> str:
    """Press a key on a slider's handle; the value that the slider then shows."""
    slider = handle.locator("xpath=ancestor::*[contains(@class, 'widget-slider')]")
    readout = slider.locator(".widget-readout").element_handle()  # an error may soon take the picture
    handle.focus()
    page.keyboard.press(key)
    return readout.inner_text().strip()


def wait_for_another(picture: Locator, old: str, seconds: float) -> None:
    """Wait until the explorer shows a whole picture other than the one whose `src` is `old`."""
    from playwright.sync_api import expect

    expect(picture).not_to_have_attribute("src", old, timeout=seconds * 1000)
    picture.evaluate("image => image.decode()")

"""The command line, complete runs and what they leave, and everything at once (each run starts a kernel)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from small_notebooks import ONE, READS, notebook, project, texts

from helpers import provenance
from helpers.chapters import execution
from helpers.chapters import run as chapters
from helpers.chapters.command_line import main
from helpers.chapters.parameters import ParameterError
from helpers.files import ChapterError, write_atomically


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(execution, "device_name", lambda parameters: "a device")  # torch loads slowly


def test_command_line_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project(tmp_path, c03=notebook(READS), c04=notebook("x = 1", parameters=ONE))
    for arguments, status, message in [
        (["run", "03", "-p", "sed", "1"], 2, "did you mean 'seed'?"),
        (["run", "03", "-p", "seed", "1e9"], 2, "parameter 'seed': 1000000000.0 has the wrong type"),
        (["run", "03", "-p", "seed", "0101"], 2, "parameter 'seed': 101 is out of range"),
        (["run", "03", "-y", "{seed: 0101}"], 2, "parameter 'seed': 101 is out of range"),
        (["run", "03", "-p", "rates", "[]"], 2, "parameter 'rates': [] is empty"),
        (["run", "03", "-y", "{seed: 1, seed: 2}"], 2, "is not valid YAML"),
        (["run", "03", "-y", "[1]"], 2, "is not a YAML mapping"),
        (["run", "03", "-y", "{"], 2, "is not valid YAML"),
        (["run", "09"], 1, "chapter '09' names 0 notebooks"),
        (["reproduce", "--only", "09"], 1, "chapter '09' names 0 notebooks"),
    ]:
        assert main(["--root", str(root), *arguments]) == status
        assert message in capsys.readouterr().err
    assert main(["--root", str(root), "check"]) == 1
    assert capsys.readouterr().out == "04_c.ipynb: parameter 'seed' is never read after the parameters cell\n"
    assert main(["--root", str(root), "check", str(root / "notebooks" / "03_c.ipynb")]) == 0
    (root / "notebooks" / "03_c.ipynb").write_text("{")
    assert main(["--root", str(root), "run", "03"]) == 1
    assert "cannot be read as a notebook" in capsys.readouterr().err
    assert not (root / "build").exists()
    assert main(["--root", str(tmp_path / "empty"), "reproduce"]) == 1
    assert "no chapter notebooks in" in capsys.readouterr().err


def test_a_run_is_complete_stamped_and_uses_this_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shadow = tmp_path / "jupyter" / "kernels" / "python3"
    shadow.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"}
    (shadow / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("CTG_CACHE", "as it was")
    ledger = "ledger='../reproduce/claims.yaml'"
    record = f"from helpers.claims import record\nrecord('a', violation=0.25, setting='x', {ledger})"
    cells = [
        "# T",
        "## One",
        "import os, sys, time\ntime.sleep(0.3)\n" + READS,
        "## Two",
        record,
        "print(os.getcwd(), sys.executable)\nprint('CTG_CACHE:', os.environ.get('CTG_CACHE'))",
    ]
    source = notebook(*cells)
    source.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {"state": {"of an old run": {}}}
    }
    root = project(tmp_path / "a {b}", c03=source)
    built = chapters.run_chapter("03", root=root)
    assert built == root / "build" / "chapters" / "03_c.ipynb"
    assert list(built.parent.iterdir()) == [built]
    nb = nbformat.read(built, as_version=4)
    nbformat.validate(nb)
    assert f"{root / 'notebooks'} {sys.executable}" in texts(nb)
    assert "CTG_CACHE: as it was" in texts(nb)
    assert "papermill" not in built.read_text()
    assert "widgets" not in nb.metadata
    stamp = provenance.provenance(built)
    assert stamp["source_hash"] == provenance.source_hash(nb)
    assert stamp["parameters"]["rates"] == [0.1, 1.0]
    assert stamp["versions"]["torch"].startswith("2.")
    assert [title for title, _ in stamp["section_seconds"]] == ["Set-up", "One", "Two"]
    assert 0.3 <= dict(stamp["section_seconds"])["One"] <= stamp["wall_seconds"]
    assert stamp["code_hash"] == provenance.code_hash(nb)
    assert stamp["numbers_hash"] == provenance.numbers_hash(nb)
    assert provenance.is_executed_in_order(nb)
    assert chapters.up_to_date(root / "notebooks" / "03_c.ipynb", root)
    bundles = [out.data for c in nb.cells if c.cell_type == "code" for out in c.outputs if "data" in out]
    assert [b["application/vnd.closing-the-gap.claim+json"]["violation"] for b in bundles] == [0.25]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 4  # one line per code cell and nothing else on stderr
    assert re.fullmatch(r"03_c \[  2/4\] +\d+\.\d s  One", lines[1])


def test_parameters_reach_the_notebook_and_name_the_result(tmp_path: Path) -> None:
    root = project(tmp_path, c03=notebook(READS))
    given = {"seed": np.int64(7), "dataset": Path("folder:a 'b'"), "rates": (0.5,), "note": None}
    built = chapters.run_chapter("03", given, root=root)
    assert re.fullmatch(r"03_c__[0-9a-f]{8}\.ipynb", built.name)
    nb = nbformat.read(built, as_version=4)
    assert "7 0.1 a folder:a 'b' [0.5] [1] True None None 8" in texts(nb)
    stamp = provenance.provenance(built)
    assert (stamp["parameters"]["seed"], stamp["parameters"]["rate"]) == (7, 0.1)
    assert stamp["source_hash"] == provenance.source_hash(nbformat.read(root / "notebooks" / "03_c.ipynb", 4))
    with pytest.raises(ChapterError, match="holds parameters injected by an earlier run"):
        chapters.run_chapter(built, root=root)
    with pytest.raises(ParameterError, match="out of range"):
        chapters.run_chapter("03", {"seed": 101}, root=root)
    with pytest.raises(ChapterError, match="is the chapter itself"):
        chapters.run_chapter("03", out=root / "notebooks" / "03_c.ipynb", root=root)


CLAIM = """\
from IPython.display import display
import os
print("CTG_CACHE:", os.environ.get("CTG_CACHE"))
claim = {"claim_id": "a", "setting": "here", "violation": 0.25 + seed}
display({"application/vnd.closing-the-gap.claim+json": claim, "text/plain": "claim"}, raw=True)"""


def test_reproduce_runs_what_is_out_of_date_and_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = notebook("assert seed == 1, 'never'", parameters=ONE)
    root = project(tmp_path, c02=bad, c03=notebook("# T $x^2$", CLAIM, parameters=ONE))
    command = ["--root", str(root), "reproduce"]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert "failed: 02_c" in shown.err
    assert re.search(r"(?m)^a +not run .*reproduced$", shown.out)  # nothing is kept; this copy's own run
    built = root / "build" / "chapters" / "03_c.ipynb"
    assert texts(nbformat.read(built, as_version=4)) == "CTG_CACHE: off\n"
    assert re.search(
        r"(?m)^\| \[a\]\(#a\) .*not run.* reproduced \|$", (root / "build" / "RESULTS.md").read_text()
    )
    pages = {p.name for p in (root / "build" / "html").glob("*.html")}
    assert pages >= {"02_c.html", "03_c.html", "claims.html", "index.html"}
    report = (root / "build" / "html" / "claims.html").read_text()
    assert 'href="03_c.html"' in report
    assert "CTG_CACHE: off" in (root / "build" / "html" / "03_c.html").read_text()  # this copy's own run
    assert "has not been run" in (root / "build" / "html" / "02_c.html").read_text()  # what is stored
    assert "reproduced" in report
    stored = root / "reproduce" / "RESULTS.md"
    assert "- **Verdict:** not run\n" in stored.read_text()  # the notebook in notebooks/ holds no outputs
    assert main([*command, "--only", "03"]) == 0
    assert "03_c: up to date" in capsys.readouterr().out

    (root / "notebooks" / "02_c.ipynb").write_text("{")
    assert main([*command, "--only", "03"]) == 1
    assert "02_c.ipynb is not a notebook" in capsys.readouterr().err
    assert (root / "build" / "html" / "claims.html").read_text() == report

    third = root / "notebooks" / "03_c.ipynb"
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_hash", lambda nb, root: "other")
        assert not chapters.up_to_date(third, root)
    assert chapters.up_to_date(third, root)
    ledger = root / "reproduce" / "claims.yaml"
    ledger.write_text(ledger.read_text() + "\n")
    assert not chapters.up_to_date(third, root)
    write_atomically(built, '{"cells": [')
    assert not chapters.up_to_date(third, root)


def test_the_reading_list_is_reproduced_in_a_folder_of_its_own(tmp_path: Path) -> None:
    root = project(tmp_path, c04=notebook("# T", parameters=ONE))
    (folder := root / "notebooks" / "reading_list").mkdir()
    listed = notebook("# L, after [chapter 4](../04_c.ipynb)", CLAIM, parameters=ONE)
    nbformat.write(listed, folder / "04_c.ipynb")
    ledger = root / "reproduce" / "claims.yaml"
    (row,) = yaml.safe_load(ledger.read_text())
    ledger.write_text(yaml.safe_dump([row | {"chapter": "reading_list/04"}]))
    assert main(["--root", str(root), "reproduce"]) == 0
    html = root / "build" / "html"
    assert (html / "04_c.html").is_file()
    page = (html / "reading_list" / "04_c.html").read_text()
    assert (
        html / "reading_list" / re.search(r'href="(\S+)">(?:<[^>]+>)?chapter 4', page)[1]
    ).resolve() == html / "04_c.html"
    assert 'href="reading_list/04_c.html"' in (html / "claims.html").read_text()
    assert chapters.up_to_date(folder / "04_c.ipynb", root)
    assert main(["--root", str(root), "run", "reading_list/04"]) == 0
    assert main(["--root", str(root), "execute", "reading_list/04"]) == 0
    assert "reproduced" in (root / "reproduce" / "RESULTS.md").read_text()


def test_execute_and_report_renew_what_tells_of_the_stored_notebooks(tmp_path: Path) -> None:
    root = project(tmp_path, c03=notebook("# T", CLAIM, parameters=ONE))
    (root / "README.md").write_text("<!-- claims -->\nstale\n<!-- end of claims -->\n")
    assert main(["--root", str(root), "execute", "03"]) == 0
    results, readme = root / "reproduce" / "RESULTS.md", root / "README.md"
    forest = root / "reproduce" / "forest.svg"
    told = results.read_text(), readme.read_text(), forest.read_text()
    assert "- **Verdict:** reproduced" in told[0]
    assert "stale" not in told[1]
    assert "1 identities hold" in told[1]
    assert told[2].startswith("<?xml")
    assert not (root / "build" / "html").exists()

    results.write_text("stale")
    assert main(["--root", str(root), "report"]) == 0
    assert (results.read_text(), readme.read_text(), forest.read_text()) == told
    assert "0.25" in (root / "build" / "html" / "claims.html").read_text()

    ledger = root / "reproduce" / "claims.yaml"
    ledger.write_text(ledger.read_text().replace("tolerance: 0.5", "tolerance: 0.1"))
    assert "- **Verdict:** contradicted" in chapters.stored_reports(root)[results]

"""Tiers of evidence: killed and started again, a study ends with the same numbers; an audit can refute it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import psutil
import pytest
import yaml
from nbformat.v4 import new_output
from small_notebooks import notebook, project

from helpers import PROJECT_ROOT, provenance
from helpers.chapters import study as studies
from helpers.chapters.command_line import main
from helpers.chapters.grids import GridError, load_grid
from helpers.experiments import Paired, evidence, prediction_interval
from helpers.files import ChapterError

PARAMETERS = """\
seed: int = 0  # [0, 1000000] first seed
seeds: int = 3  # [3, 20] seeds
lead: float = 0.1  # [-1, 1] of the method"""
GATE = "from helpers.chapters.parameters import gate\ngate('03')"
SWEEP = """\
import time
from pathlib import Path
import numpy as np
from helpers.claims import record
from helpers.experiments import Arm, sweep

def run(arm, seed, rate):
    with open("ran.txt", "a") as file:
        print(arm.name, seed, file=file)
    while Path("hold").exists() and len(Path("ran.txt").read_text().splitlines()) > 3:
        time.sleep(0.05)
    rng = np.random.default_rng([seed, len(arm.name)])
    return {"accuracy": rng.normal(0.5 + arm.lead + rng.normal(0, 0.02), 0.1, 50)}

arms = [Arm("method", lead=lead), Arm("baseline", lead=0.0)]
results = sweep("arms", run, arms=arms, rates=[0.1], seeds=range(seed, seed + seeds), folder=Path("cache"))"""
RECORD = """\
lead_over = results.paired("method", "baseline", "accuracy", redrawn=True)
record("better", lead_over, setting="toy", ledger="../reproduce/claims.yaml")
record("equal", setting="toy", violation=0.0, ledger="../reproduce/claims.yaml")"""
TEXTS = dict.fromkeys(("claim", "source", "measure", "unit", "thesis_setting"), "text")
LEDGER = [
    {"id": "better", "chapter": "03", "kind": "effect", "direction": "greater", "smallest": 0.02},
    {"id": "equal", "chapter": "03", "kind": "identity", "tolerance": 0.1},
]
PLAN = {"chapter": "03", "about": "A.", "tier": "study", "seed": [100], "set": {"seeds": 6}, "cpus": 1}


def planned(root: Path, **keys: Any) -> Path:
    """A project with a chapter, its plan, and a repository that holds both."""
    project(root, c03=notebook(GATE, SWEEP, RECORD, parameters=PARAMETERS))
    rows = [TEXTS | {"published": None} | row for row in LEDGER]
    (root / "reproduce" / "claims.yaml").write_text(yaml.safe_dump(rows))
    (root / "reproduce" / "grids").mkdir()
    (root / "reproduce" / "grids" / "03_study.yaml").write_text(yaml.safe_dump(PLAN | keys))
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "plan")
    return root


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def start(root: Path, *command: str) -> subprocess.Popen[str]:
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    line = [sys.executable, "-m", "helpers.chapters", "--root", str(root), *command]
    return subprocess.Popen(line, cwd=PROJECT_ROOT, **both)


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output = process.communicate(timeout=120)[0]
    assert process.returncode == status, output
    return output


def ran(root: Path) -> list[str]:
    path = root / "notebooks" / "ran.txt"
    return path.read_text().splitlines() if path.is_file() else []


def test_a_study_killed_in_the_middle_ends_with_the_same_numbers(
    tmp_path: Path, light_processes: None
) -> None:
    root, other = planned(tmp_path / "killed"), planned(tmp_path / "whole")
    (root / "notebooks" / "hold").touch()
    whole, process = start(other, "study", "03"), start(root, "study", "03")
    deadline = time.monotonic() + 90
    while len(ran(root)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for child in below:
        child.kill()
    process.communicate()
    begun = ran(root)
    assert len(begun) == 4  # three finished, the fourth was in the middle
    assert evidence("03", "study", root) is None
    (root / "notebooks" / "hold").unlink()

    assert str(root / "reproduce" / "evidence" / "03_study.json") in finish(start(root, "study", "03"))
    finish(whole)
    assert sorted(ran(root)) == sorted([*ran(other), begun[3]])  # nothing that had finished ran again
    kept, uninterrupted = (evidence("03", "study", r) for r in (root, other))
    assert kept.claims == uninterrupted.claims
    assert kept.tables == uninterrupted.tables
    assert set(kept.claims) == {"better", "equal"}
    assert len(kept.claims["better"]["effects"]["effects"]) == 6
    assert len(kept.tables["arms"]["value"]) == 12
    assert kept.best == {"arms": {"method": 0.1, "baseline": 0.1}}
    assert kept.parameters == {"seed": 100, "seeds": 6, "lead": 0.1}
    head = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert (kept.commit, kept.plan_committed) == (head.stdout.strip(), True)
    nb = nbformat.read(root / "notebooks" / "03_c.ipynb", as_version=4)
    assert kept.numbers_hash == provenance.numbers_hash(nb)
    assert kept.code_hash == provenance.code_hash(nb)
    assert "study" in (root / "reproduce" / "RESULTS.md").read_text()


def test_an_audit_bears_out_a_sound_study_and_flags_a_doctored_row(
    tmp_path: Path, light_processes: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = planned(tmp_path)
    shutil.rmtree(root / ".git")
    assert main(["--root", str(root), "audit", "03"]) == 1
    assert "make study CHAPTER=03 TIER=study" in capsys.readouterr().err
    monkeypatch.setenv("CTG_WORKERS", "1")
    finish(start(root, "study", "03"))
    kept = evidence("03", "study", root)
    assert (kept.commit, kept.plan_committed) == ("", False)  # no repository, no proof

    assert main(["--root", str(root), "audit", "03"]) == 0
    told = capsys.readouterr().out
    assert "0 of 2 rows lie outside with seeds 10100 to 10102: which chance explains" in told
    low, high = prediction_interval(Paired(**kept.claims["better"]["effects"]), 3)
    assert f"{low:+.3g} to {high:+.3g}" in told

    path = root / "reproduce" / "evidence" / "03_study.json"
    doctored = json.loads(path.read_text())
    effects = doctored["claims"]["better"]["effects"]
    effects["effects"] = [effect + 0.3 for effect in effects["effects"]]
    path.write_text(json.dumps(doctored))
    assert main(["--root", str(root), "audit", "03"]) == 1
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("better"))
    assert line.endswith("OUTSIDE")


def test_chance_alone_seldom_fails_an_audit_and_a_shift_always_does() -> None:
    rng = np.random.default_rng(0)
    row = studies.Claim(**TEXTS, **LEDGER[0], published=None)

    def sound(shift: float) -> bool:
        lines = []
        for k in range(8):
            kept, fresh = rng.normal(0, 1, 8), rng.normal(0, 1, 3) + shift * (k == 0)
            measured = [studies.Measurement("a", "s", effects=Paired.of(v)) for v in (kept, fresh)]
            lines.append(studies._compared(row, *measured))
        return studies._verdict(lines, "")[1]

    assert np.mean([sound(0) for _ in range(400)]) > 0.88  # two tests at 5 %
    assert not any(sound(20) for _ in range(50))
    missing = studies._compared(row, studies.Measurement("a", "s", effects=Paired.of([1.0, 2.0])), None)
    assert studies._verdict([missing], "")[1] is False


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tier": "real"}, "must say 'tier: study' and have one cell, got tier 'real' and 1 cells"),
        ({"seed": [100, 200]}, "got tier 'study' and 2 cells; more seeds are a matter of"),
    ],
)
def test_a_plan_has_its_tier_and_one_cell(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(GridError, match=message):
        studies.planned("03", "study", planned(tmp_path, **keys))


def test_a_plan_counts_as_committed_from_its_first_start_on(tmp_path: Path) -> None:
    root = planned(tmp_path)
    path = root / "reproduce" / "grids" / "03_study.yaml"
    path.write_text(path.read_text().replace("seeds: 6", "seeds: 7"))
    grid = load_grid("03_study", root)
    first = studies.first_plan(grid, root)
    assert first["plan_committed"] is False
    git(root, "commit", "-qam", "planned after all")
    assert studies.first_plan(grid, root) == first  # committed after it had begun
    path.write_text(path.read_text().replace("seeds: 7", "seeds: 8"))
    git(root, "commit", "-qam", "another plan")
    assert studies.first_plan(load_grid("03_study", root), root)["plan_committed"] is True


def test_a_result_older_than_the_code_that_it_reaches_is_made_again(tmp_path: Path) -> None:
    root = planned(tmp_path)
    grid = load_grid("03_study", root)
    out = grid.folder(root) / "cells" / f"{grid.cells[0].id}.ipynb"
    out.parent.mkdir(parents=True)
    nb = nbformat.read(root / "notebooks" / "03_c.ipynb", as_version=4)
    present = {"source_hash": grid.source, "code_hash": provenance.code_hash(nb, root)}
    there: list[bool] = []
    for stamp in (present, present | {"code_hash": "of earlier code"}):
        nb.metadata[provenance.STAMP] = stamp
        nbformat.write(nb, out)
        with pytest.raises(ChapterError, match="03_study has no complete result"):
            studies.study("03", root=root, run=lambda *given, **how: there.append(out.exists()) or 1)
    assert there == [True, False]


def test_two_sweeps_of_one_name_are_refused(tmp_path: Path) -> None:
    root = planned(tmp_path)
    grid = load_grid("03_study", root)
    nb = notebook("1", parameters=PARAMETERS)
    table = {"name": "arms", "table": {}}
    nb.cells[1].outputs = [new_output("display_data", {studies.TABLE_MIME: table}) for _ in range(2)]
    nb.metadata[provenance.STAMP] = {}
    nbformat.write(nb, tmp_path / "x.ipynb")
    with pytest.raises(ChapterError, match="two sweeps of chapter 03 are called 'arms'"):
        studies._evidence(grid, tmp_path / "x.ipynb", {}, root)

"""The committed notebooks: they keep the house rules, and run with other parameters than their own."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import lab
import nbformat
import notebook_hygiene as hygiene
import pytest
from PIL import Image
from small_runs import SMALL, measured_in
from torch import nn

from helpers import provenance
from helpers.backbones import make_backbone
from helpers.chapters.declarations import defaults_of, parameters_of
from helpers.chapters.parameters import ParameterError
from helpers.chapters.run import run_chapter
from helpers.claims import recording as claims
from helpers.files import ChapterError, chapter_number, find_chapters, find_notebooks

IN_BATCH = [p for p in find_notebooks() if lab.CHROMIUM is None or p.stem == "04_losses"]
"""What `test_lab` does not run, or not alone: papermill and JupyterLab execute the same cells."""
ON_PHOTOS = ["01_introduction", "02_knowledge_evolution", "03_svmax"]
"""Chapters that take their images from `dataset`; chapters 5 and 6 read them as chapter 1 does."""
CLASSES_OF_PHOTOS = 16

chapter = pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)


@pytest.mark.parametrize("path", hygiene.committed_notebooks(), ids=lambda path: path.stem)
def test_house_rules(path: Path) -> None:
    lines = [f"[{name}] {text}" for name, text in hygiene.problems(path)]
    assert not lines, "\n".join(lines)


def test_every_claim_of_a_chapter_is_measured_in_it() -> None:
    lines = hygiene.ledger_problems(hygiene.committed_chapters())
    assert not lines, "\n".join(lines)


def run_small(path: Path, out: Path, **more: Any) -> list[claims.Measurement]:
    """What a small run measures, computed afresh and written to `out`, after the checks of every run."""
    given = SMALL[path.stem] | more
    defaults = defaults_of(nbformat.read(path, as_version=4))
    assert run_chapter(path, given, out=out, recompute=True) == out
    assert list(out.parent.iterdir()) == [out]
    nb = nbformat.read(out, as_version=4)
    stamp = nb.metadata[provenance.STAMP]
    assert stamp["parameters"] == defaults | given
    assert stamp["source_hash"] == provenance.source_hash(nb)
    return measured_in(out, chapter_number(path))


@pytest.mark.notebook
@pytest.mark.parametrize("path", IN_BATCH, ids=lambda path: path.stem)
def test_a_small_run_in_batch(path: Path, tmp_path: Path) -> None:
    run_small(path, tmp_path / "small.ipynb")


@pytest.mark.notebook
@pytest.mark.real_data
@pytest.mark.parametrize("stem", ON_PHOTOS)
def test_a_small_run_on_photographs(stem: str, tmp_path: Path, ctg_data: Path) -> None:
    (path,) = (p for p in find_chapters() if p.stem == stem)
    if not (ctg_data / "grocery").is_dir():
        pytest.skip(f"{ctg_data} holds no folder grocery")
    for part in ("train", "test"):
        (there := tmp_path / "photographs" / part).mkdir(parents=True)
        for of_a_class in sorted((ctg_data / "grocery" / part).iterdir())[:CLASSES_OF_PHOTOS]:
            (there / of_a_class.name).symlink_to(of_a_class)
    (out := tmp_path / "run").mkdir()
    dataset = f"folder:{tmp_path / 'photographs'}"
    measured = run_small(path, out / "photos.ipynb", dataset=dataset)
    assert any(dataset in m.setting for m in measured)


@pytest.mark.parametrize("stem", ["01_introduction", "06_closing_the_gap"])
def test_three_classes_are_too_few_before_anything_trains(stem: str, tmp_path: Path) -> None:
    for part, count in (("train", 12), ("test", 6)):
        for name in "abc":
            (folder := tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (24, 24), (9 * i, 60, 99)).save(folder / f"{i}.png")
    (path,) = (p for p in find_chapters() if p.stem == stem)
    with pytest.raises(ChapterError, match=r"classes.*; expected (at least 4|two of each)"):
        run_chapter(path, {"dataset": f"folder:{tmp_path / 'photos'}"}, out=tmp_path / "never.ipynb")


def test_chapter_5_knows_the_width_of_every_network_that_it_offers() -> None:
    (path,) = (p for p in find_chapters() if p.stem == "05_two_head")
    nb = nbformat.read(path, as_version=4)
    (rivals,) = (c.source for c in nb.cells if c.source.startswith("widths = "))
    widths = ast.literal_eval(rivals[rivals.index("{") : rivals.index("}") + 1])
    assert tuple(widths) == parameters_of(nb)["network"].choices
    for name, width in widths.items():
        classifier = [m for m in make_backbone(name, 3, 5).modules() if isinstance(m, nn.Linear)][-1]
        assert (classifier.in_features, classifier.out_features) == (width, 5)


@chapter
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sed": 1}, "unknown parameter 'sed': did you mean 'seed'?"),
        ({"seed": "one"}, "parameter 'seed': 'one' has the wrong type; expected int"),
        ({"seed": 1.5}, "parameter 'seed': 1.5 has the wrong type; expected int"),
        ({"seed": True}, "parameter 'seed': True has the wrong type; expected int"),
        ({"seed": -1}, "parameter 'seed': -1 is out of range; expected int"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(
    path: Path, parameters: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError) as caught:
        run_chapter(path, parameters, out=tmp_path / "never.ipynb")
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []

"""Small notebooks and projects for the tests of the notebook runner."""

from __future__ import annotations

from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

GOOD = """\
seed: int = 0  # [0, 100] seed of everything
rate: float = 0.1  # [1e-5, 1] learning rate
arm: str = "a"  # {a, b} which arm to run
dataset: str = "birds"  # free text
rates: list[float] = [0.1, 1.0]  # [1e-5, 100] several rates
folds: list[int] = [1]  # folds
fast: bool = True  # skip the slow part
limit: int | None = None  # [1, 10] cap on batches
note: str | None = None  # printed in the title
size: int = 8  # {8, 16} width"""
READS = "print(seed, rate, arm, dataset, rates, folds, fast, limit, note, size)"
ONE = "seed: int = 0  # seed"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def notebook(*cells: str | NotebookNode, parameters: str = GOOD) -> NotebookNode:
    """A parameters cell, then the given cells; text that starts with # is Markdown."""
    made = [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for cell in cells:
        if isinstance(cell, str):
            cell = new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell)
        made.append(cell)
    return new_notebook(cells=made, metadata={"kernelspec": dict(KERNELSPEC)})


def project(root: Path, **sources: NotebookNode) -> Path:
    """A project folder with the given chapters, `c03=` becoming notebooks/03_c.ipynb, and a small ledger."""
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    (root / "reproduce").mkdir(exist_ok=True)
    for name, nb in sources.items():
        nbformat.write(nb, root / "notebooks" / f"{name[1:]}_c.ipynb")
    texts = dict.fromkeys(("claim", "source", "measure", "unit", "thesis_setting"), "text")
    row = {"id": "a", "chapter": "03", "kind": "identity", "tolerance": 0.5, "published": None, **texts}
    (root / "reproduce" / "claims.yaml").write_text(yaml.safe_dump([row]))
    return root


def texts(nb: NotebookNode) -> str:
    return "".join(out.get("text", "") for c in nb.cells if c.cell_type == "code" for out in c.outputs)

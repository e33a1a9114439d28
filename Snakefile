# A grid of chapter runs. Start it with `make grid GRID=svmax` or `python -m helpers.chapters grid svmax`, which check
# every parameter and name the grid, its folder and a profile; `reproduce/grids/README.md` says more.
import json
import sys
from urllib.parse import unquote

from helpers.chapters.grids import load_grid

ROOT = unquote(config.get("root", workflow.basedir))
GRID = load_grid(unquote(config["grid"]), ROOT)
CELLS = {cell.id: cell for cell in GRID.cells}


localrules:
    all,


rule all:
    input:
        expand("cells/{cell}.ipynb", cell=CELLS),


# no input file: a notebook counts as changed when its source does, not when it is saved with new outputs
rule cell:
    output:
        update("cells/{cell}.ipynb"),  # what an earlier attempt left is looked at, not deleted
    log:
        "logs/{cell}.log",
    params:
        command=[sys.executable, "-m", "helpers.chapters", "--root", ROOT, "cell", GRID.chapter],
        values=lambda wildcards: json.dumps(CELLS[wildcards.cell].values),
        source=GRID.source,
    threads: GRID.cores
    resources:
        gpu=int(config.get("gpus", GRID.gpus)),
        mem_mb=1000 * GRID.memory_gb,
        runtime=round(60 * GRID.hours),
    retries: GRID.retries
    shell:
        "{params.command:q} {params.values:q} {output:q} --cpus {threads} --gpus {resources.gpu}"
        " --source {params.source} > {log:q} 2>&1"

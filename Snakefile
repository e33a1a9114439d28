# A grid of chapter runs. Start it with `make grid GRID=svmax` or `python -m helpers.chapters.grids run svmax`, which
# check every parameter and name the grid, its folder and a profile; `reproduce/grids/README.md` says more.
import json
import sys

from helpers.chapters.grids import load_grid

ROOT = config.get("root", workflow.basedir)
GRID = load_grid(config["grid"], ROOT)
CELLS = {cell.id: cell for cell in GRID.cells}
GPUS = int(config.get("gpus", GRID.gpus))
COMMAND = [sys.executable, "-m", "helpers.chapters.grids", "--root", ROOT]
SUMMARY = [*COMMAND, "summary", config["grid"]]


localrules:
    all,
    summary,


# the cells are named here too: else a cell that is missing stays so while the summary is newer
rule all:
    input:
        expand("cells/{cell}.ipynb", cell=CELLS),
        "summary.json",


# no input file: a notebook counts as changed when its source does, not when it is saved with new outputs
rule cell:
    output:
        "cells/{cell}.ipynb",
    log:
        "logs/{cell}.log",
    params:
        command=COMMAND,
        chapter=GRID.chapter,
        values=lambda wildcards: json.dumps(CELLS[wildcards.cell].values),
        source=GRID.source,
    threads: GRID.cpus
    resources:
        gpu=GPUS,
        mem_mb=1000 * GRID.memory_gb,
        runtime=round(60 * GRID.hours),
    retries: GRID.retries
    shell:
        "{params.command:q} cell {params.chapter:q} {params.values:q} {output:q}"
        " --cpus {threads} --gpus {resources.gpu} --source {params.source} > {log:q} 2>&1"


rule summary:
    input:
        expand("cells/{cell}.ipynb", cell=CELLS),
    output:
        "summary.json",
        "summary.md",
    params:
        command=SUMMARY,
    shell:
        "{params.command:q}"


# some cells failed or were stopped: the summary of the others, with what is missing
onerror:
    shell("{SUMMARY:q}")

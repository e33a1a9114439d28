"""Ways to open the notebooks elsewhere: structure only, as no such service can be reached from here."""

from __future__ import annotations

import ast
import json
import re
import tomllib

import yaml
from packaging.requirements import Requirement

from helpers import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
PACKAGE = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = {Requirement(text).name for text in PACKAGE["dependencies"]}
OF_THE_LAB = {"ipykernel", "jupyterlab", "nbclient", "nbconvert", "nbformat", "packaging"}
"""What every service that shows notebooks has, or what only `make` needs."""


def test_the_first_cell_installs_all_that_a_service_lacks_and_leaves_torch_alone() -> None:
    (cell,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(cell).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "missing"
    )
    installed = {Requirement(name).name for name in names}
    there = {
        name.lower() for name in re.search(r"packages that the notebooks need \((.*?)\)", PAGE)[1].split(", ")
    }
    assert not installed & {"torch", "torchvision"}
    assert installed <= NEEDED
    assert installed | there | OF_THE_LAB | {"torch", "torchvision"} == NEEDED
    assert '"--no-deps", "--editable"' in cell


def test_the_container_has_what_the_first_command_needs() -> None:
    folder = PROJECT_ROOT / ".devcontainer"
    made = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))
    recipe = (folder / made["build"]["dockerfile"]).read_text(encoding="utf-8")
    version = re.search(r"(?m)^FROM python:(\d\.\d+)-slim$", recipe)[1]
    assert version in ("3.11", "3.12", "3.13")
    assert {"chromium", "git", "make"} <= set(recipe.split())
    target = made["postCreateCommand"].removeprefix("make ")
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"READY := {target}\n" in makefile


def test_binder_finds_an_environment_with_the_package() -> None:
    environment = yaml.safe_load((PROJECT_ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert any(line.startswith("-e .") for line in pip)

"""Figures with parameters, for explorers: each file has functions that give a figure and its alt text.

A file is loaded when it is first named: ``from helpers import figures`` and then ``figures.triplets``.
"""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"no figures called {name!r}") from error

"""Keep heavy results under `data/cache/results/`, keyed by what produced them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import PROJECT_ROOT
from helpers.experiments.fingerprint import fingerprint
from helpers.files import write_atomically
from helpers.provenance import versions

CACHE = PROJECT_ROOT / "data" / "cache" / "results"


def cached(name: str, compute: Callable[[], Any], *, key: Any = None, folder: Path = CACHE) -> Any:
    """``compute()``, or what it gave the last time under the same circumstances; always as plain JSON data.

    The circumstances are ``name``, ``key``, the code of ``compute`` and everything that it reaches (see
    `fingerprint`: own functions by their code, values by content), and the versions of Python, torch and the
    other packages that the numbers depend on. An unreadable file is recomputed and replaced. With the
    environment variable ``CTG_CACHE=off`` nothing is read, and the fresh result is still written.

    Raises TypeError when the result is not JSON data (convert tensors with ``.tolist()``), or when something
    that ``compute`` reaches has no content to compare.
    """
    path = entry(name, fingerprint([compute, key], name), folder)
    found, kept = read(path)
    return kept if found else keep(path, compute())


def entry(name: str, circumstances: str, folder: Path = CACHE) -> Path:
    """Where a result is kept."""
    facts = json.dumps([name, circumstances, versions()], sort_keys=True)
    slug = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    return folder / f"{slug}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> tuple[bool, Any]:
    """Whether there is a kept result that may be used, and the result."""
    if os.environ.get("CTG_CACHE") != "off":
        try:
            return True, json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
    return False, None


def keep(path: Path, result: Any) -> Any:
    """Keep the result, and give it as it will be read; says so once when the folder cannot be written."""
    text = json.dumps(result)
    try:
        write_atomically(path, text)
    except OSError as error:
        tell_once(f"Results are not kept for the next time: cannot write {path.parent} ({error.strerror}).")
    return json.loads(text)


@functools.cache
def tell_once(text: str) -> None:
    """Print a sentence, unless this process has said it before."""
    print(text)

"""Keep heavy results under `data/cache/results/`, keyed by what produced them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from helpers import PROJECT_ROOT
from helpers.files import write_atomically
from helpers.provenance import helpers_hash, versions

CACHE = PROJECT_ROOT / "data" / "cache" / "results"


def cached(
    name: str,
    compute: Callable[[], Any],
    *,
    key: Mapping[str, Any],
    sources: Iterable[Callable | type] = (),
    folder: Path = CACHE,
) -> Any:
    """``compute()``, or what it gave the last time under the same circumstances; always as plain JSON data.

    The circumstances are ``name``, ``key`` (every parameter the result depends on), the source text of
    ``sources`` (the functions and classes of the notebook that take part), the code in `helpers/`, and the
    versions of Python and torch. An unreadable file is recomputed and replaced. With the environment variable
    ``CTG_CACHE=off`` nothing is read, and the fresh result is still written.

    Raises TypeError when the key or the result is not JSON data (convert tensors with ``.tolist()``).
    """
    facts = {
        "key": key,
        "sources": [_source_text(source) for source in sources],
        "helpers": helpers_hash(),
        "versions": versions(),
    }
    digest = hashlib.sha256(json.dumps([name, facts], sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}-{digest}.json"
    if os.environ.get("CTG_CACHE") != "off":
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
    text = json.dumps(compute())
    write_atomically(path, text)
    return json.loads(text)


def _source_text(source: Callable | type) -> str:
    if not inspect.isclass(source):
        return inspect.getsource(source)
    # a notebook's classes have no file to read, their methods do, except those a dataclass generates
    methods = [f for f in vars(source).values() if inspect.isfunction(f)]
    written = [inspect.getsource(f) for f in methods if inspect.unwrap(f).__code__.co_filename != "<string>"]
    return "\n".join([str(inspect.get_annotations(source)), *written])

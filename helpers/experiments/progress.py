"""One line that says how far a sweep is, and in the end what it was."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from IPython import get_ipython
from IPython.display import display

_EVERY = 0.5
"""Seconds between two updates."""


class Progress:
    """ "12 of 96 runs, about 40 s left", in a notebook's output or on a terminal; `close` replaces it.

    Args:
        name: of the sweep.
        total: number of runs to do, those kept from before not counted.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.start, self.shown = time.monotonic(), 0.0
        self.terminal = sys.stderr if get_ipython() is None and sys.stderr.isatty() else None
        self.handle = None
        if get_ipython() is not None:
            self.handle = display(_html(self.text(), 0.0), raw=True, display_id=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def text(self) -> str:
        left = self.seconds / self.done * (self.total - self.done) if self.done else None
        estimate = "" if left is None else f", about {duration(left)} left"
        return f"{self.name}: {self.done} of {self.total} runs{estimate}"

    def step(self, last: str) -> None:
        """One more run has ended: `last`."""
        self.done += 1
        if time.monotonic() - self.shown < _EVERY:
            return
        self.shown = time.monotonic()
        text = f"{self.text()} (last: {last})"
        if self.handle is not None:
            self.handle.update(_html(text, self.done / self.total), raw=True)
        elif self.terminal:
            print(f"\r{text[:110]:<110}", end="", file=self.terminal, flush=True)

    def close(self, bundle: dict[str, Any]) -> None:
        """Leave `bundle` (MIME type to content) as the only output."""
        if self.terminal:
            print(f"\r{'':<110}\r", end="", file=self.terminal, flush=True)
        if self.handle is not None:
            self.handle.update(bundle, raw=True)
        else:
            print(bundle["text/plain"])


def duration(seconds: float) -> str:
    """In the unit a person would use: "40 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _html(text: str, share: float) -> dict[str, str]:
    bar = f'<progress value="{share:.3f}" max="1"></progress>'
    return {"text/html": f"{bar} {html.escape(text)}", "text/plain": text}

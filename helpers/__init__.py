"""Shared rooms of Closing the Gap: data, training, metrics, the claims ledger, one room per algorithm."""

from __future__ import annotations

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds `notebooks/`, `data/` and `reproduce/`."""

"""The ledger of claims: what the thesis says, what was measured, and what the evidence bears out."""

from helpers.claims.ledger import (
    LEDGER,
    ClaimError,
    Measurement,
    judge,
    load_ledger,
    paired_interval,
)
from helpers.claims.recording import MIME, collect, record
from helpers.claims.report import ledger_table

__all__ = [
    "LEDGER",
    "MIME",
    "ClaimError",
    "Measurement",
    "collect",
    "judge",
    "ledger_table",
    "load_ledger",
    "paired_interval",
    "record",
]

"""The ledger of claims: what the thesis says, what was measured, and what the evidence bears out."""

from helpers.claims.ledger import LEDGER, ClaimError, load_ledger
from helpers.claims.measurement import MIME, Measurement
from helpers.claims.recording import collect, record, record_lead
from helpers.claims.report import leads, ledger_table, verdicts
from helpers.claims.standing import measured, standings
from helpers.claims.verdict import judge
from helpers.experiments.comparison import Gate, paired_interval

__all__ = [
    "LEDGER",
    "MIME",
    "ClaimError",
    "Gate",
    "Measurement",
    "collect",
    "judge",
    "leads",
    "ledger_table",
    "load_ledger",
    "measured",
    "paired_interval",
    "record",
    "record_lead",
    "standings",
    "verdicts",
]

"""The ledger of claims: what the thesis says, what was measured, and what the evidence bears out."""

from helpers.claims.ledger import ClaimError, load_ledger
from helpers.claims.measurement import MIME
from helpers.claims.recording import collect, record, record_lead
from helpers.claims.report import leads, verdicts
from helpers.claims.standing import measured, standings
from helpers.claims.verdict import judge
from helpers.experiments.comparison import Gate, paired_interval

__all__ = [
    "MIME",
    "ClaimError",
    "Gate",
    "collect",
    "judge",
    "leads",
    "load_ledger",
    "measured",
    "paired_interval",
    "record",
    "record_lead",
    "standings",
    "verdicts",
]

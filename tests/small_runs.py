"""Small runs of all notebooks, with another seed than the stored ones, and what every run must measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from helpers import provenance
from helpers.claims import recording as claims

SMALL: dict[str, dict[str, Any]] = {
    "01_introduction": {
        "seed": 1,
        "seeds": 2,
        "species": 6,
        "unseen": 8,
        "per_test": 3,
        "steps": 20,
        "learning_rates": [0.01, 0.1],
        "factors": True,
        "few": 3,
        "device": "cpu",
    },
    "02_knowledge_evolution": {
        "seed": 1,
        "seeds": 2,
        "generations": 2,
        "species": 5,
        "per_class": 4,
        "per_test": 4,
        "epochs": 2,
        "digit_epochs": 2,
        "retrieval_epochs": 1,
        "sweeps": True,
        "device": "cpu",
    },
    "03_svmax": {
        "seed": 1,
        "seeds": 2,
        "species": 12,
        "unseen": 8,
        "steps": 20,
        "contest_steps": 10,
        "pretraining": 20,
        "learning_rates": [0.01, 0.1],
        "longer": True,
        "gan_steps": 20,
        "unrolled_steps": 20,
        "device": "cpu",
    },
    "04_l2_caf": {
        "seed": 1,
        "seeds": 2,
        "species": 6,
        "unseen": 5,
        "kinds": 4,
        "per_species": 8,
        "per_test": 2,
        "steps": 8,
        "pictures": 8,
        "removals": 1,
        "device": "cpu",
    },
    "05_two_head": {
        "seed": 1,
        "seeds": 2,
        "species": 6,
        "per_species": 16,
        "steps": 20,
        "unseen": 8,
        "per_test": 4,
        "learning_rates": [0.02],
        "embedding_dim": 8,
        "device": "cpu",
    },
    "06_closing_the_gap": {
        "seed": 1,
        "seeds": 2,
        "species": 6,
        "unseen": 8,
        "per_species": 8,
        "per_test": 4,
        "generations": 2,
        "steps": 4,
        "embedding_dim": 8,
        "longer": True,
        "map_steps": 4,
        "device": "cpu",
    },
    "03_feature_augmentation": {
        "seed": 1,
        "seeds": 2,
        "species": 10,
        "unseen": 8,
        "steps": 10,
        "device": "cpu",
    },
    "04_losses": {
        "seed": 1,
        "seeds": 2,
        "species": 10,
        "unseen": 8,
        "steps": 10,
        "learning_rates": [0.01],
        "device": "cpu",
    },
    "06_teachers_and_library": {
        "seed": 1,
        "seeds": 2,
        "species": 8,
        "unseen": 8,
        "image_size": 64,
        "steps": 8,
        "learning_rates": [0.01],
        "device": "cpu",
    },
    "05_evaluation": {
        "seed": 1,
        "seeds": 2,
        "species": 8,
        "unseen": 8,
        "steps": 8,
        "epochs": 2,
        "learning_rates": [0.003],
        "device": "cpu",
    },
    "01_architectures": {
        "seed": 1,
        "seeds": 2,
        "steps": 10,
        "learning_rates": [0.01],
        "species": 8,
        "unseen": 8,
        "bird_steps": 10,
        "device": "cpu",
    },
    "02_optimisation": {
        "seed": 1,
        "seeds": 2,
        "species": 8,
        "unseen": 4,
        "steps": 20,
        "learning_rates": [0.03, 0.1],
        "device": "cpu",
    },
}
"""Parameters by notebook: less than a minute each on one core."""


def measured_in(out: Path, chapter: str) -> list[claims.Measurement]:
    """What the executed notebook `out` measures: every claim of its chapter, and nothing is broken."""
    nb = nbformat.read(out, as_version=4)
    assert provenance.is_executed_in_order(nb)
    assert provenance.stderr_outputs(nb) == []
    measured = [result.measurement for result in claims.collect([out])]
    rows = {i: row for i, row in claims.load_ledger().items() if row.chapter == chapter}
    expected = [i for i, row in rows.items() if row.kind != "composite" and not row.awaited]
    assert sorted(m.claim_id for m in measured) == sorted(expected)
    for m in measured:
        if rows[m.claim_id].kind == "identity":
            is_time = rows[m.claim_id].unit == "seconds"  # which says nothing on a busy machine
            assert is_time or m.violation <= rows[m.claim_id].tolerance
        else:
            assert {len(p.effects) for p in m.controls.values()} <= {len(m.effects.effects)}  # paired by seed
    return measured

"""Random batches between the bounds of the mean singular value."""

from __future__ import annotations

import math

import torch

from helpers.svmax import singular_value_bounds, unit_rows


def concentrated_rows(
    batch_size: int, embedding_dim: int, concentration: float, seed: int = 0
) -> torch.Tensor:
    """Random unit rows (B, D) in float64, pulled towards one direction: 0 is uniform, large is collapsed."""
    if concentration < 0 or not math.isfinite(concentration):
        raise ValueError(f"concentration must be finite and not negative, got {concentration}")
    singular_value_bounds(batch_size, embedding_dim)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch_size, embedding_dim, generator=generator, dtype=torch.float64)
    rows[:, 0] += concentration * math.sqrt(embedding_dim)
    return unit_rows(rows)

"""Random batches from uniform to collapsed."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.figures.bounds import concentrated_rows


def test_concentration_moves_rows_from_uniform_to_collapsed():
    rows = [concentrated_rows(200, 16, c) for c in (0.0, 1.0, 50.0)]
    cosines = [(r.sum(0).square().sum().item() - 200) / (200 * 199) for r in rows]
    assert abs(cosines[0]) < 0.05 < cosines[1] < 0.95 < cosines[2]
    assert all(torch.allclose(r.norm(dim=1), torch.ones(200, dtype=r.dtype)) for r in rows)


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_concentration_must_be_a_size(bad):
    with pytest.raises(ValueError, match="concentration"):
        concentrated_rows(4, 4, bad)

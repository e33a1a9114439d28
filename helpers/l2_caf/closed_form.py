"""Least squares on the unit sphere: min ||M (f - 1)||, ||f|| = 1, in closed form up to one root.

A minimiser solves (M'M + mu I) f = M'M 1 for the mu at which f has length 1 (Gander, Golub and von Matt,
1989, "A constrained eigenvalue problem"). Its length falls as mu grows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_NEWTON_STEPS = 20


@torch.no_grad()
def nearest_to_ones(matrix: Tensor) -> Tensor:
    """The minimiser f (B, N) for matrices M (B, K, N).

    Where M has rank r < N, only the part of the ones vector in its row space counts. If that part is longer
    than 1, mu is positive and f is unique. If it is shorter (the hard case), f reaches loss 0 in many ways;
    taken is the one nearest to the uniform filter, which fills up with the rest of the ones vector.
    A matrix of zeros says nothing; its filter is uniform.
    """
    m = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()  # Apple's GPUs have no float64
    n = m.shape[-1]
    scale = m.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(m.dtype).tiny)
    m = m / scale
    if m.shape[1] < n:
        _, singular, rows = torch.linalg.svd(m, full_matrices=False)
        values, vectors = singular.square(), rows.mT
    else:
        values, vectors = torch.linalg.eigh(m.mT @ m)
    counts = values > values.amax(1, keepdim=True) * n * torch.finfo(m.dtype).eps
    inside = torch.where(counts, vectors.sum(-2), 0.0)  # the ones vector in the row space, by eigenvectors
    short = inside.square().sum(1, keepdim=True) < 1
    lam = torch.where(counts, values, 1.0)
    mu = torch.zeros_like(values[:, :1])
    for _ in range(_NEWTON_STEPS):  # 1 / length is concave in mu: Newton comes from the left, never too far
        part = inside * lam / (lam + mu)
        length = part.square().sum(1, keepdim=True).clamp(min=1e-300).sqrt()
        slope = (part.square() / (lam + mu)).sum(1, keepdim=True) / length**3
        step = (1 - 1 / length) / slope.clamp(min=1e-300)
        mu = torch.where(short, mu, (mu + step).clamp(min=0))
    within = (vectors @ inside[:, :, None])[:, :, 0]
    room = (1 - inside.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    filled = within + room * normalize(1 - within, dim=1)
    unique = (vectors @ (inside * lam / (lam + mu))[:, :, None])[:, :, 0]
    return normalize(torch.where(short, filled, unique), dim=1).to(matrix)

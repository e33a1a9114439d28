"""SVMax: keep an embedding from collapsing by maximising its mean singular value.

Source: Taha et al., "SVMax: A Feature Embedding Regularizer" (2021), sections 2-3. For a batch of embeddings
``E`` with ``B`` rows of unit length and ``D`` columns, ``r = min(B, D)`` singular values ``s_i`` and mean
``s_mu = sum(s_i) / r``::

    sqrt(B) / r  <=  s_mu  <=  sqrt(B / r)

The paper's total loss is ``ranking loss + weight * exp((upper - s_mu) / (upper - lower))`` (equation 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import Tensor

from helpers.training.modes import without_autocast

Method = Literal["auto", "svd", "gram", "polar"]

GRAM_FROM = 32
"""From this ``r`` on the Gram route beats SVD on a CPU (measured: ``python benchmarks/svmax_routes.py``)."""

POLAR_STEPS = 24
"""Newton-Schulz steps: they resolve singular values down to ``1.5**-POLAR_STEPS`` of ``||E||_F``."""


def singular_value_bounds(batch_size: int, embedding_dim: int) -> tuple[float, float]:
    """Lower and upper bound of the mean singular value of ``B`` unit rows in ``D`` dimensions.

    The mean runs over ``r = min(batch_size, embedding_dim)`` values. The lower bound is met when the rows are
    one direction up to sign (rank 1), the upper when all singular values are equal: a tight frame for
    ``B >= D``, orthonormal rows for ``B <= D``. For ``B >= D`` these are the paper's bounds (section 3); the
    released code divides by ``D`` also for ``B < D``, where its bounds do not hold.

    Raises ValueError unless both arguments are at least 1, TypeError unless they are integers.
    """
    for name, value in (("batch_size", batch_size), ("embedding_dim", embedding_dim)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    r = min(batch_size, embedding_dim)
    return math.sqrt(batch_size) / r, math.sqrt(batch_size / r)


def mean_singular_value(embeddings: Tensor, method: Method = "auto") -> Tensor:
    """Mean of the ``min(B, D)`` singular values of ``embeddings`` (..., B, D); differentiable, shape (...).

    ``method`` names the route to the same number: ``"svd"``; ``"gram"`` (eigenvalues of the smaller Gram
    matrix in float64); ``"polar"`` (matrix products only, so a CUDA stream never waits for a solver);
    ``"auto"`` takes polar off the CPU, and on it gram for float32 from ``r = 32`` on, else SVD. The gradient
    is ``U V^T / r`` on the directions present and 0 on the others, hence finite for a collapsed batch.

    float16 and bfloat16 are computed and returned in float32. Raises TypeError for non-floating input,
    ValueError for fewer than two dimensions, an empty batch, or (on a CPU; a check on CUDA would stall the
    stream) non-finite values.
    """
    _check_embeddings(embeddings)
    if method not in ("auto", *_ROUTES):
        raise ValueError(f"method must be 'auto', 'svd', 'gram' or 'polar', got {method!r}")
    embeddings = _at_least_single(embeddings)
    r = min(embeddings.shape[-2:])
    if method == "auto":
        method = _pick_route(embeddings, r)
    return _NuclearNorm.apply(embeddings, method) / r


def svmax_loss(
    embeddings: Tensor, *, form: Literal["bounded", "raw"] = "bounded", method: Method = "auto"
) -> Tensor:
    """SVMax term of a batch (B, D), to be multiplied by its weight and added to the main loss; a scalar.

    ``"bounded"`` (equation 4) normalises the rows and returns ``exp((U - s_mu) / (U - L))``, between 1
    (spread out) and e (collapsed) for every B and D. Where ``B == 1`` or ``D == 1`` the bounds coincide,
    nothing can be spread, and the term is the constant 1. A row of zeros has no direction: it stays zero
    and gets no gradient. ``"raw"`` (equation 1) returns ``-s_mu`` of the embeddings as they are. Raises as
    `mean_singular_value`, and ValueError for another form or a shape other than (B, D).
    """
    if form not in ("bounded", "raw"):
        raise ValueError(f"form must be 'bounded' or 'raw', got {form!r}")
    _check_embeddings(embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must have shape (B, D), got {tuple(embeddings.shape)}")
    if form == "raw":
        return -mean_singular_value(embeddings, method)
    rows = unit_rows(_at_least_single(embeddings))
    lower, upper = singular_value_bounds(*rows.shape)
    if upper == lower:
        return 1 + 0 * rows.sum()
    return torch.exp((upper - mean_singular_value(rows, method)) / (upper - lower))


class SVMaxRegularizer(BaseRegularizer):
    """SVMax as a `pytorch_metric_learning` regularizer: it plugs into any loss of that library.

    ``losses.ContrastiveLoss(embedding_regularizer=SVMaxRegularizer(), embedding_reg_weight=1)`` is
    the paper's equation 4 with weight 1. ``form`` and ``method`` as in `svmax_loss`. The paper uses
    weight 1 for contrastive and N-pair, 0.1 for triplet, 2 for angular losses (sections 3-4).
    """

    def __init__(
        self, form: Literal["bounded", "raw"] = "bounded", method: Method = "auto", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.form = form
        self.method = method

    def compute_loss(self, embeddings: Tensor) -> dict[str, dict[str, Any]]:
        """The dictionary the library's reducers expect, holding one already reduced value."""
        loss = svmax_loss(embeddings, form=self.form, method=self.method)
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}


def spread_out_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The rival: spread-out regulariser (Zhang et al., ICCV 2017) on embeddings (B, D), labels (B,).

    ``M1**2 + max(0, M2 - 1/D)``, with M1 and M2 the mean and the mean square of the dot products of all pairs
    of rows with different labels: points drawn uniformly on the sphere have M1 = 0 and M2 = 1/D. Unlike SVMax
    it needs the labels. A batch of one class has no such pair and gives 0. Raises as `svmax_loss`, and
    TypeError for labels that are no tensor.
    """
    _check_embeddings(embeddings)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}: convert with torch.as_tensor")
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must have shape (B, D) and labels (B,), "
            f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    rows = unit_rows(_at_least_single(embeddings))
    different = (labels[:, None] != labels[None, :]).to(rows.dtype)
    pairs = different.sum().clamp_min(1)
    with without_autocast(rows.device):
        dots = (rows @ rows.T) * different
    m1, m2 = dots.sum() / pairs, dots.square().sum() / pairs
    return m1.square() + (m2 - 1 / rows.shape[1]).clamp_min(0)


def unit_rows(embeddings: Tensor) -> Tensor:
    """Rows of (..., B, D) scaled to length 1; a row of zeros stays zero and gets a zero gradient.

    float16 and bfloat16 are computed in float32 and come back as they were.
    """
    precise = _at_least_single(embeddings)
    squared = precise.square().sum(-1, keepdim=True)
    present = squared > torch.finfo(precise.dtype).tiny
    return torch.where(present, precise * torch.where(present, squared, 1).rsqrt(), 0).to(embeddings.dtype)


def _at_least_single(embeddings: Tensor) -> Tensor:
    return embeddings.float() if embeddings.dtype.itemsize < 4 else embeddings


def collapse_diagnostics(embeddings: Tensor) -> dict[str, float]:
    """How collapsed are these embeddings (B, D), B >= 2? Rows are normalised first.

    ``s_mu`` with its bounds ``lower`` and ``upper``; ``spread``: where s_mu stands between them (0 collapsed,
    1 uniform; nan where they coincide); ``effective_rank``: exponential of the entropy of the normalised
    singular values, 1 to min(B, D) (Roy and Vetterli, 2007); ``mean_cosine`` over all pairs of different rows
    (1: a single point).
    """
    _check_embeddings(embeddings)
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"embeddings must have shape (B, D) with B >= 2, got {tuple(embeddings.shape)}")
    rows = unit_rows(embeddings.detach().cpu().double())
    b, d = rows.shape
    s = torch.linalg.svdvals(rows)
    share = s / s.sum().clamp_min(torch.finfo(s.dtype).tiny)
    lower, upper = singular_value_bounds(b, d)
    s_mu = s.mean().item()
    return {
        "s_mu": s_mu,
        "lower": lower,
        "upper": upper,
        "spread": (s_mu - lower) / (upper - lower) if upper > lower else math.nan,
        "effective_rank": torch.special.entr(share).sum().exp().item(),
        "mean_cosine": ((rows.sum(0).square().sum() - rows.square().sum()) / (b * (b - 1))).item(),
    }


class _NuclearNorm(torch.autograd.Function):
    """Sum of the singular values; its gradient is the polar factor ``U V^T`` that each route also returns."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, method: str) -> Tensor:
        with without_autocast(embeddings.device):
            total, polar_factor = _ROUTES[method](embeddings)
        ctx.save_for_backward(polar_factor)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (polar_factor,) = ctx.saved_tensors
        return grad[..., None, None] * polar_factor, None


def _by_svd(e: Tensor) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(e, full_matrices=False)
    present = s > s[..., :1] * torch.finfo(s.dtype).eps
    return s.sum(-1), (u * present.unsqueeze(-2)) @ vh


def _by_gram(e: Tensor) -> tuple[Tensor, Tensor]:
    tall = e.shape[-2] >= e.shape[-1]
    x = e if tall else e.mT
    x = (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64
    eigenvalues, v = torch.linalg.eigh(x.mT @ x)
    s = eigenvalues.clamp_min(0).sqrt()
    # the Gram matrix squares the condition number: float64 resolves s down to sqrt(eps) of the largest
    present = s > s[..., -1:] * math.sqrt(torch.finfo(s.dtype).eps * s.shape[-1])
    inverse = torch.where(present, 1 / torch.where(present, s, 1), 0)
    polar_factor = ((x @ v) * inverse.unsqueeze(-2)) @ v.mT
    return s.sum(-1).to(e), (polar_factor if tall else polar_factor.mT).to(e)


def _by_polar(e: Tensor) -> tuple[Tensor, Tensor]:
    tall = e.shape[-2] >= e.shape[-1]
    x = e if tall else e.mT
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    q = x / norm.clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(POLAR_STEPS):
        q = 1.5 * q - 0.5 * q @ (q.mT @ q)
    return (q * x).sum((-2, -1)), q if tall else q.mT


_ROUTES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "svd": _by_svd,
    "gram": _by_gram,
    "polar": _by_polar,
}


def _pick_route(embeddings: Tensor, r: int) -> str:
    if embeddings.device.type != "cpu":
        return "polar"
    return "gram" if embeddings.dtype == torch.float32 and r >= GRAM_FROM else "svd"


def _check_embeddings(embeddings: Tensor) -> None:
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        kind = embeddings.dtype if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"embeddings must be a floating-point tensor, got {kind}: convert with .float()")
    if embeddings.ndim < 2:
        raise ValueError(f"embeddings must have shape (B, D), got {tuple(embeddings.shape)}")
    if 0 in embeddings.shape:
        raise ValueError(f"embeddings are empty: shape {tuple(embeddings.shape)}")
    if embeddings.device.type == "cpu" and not torch.isfinite(embeddings).all():
        bad = int((~torch.isfinite(embeddings)).sum())
        raise ValueError(f"embeddings hold {bad} non-finite values: has the training diverged?")

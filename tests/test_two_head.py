"""Two heads: losses against plain loops, the network against its backbone, training, refusals."""

from __future__ import annotations

import copy
import io
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import DependsOnData, seeded
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset
from torchvision import models

from helpers.svmax import SVMaxRegularizer, svmax_loss
from helpers.training import embed, fit, loader, seed_everything
from helpers.two_head import (
    BatchHardTripletLoss,
    CentreLoss,
    SemiHardTripletLoss,
    TripletCentreLoss,
    TwoHead,
    TwoHeadLoss,
    TwoHeadOutput,
)

MARGIN = 0.2


def randn(*size, seed=0, dtype=torch.float64):
    return torch.randn(*size, generator=seeded(seed), dtype=torch.float64).to(dtype)


def batch(b=12, d=5, classes=3, seed=0):
    labels = torch.randint(classes, (b,), generator=seeded(seed + 1))
    return randn(b, d, seed=seed), labels


def value_and_gradient(function, *leaves):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------------ losses in plain loops


def squared(x, y):
    return (x - y).square().sum()


def unit_squared(x, y):
    return squared(x / x.norm(), y / y.norm())


def all_pairs(labels, ref_labels, own):
    positives = [(a, p) for a, p in grid(labels, ref_labels) if labels[a] == ref_labels[p]]
    negatives = [(a, n) for a, n in grid(labels, ref_labels) if labels[a] != ref_labels[n]]
    return [(a, p) for a, p in positives if not (own and a == p)], negatives


def grid(rows, columns):
    return itertools.product(range(len(rows)), range(len(columns)))


def semi_hard_terms(e, positives, negatives, ref=None, distance=unit_squared, margin=MARGIN):
    """(anchor, term) of every positive pair whose anchor has a negative."""
    ref, terms = e if ref is None else ref, []
    for a, p in sorted(set(positives)):
        to_positive = distance(e[a], ref[p])
        candidates = [distance(e[a], ref[n]) for anchor, n in negatives if anchor == a]
        if not candidates:
            continue
        farther = [x for x in candidates if x > to_positive]
        to_negative = min(farther) if farther else max(candidates)
        terms.append((a, torch.clamp(to_positive - to_negative + margin, min=0)))
    return terms


def hard_terms(e, positives, negatives, ref=None, distance=unit_squared, margin=MARGIN):
    ref, terms = e if ref is None else ref, []
    for a in range(len(e)):
        near = [distance(e[a], ref[n]) for anchor, n in negatives if anchor == a]
        far = [distance(e[a], ref[p]) for anchor, p in positives if anchor == a]
        if near and far:
            gap = torch.stack(far).max() - torch.stack(near).min()
            terms.append((a, (1 + gap.exp()).log() if margin == "soft" else torch.clamp(gap + margin, min=0)))
    return terms


def mean(terms, e):
    return torch.stack([term for _, term in terms]).mean() if terms else 0 * e.sum()


LOSSES = [
    pytest.param(SemiHardTripletLoss, semi_hard_terms, MARGIN, id="semi-hard"),
    pytest.param(BatchHardTripletLoss, hard_terms, MARGIN, id="hard"),
    pytest.param(BatchHardTripletLoss, hard_terms, "soft", id="hard-soft"),
]
all_losses = pytest.mark.parametrize(("loss", "terms", "margin"), LOSSES)
sizes = st.integers(1, 9)


@all_losses
@settings(deadline=None, max_examples=40)
@given(b=sizes, d=st.integers(2, 4), classes=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_losses_are_their_loops(loss, terms, margin, b, d, classes, seed):
    e, y = batch(b, d, classes, seed)
    positives, negatives = all_pairs(y, y, own=True)
    expected = value_and_gradient(lambda x: mean(terms(x, positives, negatives, margin=margin), x), e)
    assert_same(value_and_gradient(lambda x: loss(margin=margin)(x, y), e), expected)


@settings(deadline=None, max_examples=100)
@given(b=st.integers(2, 9), seed=st.integers(0, 2**16), margin=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_semi_hard_values_on_a_lattice_full_of_ties(b, seed, margin):
    """Whole coordinates: equal distances are exactly equal, so > and >= differ."""
    points = torch.randint(0, 3, (b, 2), generator=seeded(seed)).double()
    labels = torch.randint(0, 2, (b,), generator=seeded(seed + 1))
    loss = SemiHardTripletLoss(margin, distance=distances.LpDistance(normalize_embeddings=False, power=2))
    terms = semi_hard_terms(points, *all_pairs(labels, labels, own=True), distance=squared, margin=margin)
    torch.testing.assert_close(loss(points, labels), mean(terms, points), rtol=1e-12, atol=1e-12)


def on_a_line(*places):
    return torch.tensor(places, dtype=torch.float64)[:, None]


def line_loss(loss, **kwargs):
    return loss(distance=distances.LpDistance(normalize_embeddings=False), **kwargs)


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        ((4.0, 9.0), 3 - 4 + 2),  # the nearer of two farther ones
        ((3.0, 4.5), 3 - 4.5 + 2),  # a tie is not farther
        ((1.0, 2.0), 3 - 2 + 2),  # none farther: the farthest
        ((3.0, 3.0), 3 - 3 + 2),
    ],
)
def test_semi_hard_by_hand(negatives, expected):
    """One anchor at 0, its positive at 3, negatives on the other side; the miner passes only this anchor."""
    points = on_a_line(0, 3, *(-n for n in negatives))
    labels = torch.tensor([0, 0, 1, 1])
    tuple_of_pairs = tuple(torch.tensor(x) for x in ([0], [1], [0, 0], [2, 3]))
    value = line_loss(SemiHardTripletLoss, margin=2.0)(points, labels, tuple_of_pairs)
    assert value.item() == pytest.approx(expected)


def test_hard_by_hand():
    points, labels = on_a_line(0, 1, 3, 5), torch.tensor([0, 0, 0, 1])
    # anchors 0, 1, 2: farthest positive 3, 2, 3 and the negative at 5, 4, 2; the last has no positive
    hinge = line_loss(BatchHardTripletLoss, margin=2.5)(points, labels)
    soft = line_loss(BatchHardTripletLoss, margin="soft")(points, labels)
    assert hinge.item() == pytest.approx((0.5 + 0.5 + 3.5) / 3)
    assert soft.item() == pytest.approx(sum(math.log(1 + math.exp(gap)) for gap in (3 - 5, 2 - 4, 3 - 2)) / 3)


def test_an_anchor_whose_negatives_the_miner_dropped_does_not_count():
    points, labels = on_a_line(0, 1, 3), torch.tensor([0, 0, 1])
    mined = tuple(torch.tensor(x) for x in ([0, 1], [1, 0], [0], [2]))
    for loss in (SemiHardTripletLoss, BatchHardTripletLoss):
        assert line_loss(loss, margin=2.5)(points, labels, mined).item() == pytest.approx(1 - 3 + 2.5)


def test_zero_terms_count_in_the_mean():
    points, labels = on_a_line(0, 1, 3, 10), torch.tensor([0, 0, 1, 1])
    # anchors 0 and 1: 1 - 3 + 2 = 0, 1 - 2 + 2 = 1; anchors 2 and 3: none farther than 7 for 2, 9 for 3
    expected = (0 + 1 + (7 - 3 + 2) + (7 - 9 + 2)) / 4
    assert line_loss(SemiHardTripletLoss, margin=2.0)(points, labels).item() == pytest.approx(expected)


@all_losses
@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 0], [0, 1, 2, 3], [0]], ids=["one class", "no positive", "one image"]
)
def test_nothing_to_rank_is_zero_with_a_zero_gradient(loss, terms, margin, labels):
    e = randn(len(labels), 3)
    for reducer in (None, reducers.SumReducer(), reducers.AvgNonZeroReducer()):
        value, gradient = value_and_gradient(
            lambda x, r=reducer: loss(margin=margin, reducer=r)(x, torch.tensor(labels)), e
        )
        assert value == 0
        assert torch.equal(gradient, torch.zeros_like(e))


@all_losses
@pytest.mark.parametrize("power", [1, 2])
def test_duplicates_have_finite_gradients(loss, terms, margin, power):
    e = randn(6, 3)[[0, 0, 1, 2, 2, 2]]
    criterion = loss(margin=margin, distance=distances.LpDistance(power=power))
    value, gradient = value_and_gradient(lambda x: criterion(x, torch.tensor([0, 0, 0, 1, 1, 0])), e)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


DISTANCES = [
    (distances.LpDistance(power=1), lambda x, y: unit_squared(x, y).sqrt()),
    (distances.LpDistance(power=2), unit_squared),
    (distances.LpDistance(power=1, normalize_embeddings=False), lambda x, y: squared(x, y).sqrt()),
    (distances.LpDistance(power=2, normalize_embeddings=False), squared),
    (distances.CosineSimilarity(), lambda x, y: -(x @ y) / x.norm() / y.norm()),
]


@all_losses
@pytest.mark.parametrize(("distance", "by_hand"), DISTANCES)
@pytest.mark.parametrize("b", [10, 30])  # from 26 rows on cdist multiplies matrices
def test_other_distances(loss, terms, margin, distance, by_hand, b):
    e, y = batch(b, 4, 4)
    e = e / 2
    pairs = all_pairs(y, y, own=True)
    expected = value_and_gradient(lambda x: mean(terms(x, *pairs, distance=by_hand, margin=margin), x), e)
    assert_same(value_and_gradient(lambda x: loss(margin=margin, distance=distance)(x, y), e), expected)


@all_losses
@pytest.mark.parametrize("r", [1, 7, 20])
def test_against_other_embeddings(loss, terms, margin, r):
    e, y = batch(9, 4, 3)
    ref, ref_y = batch(r, 4, 3, seed=5)
    pairs = all_pairs(y, ref_y, own=False)
    expected = value_and_gradient(
        lambda x, z: mean(terms(x, *pairs, ref=z, margin=margin), x + z.sum()), e, ref
    )
    criterion = loss(margin=margin)
    got = value_and_gradient(lambda x, z: criterion(x, y, ref_emb=z, ref_labels=ref_y), e, ref)
    assert_same(got, expected)


def test_the_batch_as_its_own_reference_has_no_self_pairs():
    e, y = batch()
    criterion = SemiHardTripletLoss()
    for points in (e, e.half()):
        assert criterion(points, y, ref_emb=points, ref_labels=y) == criterion(points, y)


@all_losses
def test_miners_pass_triplets_or_pairs(loss, terms, margin):
    e, y = batch(14, 4, 4)
    triplets = miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard")(e, y)
    pairs = miners.MultiSimilarityMiner()(e, y)
    assert len(triplets) == 3
    assert len(pairs) == 4
    for mined in (triplets, pairs):
        a, p, b, n = mined if len(mined) == 4 else (mined[0], mined[1], mined[0], mined[2])
        assert 0 < len(set(zip(a.tolist(), p.tolist(), strict=True))) < len(all_pairs(y, y, True)[0])
        kept = [list(zip(i.tolist(), j.tolist(), strict=True)) for i, j in ((a, p), (b, n))]
        expected = value_and_gradient(lambda x, k=kept: mean(terms(x, *k, margin=margin), x), e)
        criterion = loss(margin=margin)
        assert_same(value_and_gradient(lambda x, m=mined, c=criterion: c(x, y, m), e), expected)
        assert criterion(e, indices_tuple=mined) == criterion(e, y, mined)
        half = criterion(e.half(), y, mined, ref_emb=e.half(), ref_labels=y)
        assert half.item() == pytest.approx(expected[0].item(), abs=1e-2)


class Memory(losses.CrossBatchMemory):
    @classmethod
    def check_loss_support(cls, loss_name):
        pass  # PML keeps a list of names of its own losses


@all_losses
def test_cross_batch_memory(loss, terms, margin):
    """Each batch against all seen: an image is no positive of itself."""
    memory = Memory(loss(margin=margin), embedding_size=4, memory_size=20)
    seen, seen_y = torch.empty(0, 4, dtype=torch.float64), torch.empty(0, dtype=torch.long)
    for step in range(3):
        e, y = batch(6, 4, 3, seed=10 * step)
        start = len(seen)
        seen, seen_y = torch.cat([seen, e]), torch.cat([seen_y, y])
        positives, negatives = all_pairs(y, seen_y, own=False)
        positives = [(a, p) for a, p in positives if p != start + a]
        expected = mean(terms(e, positives, negatives, ref=seen, margin=margin), e)
        torch.testing.assert_close(memory(e, y), expected, rtol=1e-9, atol=1e-11)


CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def in_loops(reducer, terms, labels):
    values = torch.stack([term for _, term in terms])
    if isinstance(reducer, reducers.AvgNonZeroReducer):
        return values[values > 0].mean()
    if isinstance(reducer, reducers.ThresholdReducer):
        return values[values < reducer.high].mean()
    if isinstance(reducer, reducers.ClassWeightedReducer):
        return sum(CLASS_WEIGHTS[labels[a]] * term for a, term in terms) / len(terms)
    if isinstance(reducer, reducers.SumReducer):
        return values.sum()
    return values.mean()


REDUCERS = [
    reducers.MeanReducer(),
    reducers.AvgNonZeroReducer(),
    reducers.SumReducer(),
    reducers.ThresholdReducer(high=1),
    reducers.ClassWeightedReducer(CLASS_WEIGHTS),
]


@all_losses
@pytest.mark.parametrize("reducer", REDUCERS, ids=lambda r: type(r).__name__)
def test_reducers(loss, terms, margin, reducer):
    e, y = batch(12, 4, 4)
    pairs = all_pairs(y, y, own=True)
    if type(reducer) is reducers.ThresholdReducer:
        values = [term.item() for _, term in terms(e, *pairs, margin=margin)]
        reducer = reducers.ThresholdReducer(high=(min(values) + max(values)) / 2)
    expected = value_and_gradient(lambda x: in_loops(reducer, terms(x, *pairs, margin=margin), y), e)
    assert_same(value_and_gradient(lambda x: loss(margin=margin, reducer=reducer)(x, y), e), expected)


@all_losses
def test_a_reducer_that_does_nothing_gives_the_terms_with_their_places(loss, terms, margin):
    e, y = batch(12, 4, 4)
    found = loss(margin=margin, reducer=reducers.DoNothingReducer())(e, y)["loss"]
    expected = terms(e, *all_pairs(y, y, own=True), margin=margin)
    torch.testing.assert_close(found["losses"], torch.stack([term for _, term in expected]))
    anchors = found["indices"] if loss is BatchHardTripletLoss else found["indices"][0]
    assert anchors.tolist() == [a for a, _ in expected]
    assert found["reduction_type"] == ("element" if loss is BatchHardTripletLoss else "pos_pair")


@all_losses
def test_a_regularizer_adds_its_weighted_term(loss, terms, margin):
    e, y = batch(12, 4, 4)
    for reducer in (None, reducers.SumReducer()):
        plain = loss(margin=margin, reducer=reducer)
        criterion = loss(
            margin=margin,
            reducer=reducer,
            embedding_regularizer=SVMaxRegularizer(),
            embedding_reg_weight=0.7,
        )
        expected = value_and_gradient(lambda x, p=plain: p(x, y) + 0.7 * svmax_loss(x), e)
        assert_same(value_and_gradient(lambda x, c=criterion: c(x, y), e), expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_order_names_of_classes_scale_and_rotation_do_not_matter(seed):
    e, y = batch(10, 4, 3, seed)
    order = torch.randperm(10, generator=seeded(seed))
    rotation = torch.linalg.qr(randn(4, 4, seed=seed))[0]
    for criterion in (SemiHardTripletLoss(), BatchHardTripletLoss(), BatchHardTripletLoss("soft")):
        value = criterion(e, y)
        changed = (
            criterion(e[order], y[order]),
            criterion(e, 100 - 7 * y),
            criterion(e * (1 + y[:, None]), y),
            criterion(e @ rotation, y),
        )
        for other in changed:
            torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-11)


# --------------------------------------------------------------------------------------------- centres


def test_centre_loss_by_hand_and_its_update():
    loss = CentreLoss(3, 2, alpha=0.5).double()
    loss.centres.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1]]))
    e = torch.tensor(
        [[2.0, 0], [0, 3], [0.6, 0.8]], dtype=torch.float64
    )  # of length 1: (1, 0), (0, 1), itself
    value, gradient = value_and_gradient(lambda x: loss(x, torch.tensor([0, 0, 1])), e)
    assert value.item() == pytest.approx((1 + 1 + 0.4**2 + 0.8**2) / 2 / 3)
    # class 0: 0.5 * ((1, 0) + (0, 1)) / 3; class 1: 0.5 * (-0.4, 0.8) / 2; class 2 has no image
    moved = torch.tensor([[1 / 6, 1 / 6], [0.9, 0.2], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(loss.centres, moved)
    assert not loss.centres.requires_grad
    # (1, 0) pulls along itself, which normalising takes out; likewise the second
    torch.testing.assert_close(gradient[:2], torch.zeros(2, 2, dtype=torch.float64))
    tangent = torch.tensor([0.8, -0.6], dtype=torch.float64)
    torch.testing.assert_close(gradient[2], (tangent @ torch.tensor([-0.4, 0.8]).double()) * tangent / 3)


@settings(deadline=None, max_examples=30)
@given(b=sizes, seed=st.integers(0, 2**16), alpha=st.floats(0, 1))
def test_centre_loss_and_update_in_loops(b, seed, alpha):
    loss = CentreLoss(4, 3, alpha, reducer=reducers.SumReducer()).double()
    loss.centres.copy_(randn(4, 3, seed=seed + 2))
    centres = loss.centres.clone()
    e, y = batch(b, 3, 3, seed)
    units = [row / row.norm() for row in e]
    expected = sum(squared(unit, centres[label]) / 2 for unit, label in zip(units, y, strict=True))
    torch.testing.assert_close(loss(e, y), expected)
    for j in range(4):
        members = [unit for unit, label in zip(units, y, strict=True) if label == j]
        step = sum((centres[j] - unit for unit in members), torch.zeros(3)) / (1 + len(members))
        torch.testing.assert_close(loss.centres[j], centres[j] - alpha * step)


def test_centres_rest_in_evaluation_mode_and_reach_the_mean_in_training():
    loss = CentreLoss(2, 3)
    e, y = batch(8, 3, 2)
    loss.eval()(e, y)
    assert torch.equal(loss.centres, torch.zeros(2, 3))
    loss.train()
    for _ in range(200):
        loss(e, y)
    units = F.normalize(e).float()
    torch.testing.assert_close(loss.centres, torch.stack([units[y == j].mean(0) for j in (0, 1)]))


@pytest.mark.parametrize("reducer", [None, reducers.SumReducer()], ids=["mean", "sum"])
@pytest.mark.parametrize(("distance", "by_hand"), DISTANCES)
def test_triplet_centre_loss_in_loops(distance, by_hand, reducer):
    loss = TripletCentreLoss(4, 3, margin=0.4, distance=distance, reducer=reducer).double()
    e, y = batch(9, 3, 3)
    centres = randn(4, 3, seed=8)

    def brute(x, c):
        total = 0
        for i, label in enumerate(y.tolist()):
            other = min(by_hand(x[i], c[j]) for j in range(4) if j != label)
            total = total + torch.clamp(by_hand(x[i], c[label]) - other + 0.4, min=0)
        return total / (1 if reducer else len(y))

    def ours(x, c):
        return torch.func.functional_call(loss, {"centres": c}, (x, y))

    assert_same(value_and_gradient(ours, e, centres), value_and_gradient(brute, e, centres))
    assert [name for name, _ in loss.named_parameters()] == ["centres"]


# ------------------------------------------------------------------- what a device would have to wait for


def small_losses():
    return [
        SemiHardTripletLoss(),
        BatchHardTripletLoss(),
        BatchHardTripletLoss("soft"),
        SemiHardTripletLoss(distance=distances.CosineSimilarity()),
        SemiHardTripletLoss(embedding_regularizer=regularizers.LpRegularizer()),
        CentreLoss(9, 6),
        TripletCentreLoss(9, 6),
    ]


def name_of(loss):
    return type(loss).__name__


class Recorder(TorchDispatchMode):
    """Names of the operations, the largest tensor any of them gave, and indices that are masks."""

    def __init__(self):
        super().__init__()
        self.names, self.largest, self.masks = set(), 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.names.add(name)
        if name.startswith("index"):
            flat = torch.utils._pytree.tree_leaves(args[1:])
            self.masks += [name for x in flat if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
        made = [x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.largest = max([self.largest, *made])
        return out


def waiting(names):
    parts = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "item", "equal")
    return sorted(name for name in names if name.startswith(parts))


@pytest.mark.parametrize("loss", small_losses(), ids=name_of)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_operation_waits_for_the_device_or_grows_beyond_b_squared(loss, device):
    b, d = 48, 6
    loss = copy.deepcopy(loss).to(device)
    e = randn(b, d, dtype=torch.float32).to(device).requires_grad_()
    y = (torch.arange(b) % 8).to(device)
    with Recorder() as seen:
        loss(e, y).backward()
    assert len(seen.names) > 10
    assert waiting(seen.names) == []
    assert seen.masks == []
    assert seen.largest <= 4 * b * max(b, d)


def test_the_recorder_sees_what_waits():
    e, y = batch(8, 4, 2)
    with Recorder() as seen:
        SemiHardTripletLoss(reducer=reducers.SumReducer())(e.requires_grad_(), y).backward()
        e.detach()[y == 0].sum().item()
    assert waiting(seen.names) == ["_local_scalar_dense", "nonzero"]
    assert seen.masks == ["index"]


@pytest.mark.parametrize(
    "loss",
    [SemiHardTripletLoss(), BatchHardTripletLoss("soft"), CentreLoss(3, 5), TripletCentreLoss(3, 5)],
    ids=name_of,
)
def test_compiles_whole(loss):
    e, y = batch()
    twin = copy.deepcopy(loss).double()
    compiled = torch.compile(loss.double(), fullgraph=True, backend="aot_eager")
    for _ in range(2):  # the second call meets the moved centres of the first
        assert_same(
            value_and_gradient(lambda x: compiled(x, y), e), value_and_gradient(lambda x: twin(x, y), e)
        )


# ----------------------------------------------------------------------------------- types and refusals


@pytest.mark.parametrize("loss", small_losses(), ids=name_of)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_computed_in_float32(loss, dtype, tolerance):
    y = torch.arange(36) % 9
    if isinstance(loss, CentreLoss):
        loss.centres.copy_(randn(9, 6, seed=3))
    half = randn(36, 6).to(dtype).requires_grad_()
    exact = half.detach().double().requires_grad_()
    twin = copy.deepcopy(loss).double()
    value, expected = loss(half, y), twin(exact, y)
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32
    assert half.grad.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (half.grad.double() - exact.grad).norm() <= tolerance * exact.grad.norm()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("loss", small_losses(), ids=name_of)
def test_labels_of_any_integer_type(loss, dtype):
    e, y = batch(10, 6, 3)
    twin = copy.deepcopy(loss)
    assert loss(e, y.to(dtype)) == twin(e, y)
    output = TwoHeadOutput(randn(10, 3), e, randn(10, 6))
    assert TwoHeadLoss()(output, y.to(dtype)) == TwoHeadLoss()(output, y)


@pytest.mark.parametrize("loss", small_losses()[:4] + small_losses()[5:], ids=name_of)
@settings(deadline=None, max_examples=15)
@given(row=st.integers(0, 7), classes=st.integers(2, 8))
def test_nan_is_never_turned_into_a_number(loss, row, classes):
    e, y = randn(8, 6), torch.arange(8) % classes
    e[row, 2] = math.nan
    for reducer in (reducers.MeanReducer(), reducers.SumReducer()):
        criterion = copy.deepcopy(loss)
        criterion.set_reducer(reducer)
        assert math.isnan(criterion(e, y).item())


@pytest.mark.parametrize("loss", small_losses(), ids=name_of)
@pytest.mark.parametrize(
    ("e", "y", "error", "words"),
    [
        (torch.ones(4, 6), torch.zeros(3).long(), ValueError, r"labels are \(3,\); expected .*\(4,\)"),
        (torch.ones(4, 6), torch.zeros(4, 1).long(), ValueError, r"labels are \(4, 1\)"),
        (torch.ones(4, 6), None, ValueError, "labels are NoneType"),
        (torch.ones(4, 6), torch.zeros(4), TypeError, r"torch.float32; expected whole numbers.*\.long\(\)"),
        (torch.ones(4, 6), torch.zeros(4).bool(), TypeError, "torch.bool; expected whole numbers"),
        (torch.ones(0, 6), torch.zeros(0).long(), ValueError, r"\(0, 6\); expected \(B, D\).*empty batch"),
        (torch.ones(4), torch.zeros(4).long(), ValueError, r"\(4,\); expected \(B, D\)"),
        (torch.ones(4, 6).long(), torch.zeros(4).long(), TypeError, r"torch.int64; expected floats.*\.float"),
    ],
)
def test_bad_batches(loss, e, y, error, words):
    with pytest.raises(error, match=words):
        loss(e, y)


def test_bad_references():
    e, y = batch()
    with pytest.raises(ValueError, match=r"labels are \(12,\); expected .*\(5,\)"):
        SemiHardTripletLoss()(e, y, ref_emb=e[:5], ref_labels=y)
    with pytest.raises(ValueError, match="labels are NoneType"):
        SemiHardTripletLoss()(e, y, ref_emb=e[:5])
    with pytest.raises(ValueError, match="ref_emb is not supported"):
        CentreLoss(3, 5)(e, y, ref_emb=e[:5], ref_labels=y[:5])
    with pytest.raises(ValueError, match="indices_tuple is not supported"):
        TripletCentreLoss(3, 5)(e, y, (y, y, y))


@pytest.mark.parametrize("kind", [CentreLoss, TripletCentreLoss])
def test_bad_centres(kind):
    e, y = batch(6, 5, 3)
    y[0] = 2
    with pytest.raises(ValueError, match="num_classes is 0; expected at least 1"):
        kind(0, 5)
    with pytest.raises(ValueError, match="embedding_dim is 0; expected at least 1"):
        kind(3, 0)
    with pytest.raises(ValueError, match=r"labels run from \d to 2; expected 0 to 1: .*num_classes"):
        kind(2, 5)(e, y)
    y[0] = -1
    with pytest.raises(ValueError, match="labels run from -1 to"):
        kind(3, 5)(e, y)
    with pytest.raises(ValueError, match="embeddings have 5 dimensions, the centres 4"):
        kind(3, 4)(e, y.clamp(min=0))


def test_bad_options():
    with pytest.raises(ValueError, match="'hinge'; expected a number or 'soft'"):
        BatchHardTripletLoss("hinge")
    with pytest.raises(ValueError, match="num_classes is 1; expected at least 2"):
        TripletCentreLoss(1, 5)
    for bad in (-1, math.nan):
        with pytest.raises(ValueError, match=r"weight is .*; expected 0 or more"):
            TwoHeadLoss(weight=bad)
    with pytest.raises(ValueError, match=r"labels are \(2,\); expected .*\(3,\)"):
        TwoHeadLoss()(TwoHeadOutput(randn(3, 4), randn(3, 2), randn(3, 6)), torch.zeros(2).long())


def test_two_head_loss_by_hand():
    logits, aux = torch.tensor([[0.0, math.log(3)]]).repeat(2, 1), torch.zeros(2, 2)
    e, y = batch(2, 4)[0], torch.tensor([1, 0])
    output = TwoHeadOutput(logits, e, randn(*e.shape), (aux, aux))
    classification = (math.log(4 / 3) + math.log(4)) / 2

    class Constant(nn.Module):
        def forward(self, embedding, labels):
            assert embedding is e
            assert labels.tolist() == [1, 0]
            return torch.tensor(5.0)

    value = TwoHeadLoss(Constant(), weight=0.1)(output, y)
    assert value.item() == pytest.approx(classification + 2 * 0.4 * math.log(2) + 0.1 * 5)
    assert TwoHeadLoss()(output._replace(aux_logits=()), y).item() == pytest.approx(classification)


# ------------------------------------------------------------------------------------------ the network


def vgg(classes):
    """vgg11_bn with a classifier 8 wide instead of 4096."""
    with torch.device("meta"):
        net = models.vgg11_bn(init_weights=False)
        net.classifier = nn.Sequential(
            nn.Linear(512 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(True), nn.Dropout(),
            nn.Linear(8, classes),
        )  # fmt: skip
    net.to_empty(device="cpu")
    for layer in net.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return net


def googlenet(classes):
    return models.googlenet(num_classes=classes, aux_logits=True, init_weights=False)


def inception(classes):
    return models.inception_v3(num_classes=classes, aux_logits=True, init_weights=False)


NETWORKS = {
    "resnet18": (lambda classes: models.resnet18(num_classes=classes), 32),
    "densenet121": (lambda classes: models.densenet121(num_classes=classes), 32),
    "inception_v3": (inception, 299),
    "googlenet": (googlenet, 64),
    "mobilenet_v2": (lambda classes: models.mobilenet_v2(num_classes=classes), 32),
    "efficientnet_b0": (lambda classes: models.efficientnet_b0(num_classes=classes), 32),
    "vgg11_bn": (vgg, 32),
}


def images(count=2, *size, channels=3, seed=1):
    size = size or (32, 32)
    return randn(count, channels, *size, seed=seed, dtype=torch.float32)


def flat(outputs):
    leaves = torch.utils._pytree.tree_leaves(tuple(outputs) if isinstance(outputs, tuple) else outputs)
    return [leaf for leaf in leaves if leaf is not None]


def buffers(net):
    return {name: value.clone() for name, value in net.named_buffers()}


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


class Runs:
    """How often each leaf layer ran."""

    def __init__(self, model):
        self.counts = {}
        self.hooks = [
            layer.register_forward_hook(lambda *_, name=name: self.add(name))
            for name, layer in model.named_modules()
            if not list(layer.children())
        ]

    def add(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def of(self, call):
        self.counts.clear()
        call()
        return dict(self.counts)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_classifier_is_the_backbone_bit_for_bit(name):
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    plain = make(5)
    if name == "inception_v3":
        plain.transform_input = True
    model = TwoHead(copy.deepcopy(plain), 5, 4, image_size=size)
    assert_equal(model.backbone.parameters(), plain.parameters())  # the classifier has the right size: kept
    x = images(2, size, size)

    for network in (plain, model):
        network.train()
    torch.manual_seed(7)
    expected = flat(plain(x))
    torch.manual_seed(7)
    output = model(x)
    assert_equal([output.logits, *output.aux_logits], expected)
    assert len(expected) == {"inception_v3": 2, "googlenet": 3}.get(name, 1)
    assert_equal(model.backbone.buffers(), plain.buffers())
    counts = [value for key, value in model.named_buffers() if key.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 1 for count in counts)

    for network in (plain, model):
        network.eval()
    runs = Runs(model)
    with torch.no_grad():
        found = []
        both = runs.of(lambda: found.append(model(x)))
        output = found[0]
        assert_equal([output.logits], flat(plain(x)))
        assert output.aux_logits == ()
        assert torch.equal(model.logits(x), output.logits)
        assert torch.equal(model.embedding(x), output.embedding)
        only_logits, only_embedding = (
            runs.of(lambda: model.logits(x)),
            runs.of(lambda: model.embedding(x)),
        )
        last = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)][-1]
        handle = last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        plain(x)
        handle.remove()
        assert torch.equal(model.penultimate(x), found[-1])
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(2))
    assert output.embedding.shape == (2, 4)
    heads = {key for key in both if key.startswith("embedding_head")}
    assert heads
    assert only_logits == {key: count for key, count in both.items() if key not in heads}
    assert heads <= only_embedding.keys()
    classifier = both.keys() - only_embedding.keys()
    assert any(isinstance(model.get_submodule(key), nn.Linear) for key in classifier)
    pools = {key for key in both if isinstance(model.get_submodule(key), nn.AdaptiveAvgPool2d)}
    assert all("block" in key or ".avgpool" not in key for key in pools & only_embedding.keys())


def test_asking_one_head_in_training_runs_no_auxiliary_classifier():
    model = TwoHead(googlenet(5), 5, 4, image_size=64)
    runs = Runs(model)
    x = images(2, 64, 64)
    assert any("aux" in key for key in runs.of(lambda: model(x)))
    for call in (model.logits, model.embedding, model.penultimate):
        assert not any("aux" in key for key in runs.of(lambda c=call: c(x)))


class Small(nn.Module):
    """Convolutions, pooling, dropout, a linear layer."""

    def __init__(self, channels=3, width=4, classes=5):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.4)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.features(x)).flatten(1)))


def small(classes=5, dim=3, seed=0, pooled=False, size=8, **kwargs):
    torch.manual_seed(seed)
    return TwoHead(Small(**kwargs), classes, dim, image_size=size, pooled=pooled)


def test_heads_of_the_paper_have_their_number_of_weights():
    with torch.device("meta"):
        backbone = models.resnet50()
        unpooled = TwoHead(backbone, 1000)
        pooled = TwoHead(models.resnet50(), 1000, pooled=True)

    def count(model):
        return sum(weight.numel() for weight in model.embedding_head.parameters())

    assert unpooled.map_shape == (2048, 7, 7)
    assert count(unpooled) == 100_352 * 256 + 256
    assert count(pooled) == 2048 * 256 + 256
    total = sum(weight.numel() for weight in backbone.parameters())
    assert sum(weight.numel() for weight in unpooled.parameters()) == total + count(unpooled)


def test_the_embedding_is_a_linear_layer_on_the_map():
    for pooled in (False, True):
        model = small(pooled=pooled).eval()
        x = images(3, 8, 8)
        features = model.backbone.features(x)
        weight, bias = model.embedding_head[2].weight, model.embedding_head[2].bias
        read = features.mean((2, 3)) if pooled else features.reshape(3, -1)
        expected = read @ weight.T + bias
        expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(model.embedding(x), expected)


@pytest.mark.parametrize("pooled", [False, True])
def test_grey_images_that_are_not_square(pooled):
    net = models.resnet18(num_classes=3)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    model = TwoHead(net, 3, 4, image_size=(64, 96), pooled=pooled).eval()
    assert model.map_shape == (512, 2, 3)
    x = images(2, 64, 96, channels=1)
    assert torch.equal(model(x).logits, net(x))
    other = images(2, 96, 64, channels=1)
    assert torch.equal(model.logits(other), net(other))
    if pooled:
        assert model(other).embedding.shape == (2, 4)
    else:
        with pytest.raises(ValueError, match=r"\(512, 3, 2\), but .* \(512, 2, 3\): pass images of one size"):
            model(other)


def test_only_a_classifier_of_another_size_is_replaced():
    """With one seed always by the same weights: the logits first, then the auxiliary ones in their order."""
    net = googlenet(7)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    torch.manual_seed(3)
    model = TwoHead(net, 5, 4, image_size=64)
    torch.manual_seed(3)
    drawn = [nn.Linear(layer.in_features, 5) for layer in (net.fc, net.aux2.fc2, net.aux1.fc2)]
    assert_equal([net.fc.weight, net.aux2.fc2.weight, net.aux1.fc2.weight], [layer.weight for layer in drawn])
    new = {"fc", "aux1.fc2", "aux2.fc2"}
    for name, weight in model.backbone.named_parameters():
        assert torch.equal(weight, before[name]) == (name.rpartition(".")[0] not in new)
    assert [logits.shape for logits in flat(model(images(2, 64, 64))[::3])] == [(2, 5)] * 3


def test_a_new_classifier_keeps_its_kind():
    net = Small().double()
    net.fc = nn.Linear(4, 9, bias=False).double()
    model = TwoHead(net, 5, 3, image_size=8)
    assert model.backbone.fc.bias is None
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}


def clones(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return {"deepcopy": copy.deepcopy(model), "pickle": torch.load(file, weights_only=False)}


@pytest.mark.parametrize("make", [small, lambda: TwoHead(googlenet(5), 5, 4, image_size=64)])
def test_copies_use_their_own_layers(make):
    model = make().eval()
    x = images(2, 64, 64) if model.map_shape[0] == 1024 else images(2, 8, 8)
    with torch.no_grad():
        before = flat(model(x))
    for clone in clones(model).values():
        assert_equal(flat(clone(x)), before)
        assert {id(w) for w in clone.parameters()}.isdisjoint(id(w) for w in model.parameters())
        clone.train()
        optimizer = torch.optim.SGD(clone.parameters(), lr=1.0)
        logits, embedding, _, aux = clone(x)
        (logits[:, 0].sum() + embedding[:, 0].sum() + sum(a[:, 0].sum() for a in aux)).backward()
        optimizer.step()
        clone.eval()
        with torch.no_grad():
            assert_equal(flat(model(x)), before)
            for changed, old in zip(flat(clone(x)), before, strict=True):
                assert not torch.equal(changed, old)
            backbone_logits = clone.backbone(x)
            assert torch.equal(clone(x).logits, backbone_logits)


def test_state_dict_round_trip_and_no_weight_twice():
    model, other = small(seed=0), small(seed=1)
    x = images(2, 8, 8)
    model(x)
    assert {key.partition(".")[0] for key in model.state_dict()} == {"backbone", "embedding_head"}
    assert len(model.state_dict()) == len(model.backbone.state_dict()) + 2
    other.load_state_dict(model.state_dict())
    assert_equal(flat(other.eval()(x)), flat(model.eval()(x)))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(weight) for weight in model.parameters()})


def test_moves_and_layers_put_in_later_are_used():
    model = small().eval().to(torch.float64)
    x = images(2, 8, 8).double()
    assert {part.dtype for part in flat(model(x))} == {torch.float64}
    assert torch.equal(model(x).logits, model.backbone(x))
    model.backbone.fc = nn.Linear(4, 2).double()
    model.backbone.features[1] = nn.Identity()
    assert torch.equal(model(x).logits, model.backbone(x))
    assert model.logits(x).shape == (2, 2)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert not model.logits(x).any()


def test_the_gradient_reaches_both_heads_and_the_backbone():
    model = small()
    x = images(4, 8, 8)
    TwoHeadLoss(SemiHardTripletLoss())(model(x), torch.tensor([0, 0, 1, 1])).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    for layer in (model.backbone.features[0], model.backbone.fc, model.embedding_head[2]):
        assert layer.weight.grad.abs().sum() > 0
    model.zero_grad()
    model(x).embedding[:, 0].sum().backward()
    assert model.backbone.features[0].weight.grad.abs().sum() > 0
    assert model.backbone.fc.weight.grad is None


def test_a_frozen_backbone_keeps_its_evaluation_graph():
    model = TwoHead(googlenet(5), 5, 4, image_size=64).train()
    model.backbone.eval()
    before = buffers(model)
    x = images(2, 64, 64)
    output = model(x)
    assert output.aux_logits == ()
    assert torch.equal(output.logits, model.backbone(x))
    assert_equal(buffers(model).values(), before.values())


def test_building_changes_no_mode_no_statistics_and_draws_only_the_new_weights():
    net = Small()
    net.features[1].eval()
    modes, before = [layer.training for layer in net.modules()], buffers(net)
    torch.manual_seed(5)
    model = TwoHead(net, 5, 3, image_size=8)
    torch.manual_seed(5)
    assert torch.equal(nn.Linear(4 * 16, 3).weight, model.embedding_head[2].weight)
    assert [layer.training for layer in net.modules()] == modes
    assert_equal(net.buffers(), before.values())


def test_both_heads_compile_whole():
    model = small().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = images(2, 8, 8)
    for a, b in zip(flat(compiled(x)), flat(model(x)), strict=True):
        torch.testing.assert_close(a, b)


class Headed(Small):
    """A `Small` with a forward pass written in the test."""

    def __init__(self, pass_through):
        super().__init__()
        self.pass_through = pass_through

    def forward(self, x):
        return self.pass_through(self, self.features(x))


@pytest.mark.parametrize("axes", [(2, 3), [3, 2], (-1, -2), [-2, 3]])
def test_a_mean_over_both_axes_is_a_pooling(axes):
    net = Headed(lambda m, h: m.fc(h.mean(axes)))
    model = TwoHead(net, 5, 3, image_size=8).eval()
    x = images(2, 8, 8)
    assert model.map_shape == (4, 4, 4)
    assert torch.equal(model(x).logits, net(x))


def test_a_parametrised_classifier_of_another_size_gives_way_to_a_plain_one():
    net = Headed(lambda m, h: m.fc(h.mean((2, 3))))
    weight_norm(net.fc)
    assert TwoHead(net, net.fc.out_features, 3, image_size=8).backbone.fc is net.fc
    assert type(TwoHead(net, 7, 3, image_size=8).backbone.fc) is nn.Linear


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.vit_b_16(), "VisionTransformer has no pooling between"),
        (lambda: models.squeezenet1_1(), "logits of SqueezeNet come from flatten; expected an nn.Linear"),
        (lambda: Headed(lambda m, h: m.fc(h.mean(3).mean(2))), "has no pooling between"),
        (lambda: Headed(lambda m, h: m.fc(h.mean(1).flatten(1))), "has no pooling between"),
        (lambda: Headed(lambda m, h: m.fc(m.pool(h).flatten(1)).relu()), "come from relu; expected"),
        (lambda: Headed(lambda m, h: m.fc(h.mean((2, 3)) if h.sum() > 0 else h[..., 0, 0])), "cannot trace"),
        (lambda: Headed(lambda m, h: 3), "something other than logits"),
    ],
)
def test_backbones_of_another_form_are_refused_untouched(make, words):
    with torch.device("meta"):
        backbone = make()
    layers = dict(backbone.named_modules())
    with pytest.raises(ValueError, match=words):
        TwoHead(backbone, 7, 3)
    assert dict(backbone.named_modules()) == layers
    assert all(layer.training for layer in layers.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1; expected a whole number from 2"),
        ({"num_classes": True}, "num_classes is True"),
        ({"num_classes": 5.0}, r"num_classes is 5\.0"),
        ({"embedding_dim": 0}, "embedding_dim is 0; expected a whole number from 1"),
        ({"image_size": 0}, "image_size is 0; expected"),
        ({"image_size": "8"}, "image_size is '8'; expected"),
        ({"image_size": (8, 8, 8)}, r"image_size is \(8, 8, 8\); expected"),
        ({"image_size": 8.0}, r"image_size is 8\.0; expected"),
        ({"image_size": (8, -1)}, r"image_size is \(8, -1\); expected"),
    ],
)
def test_bad_arguments(arguments, words):
    net = Small()
    fc = net.fc
    with pytest.raises(ValueError, match=words):
        TwoHead(net, **{"num_classes": 7, "embedding_dim": 3, "image_size": 8} | arguments)
    assert net.fc is fc


def test_images_too_small_for_the_network():
    with pytest.raises(ValueError, match=r"images of \(16, 16\) do not pass Inception3 .*another size"):
        TwoHead(inception(5), 5, 3, image_size=16)


# ------------------------------------------------------------------------------------------- training


class Blobs(Dataset):
    """Grey 8 x 8 images of three classes that differ in brightness."""

    def __init__(self, count=18):
        self.labels = torch.arange(count) % 3
        self.images = 0.5 * randn(count, 1, 8, 8, dtype=torch.float32) + self.labels[:, None, None, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def trained(epochs, path=None, ranking=CentreLoss, weight=0.5):
    seed_everything(4)
    model = small(3, 3, channels=1)
    loss = TwoHeadLoss(ranking(3, 3) if ranking in (CentreLoss, TripletCentreLoss) else ranking(), weight)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
    batches = loader(Blobs(), 6, seed=2)
    history = fit(
        model, loss, optimizer, batches, epochs=epochs, device="cpu", checkpoint=path, progress=False
    )
    return model, loss, history


@pytest.mark.parametrize(
    "ranking", [SemiHardTripletLoss, BatchHardTripletLoss, CentreLoss, TripletCentreLoss]
)
def test_training_learns_and_embeds(ranking):
    model, loss, history = trained(12, ranking=ranking)
    values = history.frame()["loss"].tolist()
    assert values[-1] < 0.8 * values[0]
    rows, labels = embed(model, Blobs(), batch_size=5)
    assert rows.shape == (18, 3)
    assert torch.equal(labels, Blobs().labels)
    torch.testing.assert_close(rows, model.embedding(Blobs().images).detach())
    if ranking is CentreLoss:
        assert loss.ranking.centres.abs().sum() > 0


@pytest.mark.parametrize("ranking", [CentreLoss, TripletCentreLoss])
def test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does(tmp_path, ranking):
    model, loss, history = trained(4, ranking=ranking)
    trained(2, tmp_path / "run.pt", ranking)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)["loss"]
    assert list(saved) == ["ranking.centres"]
    resumed, resumed_loss, resumed_history = trained(4, tmp_path / "run.pt", ranking)
    assert_equal(resumed.state_dict().values(), model.state_dict().values())
    assert torch.equal(resumed_loss.ranking.centres, loss.ranking.centres)
    assert [row["loss"] for row in resumed_history.rows] == [row["loss"] for row in history.rows]


def test_the_loss_may_read_the_penultimate_features():
    class Seen(nn.Module):
        def forward(self, points, labels):
            self.points = points
            return points.sum()

    model, x, y = small(), images(2, 8, 8), torch.tensor([0, 1])
    output = model.eval()(x)
    assert torch.equal(output.penultimate, model.penultimate(x))
    torch.testing.assert_close(model.backbone.fc(output.penultimate), output.logits)
    for on in ("embedding", "penultimate"):
        seen = Seen()
        TwoHeadLoss(seen, on=on)(output, y)
        assert seen.points is getattr(output, on)
    with pytest.raises(ValueError, match=r"on is 'logits'; expected 'embedding' or 'penultimate'"):
        TwoHeadLoss(on="logits")


def test_changes_in_place_that_nobody_reads_are_kept():
    """Before the map, and between the map and the pooling."""

    def pass_through(m, h):
        h.mul_(2)
        maps = m.drop(h) + 1
        maps.relu_()
        return m.fc(m.pool(maps).flatten(1))

    net = Headed(pass_through)
    model = TwoHead(net, 5, 3, image_size=8).eval()
    x = images(2, 8, 8)
    assert torch.equal(model(x).logits, net(x))
    assert torch.equal(model.logits(x), net(x))


def test_constants_of_the_forward_pass_survive_a_copy():
    net = Headed(lambda m, h: m.fc(m.pool(h).flatten(1) - torch.tensor([1.0, 2.0, 3.0, 4.0])))
    model = TwoHead(net, 5, 3, image_size=8).eval()
    x = images(2, 8, 8)
    assert torch.equal(model(x).logits, net(x))
    assert torch.equal(copy.deepcopy(model)(x).logits, net(x))


def test_a_layer_that_depends_on_data_stays_whole():
    plain = Small()
    net = copy.deepcopy(plain)
    net.drop = DependsOnData(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    plain.drop = net.drop.inner
    x = images(2, 8, 8)
    model = TwoHead(net, 5, 3, image_size=8).eval()
    assert torch.equal(model(x).logits, plain.eval()(x))
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    lite = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=5)
    model = TwoHead(lite, 5, 3, image_size=64).eval()
    assert model.map_shape == (1280, 2, 2)
    assert torch.equal(model(images(2, 64, 64)).logits, lite(images(2, 64, 64)))


def test_a_compiled_backbone_is_taken_as_it_was_written():
    net = Small().eval()
    model = TwoHead(torch.compile(net, backend="eager"), 5, 3, image_size=8).eval()
    assert model.backbone is net
    assert torch.equal(model(images(2, 8, 8)).logits, net(images(2, 8, 8)))


def test_hooks_on_a_stage_work_as_in_the_backbone():
    torch.manual_seed(0)
    model, seen = TwoHead(models.resnet18(), 5, 4, image_size=32).eval(), []
    model.backbone.layer4.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    x = images(2, 32, 32)
    model(x), model.logits(x), model.embedding(x), model.backbone(x)
    assert len(seen) == 4
    assert all(torch.equal(seen[0], found) for found in seen)

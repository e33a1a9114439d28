"""Retrieval metrics against hand-computed cases, a brute-force twin and PML's own calculator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from helpers.retrieval import nearest_neighbours, retrieval_metrics

KS = (1, 2, 4, 8)


def brute_force(embeddings, labels, reference=None, reference_labels=None, ks=KS):
    """Loops over single queries in float64; ties go by gallery index."""
    own = reference is None
    gallery = embeddings if own else reference
    gallery_labels = labels if own else reference_labels
    rows = []
    for i, query in enumerate(embeddings.double()):
        distance = ((gallery.double() - query) ** 2).sum(1)
        order = [j for j in np.lexsort((np.arange(len(gallery)), distance.numpy())) if not (own and j == i)]
        hits = [int(gallery_labels[j] == labels[i]) for j in order]
        r = sum(hits)
        if r == 0:
            continue
        precision = [sum(hits[: p + 1]) / (p + 1) for p in range(r)]
        row = {f"recall@{k}": float(any(hits[:k])) for k in ks}
        row["r_precision"] = sum(hits[:r]) / r
        row["map@r"] = sum(p * h for p, h in zip(precision, hits[:r], strict=True)) / r
        rows.append(row)
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} if rows else None


def grid_points(draw, n, d):
    """Small whole numbers: squared distances are exact in float32, and ties and duplicates abound."""
    values = draw(st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d))
    return torch.tensor(values, dtype=torch.float32).view(n, d)


@st.composite
def labelled_points(draw):
    n, d = draw(st.integers(1, 14)), draw(st.integers(1, 3))
    # squaring makes the classes unbalanced
    labels = torch.tensor([v * v for v in draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))])
    return grid_points(draw, n, d), labels


@settings(max_examples=120, deadline=None)
@given(labelled_points(), st.integers(1, 20))
def test_equals_brute_force_with_ties_and_unbalanced_classes(points, chunk):
    embeddings, labels = points
    expected = brute_force(embeddings, labels)
    if expected is None:
        with pytest.raises(ValueError, match="nothing to retrieve"):
            retrieval_metrics(embeddings, labels, normalize=False, chunk=chunk)
        return
    assert retrieval_metrics(embeddings, labels, normalize=False, chunk=chunk) == pytest.approx(
        expected, abs=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_separate_gallery_equals_brute_force(data):
    embeddings, labels = data.draw(labelled_points())
    m = data.draw(st.integers(1, 14))
    reference = grid_points(data.draw, m, embeddings.shape[1])
    reference_labels = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=m, max_size=m)))
    expected = brute_force(embeddings, labels, reference, reference_labels)
    arguments = {"reference": reference, "reference_labels": reference_labels, "normalize": False}
    if expected is None:
        with pytest.raises(ValueError, match="nothing to retrieve"):
            retrieval_metrics(embeddings, labels, **arguments)
        return
    assert retrieval_metrics(embeddings, labels, **arguments) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((1,), (1.0, 0.1, 0.1)),
        ((1, 10), (1.0, 0.2, 0.12)),
        ((1, 2), (1.0, 0.2, 0.2)),
        ((10,), (0.0, 0.1, 0.01)),
        (tuple(range(1, 11)), (1.0, 1.0, 1.0)),
    ],
)
def test_hand_computed_cases_of_the_reality_check(ranks, expected):
    """One query at 0, twenty gallery items at 1, 2, ...; ten of its class, the rest of them after rank 10."""
    later = 10 - len(ranks)
    labels = torch.tensor([int(r in ranks or 10 < r <= 10 + later) for r in range(1, 21)])
    assert int(labels.sum()) == 10
    found = retrieval_metrics(
        torch.zeros(1, 1),
        torch.tensor([1]),
        reference=torch.arange(1.0, 21.0)[:, None],
        reference_labels=labels,
        normalize=False,
    )
    assert (found["recall@1"], found["r_precision"], found["map@r"]) == pytest.approx(expected)
    assert found["recall@8"] == float(min(ranks) <= 8)


def test_agrees_with_the_accuracy_calculator_of_pml():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (150,), generator=generator)
    embeddings = torch.randn(150, 16, generator=generator) + 3 * torch.nn.functional.one_hot(labels, 16)
    pml = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=True), batch_size=32),
        kmeans_func=lambda x, n: x,
    ).get_accuracy(embeddings, labels)
    ours = retrieval_metrics(embeddings, labels)
    assert 0.2 < ours["map@r"] < 0.9
    assert ours["recall@1"] == pytest.approx(pml["precision_at_1"])
    assert ours["r_precision"] == pytest.approx(pml["r_precision"])
    assert ours["map@r"] == pytest.approx(pml["mean_average_precision_at_r"])


def test_the_query_itself_is_left_out_even_among_exact_duplicates():
    """Six copies of one point, one per class, and a far pair: only a query that finds itself can score."""
    embeddings = torch.cat([torch.ones(6, 3), torch.tensor([[-1.0, 0, 0], [-1.0, 0.1, 0]])])
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    indices, distances = nearest_neighbours(embeddings, 7)
    assert not (indices == torch.arange(8)[:, None]).any()
    assert all(sorted([*row, i]) == list(range(8)) for i, row in enumerate(indices.tolist()))
    assert torch.equal(distances[:6, :5], torch.zeros(6, 5))
    assert indices[3].tolist()[:5] == [0, 1, 2, 4, 5]
    assert retrieval_metrics(embeddings, labels, ks=(1,))["recall@1"] == 0.0


def test_a_collapsed_network_scores_the_share_of_one_class():
    labels = torch.arange(5).repeat_interleave(4)
    found = retrieval_metrics(torch.ones(20, 8), labels, ks=(1,))
    assert found["recall@1"] == pytest.approx(4 / 20)


def test_recall_grows_with_k_and_reaches_one_at_the_whole_gallery():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(10).repeat(3)
    found = retrieval_metrics(torch.randn(30, 4, generator=generator), labels, ks=(1, 2, 4, 8, 29, 1000))
    values = [found[f"recall@{k}"] for k in (1, 2, 4, 8, 29, 1000)]
    assert values == sorted(values)
    assert values[0] < 0.5
    assert values[-2:] == [1.0, 1.0]


def test_queries_without_a_mate_are_skipped_but_stay_in_the_gallery():
    embeddings = torch.tensor([[0.0], [1.0], [0.4], [9.0]])
    labels = torch.tensor([0, 0, 5, 7])
    found = retrieval_metrics(embeddings, labels, ks=(1, 2), normalize=False)
    assert found == {"recall@1": 0.0, "recall@2": 1.0, "r_precision": 0.0, "map@r": 0.0}


def test_label_values_do_not_matter_even_beyond_float32():
    """PML compares labels in float32, where 2**24 and 2**24 + 1 are one number."""
    embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    large = torch.tensor([2**24, 2**24 + 1, 2**24, 2**24 + 1])
    small = torch.tensor([0, 1, 0, 1])
    found = retrieval_metrics(embeddings, large, normalize=False)
    assert found == retrieval_metrics(embeddings, small, normalize=False)
    assert found["recall@1"] == 0.0


def test_normalising_makes_scale_irrelevant_and_plain_ranking_does_not():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 5, generator=generator)
    scaled = x * torch.logspace(-2, 2, 40)[:, None]
    assert torch.equal(nearest_neighbours(x, 5)[0], nearest_neighbours(scaled, 5)[0])
    assert not torch.equal(*(nearest_neighbours(e, 5, normalize=False)[0] for e in (x, scaled)))
    cosine = torch.nn.functional.cosine_similarity(x[:1], x[nearest_neighbours(x, 5)[0][0]])
    assert 1 - nearest_neighbours(x, 5)[1][0] ** 2 / 2 == pytest.approx(cosine.numpy(), abs=1e-6)


def test_near_points_far_from_the_origin_keep_their_order():
    """The |a|^2 + |b|^2 - 2ab form loses these differences in float32."""
    points = 1000 + torch.tensor([0.0, 0.3, 0.1, 0.2])[:, None].repeat(1, 40)
    assert nearest_neighbours(points, 3, normalize=False)[0][0].tolist() == [2, 3, 1]


@pytest.mark.parametrize("chunk", [1, 7, 64, None])
def test_neighbours_do_not_depend_on_the_chunk(chunk):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(61, 33, generator=generator)
    x[40] = x[3]
    whole = nearest_neighbours(x, 60, chunk=61)
    for found, expected in zip(nearest_neighbours(x, 60, chunk=chunk), whole, strict=True):
        assert torch.equal(found, expected)


def test_no_block_of_distances_exceeds_the_chunk(monkeypatch):
    shapes = []
    real = torch.cdist

    def spy(a, b, **options):
        shapes.append((len(a), len(b)))
        return real(a, b, **options)

    monkeypatch.setattr(torch, "cdist", spy)
    x, labels = torch.randn(5000, 2), torch.arange(5000) % 2500
    retrieval_metrics(x, labels)
    assert len(shapes) > 5
    assert all(rows * columns <= 2**21 for rows, columns in shapes)
    assert sum(rows for rows, _ in shapes) == 5000
    shapes.clear()
    nearest_neighbours(x[:10], 2, reference=x, chunk=4)
    assert shapes == [(4, 5000), (4, 5000), (2, 5000)]


def test_nmi_is_one_for_separate_clusters_and_low_for_shuffled_labels():
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(4).repeat_interleave(30)
    centres = torch.eye(4)
    embeddings = centres[labels] + 0.01 * torch.randn(120, 4, generator=generator)
    assert retrieval_metrics(embeddings, labels, include=("nmi",)) == {"nmi": pytest.approx(1.0)}
    shuffled = labels[torch.randperm(120, generator=generator)]
    assert retrieval_metrics(embeddings, shuffled, include=("nmi",))["nmi"] < 0.15


def test_nmi_is_only_computed_on_request_and_repeats_under_a_seed():
    generator = torch.Generator().manual_seed(5)
    embeddings, labels = torch.randn(60, 3, generator=generator), torch.arange(6).repeat(10)
    assert "nmi" not in retrieval_metrics(embeddings, labels)
    first, second = (retrieval_metrics(embeddings, labels, include=("nmi",), seed=3) for _ in range(2))
    assert first == second
    others = {retrieval_metrics(embeddings, labels, include=("nmi",), seed=s)["nmi"] for s in range(6)}
    assert len(others) > 1


def test_include_chooses_the_keys_and_values_are_plain_floats():
    embeddings, labels = torch.randn(12, 3), torch.arange(3).repeat(4)
    found = retrieval_metrics(embeddings, labels, include=("map@r", "recall"), ks=(3,))
    assert list(found) == ["map@r", "recall@3"]
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_and_numpy_arrays_are_taken(dtype):
    embeddings, labels = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    assert retrieval_metrics(embeddings.to(dtype), labels, normalize=False)["map@r"] == 1.0
    assert retrieval_metrics(embeddings.numpy(), labels.numpy(), normalize=False)["map@r"] == 1.0


E3, L3 = torch.randn(3, 2), torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: retrieval_metrics(torch.ones(3, 2).long(), L3), TypeError, "int64; expected floating point"),
        (lambda: retrieval_metrics(E3, L3.float()), TypeError, "float32; expected integers"),
        (lambda: retrieval_metrics(E3, L3.bool()), TypeError, "bool; expected integers"),
        (lambda: retrieval_metrics(torch.randn(3), L3), ValueError, r"shape \(3,\); expected \(N, D\)"),
        (lambda: retrieval_metrics(torch.randn(0, 2), L3[:0]), ValueError, r"shape \(0, 2\)"),
        (lambda: retrieval_metrics(torch.randn(3, 0), L3), ValueError, r"shape \(3, 0\)"),
        (lambda: retrieval_metrics(E3, L3[:2]), ValueError, r"shape \(2,\); expected \(3,\)"),
        (lambda: retrieval_metrics(E3, L3[:, None]), ValueError, r"shape \(3, 1\); expected \(3,\)"),
        (lambda: retrieval_metrics(E3 * torch.nan, L3), ValueError, "3 of 3 embeddings have a NaN"),
        (lambda: retrieval_metrics(E3.double() * 1e300, L3), ValueError, "infinite norm"),
        (lambda: retrieval_metrics(E3, L3, reference=E3), ValueError, "go together"),
        (lambda: retrieval_metrics(E3, L3, reference_labels=L3), ValueError, "go together"),
        (
            lambda: retrieval_metrics(
                E3, L3, reference=torch.randn(4, 5), reference_labels=torch.zeros(4).long()
            ),
            ValueError,
            "2 dimensions and reference 5",
        ),
        (
            lambda: retrieval_metrics(E3, L3, reference=E3 * torch.inf, reference_labels=L3),
            ValueError,
            "3 of 3 reference",
        ),
        (lambda: retrieval_metrics(E3, torch.arange(3)), ValueError, "none of the 3 queries"),
        (lambda: retrieval_metrics(E3[:1], L3[:1]), ValueError, "none of the 1 queries"),
        (lambda: retrieval_metrics(E3, L3, ks=(0,)), ValueError, r"ks is \(0,\)"),
        (lambda: retrieval_metrics(E3, L3, ks=(1.5,)), ValueError, "whole numbers"),
        (lambda: retrieval_metrics(E3, L3, ks=()), ValueError, "whole numbers"),
        (lambda: retrieval_metrics(E3, L3, include=("mapr",)), ValueError, "mapr"),
        (lambda: retrieval_metrics(E3, L3, include=()), ValueError, "include has nothing"),
        (lambda: retrieval_metrics(E3, L3, chunk=0), ValueError, "chunk is 0"),
        (lambda: nearest_neighbours(E3, 3), ValueError, "k is 3; expected 1 to 2"),
        (lambda: nearest_neighbours(E3, 4, reference=E3), ValueError, "expected 1 to 3"),
        (lambda: nearest_neighbours(E3, 0), ValueError, "k is 0"),
        (lambda: nearest_neighbours(E3, True), ValueError, "k is True"),
        (lambda: nearest_neighbours(E3[0], 1), ValueError, "expected"),
    ],
)
def test_bad_input_gives_one_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()

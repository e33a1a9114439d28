"""The result cache: hit, miss, what makes a key, damage, switching it off."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from helpers.experiments.cache import cached


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"calls": self.calls, "values": (1, 2)}


def one():
    return 1


def two():
    return 2


@pytest.fixture(autouse=True)
def _cache_on(monkeypatch):
    monkeypatch.delenv("CTG_CACHE", raising=False)


def test_same_circumstances_are_computed_once_and_given_as_json(tmp_path):
    compute = Counter()
    first = cached("x", compute, key={"seed": 0}, folder=tmp_path)
    assert first == {"calls": 1, "values": [1, 2]}
    assert cached("x", compute, key={"seed": 0}, folder=tmp_path) == first
    assert compute.calls == 1


def test_another_name_key_source_or_helper_code_is_another_result(tmp_path, monkeypatch):
    compute = Counter()
    cached("x", compute, key={"seed": 0}, sources=[one], folder=tmp_path)
    cached("y", compute, key={"seed": 0}, sources=[one], folder=tmp_path)
    cached("x", compute, key={"seed": 1}, sources=[one], folder=tmp_path)
    cached("x", compute, key={"seed": 0}, sources=[two], folder=tmp_path)
    cached("x", compute, key={"seed": 0}, sources=[Counter], folder=tmp_path)
    monkeypatch.setattr("helpers.experiments.cache.helpers_hash", lambda: "changed")
    cached("x", compute, key={"seed": 0}, sources=[one], folder=tmp_path)
    assert compute.calls == 6


def test_a_damaged_file_is_recomputed(tmp_path):
    compute = Counter()
    cached("x", compute, key={}, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text('{"calls": 1, "val')
    assert cached("x", compute, key={}, folder=tmp_path)["calls"] == 2
    assert json.loads(path.read_text())["calls"] == 2


def test_off_means_nothing_is_read_but_the_result_is_kept(tmp_path, monkeypatch):
    compute = Counter()
    cached("x", compute, key={}, folder=tmp_path)
    monkeypatch.setenv("CTG_CACHE", "off")
    assert cached("x", compute, key={}, folder=tmp_path)["calls"] == 2
    monkeypatch.delenv("CTG_CACHE")
    assert cached("x", compute, key={}, folder=tmp_path)["calls"] == 2


def test_what_is_not_json_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        cached("x", lambda: {1, 2}, key={}, folder=tmp_path)
    with pytest.raises(TypeError):
        cached("x", one, key={"a": object()}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@dataclass
class Point:
    x: int
    y: int

    def norm(self) -> int:
        return abs(self.x) + abs(self.y)


@dataclass
class Other:
    x: int
    z: int

    def norm(self) -> int:
        return abs(self.x) + abs(self.y)


def test_a_dataclass_counts_with_its_fields_and_its_own_methods(tmp_path):
    compute = Counter()
    for source, calls in ((Point, 1), (Point, 1), (Other, 2)):
        assert cached("x", compute, key={}, sources=[source], folder=tmp_path)["calls"] == calls

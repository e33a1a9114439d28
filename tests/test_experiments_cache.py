"""The result cache: hit, miss, damage, what cannot be written; and what a key follows."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch

from helpers import PROJECT_ROOT
from helpers.experiments import Arm, cached
from helpers.experiments.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def _cache_on(monkeypatch):
    monkeypatch.delenv("CTG_CACHE", raising=False)


@pytest.fixture
def counted(tmp_path):
    """(a function that notes each of its calls, the number of calls so far)."""
    notes = tmp_path / "calls.txt"

    def compute():
        with notes.open("a") as file:
            file.write("x")
        return {"calls": len(notes.read_text()), "values": (1, 2)}

    return compute, lambda: len(notes.read_text())


def test_same_circumstances_are_computed_once_and_given_as_json(tmp_path, counted):
    compute, calls = counted
    first = cached("x", compute, key={"seed": 0}, folder=tmp_path)
    assert first == {"calls": 1, "values": [1, 2]}
    assert cached("x", compute, key={"seed": 0}, folder=tmp_path) == first
    assert calls() == 1


def test_another_name_key_or_version_is_another_result(tmp_path, counted, monkeypatch):
    compute, calls = counted
    for name, key in (("x", 0), ("y", 0), ("x", 1), ("x", 0)):
        cached(name, compute, key=key, folder=tmp_path)
    assert calls() == 3
    monkeypatch.setattr("helpers.experiments.cache.versions", lambda: {"torch": "another"})
    cached("x", compute, key=0, folder=tmp_path)
    assert calls() == 4


def test_a_damaged_file_is_recomputed(tmp_path, counted):
    compute, _ = counted
    cached("x", compute, folder=tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text('{"calls": 1, "val')
    assert cached("x", compute, folder=tmp_path)["calls"] == 2
    assert json.loads(path.read_text())["calls"] == 2


def test_off_means_nothing_is_read_but_the_result_is_kept(tmp_path, counted, monkeypatch):
    compute, _ = counted
    cached("x", compute, folder=tmp_path)
    monkeypatch.setenv("CTG_CACHE", "off")
    assert cached("x", compute, folder=tmp_path)["calls"] == 2
    monkeypatch.delenv("CTG_CACHE")
    assert cached("x", compute, folder=tmp_path)["calls"] == 2


def test_what_is_not_json_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        cached("x", lambda: {1, 2}, folder=tmp_path)
    with pytest.raises(TypeError, match="it is a generator"):
        cached("x", lambda: 1, key={"a": (i for i in range(3))}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_once_and_keeps_the_result(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be, which stops even root")
    for i in range(2):
        assert cached("x", lambda i=i: [i], folder=blocked / "results") == [i]
    said = capsys.readouterr()
    assert said.out.count("cannot write") == 1
    assert said.err == ""


# ---- what a key follows


def key_of(source: str, name: str = "run", **names) -> str:
    """Of a function as a notebook's cells would define it."""
    namespace = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), "<cell>", "exec"), namespace)
    return fingerprint(namespace[name], name)


NOTEBOOK = '''
import functools, math
import torch
RATE, ARMS = 0.1, {"a": lambda x: x + 1}
def loss(x, margin=0.2):
    """Doc."""
    return max(x - margin, 0)
class Base:
    def forward(self, x):
        return loss(x)
class Net(Base):
    """Doc."""
    width: int = 3
    @property
    def size(self):
        return 2
    @staticmethod
    def half(x):
        return x / 2
    def grow(self, x):
        return self.forward(x) + 5
@torch.no_grad()
def evaluate(net, x):
    return net.grow(x)
@functools.lru_cache
def remembered(x):
    return x * 3
scaled = functools.partial(loss, margin=0.3)
def train_with(weight):
    def step(x):
        try:
            y = x * weight
            math.sqrt(y)
        except ValueError:
            return 0
        return y
    return step
step = train_with(0.5)
def run(seed: int) -> float:
    """Doc."""
    # comment
    x = scaled(seed) + step(seed) + remembered(1) + ARMS["a"](1)
    return evaluate(Net(), x) * RATE + sum(v * 7 for v in range(3))
def unrelated():
    return 1
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Doc."""', '"""Another doc, which is longer."""'),
        ('    """Doc."""\n    return max', "    return max"),
        ('    """Doc."""\n    # comment\n', "\n\n"),
        ("    # comment\n", "    # another comment\n\n"),
        ("seed: int) -> float", "seed)"),
        ("    return max(x - margin, 0)", "    return max(\n        x - margin,\n        0,\n    )"),
        ("def unrelated():\n    return 1", "def unrelated():\n    return 2"),
        ("import functools, math", "import functools, math\nimport json\n\nOTHER = 3\n"),
    ],
)
def test_what_changes_no_number_changes_no_key(old, new):
    assert old in NOTEBOOK
    assert key_of(NOTEBOOK.replace(old, new)) == key_of(NOTEBOOK)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x - margin", "x + margin"),  # through a partial
        ("margin=0.2", "margin=0.4"),  # a default
        ("margin=0.3", "margin=0.4"),  # a partial's argument
        ("RATE, ARMS = 0.1", "RATE, ARMS = 0.2"),  # a global number
        ("x + 1}", "x + 2}"),  # a dict of functions
        ("return loss(x)", "return loss(x) + 1"),  # a base class, through a decorated function
        ("class Net(Base)", "class Net"),
        ("width: int = 3", "width: int = 4"),
        ("return 2\n", "return 3\n"),  # a property
        ("return x / 2", "return x / 3"),  # a static method
        ("+ 5", "+ 6"),  # a method
        ("return x * 3", "return x * 4"),  # under lru_cache
        ("train_with(0.5)", "train_with(0.6)"),  # a captured value
        ("x * weight", "x + weight"),  # a closure
        ("return 0\n", "return 1\n"),  # an except clause
        ("            math.sqrt(y)\n        except ValueError:\n            return 0\n",
         "        except ValueError:\n            return 0\n        math.sqrt(y)\n"),  # what a try covers
        ("v * 7", "v * 8"),  # a nested expression
        ("math.sqrt", "math.exp"),  # an attribute
        ("@torch.no_grad()", "@torch.enable_grad()"),
    ],
)  # fmt: skip
def test_what_matters_changes_the_key(old, new):
    assert old in NOTEBOOK
    assert key_of(NOTEBOOK.replace(old, new)) != key_of(NOTEBOOK)


def test_running_the_cell_again_changes_nothing():
    namespace = {"__name__": "__main__"}
    keys = set()
    for _ in range(2):
        exec(compile(NOTEBOOK, "<cell>", "exec"), namespace)
        keys.add(fingerprint(namespace["run"]))
    assert keys == {key_of(NOTEBOOK)}


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Holder:
    def __init__(self, value):
        self.value = value


def tensor(value: float) -> torch.Tensor:
    return torch.full((3,), value)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (1, 1, 2),
        (1, 1, 1.0),
        (True, True, 1),
        ("a", "a", b"a"),
        ((1, 2), (1, 2), [1, 2]),
        ([1, [2]], [1, [2]], [1, [3]]),
        ({"a": 1}, {"a": 1}, {"a": 2}),
        ({"b", "a"}, {"a", "b"}, {"a", "c"}),
        (tensor(1), tensor(1), tensor(2)),
        (tensor(1), tensor(1), tensor(1).double()),
        (tensor(1).bfloat16(), tensor(1).bfloat16(), tensor(2).bfloat16()),
        (torch.zeros(2, 3), torch.zeros(3, 2).T, torch.zeros(3, 2)),
        (np.arange(3), np.arange(3), np.arange(4)),
        (np.float32(1), np.float32(1), np.float32(2)),
        (Point(1, ["a"]), Point(1, ["a"]), Point(1, ["b"])),
        (Holder(1), Holder(1), Holder(2)),
        (Holder(1).__init__, Holder(1).__init__, Holder(2).__init__),
        (Arm("a", "blue", margin=0.2), Arm("a", "green", margin=0.2), Arm("a", margin=0.3)),
        (Arm("a", loss=torch.relu), Arm("a", loss=torch.relu), Arm("a", loss=torch.tanh)),
        (Path("a"), Path("a"), Path("b")),
        (random.Random(0), random.Random(0), random.Random(1)),
        (np.random.default_rng(0), np.random.default_rng(0), np.random.default_rng(1)),
        (torch.device("cpu"), torch.device("cpu"), torch.device("cuda")),
        (torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.ReLU(inplace=True)),
    ],
)  # fmt: skip
def test_values_count_by_content(one, same, other):
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_a_network_counts_by_its_weights():
    def network(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))

    assert fingerprint(network(0)) == fingerprint(network(0)) != fingerprint(network(1))
    assert fingerprint(network(0)) != fingerprint(network(0).eval())


def test_what_refers_to_itself_ends():
    loop = [1]
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)
    assert key_of("def run(n):\n    return n and run(n - 1)") != key_of(
        "def run(n):\n    return n and run(n - 2)"
    )


def test_two_functions_met_before_are_told_apart():
    source = """
    def f(): return 1
    def g(): return 2
    first, second = [f], {"a": CHOICE}
    def run(): return first, g, second
    """
    assert key_of(source.replace("CHOICE", "f")) != key_of(source.replace("CHOICE", "g"))


def test_what_has_no_content_is_named():
    lock = threading.Lock()

    def run():
        return lock

    with pytest.raises(TypeError, match=r"`lock in .*run` has changed: it is a lock.*inside the function"):
        fingerprint(run)
    with pytest.raises(TypeError, match=r"`lock in run`"):
        key_of("def run():\n    return lock", lock=lock)


MODULE = '''
"""Doc."""
import math
SIZE = 3
def draw(x):
    """Doc."""
    return inner(x)
def inner(x):
    return x * SIZE
def unrelated(x):
    return x
'''
USES = {
    "attribute": "import room\ndef run(x):\n    return room.draw(x)",
    "package": "import room\ndef run(x):\n    return room.draw.__call__(x)",
    "name": "from room import draw\ndef run(x):\n    return draw(x)",
    "inside": "def run(x):\n    from room import draw\n    return draw(x)",
    "dict": "import room\nchoices = {'draw': room.draw}\ndef run(x):\n    return choices['draw'](x)",
}


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Key of a function that uses a module of the project with the given source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # within a second, a stale one would be read

    def key(use: str, source: str) -> str:
        (tmp_path / "room.py").write_text(source)
        sys.modules.pop("room", None)
        importlib.invalidate_caches()
        return key_of(use)

    yield key
    sys.modules.pop("room", None)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_of_a_module_only_what_is_used_counts(room, use):
    key = room(use, MODULE)
    assert key == room(use, MODULE.replace("Doc", "Another doc"))
    assert key == room(use, MODULE.replace("unrelated(x):\n    return x", "unrelated(x):\n    return -x"))
    assert key != room(use, MODULE.replace("SIZE = 3", "SIZE = 4"))
    assert key != room(use, MODULE.replace("return x * SIZE", "return x + SIZE"))


@pytest.mark.parametrize(
    "use",
    [
        "import room\ndef run(x):\n    return getattr(room, 'dra' + 'w')(x)",
        "def run(x):\n    import room as r\n    return r.draw(x)",
    ],
)
def test_a_module_taken_as_a_value_counts_as_a_whole(room, use):
    key = room(use, MODULE)
    assert key == room(use, MODULE.replace("Doc", "Another doc"))
    assert key != room(use, MODULE.replace("unrelated(x):\n    return x", "unrelated(x):\n    return -x"))


SCRIPT = """
from helpers import svmax
from helpers.experiments.fingerprint import fingerprint
from helpers.knowledge_evolution import evolution
import enum, typing, dataclasses
class Kind(enum.Enum):
    ONE = 1
class Pair(typing.NamedTuple):
    a: int = 1
@dataclasses.dataclass(frozen=True)
class Data:
    a: set = dataclasses.field(default_factory=set)
words = {"some", "words", "in", "a", "set"}
def run(x):
    return svmax, evolution, Kind.ONE, Pair(), Data(), x in {"p", "q", "r"}, words
print(fingerprint(run))
"""


def test_the_key_is_the_same_in_every_process():
    keys = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        keys.add(done.stdout.strip())
    assert len(keys) == 1
    assert len(keys.pop()) == 64


def test_the_layer_that_runs_an_experiment_is_no_part_of_it():
    source = "from helpers.experiments import run_all\ndef run():\n    return run_all(str, [])"
    from helpers.experiments import parallel

    key = key_of(source)
    was = parallel._side_by_side.__code__
    try:
        parallel._side_by_side.__code__ = (lambda function, plan, workers: iter(())).__code__
        assert key_of(source) == key
    finally:
        parallel._side_by_side.__code__ = was


def test_a_change_in_how_birds_are_drawn_is_seen(monkeypatch):
    """Drawing is imported where it is needed: what a run reaches in this way counts as well."""
    from helpers.data import drawing, seen_and_unseen

    def run(seed):
        return len(seen_and_unseen("birds", seed, size=16).train)

    before = fingerprint(run, "run")
    monkeypatch.setattr(drawing.Canvas, "paint", lambda self, *arguments: None)
    assert fingerprint(run, "run") != before


def test_a_path_in_the_project_counts_from_the_project(monkeypatch, tmp_path):
    import helpers.experiments.fingerprint as room

    before = fingerprint(room.PROJECT_ROOT / "data", "path")
    monkeypatch.setattr(room, "PROJECT_ROOT", tmp_path)
    assert fingerprint(tmp_path / "data", "path") == before
    assert fingerprint(tmp_path / "cache", "path") != before


def test_a_progress_bar_is_the_same_one_in_a_notebook_and_in_a_process():
    from tqdm.asyncio import tqdm_asyncio
    from tqdm.std import tqdm

    first, second = ({"bar": bar} for bar in (tqdm, tqdm_asyncio))
    assert fingerprint(first, "bars") == fingerprint(second, "bars")


def test_a_class_of_the_notebook_is_the_same_in_a_worker_whatever_the_order_of_its_methods() -> None:
    source = "class Loss:\n    def weigh(self):\n        return 2\n    def forward(self):\n        return 3"
    names = {"__name__": "__main__"}
    exec(source, names)
    script = "import pickle, sys\nfrom helpers.experiments.fingerprint import fingerprint\n"
    script += "print(fingerprint(pickle.load(sys.stdin.buffer), 'run'))"
    sent = cloudpickle.dumps(names["Loss"])
    there = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True, check=True)
    assert there.stdout.decode().strip() == fingerprint(names["Loss"], "run")

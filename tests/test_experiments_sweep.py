"""Arms, sweeps, results, their figures and the kept evidence."""

from __future__ import annotations

import base64
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection

from helpers import PROJECT_ROOT, plotting
from helpers.experiments import (
    Arm,
    Evidence,
    Results,
    SweepError,
    all_evidence,
    drawing,
    evidence,
    paired_interval,
    progress,
    sweep,
)
from helpers.experiments.sweep import TABLE_MIME

SOFTMAX, TRIPLET = Arm("softmax", "grey", lift=0.0), Arm("semi-hard", "blue", lift=0.125)
ARMS, RATES, SEEDS = [SOFTMAX, TRIPLET], [0.25, 0.5], range(3)
BEST = {"softmax": 0.25, "semi-hard": 0.5}


def measure(arm, seed, rate):
    """Numbers without a rounding error; the arm's rate in BEST is its best on validation."""
    correct = torch.arange(8) < 4 + seed + 8 * arm.lift
    return {
        "validation accuracy": 0.75 - abs(rate - BEST[arm.name]),
        "test accuracy": correct,
        "train accuracy": torch.tensor(1.0) if arm.lift else 0.875,
        "loss": {step: np.float64(seed + rate * step) for step in (0, 10)},
    }


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    monkeypatch.setenv("CTG_WORKERS", "1")
    monkeypatch.delenv("CTG_CACHE", raising=False)


@pytest.fixture
def results(tmp_path, capsys) -> Results:
    found = sweep(
        "toy", measure, arms=ARMS, rates=RATES, seeds=SEEDS, choose="validation accuracy", folder=tmp_path
    )
    assert capsys.readouterr().out == "12 runs of 2 arms in 1 s\n"
    return found


# ---- arms


def test_an_arm_is_data():
    arm = Arm("a", margin=0.2, ranking=max)
    assert (arm.name, arm.margin, arm.ranking) == ("a", 0.2, max)
    assert {arm: 1}[Arm("a")] == 1
    assert arm != Arm("b")
    copy = pickle.loads(pickle.dumps(arm))
    assert (copy, copy.margin) == (arm, 0.2)
    with pytest.raises(AttributeError, match="arm 'a' has no setting 'weight'; it has: margin, ranking"):
        _ = arm.weight
    with pytest.raises(AttributeError, match="arm 'a' is fixed"):
        arm.margin = 0.3
    with pytest.raises(TypeError, match="'settings'"):
        Arm("a", settings=1)


# ---- results


def test_every_run_is_in_the_tidy_table(results):
    table = results.table
    assert list(table.columns) == ["arm", "rate", "seed", "step", "metric", "value"]
    assert len(table) == 12 * 5  # three numbers and two steps of a curve
    row = table[(table.arm == "semi-hard") & (table.rate == 0.5) & (table.seed == 2) & (table.step == 10)]
    assert row[["metric", "value"]].to_numpy().tolist() == [["loss", 7.0]]


def test_the_rate_is_chosen_on_validation_for_each_arm(results):
    assert results.chosen == BEST
    assert results.values(TRIPLET, "validation accuracy").tolist() == [0.75] * 3
    assert results.at_chosen("loss", curve=True)["value"].tolist()[:4] == [0, 2.5, 0, 5]


def test_values_and_items_are_those_of_each_seed(results):
    assert results.values("softmax", "test accuracy").tolist() == [4 / 8, 5 / 8, 6 / 8]
    assert [items.tolist() for items in results.items(SOFTMAX, "test accuracy")] == [
        [1.0] * n + [0.0] * (8 - n) for n in (4, 5, 6)
    ]
    with pytest.raises(ValueError, match="'train accuracy' of arm 'softmax' has no items"):
        results.items(SOFTMAX, "train accuracy")
    with pytest.raises(ValueError, match=r"no metric 'accuracy' in 'toy' .*; there are \['test accuracy'"):
        results.values(SOFTMAX, "accuracy")
    with pytest.raises(ValueError, match=r"no arm 'x' in 'toy'; there are \['softmax', 'semi-hard'\]"):
        results.values("x", "test accuracy")


def test_arms_are_paired_by_seed_and_item(results):
    paired = results.paired(TRIPLET, "softmax", "test accuracy")
    assert (paired.effects, paired.items) == ([1 / 8] * 3, 8)
    assert paired.ms_res > 0  # the item that it gets right is another one for each seed
    assert paired.interval().low < 1 / 8
    assert results.paired(TRIPLET, SOFTMAX, "test accuracy", redrawn=True).redrawn
    assert results.paired(TRIPLET, SOFTMAX, "train accuracy").items == 0
    leads = results.against(TRIPLET, [SOFTMAX], "test accuracy")
    assert leads == {"softmax": paired}


def test_the_gate_asks_every_arm_to_have_fitted(results):
    assert results.fitted([TRIPLET]).passed
    gate = results.fitted(ARMS)
    assert not gate.passed
    assert gate.text == "train accuracy: softmax 0.875, semi-hard 1.000; at least 0.95 asked"


# ---- methods within an arm

EXACT, OCCLUSION = Arm("exact", "orange"), Arm("occlusion", "green")


def compare(arm, seed, rate):
    """Two methods on the network of one run; the second one is the better, by more in later seeds."""
    right = torch.arange(8) < 3 + arm.lift * 8
    return {
        "validation accuracy": 0.75 - abs(rate - BEST[arm.name]),
        "occlusion: pointing": right.roll(seed),
        "exact: pointing": (right | (torch.arange(8) < 2 + seed)).roll(seed),
        "exact: overlap: at 0.5": torch.full((8,), rate + seed),
        "exact: curve": {0: seed, 4: rate},
        "other: pointing": 0.5,
    }


@pytest.fixture
def compared(tmp_path) -> Results:
    return sweep(
        "toy", compare, arms=ARMS, rates=RATES, seeds=SEEDS, choose="validation accuracy", folder=tmp_path
    )


def test_methods_within_an_arm_are_as_arms(compared):
    for arm in ARMS:
        methods = compared.within(arm, [OCCLUSION, EXACT])
        assert methods.arms == [OCCLUSION, EXACT]  # in the order that is asked for
        assert [a.color for a in methods.arms] == ["green", "orange"]
        assert methods.chosen == {"occlusion": BEST[arm.name], "exact": BEST[arm.name]}
        assert set(methods.table["metric"]) == {"pointing", "overlap: at 0.5", "curve"}
        assert set(methods.table["rate"]) == {BEST[arm.name]}
        for method in (EXACT, OCCLUSION):
            metric = f"{method.name}: pointing"
            assert methods.values(method, "pointing").tolist() == compared.values(arm, metric).tolist()
            for own, whole in zip(
                methods.items(method, "pointing"), compared.items(arm, metric), strict=True
            ):
                assert own.tolist() == whole.tolist()
        expected = [BEST[arm.name] + seed for seed in SEEDS]
        assert methods.values("exact", "overlap: at 0.5").tolist() == expected
        assert [i.tolist() for i in methods.items("exact", "overlap: at 0.5")] == [[v] * 8 for v in expected]
        curve = methods.at_chosen("curve", curve=True)
        assert curve[["seed", "step"]].to_numpy().tolist() == [[s, t] for s in SEEDS for t in (0, 4)]
        assert curve["value"].tolist() == [v for s in SEEDS for v in (s, BEST[arm.name])]
        with pytest.raises(ValueError, match=r"arm 'occlusion' gave no metric 'overlap: at 0\.5'"):
            methods.values(OCCLUSION, "overlap: at 0.5")


def test_methods_are_paired_on_one_network_by_seed_and_item(compared):
    paired = compared.within("softmax", [EXACT, OCCLUSION]).paired(EXACT, OCCLUSION, "pointing")
    assert (paired.effects, paired.items) == ([0, 0, 1 / 8], 8)  # 2, 3 and 4 items against 3
    assert (
        compared.within(TRIPLET, [EXACT, OCCLUSION]).paired(EXACT, OCCLUSION, "pointing").effects == [0] * 3
    )


def test_methods_come_back_from_a_kept_table(compared):
    kept = Results.of_table("toy", compared.columns(), compared.chosen, "study").within("softmax", [EXACT])
    own = compared.within("softmax", [EXACT])
    assert kept.source == "study"
    for again in (kept, Results.of_table("toy", own.columns(), own.chosen, "study")):
        assert [arm.name for arm in again.arms] == ["exact"]
        assert again.values(EXACT, "pointing").tolist() == own.values(EXACT, "pointing").tolist()
        assert again.columns() == own.columns()
        with pytest.raises(ValueError, match="'pointing' of arm 'exact' has no items"):
            again.items(EXACT, "pointing")


def test_what_gave_nothing_is_no_method(compared, results):
    assert compared.within(SOFTMAX, [Arm("absent"), EXACT]).arms == [EXACT]
    for found, arm in ((compared, SOFTMAX), (results, SOFTMAX), (compared, "unknown")):
        name = arm if isinstance(arm, str) else arm.name
        with pytest.raises(ValueError, match=rf"arm '{name}' gave no metric .* of \['absent', 'loss'\]"):
            found.within(arm, [Arm("absent"), Arm("loss")])
    assert set(compared.table["metric"]) == set(compare(SOFTMAX, 0, 0.25))  # the whole is as it was


# ---- running


def test_each_run_is_kept_by_itself(tmp_path, capsys):
    given = {"arms": ARMS, "rates": [0.25], "folder": tmp_path}
    first = sweep("toy", measure, seeds=[0, 1], **given)
    assert len(list(tmp_path.glob("toy-*.json"))) == 4
    for seeds, said in (
        ([0, 1], "4 runs of 2 arms, kept from before"),
        ([1, 2], "(2 of them kept from before)"),
    ):
        capsys.readouterr()
        again = sweep("toy", measure, seeds=seeds, **given)
        assert said in capsys.readouterr().out
    assert again.values(SOFTMAX, "test accuracy")[0] == first.values(SOFTMAX, "test accuracy")[1]
    assert again.items(SOFTMAX, "test accuracy")[0].tolist() == [1.0] * 5 + [0.0] * 3


def test_side_by_side_gives_the_same(tmp_path, results, monkeypatch):
    monkeypatch.setenv("CTG_WORKERS", "2")
    given = {"arms": ARMS, "rates": RATES, "seeds": SEEDS, "choose": "validation accuracy"}
    other = sweep("toy", measure, **given, folder=tmp_path / "other")
    assert other.table.equals(results.table)
    assert other.chosen == results.chosen


def test_a_failing_arm_names_itself_and_the_others_are_kept(tmp_path, capsys):
    def run(arm, seed, rate):
        if arm is TRIPLET and seed == 1:
            raise ZeroDivisionError("no luck")
        return {"a": 1.0}

    given = {"arms": ARMS, "rates": [0.5], "seeds": SEEDS, "folder": tmp_path}
    with pytest.raises(
        SweepError, match=r"'semi-hard', seed 1, rate 0\.5: ZeroDivisionError: no luck"
    ) as caught:
        sweep("toy", run, **given)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.__cause__.__traceback__ is not None
    assert str(caught.value).startswith("1 of 6 runs failed; the others have finished and are kept.")
    assert "toy: 5 of 6 runs are finished, and kept for the next time" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 5


EDITED = """
import os, sys
from pathlib import Path
from helpers.experiments import Arm, sweep
folder = Path(sys.argv[1])
(folder / "room.py").write_text("def measure(seed):\\n    return {'a': 1.0}")
sys.path.insert(0, str(folder))
sys.dont_write_bytecode = True
import room
(folder / "room.py").write_text("def measure(seed):\\n    return {'a': 2.0}")
os.environ["CTG_WORKERS"] = "2"
def run(arm, seed, rate):
    return room.measure(seed)
print(sweep("toy", run, arms=[Arm("a")], rates=[1], seeds=[0, 1], folder=folder / "kept").values("a", "a"))
"""


def test_code_that_changed_on_disk_under_a_running_notebook_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EDITED, tmp_path], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "SweepError: 2 of 2 runs failed" in done.stderr
    assert "found other code in helpers/ than the notebook has loaded" in done.stderr
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("value", "kind"), [("many", "a word"), (torch.zeros(2, 2), "a matrix"), ([], "nothing"), (None, "None")]
)
def test_what_is_no_metric_is_named(tmp_path, value, kind):
    with pytest.raises(
        SweepError, match=r"(?s)metric 'accuracy' is .*expected a number, one number per test item"
    ):
        sweep("t", lambda *a: {"accuracy": value}, arms=[SOFTMAX], rates=[1], seeds=[0], folder=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": [Arm("a"), Arm("a")]}, "arms holds 'a' twice"),
        ({"seeds": []}, "seeds is empty"),
        ({"rates": [0.1, 0.2]}, "name in choose= the validation metric"),
        ({"rates": [0.1, 0.2], "choose": "luck"}, "gave no metric 'luck' to choose by"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(tmp_path, changed, message):
    given = {"arms": ARMS, "rates": [0.25], "seeds": [0], "folder": tmp_path}
    with pytest.raises(ValueError, match=message):
        sweep("toy", measure, **given | changed)


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CTG_WORKERS", "2")

    def run(arm, seed, rate):
        time.sleep(600 if seed else 0)
        return {"a": 1.0}

    def interrupt():
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("*.json"))) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sweep("toy", run, arms=ARMS, rates=[1], seeds=SEEDS, folder=tmp_path)
    assert "toy: 2 of 6 runs are finished, and kept for the next time" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.json"))) == 2


NOTEBOOK_CELL = """
from pathlib import Path
from helpers.experiments import Arm, sweep
def run(arm, seed, rate):
    return {"accuracy": 0.5 + seed / 4}
results = sweep("arms", run, arms=[Arm("a"), Arm("b")], rates=[0.1], seeds=[0, 1], folder=Path(FOLDER))
"""


def test_a_notebook_keeps_one_output_with_the_table(tmp_path):
    import nbclient
    import nbformat

    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_code_cell(f"FOLDER = {str(tmp_path)!r}\n{NOTEBOOK_CELL}")]
    texts = []
    for _ in range(2):  # another kernel finds what the first has kept
        nbclient.NotebookClient(nb, resources={"metadata": {"path": PROJECT_ROOT}}).execute()
        (output,) = nb.cells[0].outputs
        texts.append(output.data["text/plain"])
        payload = output.data[TABLE_MIME]
        assert payload["name"] == "arms"
        assert payload["table"]["value"] == [0.5, 0.5, 0.75, 0.75]
        assert payload["best"] == {"a": 0.1, "b": 0.1}
    assert texts[0].startswith("4 runs of 2 arms in ")
    assert texts[1] == "4 runs of 2 arms, kept from before"


def test_progress_says_how_long_it_will_take(monkeypatch):
    clock = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = progress.Progress("arms", 96)
    assert bar.text() == "arms: 0 of 96 runs"
    bar.done = 12
    assert bar.text() == "arms: 12 of 96 runs, about 70 s left"
    assert [progress.duration(s) for s in (0.2, 89, 200, 9000)] == ["1 s", "89 s", "3 min", "2.5 h"]


# ---- figures


@pytest.fixture
def shown(monkeypatch):
    seen = []
    monkeypatch.setattr(plotting, "show", lambda figure, alt: seen.append((figure, alt)))
    yield seen
    plt.close("all")


def marks(axes) -> list[PathCollection]:
    return [c for c in axes.collections if isinstance(c, PathCollection) and len(c.get_offsets())]


def test_runs_are_hollow_dots_with_their_mean_and_interval(results, shown):
    results.show("test accuracy", "train accuracy", title="Triplets help")
    ((figure, alt),) = shown
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["softmax", "semi-hard"]
    assert [left.get_xlabel(), right.get_xlabel()] == ["test accuracy", "train accuracy"]
    dots = np.concatenate([d.get_offsets() for d in marks(left)])
    assert sorted(dots[:, 0]) == [4 / 8, 5 / 8, 5 / 8, 6 / 8, 6 / 8, 7 / 8]
    assert all(len(d.get_facecolor()) == 0 for d in marks(left))  # hollow
    interval = paired_interval(results.values(SOFTMAX, "test accuracy").tolist())
    bars = [line.get_xdata() for line in left.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(bar, [interval.low, interval.high]) for bar in bars)
    assert alt.startswith(
        "Triplets help. Test accuracy, mean in this run, 3 seeds: softmax 0.625, semi-hard 0.75."
    )


def test_kept_evidence_is_solid_on_the_same_axes_in_the_same_colours(results, shown):
    columns = results.columns()
    columns["arm"] = ["magnet" if arm == "softmax" else arm for arm in columns["arm"]]
    kept = Results.of_table("toy", columns, {"magnet": 0.25, "semi-hard": 0.5}, "study")
    results.show("test accuracy", kept=kept)
    ((figure, alt),) = shown
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["softmax", "semi-hard", "magnet"]
    rows = {round(y): [] for y in (0, 1, 2)}
    for dots in marks(axes):
        rows[round(dots.get_offsets()[0, 1])].append(len(dots.get_facecolor()) > 0)
    assert {row: sorted(solid) for row, solid in rows.items()} == {0: [False], 1: [False, True], 2: [True]}
    assert "kept evidence (study), 3 seeds: magnet 0.625, semi-hard 0.75; in this run" in alt
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "kept evidence (study), 3 seeds",
        "this run, 3 seeds",
        "mean, from three seeds on with its 95 % interval",
    ]


def test_curves_are_means_with_the_spread_of_the_seeds(results, shown):
    results.curve("loss")
    ((figure, alt),) = shown
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines if len(line.get_xdata())] == [[1, 3.5], [1, 6]]
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(v) for v in band} >= {(0, 0), (0, 2), (10, 2.5), (10, 4.5)}
    assert (
        alt
        == "Loss over the steps, mean over seeds (this run, 3 seeds); at the end: softmax 3.5, semi-hard 6."
    )
    with pytest.raises(ValueError, match=r"no curve 'accuracy' .*there are \['loss'\]"):
        results.curve("accuracy")


def test_colours_are_the_arms_own_and_else_differ():
    colors = drawing._colors([Arm("a", "blue"), Arm("b"), Arm("c"), Arm("d", "orange")])
    assert colors["a"] == plotting.PALETTE["blue"]
    assert len(set(colors.values())) == 4
    with pytest.raises(ValueError, match="arm 'a' has colour 'mauve'; expected one of"):
        drawing._colors([Arm("a", "mauve")])


def test_figures_leave_the_random_numbers_alone(results, monkeypatch):
    pictures = []
    monkeypatch.setattr(
        plotting, "display", lambda data, **k: pictures.append(base64.b64decode(data["image/png"]))
    )
    np.random.seed(0)  # noqa: NPY002  the global state is the point
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    results.show("test accuracy")
    results.show("test accuracy")
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert pictures[0] == pictures[1]


def test_the_summary_is_a_small_table(results, monkeypatch):
    seen = []
    monkeypatch.setattr("helpers.experiments.results.display", lambda markdown: seen.append(markdown.data))
    results.summary("test accuracy", "train accuracy")
    assert seen[0].splitlines()[2:] == [
        "| softmax | 0.25 | 0.625 | 0.875 |",
        "| semi-hard | 0.5 | 0.750 | 1.000 |",
    ]


# ---- evidence


@pytest.fixture
def kept(results) -> Evidence:
    facts = dict.fromkeys(
        ("command", "commit", "source_hash", "numbers_hash", "code_hash", "device", "system", "date"), "x"
    )
    return Evidence(
        **facts, chapter="05", tier="study", grid="05_study.yaml", parameters={"seeds": 3},
        versions={"torch": "2"}, plan_committed=True, wall_seconds=1.5,
        claims={"twohead-accuracy": {"effects": [0.1, math.nan]}},
        tables={"toy": results.columns()}, best={"toy": results.chosen},
    )  # fmt: skip


def test_evidence_comes_back_as_it_was_written(kept, results, tmp_path):
    path = kept.write(tmp_path)
    assert path == tmp_path / "reproduce" / "evidence" / "05_study.json"
    found = evidence(5, "study", tmp_path)
    assert found.claims == {"twohead-accuracy": {"effects": [0.1, None]}}
    assert json.loads(path.read_text())["tables"]["toy"] == results.columns()
    again = found.results("toy")
    assert (again.chosen, again.source, [arm.name for arm in again.arms]) == (
        BEST,
        "study",
        ["softmax", "semi-hard"],
    )
    for arm in ARMS:
        for metric in ("test accuracy", "train accuracy"):
            assert again.values(arm, metric).tolist() == results.values(arm, metric).tolist()
    assert (
        again.at_chosen("loss", curve=True)["value"].tolist()
        == results.at_chosen("loss", curve=True)["value"].tolist()
    )
    assert [e.tier for e in all_evidence(tmp_path)] == ["study"]
    assert evidence("05", "gpu", tmp_path) is None
    with pytest.raises(ValueError, match=r"no table 'x' in 05_study.json; it has \['toy'\]"):
        found.results("x")


def test_evidence_of_another_form_is_refused_by_name(kept, tmp_path):
    path = kept.write(tmp_path)
    facts = json.loads(path.read_text())
    short = {**facts["tables"]["toy"], "value": [1.0]}
    for changed, message in (
        ({"tier": "cloud"}, "tier"),
        ({"extra": 1}, "extra"),
        ({"tables": {"toy": {"arm": []}}}, "table 'toy' has columns"),
        ({"tables": {"toy": short}}, "differ in length"),
        ({"chapter": "04"}, "holds chapter 04"),
    ):
        path.write_text(json.dumps(facts | changed))
        with pytest.raises(ValueError, match=rf"(?s)05_study\.json.*{message}"):
            evidence("05", "study", tmp_path)


def test_evidence_stays_below_a_megabyte(kept, tmp_path):
    kept.tables["toy"] = {column: values * 1000 for column, values in kept.tables["toy"].items()}
    with pytest.raises(ValueError, match=r"takes [\d,]+ bytes; at most 1,000,000 .*largest table: 'toy'"):
        kept.write(tmp_path)
    assert not (tmp_path / "reproduce").exists()


def test_the_layer_loads_without_torch():
    code = "import sys, helpers.experiments; print({'torch', 'seaborn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr

"""The module of `evaluate`: values against ranx and the package's own evaluation, what it refuses, where it loads."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gram.evaluation.rankings import ranking_metrics
from gram.hub.metrics import RANKING_METRICS

from .waiting import PATIENCE

ROOT = Path(__file__).parents[1]
NAMES = ("recall", "ndcg", "mrr")
CUTOFFS = [1, 3, 10]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    return evaluate.load(RANKING_METRICS, cache_dir=str(tmp_path_factory.mktemp("evaluate")))


@pytest.fixture(scope="module")
def ranx():
    """Not compiled: compiling takes half a minute, and the lists are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        import ranx
    return ranx


@st.composite
def rankings(draw, shortest=0, most_relevant=6):
    """Lists of up to 14 items for some users, and what is relevant to each; some of it in no list."""
    users = range(draw(st.integers(1, 12)))
    items = st.integers(1, 20)
    predictions = [draw(st.lists(items, unique=True, min_size=shortest, max_size=14)) for _ in users]
    references = [draw(st.lists(items, unique=True, min_size=1, max_size=most_relevant)) for _ in users]
    return predictions, references


@settings(max_examples=50)
@given(rankings(shortest=1))
def test_values_are_those_of_ranx(metrics, ranx, given):
    predictions, references = given
    wanted = {f"u{user}": {f"i{item}": 1 for item in items} for user, items in enumerate(references)}
    ranked = {
        f"u{user}": {f"i{item}": 1 / rank for rank, item in enumerate(items, start=1)}
        for user, items in enumerate(predictions)
    }
    names = [f"{name}@{k}" for name in NAMES for k in CUTOFFS]
    expected = ranx.evaluate(ranx.Qrels(wanted), ranx.Run(ranked), names)
    values = metrics.compute(predictions=predictions, references=references, k=CUTOFFS)
    assert values == {key: pytest.approx(expected[key]) for key in names}


@settings(max_examples=25)
@given(rankings(most_relevant=1))
def test_values_of_leave_one_out_are_those_of_the_packages_evaluation(metrics, given):
    predictions, references = given
    ranks = [
        items.index(target) + 1 if target in items else 0
        for items, (target,) in zip(predictions, references, strict=True)
    ]
    expected = ranking_metrics(np.array(ranks), CUTOFFS)
    values = metrics.compute(
        predictions=predictions,
        references=[target for (target,) in references],
        k=CUTOFFS,
        confidence_interval=True,
    )
    assert {key: values[key] for key in expected} == {key: pytest.approx(value) for key, value in expected.items()}


def test_values_by_hand(metrics):
    predictions, references = [["a", "b", "c", "d"], ["e"], []], [["b", "d", "x"], ["e"], ["a"]]
    values = metrics.compute(predictions=predictions, references=references, k=[1, 4])
    gain = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / np.log2(4))
    expected = {"recall@1": 1 / 3, "recall@4": (2 / 3 + 1) / 3, "ndcg@1": 1 / 3, "ndcg@4": (gain + 1) / 3}
    assert values == pytest.approx(expected | {"mrr@1": 1 / 3, "mrr@4": (1 / 2 + 1) / 3})


def test_coverage_counts_an_item_once(metrics):
    predictions = [[3, 1, 2], [3, 1], [4, 3, 1]]
    values = metrics.compute(predictions=predictions, references=[1, 1, 1], num_items=8, k=[1, 3])
    assert (values["catalogue_coverage@1"], values["catalogue_coverage@3"]) == (2 / 8, 4 / 8)


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([["a", "b"], ["c", "d"]], ["b", "x"]),
        ([["a", "b"], ["c", "d"]], ["b", ["x"]]),
        ([("a", "b"), ("c", "d")], [{"b"}, {"x"}]),
        ([[1, 2], [3, 4]], [2, 9]),
        (np.array([[1, 2], [3, 4]]), np.array([2, 9])),
        (torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2], [9]])),
        ([np.array(["a", "b"]), np.array(["c"])], np.array(["b", "x"])),
        ([["a", "b"], []], [["b", "b"], "x"]),
    ],
)
def test_ids_of_any_kind_and_references_with_or_without_a_list(metrics, predictions, references):
    assert metrics.compute(predictions=predictions, references=references, k=2)["recall@2"] == 0.5


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([["a"], ["b", "c", "b"]], ["a", "b"], "predictions, row 1: item 'b' is in the list twice"),
        ([["a"], ["b"]], ["a", []], "references, row 1: no relevant item"),
        ([["a"], ["b"]], ["a"], "2 predictions and 1 references"),
        ([["a"], ["b", None]], ["a", "b"], r"predictions, row 1: .* is not a list of item ids"),
        (["a"], ["a"], "predictions, row 0: 'a' is not a list of item ids"),
        ([["a"]], [None], "references, row 0: None is not a list"),
        ([], [], "0 predictions and 0 references"),
        ([["a"]], None, "1 predictions and 0 references"),
    ],
)
def test_wrong_inputs_are_refused_and_leave_no_trace(metrics, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        metrics.compute(predictions=predictions, references=references)
    assert metrics.compute(predictions=[["a"]], references=["a"], k=1) == {f"{name}@1": 1.0 for name in NAMES}


def test_wrong_numbers_are_refused():
    def compute(**numbers):
        metrics = evaluate.load(RANKING_METRICS, keep_in_memory=True)
        return metrics.compute(predictions=[["a", "b"]], references=["a"], **numbers)

    for k in (0, [5, 0], [], 2.5, "10"):
        with pytest.raises(ValueError, match=r"k is .*; give a whole number of at least 1"):
            compute(k=k)
    with pytest.raises(ValueError, match="num_items is 1, but 2 different items"):
        compute(num_items=1)


def test_batches_and_single_users_add_up(metrics):
    metrics.add_batch(predictions=[["a", "b"], ["c"]], references=["b", "x"])
    metrics.add(prediction=["d"], reference="d")
    with pytest.raises(ValueError, match="twice"):
        metrics.add(prediction=["d", "d"], reference="d")
    metrics.add(prediction=["e"], reference=["e", "f"])
    values = metrics.compute(k=2, num_items=10)
    assert (values["recall@2"], values["catalogue_coverage@2"]) == (2.5 / 4, 0.5)


def test_two_processes_measure_all_users(tmp_path):
    script = """
import json, sys, evaluate
path, cache, process = sys.argv[1:]
options = {"experiment_id": "together", "num_process": 2, "process_id": int(process), "cache_dir": cache}
metric = evaluate.load(path, **options)
users = [([["a", "b"]], ["b"]), ([["c"], ["d"]], ["x", "d"])][int(process)]
print(json.dumps(metric.compute(predictions=users[0], references=users[1], k=2)))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, RANKING_METRICS, str(tmp_path), process],
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in "01"
    ]
    said = [json.loads(process.communicate(timeout=PATIENCE)[0].splitlines()[-1]) for process in processes]
    assert said[0]["recall@2"] == pytest.approx(2 / 3)
    assert said[1] is None


def test_a_copied_folder_works_without_the_package(run_elsewhere, tmp_path):
    shutil.copytree(RANKING_METRICS, tmp_path / "ranking_metrics")
    values = run_elsewhere(
        """
import importlib.util, json, evaluate
assert importlib.util.find_spec("gram") is None
given = json.load(sys.stdin)
print(json.dumps(evaluate.load("ranking_metrics").compute(**given)))
""",
        {"predictions": [["a", "b"]], "references": ["b"], "k": 2, "num_items": 4},
    )
    gain = pytest.approx(1 / np.log2(3))
    assert values == {"recall@2": 1.0, "ndcg@2": gain, "mrr@2": 0.5, "catalogue_coverage@2": 0.5}


def test_examples_of_the_card_are_true(monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = re.findall(r"```python\n(>>> .*?)```", (Path(RANKING_METRICS) / "README.md").read_text(), re.S)
    for text in (*texts, evaluate.load(RANKING_METRICS).inputs_description):
        example = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, "card", None, 0)
        assert example.examples
        assert doctest.DocTestRunner().run(example).failed == 0

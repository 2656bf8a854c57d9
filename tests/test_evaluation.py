"""Metrics, ranks and protocols; every user counted once, by one process and by two."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from gram.collaborative.sasrec import SASRec
from gram.common.provenance import Provenance, read_provenance
from gram.data import (
    TEST,
    TRAIN,
    VALIDATION,
    ItemTable,
    RecommendationData,
    drawn_users,
    evaluation_histories,
    training_part,
)
from gram.evaluation import full_ranking as evaluation
from gram.evaluation.candidates import Ranking, gram_candidates, target_ranks
from gram.evaluation.full_ranking import PROTOCOLS, dense_rankings, evaluate, format_table, result_files
from gram.evaluation.rankings import ranking_metrics, row_metrics

from .forks import GRAM

NAMES = ["GRAM", "SASRec", "item-kNN", "transition-graph", "popularity"]


def test_metrics_by_hand():
    metrics = ranking_metrics(np.array([1, 3, 0, 11]), cutoffs=(1, 5, 20))
    means = {name: round(values["mean"], 6) for name, values in metrics.items()}
    assert means == {
        "recall@1": 0.25,
        "ndcg@1": 0.25,
        "recall@5": 0.5,
        "ndcg@5": 0.375,  # (1 + 1 / log2(4)) / 4
        "recall@20": 0.75,
        "ndcg@20": round((1.5 + 1 / np.log2(12)) / 4, 6),
    }


def test_interval_is_the_normal_approximation():
    hits = np.repeat([1, 0], [30, 70])  # found first, or not at all
    recall = ranking_metrics(hits)["recall@1"]
    error = np.sqrt(0.3 * 0.7 / 99)
    assert recall["mean"] == pytest.approx(0.3)
    assert (recall["low"], recall["high"]) == pytest.approx((0.3 - 1.96 * error, 0.3 + 1.96 * error), abs=1e-4)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=30))
def test_metrics_are_ordered(ranks):
    metrics = ranking_metrics(np.array(ranks))
    for values in metrics.values():
        assert 0 <= values["low"] <= values["mean"] <= values["high"] <= 1
    for narrow, wide in ((1, 5), (5, 10), (10, 20), (20, 50)):
        assert metrics[f"recall@{narrow}"]["mean"] <= metrics[f"recall@{wide}"]["mean"]
        assert metrics[f"ndcg@{wide}"]["mean"] <= metrics[f"recall@{wide}"]["mean"] + 1e-12


def test_one_user_says_nothing_of_others_and_none_is_an_error():
    assert ranking_metrics(np.array([2]))["ndcg@5"] == {"mean": pytest.approx(1 / np.log2(3)), "low": 0.0, "high": 1.0}
    with pytest.raises(ValueError, match="no users"):
        ranking_metrics(np.array([]))


def test_whom_a_row_serves_by_hand():
    items = np.array([[2, 0], [2, -1], [1, 2], [2, 3], [0, 2]])  # of five users, in a catalogue of six items
    targets, counts = np.array([0, 1, 1, 5, 4]), np.array([5, 20, 4, 1, 0, 19])
    metrics = row_metrics(Ranking.of(items, targets, num_items=6), targets, counts)
    groups = metrics["by_times_seen"]
    assert {name: group["users"] for name, group in groups.items()} == {"0": 1, "1-4": 0, "5-19": 2, "20+": 2}
    assert groups["1-4"] == {"users": 0}
    assert groups["0"]["recall@10"] == {"mean": 0.0, "low": 0.0, "high": 1.0}  # of a single user
    assert groups["5-19"]["ndcg@10"]["mean"] == pytest.approx(1 / np.log2(3) / 2)
    assert groups["20+"] == {"users": 2, **ranking_metrics(np.array([0, 1]), (5, 10))}
    assert metrics["coverage@10"] == pytest.approx(4 / 6)  # 0, 1, 2 and 3 are shown
    assert metrics["popularity@10"] == pytest.approx((2 * 5 + 20 + 5 * 4 + 1) / 9)
    assert {name: metrics[name] for name in ranking_metrics(np.array([2, 0, 1, 0, 0]))} == ranking_metrics(
        np.array([2, 0, 1, 0, 0])
    )


def test_only_the_first_ten_count_as_shown():
    ranking = Ranking.of(np.arange(12)[None], targets=np.array([11]), num_items=20)
    assert ranking.ranks.tolist() == [12]
    assert ranking.shown.tolist() == [1] * 10 + [0] * 10


def dense_ranks(scores, histories, targets, exclude_seen):
    recommender = SimpleNamespace(score=lambda histories: scores)
    rankings = dense_rankings(recommender, histories, targets, num_items=len(scores[0]))
    return rankings["unseen_items" if exclude_seen else "all_items"].ranks


def test_ties_go_to_the_lower_row():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]] * 3)
    histories = [np.array([4])] * 3
    assert dense_ranks(scores, histories, np.array([1, 3, 0]), exclude_seen=False).tolist() == [1, 3, 4]


@given(st.data())
def test_dense_ranks_are_places_in_the_sorted_list(data):
    num_items = data.draw(st.integers(2, 12))
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=num_items, max_size=num_items)), dtype=float)
    seen = data.draw(st.lists(st.integers(0, num_items - 1), max_size=num_items))
    target = data.draw(st.integers(0, num_items - 1))
    for exclude_seen in (False, True):
        listed = sorted(range(num_items), key=lambda item: (-scores[item], item))
        listed = [item for item in listed if not (exclude_seen and item in seen)]
        expected = listed.index(target) + 1 if target in listed else 0
        history = [np.array(seen, dtype=np.int32)]
        assert dense_ranks(scores[None], history, np.array([target]), exclude_seen).tolist() == [expected]


def gram_ranks(model, tokenizer, histories, targets, exclude_seen=False, **search):
    protocol = "unseen_items" if exclude_seen else "all_items"
    found = gram_candidates(model, tokenizer, histories, (protocol,), **search, progress=False)
    return target_ranks(found[protocol].items, targets)


@torch.no_grad()
def exhaustive_scores(model, tokenizer, history) -> np.ndarray:
    """The score of every item, each spelt out and scored by the plain forward pass."""
    inputs = tokenizer(histories=[[tokenizer.item_ids[row] for row in history]], return_tensors="pt")
    scores = []
    for sequence in tokenizer.sequences:
        labels = torch.tensor([sequence])
        log_probs = model(**inputs, labels=labels).logits.log_softmax(-1)
        scores.append(log_probs.gather(-1, labels[..., None]).mean().item())
    return np.array(scores)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_ranks_are_those_of_scoring_every_item(model, tokenizer, data, exclude_seen):
    histories, targets = evaluation_histories(data, "test")
    users = range(0, 40, 8)
    histories, targets = [histories[user] for user in users], targets[list(users)]
    scores = np.stack([exhaustive_scores(model, tokenizer, history) for history in histories])
    ranks = gram_ranks(model, tokenizer, histories, targets, exclude_seen=exclude_seen)
    assert ranks.tolist() == dense_ranks(scores, histories, targets, exclude_seen).tolist()


def test_ranks_do_not_depend_on_the_batch(model, tokenizer, data):
    histories, targets = evaluation_histories(data, "validation")
    alone = gram_ranks(model, tokenizer, histories, targets, num_beams=10, batch_size=1)
    together = gram_ranks(model, tokenizer, histories, targets, num_beams=10, batch_size=7)
    assert alone.tolist() == together.tolist()
    assert 0 < (alone > 0).mean() < 1  # ten beams find some targets, not all
    assert alone.max() <= 10


def test_seen_target_is_a_miss_where_seen_items_are_masked(model, tokenizer):
    history = np.array([3, 4, 5], dtype=np.int32)
    find = {"histories": [history, history], "targets": np.array([4, 9]), "num_beams": 30}
    assert gram_ranks(model, tokenizer, **find, exclude_seen=False).all()
    assert (gram_ranks(model, tokenizer, **find, exclude_seen=True) > 0).tolist() == [False, True]


def test_a_model_that_knows_no_repeats_puts_nothing_of_a_history_forward(model, tokenizer, monkeypatch):
    histories, others = [np.array([3, 4, 5]), np.array([6])], np.array([[3, 8], [9, 6]])
    options = {"num_beams": 30, "others": dict.fromkeys(PROTOCOLS, others), "progress": False}
    expected = gram_candidates(model, tokenizer, histories, **options)["unseen_items"]
    monkeypatch.setattr(model.config, "repeats", False)
    for candidates in gram_candidates(model, tokenizer, histories, **options).values():
        assert np.array_equal(candidates.generated.items, expected.generated.items)
        assert not any(set(own) & set(seen) for own, seen in zip(candidates.items.tolist(), histories, strict=True))


def test_model_is_left_in_its_mode_and_no_users_are_no_work(model, tokenizer):
    try:
        model.train()
        assert len(gram_ranks(model, tokenizer, [], np.array([], dtype=np.int32))) == 0
        assert model.training
    finally:
        model.eval()


@pytest.fixture(scope="module")
def measured(model, tokenizer, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(model, tokenizer, data, sasrec_file=folder / "sasrec.safetensors", progress=False), folder


def test_every_user_is_counted_once_by_every_model_and_protocol(measured, data):
    evaluation, _ = measured
    assert list(evaluation.results["models"]) == NAMES
    assert evaluation.results["users"] == len(data.interactions)
    counts = evaluation.per_user.group_by(["user_id", "model", "protocol"]).aggregate([("item_id", "count")])
    assert counts.num_rows == len(data.interactions) * len(NAMES) * len(PROTOCOLS)
    assert pc.unique(counts["item_id_count"]).to_pylist() == [1]
    _, targets = evaluation_histories(data, "test")
    rows = evaluation.per_user.slice(0, len(targets)).to_pylist()
    assert [row["item_id"] for row in rows] == [data.items.item_ids[target] for target in targets]


def test_saved_ranks_give_the_saved_metrics(measured, tmp_path):
    evaluation, _ = measured
    evaluation.save(tmp_path / "new" / "results.json")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["results.json", "results.parquet"]
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    ranks = pq.read_table(tmp_path / "new" / "results.parquet")
    for name in NAMES:
        for protocol in PROTOCOLS:
            rows = ranks.filter((pc.field("model") == name) & (pc.field("protocol") == protocol))
            found = ranking_metrics(rows["rank"].fill_null(0).to_numpy())
            assert found == {metric: results["models"][name][protocol][metric] for metric in found}


def test_every_row_tells_whom_it_serves(measured, model, tokenizer, data):
    results = measured[0].results["models"]
    histories, targets = evaluation_histories(data, "test")
    counts = np.bincount(training_part(data).items, minlength=30)
    found = gram_candidates(model, tokenizer, list(histories), progress=False)
    best = {"GRAM": {protocol: of.items[:, :10] for protocol, of in found.items()}}
    in_order = np.argsort(-counts, kind="stable")
    unseen = [[item for item in in_order if item not in history][:10] for history in histories]
    best["popularity"] = {"all_items": np.tile(in_order[:10], (len(targets), 1)), "unseen_items": np.array(unseen)}
    for name, by_protocol in best.items():
        for protocol, items in by_protocol.items():
            assert results[name][protocol]["coverage@10"] == pytest.approx(len(np.unique(items)) / 30)
            assert results[name][protocol]["popularity@10"] == pytest.approx(counts[items].mean())
    for by_protocol in results.values():
        for metrics in by_protocol.values():
            groups = metrics["by_times_seen"].values()
            assert sum(group["users"] for group in groups) == len(targets)
            mean = sum(group["users"] * group["ndcg@10"]["mean"] for group in groups if group["users"]) / len(targets)
            assert mean == pytest.approx(metrics["ndcg@10"]["mean"])


def test_baselines_learn_from_the_training_part_only(model, tokenizer, data, measured, monkeypatch):
    _, folder = measured
    given = []
    counted, fit = evaluation.counted_baselines, evaluation.fit_or_load
    monkeypatch.setattr(evaluation, "counted_baselines", lambda *args: given.append(args[0]) or counted(*args))
    monkeypatch.setattr(
        evaluation, "fit_or_load", lambda *args, **kwargs: given.append(args[1]) or fit(*args, **kwargs)
    )
    evaluate(model, tokenizer, data, folder / "sasrec.safetensors", split="validation", max_users=3, progress=False)
    expected = training_part(data)
    assert len(given) == 2
    for training in given:
        assert np.array_equal(training.items, expected.items)
        assert np.array_equal(training.offsets, expected.offsets)


def test_the_models_own_sasrec_is_taken_where_it_fits_and_never_changed(model, tokenizer, data, measured, tmp_path):
    measured, folder = measured
    own, other = folder / "sasrec.safetensors", tmp_path / "other.safetensors"
    assert own.is_file()
    options = {"sasrec_file": tmp_path / "new.safetensors", "max_users": 5, "progress": False}
    evaluate(model, tokenizer, data, model_sasrec=own, **options)
    assert not list(tmp_path.iterdir())
    SASRec(len(data.items)).save(other, Provenance("sasrec", {}, {}))
    before = other.read_bytes()
    evaluate(model, tokenizer, data, model_sasrec=other, **options)
    assert (tmp_path / "new.safetensors").is_file()
    assert other.read_bytes() == before


def test_catalogue_order_of_the_data_does_not_matter(model, tokenizer, data, measured):
    measured, folder = measured
    items, order = data.items, np.random.default_rng(0).permutation(len(data.items))
    shuffled = ItemTable(*([column[row] for row in order] for column in (items.item_ids, items.titles, items.texts)))
    place = np.argsort(order).astype(np.int32)
    moved = dataclasses.replace(data.interactions, items=place[data.interactions.items])
    again = evaluate(
        model, tokenizer, RecommendationData(shuffled, moved), folder / "sasrec.safetensors", progress=False
    )
    assert again.results["models"] == measured.results["models"]


def test_given_splits_decide_who_is_evaluated(model, tokenizer, data, tmp_path):
    splits = data.splits.copy()
    for user, start in enumerate(data.interactions.offsets[:-1]):
        own = splits[start : data.interactions.offsets[user + 1]]
        own[:] = {0: TRAIN, 1: VALIDATION, 2: TEST}.get(user, TEST if user % 2 else TRAIN)
    held_out = dataclasses.replace(data, splits=splits)
    found = evaluate(model, tokenizer, held_out, tmp_path / "sasrec.safetensors", max_users=4, progress=False)
    able = evaluation_histories(held_out, "test")[0].user_ids
    drawn = found.per_user["user_id"].to_pylist()[:4]
    assert drawn == [able[row] for row in drawn_users(len(able), 4)]
    assert drawn != able[:4]
    assert found.results["users"] == 4
    assert not found.results["data"]["leave_one_out"]


def test_both_files_say_of_which_evaluation_they_are(model, tokenizer, data, measured, tmp_path):
    measured, folder = measured
    measured.save(tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())["provenance"]
    assert read_provenance(tmp_path / "results.parquet") == written
    fewer = evaluate(model, tokenizer, data, folder / "sasrec.safetensors", max_users=5, progress=False)
    assert fewer.results["provenance"]["key"] != written["key"]


def test_item_that_the_model_does_not_know_is_named(model, tokenizer, data, tmp_path):
    item_ids = [*data.items.item_ids[:-2], "NEW", data.items.item_ids[-1]]
    other = RecommendationData(dataclasses.replace(data.items, item_ids=item_ids), data.interactions)
    with pytest.raises(ValueError, match="item NEW is not in the model's catalogue"):
        evaluate(model, tokenizer, other, tmp_path / "sasrec.safetensors", progress=False)


@pytest.mark.parametrize("wrong", [{"num_beams": 0}, {"max_users": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_named(model, tokenizer, data, tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        evaluate(model, tokenizer, data, tmp_path / "sasrec.safetensors", accelerator=Accelerator(), **wrong)


def test_table_shows_every_model_under_both_protocols(measured):
    measured, _ = measured
    table = format_table(measured.results)
    for name in NAMES:
        rows = [line for line in table.splitlines() if line.startswith(f"{name} ") and len(line.split(".")) > 9]
        means = [measured.results["models"][name][protocol]["recall@10"]["mean"] for protocol in PROTOCOLS]
        assert [float(row[len(name) :].split()[3]) for row in rows] == [pytest.approx(mean, abs=5e-5) for mean in means]
    assert max(map(len, table.splitlines())) <= 100


def test_failed_writing_leaves_nothing(measured, tmp_path, monkeypatch):
    def full_disk(*args):
        (tmp_path / ".results.parquet.part").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(evaluation.pq, "write_table", full_disk)
    with pytest.raises(OSError, match="no space left"):
        measured[0].save(tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


def test_results_need_a_json_file(tmp_path):
    for name in ("results", "results.parquet", "."):
        with pytest.raises(ValueError, match=r"ends in \.json"):
            result_files(tmp_path / name)


@pytest.mark.parametrize("cached", [False, True])
def test_two_processes_measure_what_one_does(
    measured, model, tokenizer, model_folder, data_folder, forks, tmp_path, cached
):
    measured, folder = measured
    output = tmp_path / "results.json"
    if cached:
        model_folder = shutil.copytree(model_folder, tmp_path / "model")
        model.encode_items(tokenizer, model_folder / "item_encodings", rows_per_shard=7, progress=False)
    (tmp_path / "results.sasrec.safetensors").write_bytes((folder / "sasrec.safetensors").read_bytes())
    done = forks.run(GRAM, "evaluate", model_folder, "--data", data_folder, "--output", output, processes=2)
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text())["models"] == measured.results["models"]
    assert pq.read_table(output.with_suffix(".parquet")).equals(measured.per_user)

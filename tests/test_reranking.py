"""Re-ranking and ensembling: what they may do to candidates, and that no test item reaches the choice of weights."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gram import ItemTrie
from gram.cli import main
from gram.collaborative.baselines import ItemKNN, ItemKNNSettings, counted_baselines
from gram.collaborative.fitting import fit_sasrec
from gram.collaborative.sasrec import SASRec, SASRecSettings
from gram.data import evaluation_histories, read_folder, training_part, without_test
from gram.evaluation.candidates import PROTOCOLS, Candidates, gram_candidates, target_ranks
from gram.evaluation.full_ranking import evaluate, format_table
from gram.evaluation.reranking import FUSIONS, RERANKED, choose_reranking, put_forward
from gram.evaluation.weighting import GRID, choose_weights, weighted_ranking
from gram.translation import SASREC_FILE

from .forks import GRAM

NUM_ITEMS = 30  # of the tiny catalogue
ENSEMBLE, WITHOUT_GRAM = "GRAM + SASRec", "SASRec + kNN"


@pytest.fixture(scope="module")
def histories(data):
    return list(evaluation_histories(without_test(data), "validation")[0])


@pytest.fixture(scope="module")
def scorers(data):
    training = training_part(data)
    settings = SASRecSettings(dim=8, num_layers=1, num_heads=1, epochs=1)
    sasrec = fit_sasrec(training, NUM_ITEMS, settings, progress=False)
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 8))
    return {"SASRec": sasrec, **{name: make() for name, make in counted_baselines(training, vectors).items()}}


@pytest.fixture(scope="module")
def found(model, tokenizer, histories, scorers):
    return put_forward(model, tokenizer, histories, scorers, num_beams=6, progress=False)


@pytest.fixture(scope="module")
def choose(model, tokenizer, scorers, tmp_path_factory):
    """Chooses weights on data, in a file of its own unless told which."""

    def run(known, path=None, **options):
        path = path or tmp_path_factory.mktemp("chosen") / "weights.json"
        options = {"model": model, "scorers": scorers, "num_beams": 6, "progress": False, **options}
        return choose_reranking(path, tokenizer=tokenizer, known=known, **options)

    return run


def other_test_items(data):
    """The same data, but for every user's test item."""
    items = data.interactions.items.copy()
    last = data.interactions.offsets[1:] - 1
    items[last] = (items[last] + 1 + np.arange(len(last)) % (NUM_ITEMS - 2)) % NUM_ITEMS
    assert (items != data.interactions.items).sum() == len(data.interactions)
    return dataclasses.replace(data, interactions=dataclasses.replace(data.interactions, items=items))


@st.composite
def candidates_with_scores(draw):
    """Candidates of some users as search gives them, best first, -1 beyond the last; and one recommender's scores."""
    num_users, width = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    items, scores = np.full((num_users, width), -1), np.full((num_users, width), -np.inf, dtype=np.float32)
    for user in range(num_users):
        own = draw(st.lists(st.integers(0, 20), max_size=width, unique=True))
        items[user, : len(own)] = own
        grid = st.integers(-8, 0)  # coarse, so that there are ties
        scores[user, : len(own)] = sorted(draw(st.lists(grid, min_size=len(own), max_size=len(own))), reverse=True)
    liked = draw(st.lists(st.integers(-5, 5), min_size=num_users * width, max_size=num_users * width))
    return Candidates(items, scores, width), {"SASRec": np.float32(liked).reshape(num_users, width)}


@given(candidates_with_scores(), st.sampled_from(GRID), st.sampled_from([0.0, 2.0]))
def test_reranking_neither_adds_nor_loses_a_candidate(given_candidates, weight, spread):
    candidates, scores = given_candidates
    ranked = weighted_ranking(candidates, scores, {"SASRec": weight}, {"SASRec": spread})
    for before, after in zip(candidates.items, ranked, strict=True):
        assert sorted(before) == sorted(after)
        assert (np.diff((after >= 0).astype(int)) <= 0).all()  # none stands before an item


@given(candidates_with_scores())
def test_weight_zero_is_grams_own_ranking(given_candidates):
    candidates, scores = given_candidates
    ranked = weighted_ranking(candidates, scores, {"SASRec": 0.0}, {"SASRec": 1.0})
    assert np.array_equal(ranked, candidates.items)


@given(candidates_with_scores(), st.data())
def test_the_choice_is_never_worse_than_gram_where_it_is_made(given_candidates, draw):
    candidates, scores = given_candidates
    num_users = len(candidates.items)
    targets = np.array(draw.draw(st.lists(st.integers(0, 20), min_size=num_users, max_size=num_users)))
    weights, tried = choose_weights(candidates, scores, {"SASRec": 2.0}, targets)
    alone = [one["ndcg@10"] for one in tried if one["weights"] == {"SASRec": 0.0}]
    best = max(one["ndcg@10"] for one in tried)
    assert best >= alone[0]
    ranks = target_ranks(weighted_ranking(candidates, scores, weights, {"SASRec": 2.0}), targets)
    assert np.where(ranks > 0, 1 / np.log2(ranks + 1.0 + (ranks == 0)), 0).mean() == pytest.approx(best)


def test_who_knows_the_truth_gets_weight_and_who_knows_nothing_gets_none():
    draw = np.random.default_rng(0)
    num_users, width = 400, 20
    items = np.argsort(draw.random((num_users, 50)), axis=1)[:, :width]
    gram = -np.sort(draw.random((num_users, width)), axis=1).astype(np.float32)
    targets = items[np.arange(num_users), draw.integers(width, size=num_users)]
    truth = (items == targets[:, None]).astype(np.float32)
    scores, spread = {"lies": -truth, "truth": truth}, {"lies": 1.0, "truth": 1.0}
    weights, _ = choose_weights(Candidates(items, gram, width), scores, spread, targets)
    assert weights["lies"] == 0
    assert weights["truth"] >= 1  # as much as GRAM's best and worst lie apart
    ranked = weighted_ranking(Candidates(items, gram, width), scores, weights, spread)
    assert (ranked[:, 0] == targets).all()


def test_candidates_are_what_generate_gives(model, tokenizer, histories, found):
    alone = gram_candidates(model, tokenizer, histories, num_beams=6, progress=False)
    for protocol in PROTOCOLS:
        generated = found.candidates[protocol].generated
        assert np.array_equal(generated.items, alone[protocol].items)
        assert np.array_equal(generated.scores, alone[protocol].scores)


def test_union_holds_sasrecs_best_no_item_twice_and_nothing_masked(found, histories, scorers):
    for protocol in PROTOCOLS:
        candidates = found.candidates[protocol]
        for user, history in enumerate(histories):
            items = candidates.items[user][candidates.items[user] >= 0]
            assert len(set(items)) == len(items)
            liked = scorers["SASRec"].score([history])[0]
            if protocol == "unseen_items":
                assert not set(items) & set(history)
                liked[torch.from_numpy(history).long()] = -torch.inf
            assert set(liked.topk(6).indices.tolist()) <= set(items)


def test_spelt_out_items_have_the_scores_that_search_gives(model, tokenizer, histories, found):
    everything = gram_candidates(model, tokenizer, histories, num_beams=NUM_ITEMS, progress=False)
    compared = 0
    for protocol in PROTOCOLS:
        candidates, all_of = found.candidates[protocol], everything[protocol]
        for user in range(len(histories)):
            scores = dict(zip(all_of.items[user].tolist(), all_of.scores[user], strict=True))
            for item, score in zip(candidates.items[user, 6:].tolist(), candidates.scores[user, 6:], strict=True):
                assert (item < 0) == np.isneginf(score)
                if item >= 0:
                    assert score == pytest.approx(scores[item], rel=1e-5, abs=1e-5)
                    compared += 1
    assert compared > len(histories)


def test_an_item_without_lexical_id_is_no_candidate(model, tokenizer, histories):
    others = {"all_items": np.tile(np.arange(NUM_ITEMS), (2, 1))}
    own, few = model.item_trie, ItemTrie.from_sequences(tokenizer.sequences[:20])
    try:
        model.item_trie = few
        options = {"protocols": ("all_items",), "num_beams": 5, "others": others, "progress": False}
        candidates = gram_candidates(model, tokenizer, histories[:2], **options)["all_items"]
    finally:
        model.item_trie = own
    for items in candidates.items:
        assert sorted(items[items >= 0]) == list(range(20))


def test_without_gram_the_candidates_are_sasrecs_in_its_order(found, histories, scorers):
    for protocol in PROTOCOLS:
        candidates, scores = found.of(FUSIONS[WITHOUT_GRAM], protocol)
        ranked = weighted_ranking(candidates, scores, {"SASRec": 1.0}, {"SASRec": 1.0})
        for user, history in enumerate(histories):
            liked = scorers["SASRec"].score([history])[0]
            if protocol == "unseen_items":
                liked[torch.from_numpy(history).long()] = -torch.inf
            assert ranked[user].tolist() == liked.topk(6).indices.tolist()


def test_recommenders_scores_are_those_of_the_items(found, histories, scorers):
    for name, scorer in scorers.items():
        expected = scorer.score(histories).numpy()
        for protocol in PROTOCOLS:
            items, scores = found.candidates[protocol].items, found.scores[protocol][name]
            assert np.allclose(found.spread[name], expected.std(axis=1), atol=1e-5)
            of_items = np.take_along_axis(expected, np.maximum(items, 0), axis=1)
            assert np.allclose(scores[items >= 0], of_items[items >= 0], atol=1e-5)


def test_weights_cannot_be_chosen_by_test_items(choose, data):
    with pytest.raises(ValueError, match="holds test interactions"):
        choose(data)


def test_other_test_items_give_the_same_weights_bit_for_bit(choose, data):
    chosen, other = choose(without_test(data)), choose(without_test(other_test_items(data)))
    assert json.dumps(chosen.record) == json.dumps(other.record)


def test_other_validation_items_give_other_figures(choose, data):
    items = data.interactions.items.copy()
    held_out = data.interactions.offsets[1:] - 2
    items[held_out] = (items[held_out] + 7) % NUM_ITEMS
    moved = dataclasses.replace(data, interactions=dataclasses.replace(data.interactions, items=items))
    chosen, other = choose(without_test(data)), choose(without_test(moved))
    assert chosen.record["rows"] != other.record["rows"]


def test_record_tells_grid_settings_hashes_and_figures(choose, data, tmp_path):
    chosen = choose(without_test(data), tmp_path / "weights.json")
    record = json.loads((tmp_path / "weights.json").read_text())
    assert record == chosen.record
    assert record["settings"]["grid"] == list(GRID)
    assert record["settings"]["num_beams"] == 6
    assert set(record["inputs"]) == {"model", "tokenizer", "SASRec", "interactions without test"}
    for row in FUSIONS:
        for protocol in PROTOCOLS:
            of = record["rows"][row][protocol]
            reached = [one["ndcg@10"] for one in of["tried"]]
            assert of["validation"][row]["ndcg@10"]["mean"] == max(reached)
    ensemble = record["rows"][ENSEMBLE]["all_items"]["tried"]
    assert [one["weights"]["SASRec"] for one in ensemble] == [*GRID]
    without = record["rows"][WITHOUT_GRAM]["all_items"]
    assert {one["weights"]["SASRec"] for one in without["tried"]} == {1.0}
    assert list(without["validation"]) == ["SASRec", WITHOUT_GRAM]


def test_weights_are_taken_from_their_file_until_something_changes(choose, data, scorers, other_encoder, tmp_path):
    known, path = without_test(data), tmp_path / "weights.json"
    chosen = choose(known, path)
    record = json.loads(path.read_text())
    record["rows"][ENSEMBLE]["all_items"]["weights"] = {"SASRec": 0.123}
    other_sasrec = {**scorers, "SASRec": SASRec(NUM_ITEMS)}
    other_knn = {**scorers, "item-kNN": ItemKNN(training_part(data), NUM_ITEMS, ItemKNNSettings(recency=0.5))}
    options = ({"num_beams": 5}, {"max_users": 7}, {"model": other_encoder})
    for change in ({}, {"scorers": other_sasrec}, {"scorers": other_knn}, *options):
        path.write_text(json.dumps(record))
        taken = choose(known, path, **change).weights[ENSEMBLE]["all_items"] == {"SASRec": 0.123}
        assert taken == (not change)
    path.write_text("{broken")
    assert choose(known, path).record == chosen.record


@pytest.fixture(scope="module")
def measured(model, tokenizer, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranked")
    options = {"reranking_file": folder / "weights.json", "progress": False}
    return evaluate(model, tokenizer, data, folder / "sasrec.safetensors", **options), folder


def test_rows_of_the_evaluation(measured, model, tokenizer, data):
    evaluation, folder = measured
    models = evaluation.results["models"]
    assert list(models) == ["GRAM", *FUSIONS, "SASRec", "item-kNN", "transition-graph", "popularity"]
    for protocol in PROTOCOLS:
        assert models[RERANKED][protocol]["recall@50"] == models["GRAM"][protocol]["recall@50"]
    plain = evaluate(model, tokenizer, data, folder / "sasrec.safetensors", progress=False)
    assert plain.results["models"] == {name: models[name] for name in models if name not in FUSIONS}
    assert "reranking" not in plain.results
    rows = evaluation.per_user.filter(pc.field("model") == ENSEMBLE)
    assert rows.num_rows == 2 * len(data.interactions)
    table = format_table(evaluation.results)
    assert sum(line.startswith(tuple(FUSIONS)) for line in table.splitlines()) == 4 * len(FUSIONS)
    assert max(map(len, table.splitlines())) <= 100


def test_evaluation_of_other_test_items_applies_the_same_weights(measured, model, tokenizer, data, tmp_path):
    evaluation, folder = measured
    shutil.copy(folder / "sasrec.safetensors", tmp_path)
    options = {"reranking_file": tmp_path / "weights.json", "progress": False}
    other = evaluate(model, tokenizer, other_test_items(data), tmp_path / "sasrec.safetensors", **options)
    assert (tmp_path / "weights.json").read_bytes() == (folder / "weights.json").read_bytes()
    assert other.results["reranking"]["weights"] == evaluation.results["reranking"]["weights"]
    assert other.results["models"] != evaluation.results["models"]


def test_items_by_which_weights_are_chosen_are_not_reported(model, tokenizer, data, tmp_path):
    files = {"sasrec_file": tmp_path / "sasrec.safetensors", "reranking_file": tmp_path / "weights.json"}
    with pytest.raises(ValueError, match="must be test, not validation"):
        evaluate(model, tokenizer, data, **files, split="validation", progress=False)
    assert not list(tmp_path.iterdir())


def test_two_processes_choose_and_rank_as_one(measured, model_folder, data_folder, forks, tmp_path):
    evaluation, folder = measured
    shutil.copy(folder / "sasrec.safetensors", tmp_path / "results.sasrec.safetensors")
    command = ["evaluate", model_folder, "--data", data_folder, "--rerank", "--output", "results.json"]
    done = forks.run(GRAM, *command, folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["models"] == evaluation.results["models"]
    assert results["reranking"]["weights"] == evaluation.results["reranking"]["weights"]
    assert pq.read_table(tmp_path / "results.parquet").equals(evaluation.per_user)


def test_command_line_reads_no_ranks_and_says_what_it_wrote(quickstart_run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(quickstart_run[0], tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    command = ["evaluate", "model", "--data", "model/data", "--rerank", "--output"]
    assert main([*command, "one.json"]) == 0
    said = capsys.readouterr().out
    assert RERANKED in said
    assert "one.reranking.json" in said
    (folder / "evaluation.parquet").write_bytes(b"no ranks at all")
    (folder / "evaluation.json").write_bytes(b"no results either")
    assert main([*command, "two.json"]) == 0
    one, two = ((tmp_path / f"{name}.reranking.json").read_bytes() for name in ("one", "two"))
    assert one == two
    results = json.loads((tmp_path / "two.json").read_text())
    assert results["models"] == json.loads((tmp_path / "one.json").read_text())["models"]
    record = json.loads(one)
    assert results["reranking"]["key"] == record["key"]
    data = read_folder(folder / "data")
    assert record["settings"]["users"] == len(data.interactions)
    assert not (tmp_path / "one.sasrec.safetensors").exists()  # the model's own fits
    assert (folder / SASREC_FILE).is_file()

"""Tuning of the baselines: the validation items decide, the test items cannot, and what is done is not done again."""

import json

import numpy as np
import pytest

from gram import cli
from gram.collaborative.baselines import ItemKNN, ItemKNNSettings
from gram.collaborative.sasrec import SASRec, SASRecSettings
from gram.data import Interactions, RecommendationData, evaluation_histories, training_part, without_test
from gram.evaluation import tuning
from gram.evaluation.full_ranking import dense_rankings, evaluate
from gram.evaluation.rankings import ranking_metrics
from gram.evaluation.tuning import (
    COUNTED_SETTINGS,
    SASREC_GRID,
    Trial,
    Tuning,
    format_trials,
    tune_counted,
    tune_sasrec,
)

GRID = {
    "texts": (False, True),
    "dim": (8, 4),
    "num_layers": (1,),
    "num_heads": (1,),
    "learning_rate": (1e-2, 1e-4),
    "epochs": (8, 4),
}


def with_last_items(data, last, drawn_from=29):
    """The data with other items in the last `last` places of every user."""
    draw = np.random.default_rng(1)
    sequences = [np.append(items[:-last], draw.integers(0, drawn_from, last)) for items in data.interactions]
    return RecommendationData(data.items, Interactions.from_sequences(data.interactions.user_ids, sequences))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune_sasrec(data, folder, progress=False, grid=GRID)


def test_the_best_trial_is_what_the_validation_items_say(data, tuned):
    folder, tuning = tuned
    assert len(tuning.trials) == 5
    assert tuning.best.texts == max(tuning.trials[:2], key=lambda trial: trial.gain).settings["texts"]
    assert max(trial.gain for trial in tuning.trials) > min(trial.gain for trial in tuning.trials)
    histories, targets = evaluation_histories(data, "validation")
    model = SASRec.load(folder / "sasrec.safetensors")
    assert model.settings == tuning.best
    ranks = dense_rankings(model, list(histories), targets, len(data.items))
    best = max(tuning.trials, key=lambda trial: trial.gain)
    for protocol, values in ranks.items():
        found = {name: value["mean"] for name, value in ranking_metrics(values.ranks, (5, 10)).items()}
        assert best.metrics[protocol] == pytest.approx(found)
    written = json.loads((folder / "tuning.json").read_text())
    assert [trial["settings"] for trial in written["trials"]] == [trial.settings for trial in tuning.trials]
    assert SASRecSettings(**written["best"]) == tuning.best
    assert written["split"] == "validation"


def test_the_test_items_reach_nothing_bit_for_bit(data, tuned, tmp_path):
    other = with_last_items(data, 1)
    assert not np.array_equal(evaluation_histories(other, "test")[1], evaluation_histories(data, "test")[1])
    tuning = tune_sasrec(other, tmp_path / "sasrec", progress=False, grid=GRID)
    assert tuning == tuned[1]
    assert content(tmp_path / "sasrec") == content(tuned[0])
    for name in COUNTED_SETTINGS:
        one, two = (tmp_path / name / part for part in ("one", "two"))
        assert tune_counted(name, data, one, progress=False) == tune_counted(name, other, two, progress=False)
        assert content(one) == content(two)


@pytest.mark.parametrize("baseline", COUNTED_SETTINGS)
def test_the_validation_items_do_count(data, tmp_path, baseline):
    one, two = (
        tune_counted(baseline, some, tmp_path / name, progress=False)
        for name, some in {"one": data, "two": with_last_items(data, 2)}.items()
    )
    assert one.trials[0].settings == two.trials[0].settings
    assert one.trials[0].metrics != two.trials[0].metrics


def test_an_interrupted_search_goes_on(data, tuned, tmp_path, monkeypatch):
    fitted = []

    def fit(training, num_items, settings, *others, stop_after=None):
        if len(fitted) == stop_after:
            raise KeyboardInterrupt
        fitted.append(settings)
        return real(training, num_items, settings, *others)

    real = tuning.fit_sasrec
    monkeypatch.setattr(tuning, "fit_sasrec", lambda *given: fit(*given, stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        tune_sasrec(data, tmp_path, progress=False, grid=GRID)
    assert not (tmp_path / "tuning.json").exists()
    monkeypatch.setattr(tuning, "fit_sasrec", fit)
    assert tune_sasrec(data, tmp_path, progress=False, grid=GRID) == tuned[1]
    assert len(fitted) == 5
    assert content(tmp_path) == content(tuned[0])
    assert tune_sasrec(data, tmp_path, progress=False, grid=GRID) == tuned[1]
    assert len(fitted) == 5
    (tmp_path / "sasrec.safetensors").unlink()
    next((tmp_path / "trials").iterdir()).write_text("broken")
    tune_sasrec(data, tmp_path, progress=False, grid=GRID)
    assert content(tmp_path) == content(tuned[0])


def test_evaluation_takes_the_tuned_sasrec(data, tuned, model, tokenizer, tmp_path):
    path = tuned[0] / "sasrec.safetensors"
    arguments = {"sasrec_file": tmp_path / "another.safetensors", "model_sasrec": path, "num_beams": 2}
    results = evaluate(model, tokenizer, data, **arguments, progress=False).results["models"]["SASRec"]
    assert not (tmp_path / "another.safetensors").exists()
    histories, targets = evaluation_histories(data, "test")
    ranks = dense_rankings(SASRec.load(path), list(histories), targets, len(data.items))
    for protocol, values in ranks.items():
        assert results[protocol]["ndcg@10"] == ranking_metrics(values.ranks, (10,))["ndcg@10"]


def test_data_without_the_test_split(data):
    cut = without_test(data)
    assert [list(items) for items in cut.interactions] == [list(items[:-1]) for items in data.interactions]
    one, two = (evaluation_histories(some, "validation") for some in (data, cut))
    assert np.array_equal(one[0].items, two[0].items)
    assert np.array_equal(one[1], two[1])
    assert np.array_equal(training_part(cut).items, training_part(data).items)
    with pytest.raises(ValueError, match="no user has a test interaction"):
        evaluation_histories(cut, "test")


@pytest.mark.parametrize("settings", [{"neighbours": 2}, {"shrinkage": 3.0}, {"neighbours": 3, "shrinkage": 0.5}])
@pytest.mark.parametrize("recency", [1.0, 0.5])
def test_item_knn_is_the_sum_over_the_whole_matrix(data, settings, recency):
    training = training_part(data)
    has = np.array([[item in sequence for item in range(30)] for sequence in training], dtype=float)
    common, users = has.T @ has, has.sum(axis=0)
    cosines = common / np.maximum(np.sqrt(np.outer(users, users)) + settings.get("shrinkage", 0.0), 1e-9)
    np.fill_diagonal(cosines, 0)
    if "neighbours" in settings:
        order = np.argsort(-cosines.round(12), axis=1, kind="stable")
        np.put_along_axis(cosines, order[:, settings["neighbours"] :], 0, axis=1)
    knn = ItemKNN(training, 30, ItemKNNSettings(**settings, recency=recency))
    scores = knn.score([np.array([3, 7, 3]), np.array([29]), np.array([], dtype=np.int32)])
    assert scores[0].numpy() == pytest.approx(cosines[3] + recency * cosines[7], rel=1e-5, abs=1e-5)  # 3 is the newest
    assert scores[1:].abs().max() == 0
    every, thirty = (ItemKNN(training, 30, ItemKNNSettings(recency=recency, neighbours=k)) for k in (None, 30))
    np.testing.assert_allclose(every.score([np.array([3, 7, 3])]), thirty.score([np.array([3, 7, 3])]), atol=1e-5)


def test_weights_of_long_histories_may_vanish():
    items = [*range(1500), 3, 7]
    training = Interactions.from_sequences(["a", "b"], [items, [3, 7, 9]])
    for neighbours in (None, 1500):
        knn = ItemKNN(training, 1500, ItemKNNSettings(neighbours=neighbours, recency=0.25))
        whole, newest = knn.score([np.array(items), np.array(items[-200:])])
        np.testing.assert_allclose(whole, newest, atol=1e-6)  # what is older weighs less than 0.25 ** 200


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"dropout": (0.5, 1.5)}, "dropout is 1.5"),
        ({"weight_decay": (-1.0,)}, "weight_decay is -1.0; it must be a number, at least 0"),
    ],
)
def test_a_value_that_cannot_be(data, tmp_path, grid, message):
    with pytest.raises(ValueError, match=message):
        tune_sasrec(data, tmp_path, progress=False, grid=grid)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"shrinkage": -1.0}, {"recency": 0.0}, {"recency": 1.5}])
def test_item_knn_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
        ItemKNNSettings(**wrong)


def test_the_grids_start_from_the_defaults():
    for settings_class, grid in ((SASRecSettings, SASREC_GRID), *COUNTED_SETTINGS.values()):
        defaults = settings_class()
        assert {name: values[0] for name, values in grid.items()} == {name: getattr(defaults, name) for name in grid}


def test_trials_are_listed_best_first():
    metrics = [dict.fromkeys(("recall@5", "ndcg@5", "recall@10", "ndcg@10"), gain) for gain in (0.1, 0.2)]
    trials = (Trial({"a": 1, "b": None}, {"all_items": metrics[0]}), Trial({"a": 1, "b": 2}, {"all_items": metrics[1]}))
    lines = [line.split() for line in format_trials(Tuning(None, trials)).splitlines()]
    assert lines == [["b", "R@5", "N@5", "R@10", "N@10"], ["2", *["0.2000"] * 4], ["none", *["0.1000"] * 4]]


def test_the_command(data_folder, tmp_path, capsys):
    arguments = ["tune", "--data", str(data_folder), "--output", str(tmp_path / "tuned")]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "item-kNN, validation items"
    assert said[-1] == f"the best SASRec: {tmp_path / 'tuned' / 'sasrec' / 'sasrec.safetensors'}"
    assert "transition-graph, validation items" in said
    for name in ("item-knn", "transition-graph", "sasrec"):
        assert (tmp_path / "tuned" / name / "tuning.json").is_file()
    assert cli.main([*arguments, "--seed", "x"]) == 2
    assert "'x' is no whole number from 0 to 999999999" in capsys.readouterr().err

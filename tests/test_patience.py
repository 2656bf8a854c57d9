"""A run that gets no better ends, with the best weights, wherever it was interrupted: by validations, or by rounds."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram.hub.model_card import write_model_card
from gram.reproduction.plan import Plan
from gram.train_accelerate import train
from gram.training.budget import round_ends

from .test_budget import weights_of
from .test_training import small, train_until


def progress_of(folder) -> dict:
    return json.loads((Path(folder) / "training.json").read_text())["progress"]


@pytest.fixture
def still(data_folder, tmp_path):
    """Settings of a run that learns next to nothing, so that its first validation is the best."""

    def of(name, **changes):
        same = {"learning_rate": 1e-12, "epochs": 8, "validation_users": 10}
        return small(data_folder, tmp_path / name, **same | changes)

    return of


@pytest.mark.parametrize(("patience", "epochs"), [(2, 3), (1, 2), (0, 8)])
def test_a_run_ends_after_so_many_validations_without_a_better_one(still, data, tokenizer, tmp_path, patience, epochs):
    train(still("model", patience=patience), data, tokenizer)
    progress = progress_of(tmp_path / "model")
    assert (progress["epoch"], len(progress["validations"])) == (epochs, epochs)
    assert progress["stopped_early"] == (patience > 0)
    assert ("stopped early" in write_model_card(tmp_path / "model").read_text()) == (patience > 0)


def test_an_interrupted_run_ends_where_it_would_have(still, data, tokenizer, tmp_path):
    train(still("whole", patience=2), data, tokenizer)
    settings = still("twice", patience=2)
    train_until(progress_of(tmp_path / "whole")["updates"] - 3, settings, data, tokenizer)
    train(settings, data, tokenizer)
    whole, twice = (progress_of(tmp_path / name) for name in ("whole", "twice"))
    assert {**whole, "seconds": 0} == {**twice, "seconds": 0}
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "twice")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 20))
def test_each_round_is_as_long_as_all_before_it(epochs, first, cut):
    total = max(sum(epochs) - cut, 1)
    ends = round_ends(iter(epochs), total, first)
    assert ends == sorted(set(ends))
    assert ends[-1] == total
    assert ends[:-1] == [sum(epochs[: first * 2**place]) for place in range(len(ends) - 1)]
    assert all(total - end > 0.9 * end for end in ends[:-1])
    following = first * 2 ** (len(ends) - 1)  # epochs after which one more round would end
    assert following > len(epochs) or sum(epochs[:following]) > total / 2
    assert round_ends(iter(epochs), total, None) == [total]


def test_a_first_round_is_a_training_and_the_second_ends_it_where_it_is_no_better(still, data, tokenizer, tmp_path):
    """The rate is too small for another ranking, and large enough for other weights."""
    for name, changes in {
        "rounds": {"first_round": 2, "patience": 1},
        "alone": {"epochs": 2},
        "half": {"epochs": 1},
    }.items():
        train(still(name, learning_rate=1e-7, validate_every=2, **changes), data, tokenizer)
    progress = progress_of(tmp_path / "rounds")
    assert [validation["epoch"] for validation in progress["validations"]] == [2, 4]
    assert progress["stopped_early"]
    assert weights_of(tmp_path / "rounds") == weights_of(tmp_path / "alone") != weights_of(tmp_path / "half")


def test_rounds_go_on_while_they_are_better_and_an_interrupted_one_where_it_was(still, data, tokenizer, tmp_path):
    learning = {"learning_rate": 3e-3, "validation_users": 0, "epochs": 6, "first_round": 1}
    train(still("whole", **learning), data, tokenizer)
    whole = progress_of(tmp_path / "whole")
    found = [validation["ndcg@10"] for validation in whole["validations"]]
    assert max(found[1:]) > found[0]
    assert whole["epoch"] > 2
    in_round, at_end = whole["updates"] - 3, whole["validations"][1]["updates"]
    for place in (in_round, at_end):
        settings = still(f"from-{place}", **learning)
        train_until(place, settings, data, tokenizer)
        train(settings, data, tokenizer)
        assert {**whole, "seconds": 0} == {**progress_of(settings.output_dir), "seconds": 0}
        assert weights_of(tmp_path / "whole") == weights_of(tmp_path / f"from-{place}")


def test_rows_of_a_reproduction_are_trained_in_one_round(tmp_path):
    recipe = tmp_path / "shop.yaml"
    recipe.write_text("first_round: 3\n")
    assert Plan(recipe, "data", tmp_path / "runs").training.first_round is None
    with pytest.raises(ValueError, match=r"first_round cannot be given: every row is .* in one round"):
        Plan(recipe, "data", tmp_path / "runs", settings={"first_round": 3})

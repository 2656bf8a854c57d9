"""A run whose validations do not get better ends, with the best weights, wherever it was interrupted."""

import json

import pytest

from gram.hub import write_model_card
from gram.train_accelerate import train

from .test_budget import weights_of
from .test_training import small, train_until


def progress_of(folder) -> dict:
    return json.loads((folder / "training.json").read_text())["progress"]


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

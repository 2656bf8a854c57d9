"""A run whose validation improves no more: its learning rate falls to 0 sooner than planned, and then it ends."""

import json
import logging
import math

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gram.hub import write_model_card
from gram.train_accelerate import train

from .test_budget import weights_of
from .test_training import small, train_until


def rates_of(settings, data, tokenizer) -> list[float]:
    """The learning rate of every step of a training."""
    rates = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[-1]["lr"]))
    try:
        train(settings, data, tokenizer)
    finally:
        hook.remove()
    return rates


def progress_of(folder) -> dict:
    return json.loads((folder / "training.json").read_text())["progress"]


@pytest.fixture
def still(data_folder, tmp_path):
    """Settings of a run that learns next to nothing, so that its first validation is the best."""

    def of(name, **changes):
        same = {"learning_rate": 1e-12, "epochs": 20, "validation_users": 10, "warmup_ratio": 0.1}
        return small(data_folder, tmp_path / name, **same | changes)

    return of


def test_the_learning_rate_falls_to_0_sooner_and_then_the_run_ends(still, data, tokenizer, tmp_path, caplog):
    planned = rates_of(still("planned", patience=0, epochs=20), data, tokenizer)
    with caplog.at_level(logging.INFO):
        rates = rates_of(still("cut", patience=2), data, tokenizer)
    progress = progress_of(tmp_path / "cut")
    cut, each = progress["cut"], len(planned) // 20
    assert cut == 3 * each  # the first epoch was the best, and two were not better
    assert len(rates) == progress["updates"] == progress["validations"][-1]["updates"] == math.ceil(1.25 * cut)
    assert rates[: cut + 1] == planned[: cut + 1]
    steps = range(len(rates) - cut)
    assert rates[cut:] == pytest.approx([planned[cut] * (1 - step / len(steps)) for step in steps])
    said = f"no better validation for 2: the learning rate falls to 0 until step {len(rates):,} of {len(planned):,}"
    assert sum(said in message for message in caplog.messages) == 1
    card = write_model_card(tmp_path / "cut").read_text()
    assert f"fewer than planned: by step {cut:,} validation had stopped improving" in card


def test_where_the_plan_ends_as_soon_it_stands(still, data, tokenizer, tmp_path):
    rates = rates_of(still("cut", patience=4, epochs=6), data, tokenizer)
    assert rates == rates_of(still("planned", patience=0, epochs=6), data, tokenizer)
    assert progress_of(tmp_path / "cut")["cut"] is None


@pytest.mark.parametrize("more", [-1, 1])
def test_an_interrupted_run_ends_where_it_would_have(still, data, tokenizer, tmp_path, more):
    train(still("whole", patience=2), data, tokenizer)
    settings = still("twice", patience=2)
    train_until(progress_of(tmp_path / "whole")["cut"] + 3 * more, settings, data, tokenizer)
    train(settings, data, tokenizer)
    whole, twice = (progress_of(tmp_path / name) for name in ("whole", "twice"))
    assert {**whole, "seconds": 0} == {**twice, "seconds": 0}
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "twice")

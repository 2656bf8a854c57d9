"""Training in a given time: what a budget may be, how many steps it comes to, and that timing them disturbs nothing."""

import json
import logging
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram import train_accelerate
from gram.common.settings import settings_from
from gram.hub.model_card import write_model_card
from gram.reproduction.plan import Plan
from gram.train_accelerate import train
from gram.training.budget import seconds_of, steps_within
from gram.training.progress import Progress
from gram.training.settings import TrainingSettings

from .test_training import as_flags, refusal, small

BUDGETS = ("2s", "20s", "200s")  # of which a slow machine needs the larger ones to come to some steps


def budgeted(data_folder, output_dir, budget, **changes) -> TrainingSettings:
    return small(data_folder, output_dir, epochs=None, budget=budget, **changes)


def facts_of(folder) -> dict:
    return json.loads((folder / "training.json").read_text())


def weights_of(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [("2h", 7200), ("90m", 5400), ("600s", 600), ("1h30m", 5400), ("1h1m1s", 3661), ("1.5h", 5400)],
)
def test_a_budget_is_a_time_with_its_unit(budget, seconds):
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize("budget", ["90", "2.5", "", "h", "2 h", "2d", "-1h", "0h", "30m1h", "1h30", "9999999h"])
def test_another_time_is_refused_with_what_to_write(data_folder, tmp_path, capsys, budget):
    places = ("--data", data_folder, "--output-dir", tmp_path / "model")
    message = refusal(capsys, *places, f"--budget={budget}")
    assert message.endswith(f"budget is {budget!r}; it must be a time such as 2h, 90m, 600s or 1h30m, with its unit")
    assert not (tmp_path / "model").exists()


def test_epochs_and_a_budget_together_are_refused(data_folder, tmp_path, capsys):
    places = ("--data", data_folder, "--output-dir", tmp_path / "model")
    assert "epochs and budget both say how long to train" in refusal(capsys, *places, "--epochs=2", "--budget=2h")
    (tmp_path / "both.yaml").write_text("epochs: 2\nbudget: 2h\n")
    assert "give one of them" in refusal(capsys, *places, "--config", tmp_path / "both.yaml")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "flags", "expected"),
    [
        ("budget: 6m\n", {}, (None, "6m")),
        ("budget: 6m\n", {"epochs": 1}, (1, None)),
        ("epochs: 2\n", {"budget": "1h"}, (None, "1h")),
        ("epochs: 2\n", {"budget": None}, (2, None)),
        ("seed: 1\n", {}, (30, None)),
    ],
)
def test_a_flag_takes_the_place_of_what_a_recipe_says(tmp_path, content, flags, expected):
    (tmp_path / "recipe.yaml").write_text(content)
    values = {"config": tmp_path / "recipe.yaml", "data": "d", "output_dir": "o", **flags}
    (settings,) = settings_from(values, TrainingSettings)
    assert (settings.epochs, settings.budget) == expected


def test_rows_of_a_reproduction_have_epochs(tmp_path):
    (tmp_path / "shop.yaml").write_text("budget: 2h\n")
    with pytest.raises(ValueError, match=r"budget: rows take the same number of steps .*; give epochs"):
        Plan(tmp_path / "shop.yaml", "data", tmp_path / "runs", size="tiny")
    plan = Plan(tmp_path / "shop.yaml", "data", tmp_path / "runs", size="tiny", settings={"epochs": 3})
    assert (plan.training.epochs, plan.training.budget) == (3, None)


durations = st.floats(1e-3, 1e3)


@given(st.floats(0, 1e6), st.floats(0, 1e6), durations, durations, st.integers(1, 5000))
def test_a_larger_budget_never_gives_fewer_steps(one, other, step, validation, every):
    fewer, more = (steps_within(seconds, step, validation, every) for seconds in sorted((one, other)))
    assert 1 <= fewer <= more


@given(st.floats(0, 1e6), durations, durations, st.integers(1, 5000))
def test_as_many_steps_as_fit_with_their_validations(seconds, step, validation, every):
    def taken(steps):
        return steps * step + -(-steps // every) * validation

    steps = steps_within(seconds, step, validation, every)
    assert taken(steps) <= max(seconds, taken(1)) + 1e-6 * seconds
    assert taken(steps + 1) > seconds - 1e-6 * seconds


@pytest.mark.parametrize("lora", [None, 2])
def test_timing_disturbs_nothing(data, data_folder, tokenizer, model_folder, tmp_path, lora):
    """Where an epoch is one step, the budget's steps are so many epochs, of which the same weights come."""
    options = {"batch_size": 10_000, "validate_every": 10_000, "lora": lora, "init_from": lora and str(model_folder)}
    train(budgeted(data_folder, tmp_path / "budget", "1s", **options), data, tokenizer)
    chosen = facts_of(tmp_path / "budget")["progress"]["budget"]
    assert chosen["steps"] == chosen["epochs"] >= 1
    train(small(data_folder, tmp_path / "epochs", **options | {"epochs": chosen["steps"]}), data, tokenizer)
    assert weights_of(tmp_path / "budget") == weights_of(tmp_path / "epochs")


@pytest.fixture(scope="module")
def run(data, data_folder, tokenizer, tmp_path_factory):
    """A model trained through, its settings, and a copy of its folder as it was after two steps."""
    for budget in BUDGETS:
        folder = tmp_path_factory.mktemp(f"budget-{budget}")
        options, state_dict = {"save_every": 1, "patience": 0}, Progress.state_dict
        settings = budgeted(data_folder, folder / "model", budget, **options)

        def copy(progress, folder=folder, state_dict=state_dict):
            if progress.updates == 3 and not (folder / "copy").exists():
                shutil.copytree(folder / "model", folder / "copy")
            return state_dict(progress)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Progress, "state_dict", copy)
            train(settings, data, tokenizer)
        if facts_of(folder / "model")["progress"]["updates"] > 12:
            break
    return folder / "model", settings, folder / "copy"


def test_the_choice_is_among_the_facts_and_on_the_card(run):
    folder, settings, _ = run
    facts = facts_of(folder)
    progress = facts["progress"]
    chosen = progress["budget"]
    assert (facts["settings"]["budget"], facts["settings"]["epochs"]) == (settings.budget, None)
    assert progress["updates"] == chosen["steps"] == progress["validations"][-1]["updates"]
    assert progress["epoch"] - 1 < chosen["epochs"] <= progress["epoch"] == progress["validations"][-1]["epoch"]
    assert min(chosen.values()) > 0
    card = write_model_card(folder).read_text()
    assert f"of {chosen['epochs']:.1f} epochs, which were to fit into {settings.budget}" in card


def test_a_resumed_run_keeps_the_choice_and_gives_bit_identical_weights(run, data, tokenizer, tmp_path):
    folder, settings, copy = run
    shutil.copytree(copy, tmp_path / "model")
    again = TrainingSettings(**{**vars(settings), "output_dir": str(tmp_path / "model")})
    train(again, data, tokenizer)
    assert facts_of(tmp_path / "model")["progress"]["budget"] == facts_of(folder)["progress"]["budget"]
    assert weights_of(tmp_path / "model") == weights_of(folder)


def test_another_budget_is_refused_by_name(run, data, tokenizer):
    with pytest.raises(ValueError, match=rf"trained with budget={run[1].budget}, now 3h; take the same to go on"):
        train(TrainingSettings(**{**vars(run[1]), "budget": "3h"}), data, tokenizer)


def test_a_run_that_turns_out_slower_says_so_and_is_not_cut(run, data, tokenizer, tmp_path, caplog, monkeypatch):
    folder, settings, copy = run
    shutil.copytree(copy, tmp_path / "model")
    monkeypatch.setattr(train_accelerate, "LATE", 0)  # any step is slow
    again = TrainingSettings(**{**vars(settings), "output_dir": str(tmp_path / "model")})
    with caplog.at_level(logging.WARNING):
        train(again, data, tokenizer)
    assert sum("the run takes longer than its budget" in message for message in caplog.messages) == 1
    assert weights_of(tmp_path / "model") == weights_of(folder)


def test_two_processes_agree(data_folder, tokenizer, launch, tmp_path):
    tokenizer.save_pretrained(tmp_path / "translation")
    settings = budgeted(data_folder, tmp_path / "model", "2s", translation=tmp_path / "translation")
    done = launch(*as_flags(settings), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("budget 2s: a step takes ") == 1
    progress = facts_of(tmp_path / "model")["progress"]
    assert progress["updates"] == progress["budget"]["steps"]

"""Trackers, and the history and picture that a run leaves of itself."""

import json
import sqlite3
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from safetensors.torch import load_file

from gram.common.extras import MissingPackageError
from gram.train_accelerate import train
from gram.training.plot import plot_training
from gram.training.progress import Progress
from gram.training.trackers import loggable, tracker_names

from .test_training import refusal, small


def test_tensorboard_and_trackio_get_loss_learning_rate_and_validations(
    data, data_folder, tokenizer, tmp_path, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr(sys, "argv", ["train_accelerate.py"])
    settings = small(data_folder, tmp_path / "my-run", report_to="tensorboard,trackio", validation_users=10)
    train(settings, data, tokenizer)
    progress = json.loads((tmp_path / "my-run" / "training.json").read_text())["progress"]
    assert len(progress["losses"]) == progress["updates"] // 10 > 0

    events = EventAccumulator(str(tmp_path / "my-run" / "logs" / "gram")).Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert [step for step, _ in found["loss"]] == list(range(10, progress["updates"] + 1, 10))
    assert [value for _, value in found["loss"]] == pytest.approx(progress["losses"], abs=1e-4)
    assert all(0 < value <= settings.learning_rate for _, value in found["lr"])
    assert [step for step, _ in found["ndcg@10"]] == [entry["updates"] for entry in progress["validations"]]

    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, _, _ in rows} == {"my-run"}
    assert {key for _, _, text in rows for key in json.loads(text)} >= {"loss", "lr", "ndcg@10"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tensorbord", r"report_to: no tracker 'tensorbord'; choose of all, .*tensorboard"),
        ("tensorboard,aim", "report_to: the package of the tracker 'aim' is missing; run `pip install aim`"),
    ],
)
def test_a_tracker_that_is_not_there_is_an_error_before_anything_is_done(tmp_path, data_folder, capsys, asked, message):
    with pytest.raises(ValueError, match=message):
        tracker_names(asked)
    places = ("--data", data_folder, "--output-dir", tmp_path / "model")
    assert "report_to" in refusal(capsys, *places, "--report-to", asked)
    assert not (tmp_path / "model").exists()


def test_all_are_the_installed_ones_and_each_is_named_once():
    assert {"tensorboard", "trackio"} <= set(tracker_names("all"))
    assert tracker_names("trackio, tensorboard trackio") == ["trackio", "tensorboard"]
    assert tracker_names(None) == []


def test_settings_are_logged_as_plain_values(data_folder):
    logged = loggable(vars(small(data_folder, "model")))
    assert {type(value) for value in logged.values()} <= {bool, int, float, str}
    assert logged["backbone"] == "none"


def test_a_run_leaves_a_picture_that_can_be_drawn_again(data, data_folder, tokenizer, tmp_path):
    settings = small(data_folder, tmp_path / "model", validation_users=10)
    train(settings, data, tokenizer)
    text = (tmp_path / "model" / "training.svg").read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert 'href="http' not in text
    assert len(text) < 100_000
    facts = (tmp_path / "model" / "training.json").read_text()
    assert len(facts.splitlines()) < 200  # losses stand on one line
    plot_training(json.loads(facts)["progress"], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    assert load_file(tmp_path / "model" / "model.safetensors")


def test_no_picture_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"training.svg needs matplotlib.*\[plots\]"):
        plot_training(vars(Progress()), tmp_path / "training.svg")
    assert not list(tmp_path.iterdir())


def test_a_short_run_and_a_long_one_are_drawn(tmp_path):
    progress = Progress()
    progress.add_validation(0.0)
    plot_training(progress.state_dict(), tmp_path / "short.svg")
    assert (tmp_path / "short.svg").is_file()
    for progress.updates in range(1, 100_001):
        if progress.updates % 10 == 0:
            progress.add_loss(1 / progress.updates)
    assert (len(progress.losses), progress.losses_every) == (625, 160)
    assert progress.losses[:2] == [round(1 / 160, 5), round(1 / 320, 5)]
    assert progress.add_validation(0.5)
    plot_training(progress.state_dict(), tmp_path / "long.svg")
    assert (tmp_path / "long.svg").is_file()


def test_an_interrupted_run_keeps_its_whole_history():
    progress = Progress()
    for progress.updates in (10, 20):
        progress.add_loss(2.0)
    progress.add_validation(0.25)
    again = Progress()
    again.load_state_dict(progress.state_dict())
    again.updates = 30
    again.add_loss(1.0)
    assert again.losses == [2.0, 2.0, 1.0]
    assert again.validations == progress.validations

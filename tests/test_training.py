"""Training: what a step holds, resuming bit by bit, several processes, settings, bad input."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import astuple, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5Attention

from gram import GramForConditionalGeneration
from gram.common.command_line import exit_code_of
from gram.data import Interactions, RecommendationData, training_part
from gram.train_accelerate import main, train
from gram.training.progress import Progress
from gram.training.settings import TrainingSettings
from gram.training.start import build_model, start_from_identity, start_from_items
from gram.training.steps import TrainingSteps, prefix_groups, thinned

from .conftest import NUM_ITEMS
from .waiting import PATIENCE

ROOT = Path(__file__).parents[1]
OTHERS = ("prepare", "encoder")  # of other commands
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path.name.split("-")[0] not in OTHERS)


def small(data_folder, output_dir, **changes) -> TrainingSettings:
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2, "max_history": 8}
    length = {"max_passage_length": 48, "epochs": 2, "batch_size": 32, "micro_batch_size": 16, "prefixes_per_group": 4}
    fields = {**shape, **length, "validation_beams": 5, "learning_rate": 0.01, "save_every": 3}
    fields |= {"mixed_precision": "no", **changes}  # what is compared is float32 on every machine
    return TrainingSettings(data=str(data_folder), output_dir=str(output_dir), **fields)


def refusal(capsys, *arguments) -> str:
    """The one line that training is refused with."""
    assert exit_code_of(lambda: main([*map(str, arguments)]), "train_accelerate.py") == 2
    return capsys.readouterr().err.splitlines()[-1]


def train_until(updates, settings, data, tokenizer) -> None:
    """Train, and be interrupted where the checkpoint after so many steps is to be saved."""
    state_dict = Progress.state_dict

    def stop(progress):
        if progress.updates == updates:
            raise KeyboardInterrupt
        return state_dict(progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "state_dict", stop)
        with pytest.raises(KeyboardInterrupt):
            train(settings, data, tokenizer)


def as_flags(settings: TrainingSettings) -> list[str]:
    return [f"--{name.replace('_', '-')}={str(value).lower()}" for name, value in vars(settings).items()]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.floats(0.01, 0.99), st.integers(0, 9))
def test_an_epoch_leaves_out_others_than_the_last_two_of_a_user(lengths, dropout, epoch):
    training = Interactions.from_sequences(range(len(lengths)), [range(length) for length in lengths])
    part = thinned(training, dropout, seed=0, epoch=epoch)
    assert part.user_ids == training.user_ids
    for items, length in zip(part, lengths, strict=True):
        assert sorted(set(items)) == items.tolist()  # in order
        assert items[-2:].tolist() == [*range(length)][-2:]


def test_every_epoch_leaves_out_its_share_of_the_interactions():
    training = Interactions.from_sequences("ab", [range(1000), range(3000)])
    parts = [thinned(training, 0.3, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    for part in parts:
        assert part.lengths / training.lengths == pytest.approx(0.7, abs=0.05)
    assert [np.array_equal(part.items, parts[0].items) for part in parts] == [True, False, False, True]
    assert thinned(training, 0.0, 0, 0) is training


@pytest.mark.parametrize("prefixes_per_user", [None, 5])
@pytest.mark.parametrize("prefixes_per_group", [1, 3, 100])
def test_every_prefix_or_the_latest_are_samples_once_per_epoch(data, tokenizer, prefixes_per_group, prefixes_per_user):
    training = training_part(data)
    expected = {(user, place) for user, length in enumerate(training.lengths) for place in range(1, length)}
    if prefixes_per_user is not None:
        latest = {(user, place) for user, place in expected if place >= training.lengths[user] - prefixes_per_user}
        assert latest < expected
        expected = latest
    for epoch in (0, 1):
        options = {"seed": 0, "epoch": epoch, "prefixes_per_user": prefixes_per_user}
        steps = TrainingSteps(training, tokenizer, 16, 16, prefixes_per_group, **options)
        groups = [group for index in range(len(steps)) for group in steps.groups(index)]
        samples = [(group.user, place) for group in groups for place in range(group.first, group.last)]
        assert len(samples) == len(expected)
        assert set(samples) == expected


def test_tokens_start_near_those_of_like_items_and_others_as_they_are(data, data_folder, tokenizer, tmp_path):
    model = build_model(small(data_folder, tmp_path, embedding_start="items"), tokenizer)
    random, half = model.get_input_embeddings().weight.detach().clone(), NUM_ITEMS // 2
    vectors = np.repeat([[1.0, 0.0], [0.0, 1.0]], half, axis=0)  # the items are of two kinds
    start_from_items(model, tokenizer, [vectors], seed=0)
    weight, end = model.get_input_embeddings().weight.detach(), tokenizer.eos_token_id
    of_item = [{*ids, *prompt} - {end} for ids, prompt in zip(tokenizer.sequences, tokenizer.item_prompts, strict=True)]
    of_kind = [set().union(*of_item[:half]), set().union(*of_item[half:])]
    others = sorted(set(range(len(weight))) - set().union(*of_kind))
    assert end in others
    assert torch.equal(weight[others], random[others])
    moved = F.normalize(2**0.5 * weight - random, dim=-1)
    one, two = (moved[sorted(own - other)] for own, other in (of_kind, of_kind[::-1]))
    assert min((one @ one.T).min(), (two @ two.T).min()) > 0.9
    assert (one @ two.T).max() < -0.9
    assert weight.std().item() == pytest.approx(random.std().item(), rel=0.05)


def test_items_that_are_all_alike_leave_tokens_finite(data_folder, tokenizer, tmp_path):
    model = build_model(small(data_folder, tmp_path, embedding_start="items"), tokenizer)
    start_from_items(model, tokenizer, [np.ones((NUM_ITEMS, 2))], seed=0)
    assert model.get_input_embeddings().weight.isfinite().all()


@pytest.mark.parametrize("num_heads", [4, 2])  # together as wide as the model, or half
def test_attentions_that_start_from_the_identity_hand_on_what_they_read(data_folder, tokenizer, tmp_path, num_heads):
    model = build_model(small(data_folder, tmp_path, num_heads=num_heads), tokenizer)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    start_from_identity(model)
    read = torch.randn(5, model.config.d_model)
    attentions = [module for module in model.modules() if isinstance(module, T5Attention)]
    assert len(attentions) == model.config.num_layers + 2 * model.config.num_decoder_layers
    for attention in attentions:
        handed_on = attention.o(attention.v(read))
        assert torch.allclose(attention.o(attention.v(handed_on)), handed_on, atol=1e-5)
        assert torch.allclose(handed_on, read, atol=1e-5) == (num_heads == 4)
    start, embeddings = model.config.decoder_start_token_id, model.get_input_embeddings().weight
    assert embeddings[start].norm() < 0.2 * before["shared.weight"][start].norm()
    assert torch.equal(embeddings[start + 1 :], before["shared.weight"][start + 1 :])
    same = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    others = {name for name in before if name.endswith((".v.weight", ".o.weight"))} | {"shared.weight"}
    assert same == before.keys() - others


def test_a_run_over_the_trie_from_the_items_is_loaded_as_it_was_trained(data, data_folder, tokenizer, tmp_path):
    changes = {"epochs": 1, "score_mode": "trie", "embedding_start": "items", "attention_start": "identity"}
    train(small(data_folder, tmp_path / "model", **changes), data, tokenizer)
    model = GramForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert model.config.score_mode == "trie"
    assert model.config.repeats == (training_part(data).num_repeats > 0)
    start = {"data": str(data_folder), "output_dir": str(tmp_path), "init_from": str(tmp_path / "model")}
    again = build_model(TrainingSettings(**start), tokenizer)
    assert again.config.score_mode == "trie"
    assert torch.equal(again.shared.weight, model.shared.weight)
    assert build_model(TrainingSettings(**start, score_mode="vocabulary"), tokenizer).config.score_mode == "vocabulary"
    # What random weights start as is nothing to weights that have been trained.
    changes |= {"init_from": str(tmp_path / "model"), "learning_rate": 1e-9}
    train(small(data_folder, tmp_path / "on", **changes), data, tokenizer)
    goes_on = GramForConditionalGeneration.from_pretrained(tmp_path / "on")
    assert all(map(partial(torch.allclose, atol=1e-6), goes_on.parameters(), model.parameters()))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_train_the_same_weights(data, tokenizer, data_folder, tmp_path):
    weights = []
    for name, compiled in (("plain", False), ("compiled", True)):
        changes = {"epochs": 1, "dropout_rate": 0.0, "validation_users": 5, "compile": compiled}
        train(small(data_folder, tmp_path / name, **changes), data, tokenizer)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)


def test_a_user_of_one_item_is_no_sample():
    assert prefix_groups(Interactions.from_sequences(["a", "b"], [[3], [3, 4]]), 8).tolist() == [[1, 1, 2]]


def test_a_step_whose_targets_were_all_removed_teaches_nothing(data, tokenizer, model):
    is_target = np.zeros(len(tokenizer.item_ids), dtype=bool)
    micro_batches, num_tokens = TrainingSteps(training_part(data), tokenizer, 8, 8, 4, 0, 0, is_target=is_target)[0]
    model = copy.deepcopy(model).train()
    for batch in micro_batches:
        loss = model(**batch, num_items_in_batch=num_tokens).loss
        assert loss.item() == 0
        loss.backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_order_depends_on_seed_and_epoch_alone(data, tokenizer):
    def order(seed, epoch):
        steps = TrainingSteps(training_part(data), tokenizer, 16, 16, 4, seed, epoch)
        return [steps.groups(index) for index in range(len(steps))]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_steps_are_counted_before_a_group_of_them_is_made(data, tokenizer, monkeypatch):
    arguments = (training_part(data), tokenizer, 16, 16, 4, 0, 0)
    steps = TrainingSteps(*arguments)
    made = [index for index in range(len(steps)) if steps[index]]
    monkeypatch.setattr("gram.training.steps.PrefixGroup", lambda *_: pytest.fail("a group was made"))
    assert len(TrainingSteps(*arguments)) == len(made)


@pytest.mark.parametrize(
    ("arguments", "digest"), [((16, 16, 4, 0, 0), "3bfdc3752074eab2"), ((7, 5, 100, 2, 1), "35299d82109e5d04")]
)
def test_steps_are_what_they_have_always_been(tokenizer, arguments, digest):
    lengths = np.random.default_rng(5).integers(1, 60, 100)
    sequences = [np.random.default_rng(length).integers(0, 30, length) for length in lengths]
    steps = TrainingSteps(Interactions.from_sequences([str(u) for u in range(100)], sequences), tokenizer, *arguments)
    groups = [(index, *astuple(group)) for index in range(len(steps)) for group in steps.groups(index)]
    assert sha256(np.array(groups).astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_processes_share_every_step(data, tokenizer):
    training = training_part(data)

    def targets(process, num_processes):
        steps = TrainingSteps(training, tokenizer, 16, 16, 4, 0, 0, process, num_processes)
        micro_batches = [steps[index] for index in range(len(steps))]
        counted = [sum(int((batch["labels"] >= 0).sum()) for batch in batches) for batches, _ in micro_batches]
        return np.array(counted), np.array([num_tokens for _, num_tokens in micro_batches])

    alone, total = targets(0, 1)
    assert np.array_equal(alone, total)
    assert np.array_equal(sum(targets(process, 7)[0] for process in range(7)), total)


@pytest.fixture(scope="module")
def trained(data, data_folder, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train(small(data_folder, folder), data, tokenizer)
    return folder


def test_training_leaves_a_model_folder_and_what_is_known_of_the_run(trained, tokenizer):
    facts = json.loads((trained / "training.json").read_text())
    assert [entry["epoch"] for entry in facts["progress"]["validations"]] == [1, 2]
    assert facts["progress"]["best_ndcg"] == max(entry["ndcg@10"] for entry in facts["progress"]["validations"])
    assert not (trained / "checkpoints").exists()
    model = GramForConditionalGeneration.from_pretrained(trained)
    assert model.item_trie.num_items == len(tokenizer.item_ids)
    assert model.generation_config.num_beams == 50


def test_every_weight_learns(trained, data_folder, tokenizer):
    from accelerate.utils import set_seed

    from gram.training.start import build_model

    settings = small(data_folder, trained)
    set_seed(settings.seed)
    before, after = build_model(settings, tokenizer).state_dict(), load_file(trained / "model.safetensors")
    learnt = [name for name in after if not name.startswith("item_trie.")]
    assert learnt
    assert not [name for name in learnt if torch.equal(before[name], after[name])]


def test_the_same_seed_gives_the_same_weights(trained, data, data_folder, tokenizer, tmp_path):
    train(small(data_folder, tmp_path / "again"), data, tokenizer)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_resuming_in_mid_epoch_gives_bit_identical_weights(trained, data, data_folder, tokenizer, tmp_path):
    settings = small(data_folder, tmp_path / "resumed")
    train_until(12, settings, data, tokenizer)
    checkpoints = sorted((tmp_path / "resumed" / "checkpoints").glob("step-*"))
    assert [path.name for path in checkpoints] == ["step-00000009"]
    train(settings, data, tokenizer)
    assert (tmp_path / "resumed" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_muon_trains_and_goes_on_bit_by_bit(data, data_folder, tokenizer, tmp_path):
    changes = {"optimizer": "muon", "epochs": 1, "validation_users": 5}
    whole, halves = (small(data_folder, tmp_path / name, **changes) for name in ("whole", "halves"))
    train(whole, data, tokenizer)
    train_until(6, halves, data, tokenizer)
    train(halves, data, tokenizer)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halves")]
    assert weights[0] == weights[1]


def test_a_finished_run_is_left_alone_and_another_setting_is_refused(trained, data, data_folder, tokenizer):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    train(small(data_folder, trained), data, tokenizer)
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"learning_rate=0\.01, now 0\.5"):
        train(small(data_folder, trained, learning_rate=0.5), data, tokenizer)


def test_a_setting_that_is_newer_than_a_finished_run_makes_another_run_where_it_is_used(
    trained, data, data_folder, tokenizer, tmp_path
):
    folder = shutil.copytree(trained, tmp_path / "model")
    facts = json.loads((folder / "training.json").read_text())
    del facts["provenance"]["settings"]["interaction_dropout"]
    (folder / "training.json").write_text(json.dumps(facts))
    train(small(data_folder, folder), data, tokenizer)
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"interaction_dropout=0\.0, now 0\.2"):
        train(small(data_folder, folder, interaction_dropout=0.2), data, tokenizer)


def newer(data):
    """The next day's data: every user has had one more item."""
    more = [np.append(sequence, (sequence[-1] + 3) % 29) for sequence in data.interactions]
    return RecommendationData(data.items, Interactions.from_sequences(data.interactions.user_ids, more), data.folder)


@pytest.fixture(scope="module")
def trained_on_newer(data, data_folder, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("newer") / "model"
    train(small(data_folder, folder, epochs=1), newer(data), tokenizer)
    return folder


def test_new_interactions_are_refused_by_name_or_trained_anew(
    trained, trained_on_newer, data, data_folder, tokenizer, tmp_path
):
    folder = shutil.copytree(trained, tmp_path / "model")
    (folder / "evaluation.json").write_text("{}")  # of the weights that go
    with pytest.raises(ValueError, match=r"trained with other interactions; .*--overwrite"):
        train(small(data_folder, folder), newer(data), tokenizer)
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    (folder / "training.json").write_text("[]")  # damaged, as by a full disk
    with pytest.raises(ValueError, match=r"trained with .*--overwrite"):
        train(small(data_folder, folder), newer(data), tokenizer)
    train(small(data_folder, folder, epochs=1, overwrite=True), newer(data), tokenizer)
    assert (folder / "model.safetensors").read_bytes() == (trained_on_newer / "model.safetensors").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in trained_on_newer.iterdir()}


def test_another_translation_is_refused_by_name(trained, data, data_folder, tokenizer):
    other = copy.copy(tokenizer)
    other.catalogue = tokenizer.catalogue.set_column(
        1, "title", tokenizer.catalogue["title"].take([1, 0, *range(2, 30)])
    )
    with pytest.raises(ValueError, match="trained with other translation; "):
        train(small(data_folder, trained), data, other)


def test_half_a_run_of_other_data_is_refused_by_name_or_begun_anew(
    trained_on_newer, data, data_folder, tokenizer, tmp_path
):
    settings = small(data_folder, tmp_path / "model", epochs=1)
    train_until(6, settings, data, tokenizer)  # the second checkpoint
    with pytest.raises(ValueError, match="trained with other interactions; "):
        train(settings, newer(data), tokenizer)
    train(replace(settings, overwrite=True), newer(data), tokenizer)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "model", trained_on_newer)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e30}, r"the loss is (nan|inf) at step \d+, nothing is published; .* lower --learning-rate"),
        (
            {"learning_rate": 1e30, "weight_decay": 1e10, "warmup_ratio": 0, "batch_size": 10_000, "epochs": 1},
            "weights are not finite after step",
        ),
    ],
)
def test_a_run_that_diverges_publishes_nothing(data, data_folder, tokenizer, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(small(data_folder, tmp_path / "model", **changes), data, tokenizer)
    assert {path.name for path in (tmp_path / "model").iterdir()} <= {"checkpoints"}


@pytest.mark.parametrize("wrong", [{"num_layers": 1_000_000}, {"workers": 100_000}, {"num_heads": 0}])
def test_settings_that_no_run_can_use_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* must be a whole number, at least "):
        TrainingSettings("data", "model", **wrong)


def test_two_processes_learn_what_one_learns(data_folder, tokenizer, tmp_path):
    """Launched as users launch them; other tests of several processes take forks, which are ready sooner."""
    tokenizer.save_pretrained(tmp_path / "translation")
    options = {"translation": tmp_path / "translation", "dropout_rate": 0.0}
    one, two = (small(data_folder, tmp_path / f"model-{processes}", **options) for processes in (1, 2))
    main(as_flags(one))
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *several, str(ROOT / "train_accelerate.py"), *as_flags(two)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    learnt = {}
    for processes, settings in enumerate((one, two), 1):
        learnt[processes] = load_file(f"{settings.output_dir}/model.safetensors")
        assert f"| processes | {processes} |" in Path(settings.output_dir, "README.md").read_text()
    for name, weights in learnt[1].items():
        torch.testing.assert_close(learnt[2][name], weights, rtol=0, atol=2e-3, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_loss_falls(data, data_folder, tokenizer, tmp_path, optimizer):
    changes = {"epochs": 8, "patience": 0, "validate_every": 8, "validation_users": 5, "optimizer": optimizer}
    train(small(data_folder, tmp_path / "model", **changes), data, tokenizer)
    model = GramForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    steps = TrainingSteps(training_part(data), tokenizer, 32, 32, 4, 0, 0)
    micro_batches, num_tokens = steps[0]
    with torch.no_grad():
        loss = sum(model(**batch, num_items_in_batch=num_tokens).loss.item() for batch in micro_batches)
    assert loss < 0.55 * np.log(len(tokenizer))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe):
    from argparse import ArgumentParser

    from gram.common.settings import add_flags, settings_from
    from gram.translation import TranslationSettings

    argv = ["--config", str(recipe), "--data", "d", "--output-dir", "o", "--backbone", "none", "--learning-rate", "0.5"]
    kinds, parser = (TrainingSettings, TranslationSettings), ArgumentParser()
    add_flags(parser, *kinds, config=True)
    settings, translation = settings_from(vars(parser.parse_args(argv)), *kinds)
    assert (settings.backbone, settings.learning_rate) == (None, 0.5)
    said = yaml.safe_load(recipe.read_text())
    assert translation.num_clusters == said.get("num_clusters", 128)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rte: 1\n", "settings.yaml: unknown key 'learning_rte'"),
        ("epochs: many\n", "settings.yaml: epochs: invalid int value: 'many'"),
        ("epochs: 0\n", "epochs is 0; it must be a whole number, at least 1"),
        ("epochs: [1, 2]\n", "settings.yaml: epochs must be a single value"),
        ("just text\n", "settings.yaml: must hold"),
        ("a: b: c\n", "settings.yaml: not a YAML file"),
        (None, "settings.yaml: no such file"),
    ],
)
def test_a_config_file_that_is_wrong_is_one_line(tmp_path, data_folder, capsys, content, message):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_text(content)
    assert message in refusal(capsys, "--config", path, "--data", data_folder, "--output-dir", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("licence", ["my own", "other"])
def test_a_card_that_could_not_be_written_is_refused_before_training(data_folder, tmp_path, capsys, licence):
    (tmp_path / "card.yaml").write_text(f"licence: {licence}\n")
    assert "--licence-name" in refusal(capsys, "--data", data_folder, "--output-dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["card.yaml"]


def test_a_translation_of_other_items_is_refused(data_folder, tmp_path, tokenizer, capsys):
    tokenizer.save_pretrained(tmp_path / "translation")
    items = (data_folder / "item_text.tsv").read_text() + "B9999\tNew balm\t\t\n"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "item_text.tsv").write_text(items)
    (tmp_path / "data" / "user_sequence.txt").write_text((data_folder / "user_sequence.txt").read_text())
    folders = {"data": tmp_path / "data", "output-dir": tmp_path / "m", "translation": tmp_path / "translation"}
    assert "other items" in refusal(capsys, *(f"--{name}={folder}" for name, folder in folders.items()))


def test_groups_are_of_even_size():
    interactions = Interactions.from_sequences(["a"], [list(range(36))])
    assert prefix_groups(interactions, 16).tolist() == [[0, 1, 12], [0, 12, 24], [0, 24, 36]]

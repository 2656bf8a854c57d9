"""Denoising: spans and their targets, steps of several processes, a run that resumes, backbones."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from gram import GramForConditionalGeneration, GramTokenizer
from gram.train_accelerate import train
from gram.training.denoising import DenoisingSteps, corrupt, denoising_passages, num_sentinels, sentinels_of
from gram.training.progress import Progress
from gram.training.ragged import Ragged
from gram.training.start import build_model
from gram.translation import TranslationSettings, train_vocabulary
from gram.translation.tokenizer_folder import make_tokenizer_folder

from .test_training import as_flags, launch, small

EVERYTHING = {"label_smoothing": 0.1, "denoising_epochs": 2}


def restored(corrupted: list[int], target: list[int], sentinels: list[int]) -> list[int]:
    """The passage: every sentinel replaced by what follows it in the target."""
    spans, current = {}, None
    for token in target[:-1]:
        if token in sentinels:
            current = spans[token] = []
        else:
            current.append(token)
    return [token for place in corrupted for token in spans.pop(place, [place])]


@given(length=st.integers(2, 400), seed=st.integers(0, 1000), most=st.integers(1, 30))
def test_a_passage_can_be_restored_from_what_is_left_and_what_was_cut_out(length, seed, most):
    passage, sentinels = np.array([*range(100, 100 + length), 1]), list(range(10, 10 + most))
    corrupted, target = (tokens.tolist() for tokens in corrupt(passage, sentinels, np.random.default_rng(seed)))
    assert restored(corrupted, target, sentinels) == passage.tolist()
    used = [token for token in target if token in sentinels]
    assert used == sentinels[: len(used)] == [token for token in corrupted if token in sentinels]
    num_noise = len(target) - len(used) - 1
    assert num_noise == max(round(0.15 * length), 1)
    assert len(used) == min(max(round(num_noise / 3), 1), most)
    assert corrupted[-1] == target[-1] == 1


def test_every_place_of_a_passage_is_cut_out_equally_often():
    passage, counts = np.array([*range(100, 140), 1]), np.zeros(40)
    for seed in range(3000):
        _, target = corrupt(passage, [10, 11], np.random.default_rng(seed))
        counts[target[target >= 100] - 100] += 1
    shares = counts / 3000
    assert abs(shares.mean() - 0.15) < 1e-9
    assert (abs(shares[3:-3] - 0.15) < 0.05).all()
    assert (shares > 0.04).all()


def test_passages_are_the_item_prompts_and_the_ids_with_their_text(tokenizer):
    passages = denoising_passages(tokenizer)
    assert len(passages) == 2 * len(tokenizer.item_ids)
    assert passages.take(np.arange(30)).values.tolist() == Ragged.of(tokenizer.item_prompts).values.tolist()
    described = passages.take(np.array([37])).values.tolist()
    assert described[: len(tokenizer.lexical_ids[7])] == tokenizer.lexical_ids[7]
    assert tokenizer.catalogue["text"][7].as_py() in tokenizer.decode(described)
    assert passages.lengths.max() <= tokenizer.max_passage_length


def denoising_steps(tokenizer, **options) -> DenoisingSteps:
    fields = {"batch_size": 16, "micro_batch_size": 5, "seed": 0, "epoch": 0, **options}
    return DenoisingSteps(tokenizer, [500, 501, 502], **fields)


def test_every_passage_is_read_once_per_epoch_each_time_with_other_spans(tokenizer):
    def read(**options):
        steps = denoising_steps(tokenizer, **options)
        passages = []
        for index in range(len(steps)):
            for batch in steps[index][0]:
                ids = (row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True))
                targets = (row[row >= 0] for row in batch["labels"])
                passages += [(one.tolist(), other.tolist()) for one, other in zip(ids, targets, strict=True)]
        return passages

    expected = denoising_passages(tokenizer)
    expected = [expected.take(np.array([row])).values.tolist() for row in range(len(expected))]
    for epoch in (0, 1):
        found = [restored(*pair, [500, 501, 502]) for pair in read(epoch=epoch)]
        assert sorted(found) == sorted(expected)
    assert read() == read()
    assert sorted(read()) == sorted(read(batch_size=60, micro_batch_size=2))
    assert sorted(read()) != sorted(read(epoch=1))
    assert sorted(read()) != sorted(read(seed=1))


@pytest.mark.parametrize("num_processes", [2, 3, 20])  # 20: more than there are passages in a step
def test_processes_share_every_step_in_equally_many_micro_batches(tokenizer, num_processes):
    alone = denoising_steps(tokenizer)
    shares = [denoising_steps(tokenizer, process=p, num_processes=num_processes) for p in range(num_processes)]
    for index in range(len(alone)):
        batches, num_tokens = alone[index]
        assert sum(int((batch["labels"] >= 0).sum()) for batch in batches) == num_tokens
        found = [share[index] for share in shares]
        assert {tokens for _, tokens in found} == {num_tokens}
        assert len({len(batches) for batches, _ in found}) == 1
        assert sum(int((batch["labels"] >= 0).sum()) for batches, _ in found for batch in batches) == num_tokens


def test_the_loss_is_that_of_the_plain_form_over_one_passage(tokenizer, data_folder, tmp_path):
    model = build_model(small(data_folder, tmp_path, denoising_epochs=1, dropout_rate=0.0), tokenizer)
    sentinels = sentinels_of(tokenizer, model.config.vocab_size)
    assert len(sentinels) == num_sentinels(tokenizer) == 2
    assert min(sentinels) == len(tokenizer)
    (batch, *_), _ = DenoisingSteps(tokenizer, sentinels, 16, 5, 0, 0)[0]
    grouped = model(**batch).loss
    inputs = {name: batch[name][:, None] for name in ("input_ids", "attention_mask")}
    plain = model(**inputs, labels=batch["labels"]).loss
    torch.testing.assert_close(grouped, plain)
    grouped.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_denoising_learns_and_leaves_an_ordinary_folder(data, data_folder, tokenizer, tmp_path, run_elsewhere):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = small(data_folder, tmp_path / "model", epochs=2, denoising_epochs=40, report_to="tensorboard")
    train(settings, data, tokenizer)
    facts = json.loads((tmp_path / "model" / "training.json").read_text())["denoising"]
    assert (facts["epoch"], facts["updates"], facts["samples"]) == (40, 80, 40 * 60)
    assert facts["losses"][-1] < 0.85 * facts["losses"][0]
    events = EventAccumulator(str(tmp_path / "model" / "logs" / "gram")).Reload()
    steps = {name: [event.step for event in events.Scalars(name)] for name in ("denoising_loss", "loss", "lr")}
    assert steps["denoising_loss"] == list(range(10, 81, 10))
    assert steps["loss"] == [90]  # the training's own begin where the warm start's end
    assert steps["lr"] == [*steps["denoising_loss"], *steps["loss"]]
    script = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, history = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
found = model.generate(**tokenizer(histories=[history], return_tensors="pt"), num_beams=5, num_return_sequences=5)
print(json.dumps(tokenizer.decode_items(found)))
"""
    (items,) = run_elsewhere(script, [str(tmp_path / "model"), tokenizer.item_ids[:3]])
    assert len(items) == 5


def stop_at(updates_of_a_phase: int, monkeypatch, run) -> None:
    """Interrupt a run where a checkpoint would be written at this update of either phase."""
    state_dict = Progress.state_dict

    def interrupted(progress):
        if progress.updates == updates_of_a_phase:
            raise KeyboardInterrupt
        return state_dict(progress)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "state_dict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()


def test_a_run_resumes_in_mid_denoising_and_in_mid_epoch(data, data_folder, tokenizer, tmp_path, monkeypatch):
    options = {**EVERYTHING, "batch_size": 16, "save_every": 3}
    train(small(data_folder, tmp_path / "whole", **options), data, tokenizer)
    settings = small(data_folder, tmp_path / "resumed", **options)
    for updates, saved in ((6, "step-00000004"), (12, "step-00000017")):
        stop_at(updates, monkeypatch, lambda: train(settings, data, tokenizer))
        checkpoints = sorted((tmp_path / "resumed" / "checkpoints").glob("step-*"))
        assert [path.name for path in checkpoints] == [saved]
    train(settings, data, tokenizer)
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_two_processes_learn_what_one_learns(data_folder, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "translation")
    learnt = []
    for processes in (1, 2):
        options = {**EVERYTHING, "translation": tmp_path / "translation", "dropout_rate": 0.0, "epochs": 1}
        done = launch(*as_flags(small(data_folder, tmp_path / f"model-{processes}", **options)), processes=processes)
        assert done.returncode == 0, done.stderr
        assert "denoising: 100%" in done.stderr
        learnt.append(load_file(tmp_path / f"model-{processes}" / "model.safetensors"))
    for name, weights in learnt[0].items():
        torch.testing.assert_close(learnt[1][name], weights, rtol=0, atol=2e-3, msg=name)


@pytest.mark.parametrize("marks", ["sentinels", "unused", "none"])
def test_a_backbone_is_denoised_with_its_own_sentinels_or_with_unused_ids(data, data_folder, tmp_path, marks):
    words = train_vocabulary(data.items.texts, 300)
    if marks == "sentinels":
        words.add_special_tokens({"additional_special_tokens": [f"<extra_id_{number}>" for number in range(3)]})
    vocab_size = len(words) + 28 * (marks == "unused")
    shape = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, **shape)).save_pretrained(tmp_path / "t5")
    words.save_pretrained(tmp_path / "t5")
    folder = tmp_path / "translation"
    translation = TranslationSettings(num_clusters=4, depth=3, num_similar=2, similar_items="item-knn")
    limits = {"max_history": 8, "max_passage_length": 48}
    make_tokenizer_folder(data, folder, translation, str(tmp_path / "t5"), progress=False, **limits)
    tokenizer = GramTokenizer.from_pretrained(folder)
    options = {"backbone": str(tmp_path / "t5"), "translation": str(folder), "epochs": 1, "denoising_epochs": 1}
    settings = small(data_folder, tmp_path / "model", **options)
    if marks == "none":
        with pytest.raises(ValueError, match="denoising_epochs: the tokenizer has no <extra_id_0>"):
            train(settings, data, tokenizer)
        return
    first = len(words) - 3 if marks == "sentinels" else len(words)
    assert sentinels_of(tokenizer, vocab_size) == [first, first + 1]
    train(settings, data, tokenizer)
    assert GramForConditionalGeneration.from_pretrained(tmp_path / "model").config.vocab_size == vocab_size

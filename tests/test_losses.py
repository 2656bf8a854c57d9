"""Losses: over the legal tokens alone and smoothed, against plain loops; and that searching follows the loss."""

import copy
from functools import partial

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from gram import GramConfig, GramForConditionalGeneration, ItemTrie
from gram import training_gram as form
from gram.data import training_part
from gram.data.training_steps import TrainingSteps
from gram.train_accelerate import train
from gram.training_settings import TrainingSettings

from .test_training import small

SEQUENCES = [[5, 8, 1], [5, 9, 7, 1], [5, 9, 6, 1], [7, 1], [3, 4, 1]]  # forced tokens, IDs of several lengths
LABELS = torch.tensor([[5, 9, 6, 1, -100], [7, 1, -100, -100, -100], [5, 8, 1, -100, -100], [3, 4, -100, -100, -100]])


def new_model(**fields) -> GramForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = GramForConditionalGeneration(GramConfig(**{**shape, "dropout_rate": 0.0, **fields}))
    model.set_item_trie(ItemTrie.from_sequences(SEQUENCES))
    return model


def brute_force(logits, labels, sequences, label_smoothing=0.0, divisor=None) -> torch.Tensor:
    """The loss over legal tokens (N, T, V), (N, T): a loop over targets, and over items for what is legal."""
    total, count = 0.0, 0
    for scores, row in zip(logits, labels.tolist(), strict=True):
        target = [token for token in row if token >= 0]
        for place, token in enumerate(target):
            legal = sorted({s[place] for s in sequences if s[:place] == target[:place] and len(s) > place})
            log_probs = scores[place, legal].log_softmax(-1)
            even = -sum(log_probs) / len(legal)
            total += (1 - label_smoothing) * -log_probs[legal.index(token)] + label_smoothing * even
            count += 1
    return total / (divisor or count)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_like(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor], within: float = 1e-5) -> None:
    assert found.keys() == true.keys()
    for name, gradient in true.items():
        assert (found[name] - gradient).abs().max() <= within * gradient.abs().max() + 1e-12, name


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("at_once", [None, 40])
def test_the_trie_loss_is_a_loop_over_children(monkeypatch, label_smoothing, tied, at_once):
    model, states = new_model(tie_word_embeddings=tied), torch.randn(4, 5, 16, requires_grad=True)
    expected = brute_force(model._logits(states), LABELS, SEQUENCES, label_smoothing)
    true = (
        gradients(model, expected),
        *torch.autograd.grad(brute_force(model._logits(states), LABELS, SEQUENCES, label_smoothing), states),
    )
    if at_once:
        monkeypatch.setattr(form, "_LOGITS_AT_ONCE", at_once)
    loss = partial(form.target_loss, model, states, LABELS, score_mode="trie", label_smoothing=label_smoothing)
    torch.testing.assert_close(loss(), expected)
    assert_like(gradients(model, loss()), true[0])
    torch.testing.assert_close(*torch.autograd.grad(loss(), states), true[1])
    torch.testing.assert_close(loss(num_items_in_batch=26), loss() * 11 / 26)


@pytest.mark.parametrize("num_items", [None, 7])
def test_label_smoothing_is_torchs(num_items):
    model, states = new_model(), torch.randn(4, 5, 16)
    reduction = {"reduction": "sum"} if num_items else {}
    flat = model._logits(states).flatten(0, 1), LABELS.flatten()
    expected = F.cross_entropy(*flat, label_smoothing=0.1, **reduction) / (num_items or 1)
    true = gradients(model, expected)
    found = form.target_loss(model, states, LABELS, num_items, label_smoothing=0.1)
    torch.testing.assert_close(found, expected)
    assert_like(gradients(model, found), true)


def test_where_there_is_no_target_every_weight_still_has_a_gradient():
    model, labels = new_model(tie_word_embeddings=False), torch.full((2, 3), -100)
    inputs = {"input_ids": torch.full((2, 1, 2), 4), "labels": labels, "num_items_in_batch": 5}
    found = gradients(model, model(**inputs, score_mode="trie").loss)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("row", [[5, 4, 1], [5, 8, 1, 7], [7, -100, 1], [5, 9, 6, 1, 1]])
def test_labels_that_spell_no_item_are_refused(row):
    with pytest.raises(ValueError, match="no item's lexical ID begins with"):
        new_model()(input_ids=torch.tensor([[[4, 1]]]), labels=torch.tensor([row]), score_mode="trie")


def test_an_unknown_score_mode_is_refused():
    with pytest.raises(StrictDataclassError, match="`score_mode` must be one of vocabulary, trie, got 'tree'"):
        GramConfig(score_mode="tree")
    with pytest.raises(ValueError, match="score_mode is 'tree'"):
        new_model()(input_ids=torch.tensor([[[4, 1]]]), labels=LABELS[1:2], score_mode="tree")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "tree"}, "loss must be vocabulary or trie, got 'tree'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"history_dropout": -0.1}, "history_dropout must be at least 0 and below 1, got -0.1"),
        ({"denoising_epochs": -1}, "denoising_epochs must not be negative, got -1"),
    ],
)
def test_an_impossible_setting_names_its_field(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings("data", "model", **change)


def test_without_a_trie_there_is_no_loss_over_it():
    model = GramForConditionalGeneration(GramConfig(vocab_size=30, d_model=16, d_ff=8, num_layers=1))
    with pytest.raises(ValueError, match="call `set_item_trie` once"):
        model(input_ids=torch.tensor([[[4, 1]]]), labels=torch.tensor([[5, 1]]), score_mode="trie")


@pytest.mark.parametrize("score_mode", ["vocabulary", "trie"])
def test_grouped_micro_batches_give_loss_and_gradients_of_the_plain_form(data, tokenizer, model, score_mode):
    model, training = copy.deepcopy(model), training_part(data)
    options = {"score_mode": score_mode, "label_smoothing": 0.1}

    def grouped(micro_batch_size, num_processes=1):
        """A step's loss and gradients, summed over micro-batches and processes; one process may have nothing to do."""
        model.zero_grad()
        total = 0.0
        for process in range(num_processes):
            steps = TrainingSteps(training, tokenizer, 16, micro_batch_size, 4, 0, 0, process, num_processes)
            micro_batches, num_tokens = steps[0]
            for batch in micro_batches:
                loss = model(**batch, num_items_in_batch=num_tokens, **options).loss
                loss.backward()
                total += loss.detach()
        return total, {name: p.grad.clone() for name, p in model.named_parameters()}, steps.steps[0]

    loss, found, groups = grouped(64)
    samples = [(training[group.user], place) for group in groups for place in range(group.first, group.last)]
    histories = [[tokenizer.item_ids[row] for row in sequence[:place]] for sequence, place in samples]
    targets = [torch.tensor(tokenizer.sequences[sequence[place]]) for sequence, place in samples]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    inputs = {**tokenizer(histories=histories, return_tensors="pt"), "labels": labels}
    plain = model(**inputs, **options)
    if score_mode == "trie":
        torch.testing.assert_close(plain.loss, brute_force(plain.logits, labels, tokenizer.sequences, 0.1))
    torch.testing.assert_close(loss, plain.loss.detach())
    true = gradients(model, plain.loss)
    assert_like(found, true, 1e-4)
    for shares in ((8, 1), (64, 2), (64, len(groups) + 1)):
        other, found, _ = grouped(*shares)
        torch.testing.assert_close(other, plain.loss.detach())
        assert_like(found, true, 1e-4)


def test_a_trained_folder_searches_by_the_probabilities_it_was_trained_on(
    data, data_folder, tokenizer, tmp_path, run_elsewhere
):
    settings = small(data_folder, tmp_path / "model", epochs=1, loss="trie", label_smoothing=0.1, validate_every=1)
    train(settings, data, tokenizer)
    model = GramForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    assert model.config.score_mode == "trie"
    history = [tokenizer.item_ids[row] for row in (3, 7, 12)]
    inputs = tokenizer(histories=[history], return_tensors="pt")
    search = partial(model.generate, **inputs, num_beams=30, num_return_sequences=30, return_dict_in_generate=True)
    own, given, other = search(), search(score_mode="trie"), search(score_mode="vocabulary")
    assert torch.equal(own.sequences_scores, given.sequences_scores)
    assert not torch.allclose(own.sequences_scores, other.sequences_scores)
    row = own.item_indices[0, :1]
    labels = torch.tensor([tokenizer.sequences[row]])
    torch.testing.assert_close(-model(**inputs, labels=labels).loss, own.sequences_scores[0], rtol=1e-4, atol=1e-5)
    explained = model.explain(row[None], **inputs)
    torch.testing.assert_close(explained.token_log_probs.sum() / labels.numel(), own.sequences_scores[0])

    script = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, history = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(histories=[history], return_tensors="pt")
found = model.generate(**inputs, num_beams=30, num_return_sequences=30, return_dict_in_generate=True)
print(json.dumps(found.sequences_scores.tolist()))
"""
    scores = run_elsewhere(script, [str(tmp_path / "model"), history])
    assert scores == pytest.approx(own.sequences_scores.tolist(), abs=1e-5)

"""The training loss: in chunks, smoothed and of grouped prefixes, against the plain form; and its settings."""

import copy

import pytest
import torch
from torch.nn import functional as F

from gram import GramConfig, GramForConditionalGeneration, training_gram
from gram.data import training_part
from gram.training.settings import TrainingSettings
from gram.training.steps import TrainingSteps
from gram.training_gram import target_loss

LABELS = torch.tensor([[5, 9, 6, 1, -100], [7, 1, -100, -100, -100], [5, 8, 1, -100, -100], [3, 4, -100, -100, -100]])


def new_model(**fields) -> GramForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return GramForConditionalGeneration(GramConfig(**{**shape, "dropout_rate": 0.0, **fields}))


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_like(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor], within: float = 1e-5) -> None:
    assert found.keys() == true.keys()
    for name, gradient in true.items():
        assert (found[name] - gradient).abs().max() <= within * gradient.abs().max() + 1e-12, name


@pytest.mark.parametrize("num_items", [None, 7])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("at_once", [None, 40])
def test_the_loss_is_torchs_cross_entropy(monkeypatch, num_items, tied, at_once):
    model, states = new_model(tie_word_embeddings=tied), torch.randn(4, 5, 16, requires_grad=True)
    reduction = {"reduction": "sum"} if num_items else {}

    def plain():
        flat = model._logits(states).flatten(0, 1), LABELS.flatten()
        return F.cross_entropy(*flat, **reduction) / (num_items or 1)

    def chunked():
        return target_loss(model, states, LABELS, num_items)

    expected, true = plain(), gradients(model, plain())
    if at_once:
        monkeypatch.setattr(training_gram, "_LOGITS_AT_ONCE", at_once)
    torch.testing.assert_close(chunked(), expected)
    assert_like(gradients(model, chunked()), true)
    torch.testing.assert_close(*(torch.autograd.grad(form(), states)[0] for form in (chunked, plain)))


def test_where_there_is_no_target_every_weight_still_has_a_gradient(data, tokenizer, model):
    model = copy.deepcopy(model)
    (batch,), num_tokens = TrainingSteps(training_part(data), tokenizer, 16, 64, 4, 0, 0, 99, 100)[0]  # has no share
    found = gradients(model, model(**batch, num_items_in_batch=num_tokens).loss)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_rate": 0.0}, "embedding_rate is 0.0; it must be a number, above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; it must be a number, at least 0"),
        ({"warmup_ratio": 1.5}, "warmup_ratio is 1.5; it must be a number, at least 0 and at most 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be a number, above 0"),
    ],
)
def test_an_impossible_setting_names_its_field(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings("data", "model", **change)


@pytest.mark.parametrize("prefixes_per_group", [4, 100])
def test_grouped_micro_batches_give_loss_and_gradients_of_the_plain_form(data, tokenizer, model, prefixes_per_group):
    model, training = copy.deepcopy(model), training_part(data)

    def grouped(micro_batch_size, num_processes=1):
        """A step's loss and gradients, summed over micro-batches and processes; one process may have nothing to do."""
        model.zero_grad()
        total = 0.0
        for process in range(num_processes):
            sizes, share = (16, micro_batch_size, prefixes_per_group), (process, num_processes)
            steps = TrainingSteps(training, tokenizer, *sizes, 0, 0, *share)
            micro_batches, num_tokens = steps[0]
            for batch in micro_batches:
                loss = model(**batch, num_items_in_batch=num_tokens).loss
                loss.backward()
                total += loss.detach()
        return total, {name: p.grad.clone() for name, p in model.named_parameters()}, steps.groups(0)

    loss, found, groups = grouped(64)
    samples = [(training[group.user], place) for group in groups for place in range(group.first, group.last)]
    histories = [[tokenizer.item_ids[row] for row in sequence[:place]] for sequence, place in samples]
    targets = [torch.tensor(tokenizer.sequences[sequence[place]]) for sequence, place in samples]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    inputs = {**tokenizer(histories=histories, return_tensors="pt"), "labels": labels}
    plain = model(**inputs)
    torch.testing.assert_close(loss, plain.loss.detach())
    true = gradients(model, plain.loss)
    assert_like(found, true, 1e-4)
    for shares in ((8, 1), (64, 2), (64, len(groups) + 1)):
        other, found, _ = grouped(*shares)
        torch.testing.assert_close(other, plain.loss.detach())
        assert_like(found, true, 1e-4)

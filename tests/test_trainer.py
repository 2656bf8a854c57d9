"""Trainers of transformers: they train, evaluate and predict a GRAM as they do a T5."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from transformers.utils.generic import find_labels

from gram import GramConfig, GramForConditionalGeneration

LEARNING_RATE = 0.1


@pytest.fixture
def new_model(model):
    """The session's model without dropout, to be trained."""
    new = GramForConditionalGeneration(GramConfig(**{**model.config.to_dict(), "dropout_rate": 0.0}))
    new.load_state_dict(model.state_dict())
    return new.eval()


@pytest.fixture
def collate(tokenizer):
    def batch(samples):
        targets = [torch.tensor(tokenizer.sequences[sample["target"]]) for sample in samples]
        labels = pad_sequence(targets, batch_first=True, padding_value=-100)
        histories = [sample["history"] for sample in samples]
        return {**tokenizer(histories=histories, return_tensors="pt"), "labels": labels}

    return batch


@pytest.fixture
def samples(tokenizer):
    """Six users; their targets' lexical IDs differ in length, and so do their histories."""
    order = sorted(range(len(tokenizer.item_ids)), key=lambda row: len(tokenizer.sequences[row]))
    targets = [*order[:3], *order[-3:]]
    return [
        {"history": tokenizer.item_ids[place : place + 1 + place % 3], "target": target}
        for place, target in enumerate(targets)
    ]


@pytest.fixture(params=[Trainer, Seq2SeqTrainer])
def make_trainer(request, new_model, collate, tmp_path):
    def make(**options):
        arguments = {Trainer: TrainingArguments, Seq2SeqTrainer: Seq2SeqTrainingArguments}[request.param]
        given = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "remove_unused_columns": False}
        trainer_options = {name: options.pop(name) for name in ("train_dataset", "compute_metrics") if name in options}
        settings = arguments(output_dir=str(tmp_path), save_strategy="no", **given, **options)
        return request.param(model=new_model, args=settings, data_collator=collate, **trainer_options)

    return make


def test_the_only_labels_are_labels():
    assert find_labels(GramForConditionalGeneration) == ["labels"]


def test_a_step_over_micro_batches_is_one_over_the_whole_batch(make_trainer, new_model, collate, samples):
    before = {name: weights.clone() for name, weights in new_model.named_parameters()}
    loss = new_model(**collate(samples)).loss
    loss.backward()
    expected = {name: before[name] - LEARNING_RATE * p.grad for name, p in new_model.named_parameters()}
    new_model.zero_grad()
    trainer = make_trainer(
        train_dataset=samples,
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
    )
    assert trainer.train().training_loss == pytest.approx(loss.item(), rel=1e-5)
    for name, weights in new_model.named_parameters():
        torch.testing.assert_close(weights, expected[name], rtol=1e-4, atol=1e-5)


def test_loss_and_metrics_are_those_of_the_plain_form(make_trainer, new_model, collate, samples):
    seen = []

    def accuracy(predictions):
        seen.append(predictions)
        logits, labels = predictions.predictions[0], predictions.label_ids
        return {"accuracy": (logits.argmax(-1) == labels)[labels >= 0].mean()}

    trainer = make_trainer(compute_metrics=accuracy, per_device_eval_batch_size=len(samples))
    with torch.no_grad():
        plain = new_model(**collate(samples))
    labels = collate(samples)["labels"]
    found = trainer.evaluate(samples)
    assert found["eval_loss"] == pytest.approx(plain.loss.item(), rel=1e-5)
    expected = (plain.logits.argmax(-1) == labels)[labels >= 0].float().mean().item()
    assert found["eval_accuracy"] == pytest.approx(expected)
    np.testing.assert_array_equal(seen[0].label_ids, labels)
    np.testing.assert_allclose(seen[0].predictions[0], plain.logits, atol=1e-4)


def test_predictions_of_batches_of_many_lengths_are_joined(make_trainer, new_model, collate, samples):
    """Per batch shapes differ in passages, tokens and targets; a sample's own scores are what it gets alone."""
    found = make_trainer(per_device_eval_batch_size=2).predict(samples)
    logits = found.predictions[0]
    for place, sample in enumerate(samples):
        own = collate([sample])
        with torch.no_grad():
            alone = new_model(**own).logits[0].numpy()
        np.testing.assert_allclose(logits[place, : len(alone)], alone, atol=1e-4)
        assert found.label_ids[place][found.label_ids[place] >= 0].tolist() == own["labels"][0].tolist()


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize(
    "options", [{"generation_num_beams": 5}, {"generation_num_beams": 5, "generation_max_length": 9}]
)
def test_predicting_with_generate_gives_what_generate_gives(
    new_model, tokenizer, collate, samples, tmp_path, with_labels, options
):
    def batch(samples):
        found = collate(samples)
        return found if with_labels else {name: values for name, values in found.items() if name != "labels"}

    def hits(predictions):
        items = tokenizer.decode_items(predictions.predictions, num_return_sequences=1)
        targets = tokenizer.decode_items(predictions.label_ids, num_return_sequences=1)
        return {"hits": np.mean([item == target for item, target in zip(items, targets, strict=True)])}

    settings = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        predict_with_generate=True,
        per_device_eval_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        **options,
    )
    trainer = Seq2SeqTrainer(
        model=new_model, args=settings, data_collator=batch, compute_metrics=hits if with_labels else None
    )
    found = trainer.predict(samples)
    inputs = tokenizer(histories=[sample["history"] for sample in samples], return_tensors="pt")
    expected = tokenizer.decode_items(new_model.generate(**inputs, num_beams=5), num_return_sequences=1)
    assert tokenizer.decode_items(found.predictions, num_return_sequences=1) == expected
    if with_labels:
        assert 0 <= found.metrics["test_hits"] <= 1
        assert found.metrics["test_loss"] > 0
        assert trainer.evaluate(samples)["eval_loss"] == pytest.approx(found.metrics["test_loss"])


def test_a_generation_length_that_cuts_lexical_ids_is_refused(new_model, tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[:2]], return_tensors="pt")
    with pytest.raises(ValueError, match="`max_length` or `max_new_tokens` leaves room for 2 tokens"):
        new_model.generate(**inputs, max_length=2)

"""Trainers of transformers: they train, evaluate and predict a GRAM as they do a T5."""

import copy
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback, TrainingArguments
from transformers.utils.generic import find_labels

from gram import GramConfig, GramDataCollator, GramForConditionalGeneration, ranking_compute_metrics
from gram.collaborative.fitting import fit_or_load
from gram.collaborative.sasrec import SASRec, SASRecSettings
from gram.common.processes import make_accelerator
from gram.data import Interactions, RecommendationData, samples_of, training_part
from gram.evaluation.full_ranking import evaluate
from gram.train_accelerate import train
from gram.training.distillation import Distillation
from gram.training.progress import Progress
from gram.training.start import build_model
from gram.training.steps import TrainingSteps

from .test_training import small

LEARNING_RATE = 0.1
ON_PROCESSES = Path(__file__).with_name("trainer_on_processes.py")
OF_TRAINER = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "remove_unused_columns": False}


@pytest.fixture
def new_model(model):
    """The session's model without dropout, to be trained."""
    new = GramForConditionalGeneration(GramConfig(**{**model.config.to_dict(), "dropout_rate": 0.0}))
    new.load_state_dict(model.state_dict())
    return new.eval()


@pytest.fixture
def collate(tokenizer):
    return GramDataCollator(tokenizer)


@pytest.fixture
def samples(tokenizer):
    """Six users; their targets' lexical IDs differ in length, and so do their histories."""
    order = sorted(range(len(tokenizer.item_ids)), key=lambda row: len(tokenizer.sequences[row]))
    targets = [*order[:3], *order[-3:]]
    return [
        {"history": tokenizer.item_ids[place : place + 1 + place % 3], "target": tokenizer.item_ids[target]}
        for place, target in enumerate(targets)
    ]


@pytest.fixture(params=[Trainer, Seq2SeqTrainer])
def make_trainer(request, new_model, collate, tmp_path):
    def make(**options):
        arguments = {Trainer: TrainingArguments, Seq2SeqTrainer: Seq2SeqTrainingArguments}[request.param]
        trainer_options = {name: options.pop(name) for name in ("train_dataset", "compute_metrics") if name in options}
        settings = arguments(output_dir=str(tmp_path), save_strategy="no", **OF_TRAINER, **options)
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
        **OF_TRAINER,
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


# Our own loop and the Trainer


@pytest.fixture(scope="module")
def even(data):
    """Users of nine training items each, so that steps of our own loop have as many rows."""
    draw = np.random.default_rng(3)
    sequences = [draw.choice(len(data.items), 11, replace=False) for _ in range(40)]
    return RecommendationData(data.items, Interactions.from_sequences(data.interactions.user_ids, sequences))


@pytest.fixture(scope="module")
def sasrec_file(even, tmp_path_factory):
    file = tmp_path_factory.mktemp("sasrec") / "sasrec.safetensors"
    settings = SASRecSettings(dim=16, num_layers=1, num_heads=2, max_length=6, epochs=2)
    fit_or_load(file, training_part(even), len(even.items), settings, progress=False)
    return file


def own_losses(settings, data, tokenizer):
    """The loss of every step of our own loop."""
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gram.train_accelerate.LOG_EVERY", 1)
        patch.setattr(Progress, "add_loss", lambda progress, loss: losses.append(loss))
        train(settings, data, tokenizer)
    return losses


def in_order_of_steps(settings, data, tokenizer, is_grouped):
    """The rows that our own loop trains on, in its order."""
    training = training_part(data)
    names = ("batch_size", "micro_batch_size", "prefixes_per_group", "seed")
    steps = TrainingSteps(training, tokenizer, epoch=0, **{name: getattr(settings, name) for name in names})
    size = settings.prefixes_per_group if is_grouped else None
    rows = samples_of(data, "train", tokenizer.max_history, size)
    row_of = {place: row for row, place in enumerate(rows["place"])}
    groups = [steps.groups(index) for index in range(len(steps))]
    assert len({len(step) for step in groups}) == 1
    return rows.select([row_of[training.offsets[of.user] + of.first] for step in groups for of in step])


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_the_losses_are_those_of_our_own_loop(
    even, data_folder, tokenizer, sasrec_file, tmp_path, is_grouped, distilled
):
    settings = small(
        data_folder,
        tmp_path / "own",
        epochs=1,
        batch_size=16,
        micro_batch_size=8,
        prefixes_per_group=4 if is_grouped else 1,
        dropout_rate=0.0,
        weight_decay=0.0,
        mixed_precision="no",
        validation_users=1,
        distillation=str(sasrec_file) if distilled else None,
    )
    expected = own_losses(settings, even, tokenizer)
    set_seed(settings.seed)
    model = build_model(settings, tokenizer)
    teacher = None
    if distilled:
        teacher = Distillation(SASRec.load(sasrec_file), training_part(even), model.item_trie, weight=0.7)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=2 if is_grouped else 8,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        adam_epsilon=settings.adam_epsilon,
        warmup_steps=1,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        **OF_TRAINER,
    )
    rows = in_order_of_steps(settings, even, tokenizer, is_grouped)
    trainer = Trainer(model, arguments, data_collator=GramDataCollator(tokenizer, teacher), train_dataset=rows)
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(found) == len(expected) == 20
    assert np.abs(np.diff(found)).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_our_own_loop_has_its_precision_after_a_trainer(make_trainer, samples, precision):
    make_trainer(bf16=precision == "no").evaluate(samples[:1])
    assert make_accelerator(mixed_precision=precision).mixed_precision == precision


def test_a_teacher_draws_what_it_draws_in_our_own_loop(even, tokenizer, sasrec_file, model):
    training = training_part(even)
    teacher = Distillation(SASRec.load(sasrec_file), training, model.item_trie, weight=0.7, draws=2)
    collate = GramDataCollator(tokenizer, teacher)
    steps = TrainingSteps(training, tokenizer, 16, 16, 4, seed=0, epoch=1, with_samples=True)
    rows = samples_of(even, "train", tokenizer.max_history, prefixes_per_group=4)
    row_of = {place: row for row, place in enumerate(rows["place"])}
    some = [rows[row_of[training.offsets[of.user] + of.first]] for of in steps.groups(0)]
    with pytest.raises(ValueError, match=r"in every epoch; give `callbacks=\[collator\]` to the Trainer"):
        collate(some)
    ((own,), _) = steps[0]
    for epoch in (1, 2):
        collate.on_epoch_begin(TrainingArguments(use_cpu=True), SimpleNamespace(epoch=epoch + 0.5), None)
        found, expected = collate(some), teacher(own["samples"], own["labels"], epoch)
        assert torch.equal(found["labels"], expected["labels"])
        for name, values in expected["soft_targets"].items():
            assert torch.equal(found["soft_targets"][name], values)
    with pytest.raises(ValueError, match="the teacher draws targets; give rows of several targets"):
        collate([{**some[0], "target": some[0]["target"][0]}])
    arguments = TrainingArguments(use_cpu=True, dataloader_num_workers=1, dataloader_persistent_workers=True)
    with pytest.raises(ValueError, match="persistent workers"):
        collate.on_epoch_begin(arguments, SimpleNamespace(epoch=0), None)


class Interrupt(TrainerCallback):
    """Ends a run as from outside, at a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 12:
            raise KeyboardInterrupt


def test_a_run_goes_on_bit_by_bit(even, tokenizer, sasrec_file, model, tmp_path):
    rows = samples_of(even, "train", tokenizer.max_history, prefixes_per_group=4)
    teacher = Distillation(SASRec.load(sasrec_file), training_part(even), model.item_trie, weight=0.7, draws=1)

    def trainer_in(folder, *callbacks):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / folder),
            num_train_epochs=2,
            per_device_train_batch_size=5,
            gradient_accumulation_steps=2,
            learning_rate=0.01,
            save_steps=5,
            **OF_TRAINER,
        )
        new, collate = copy.deepcopy(model), GramDataCollator(tokenizer, teacher)
        given = {"data_collator": collate, "train_dataset": rows, "processing_class": tokenizer}
        return Trainer(new, arguments, callbacks=[collate, *callbacks], **given)

    whole = trainer_in("whole")
    whole.train()
    assert model.config.dropout_rate > 0
    assert whole.state.global_step == 16
    with pytest.raises(KeyboardInterrupt):
        trainer_in("halves", Interrupt()).train()
    halves = trainer_in("halves")
    halves.train(resume_from_checkpoint=True)
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(halves.model.state_dict()[name], weights), name
    assert not torch.equal(whole.model.shared.weight, model.shared.weight)


def test_two_processes_learn_and_measure_what_one_does(model_folder, data_folder, launch, tmp_path, monkeypatch):
    places = [str(place) for place in (model_folder, data_folder, tmp_path / "one.json", tmp_path / "two.json")]
    monkeypatch.setattr("sys.argv", ["", *places[:3], "4"])
    runpy.run_path(str(ON_PROCESSES), run_name="__main__")
    done = launch(*places[:2], places[3], "2", script=ON_PROCESSES)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads(Path(place).read_text()) for place in places[2:])
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-5)
    assert two["metrics"] == one["metrics"]


# Rankings


@pytest.mark.parametrize("repeats", [False, True])
def test_the_metrics_are_those_of_gram_evaluate(data, tokenizer, new_model, sasrec_file, tmp_path, repeats):
    new_model.config.repeats = repeats
    results = evaluate(new_model, tokenizer, data, tmp_path / "sasrec.safetensors", num_beams=10, progress=False)
    compute_metrics, rows = ranking_compute_metrics(tokenizer, k=(1, 5, 10)), samples_of(data, "test", max_history=8)
    for protocol, exclude_seen in (("all_items", not repeats), ("unseen_items", True)):
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path), predict_with_generate=True, per_device_eval_batch_size=7, **OF_TRAINER
        )
        collate = GramDataCollator(tokenizer, exclude_seen=exclude_seen)
        trainer = Seq2SeqTrainer(new_model, arguments, data_collator=collate, compute_metrics=compute_metrics)
        found = trainer.evaluate(rows, num_beams=10, num_return_sequences=10)
        expected = results.results["models"]["GRAM"][protocol]
        for name in ("recall@1", "recall@5", "recall@10", "ndcg@5", "ndcg@10"):
            assert found[f"eval_{name}"] == pytest.approx(expected[name]["mean"], abs=1e-12)
        assert 0 < found["eval_recall@5"] < found["eval_recall@10"] < 1


def test_rankings_that_cannot_be_made_are_refused(tokenizer, new_model, collate, samples, tmp_path):
    arguments = {"output_dir": str(tmp_path), "generation_num_beams": 10, **OF_TRAINER}
    given = {"data_collator": collate, "compute_metrics": ranking_compute_metrics(tokenizer)}
    settings = Seq2SeqTrainingArguments(predict_with_generate=True, **arguments)
    with pytest.raises(ValueError, match="6 sequences for 6 users, and rankings need 10 or more of each; give `num_"):
        Seq2SeqTrainer(new_model, settings, **given).evaluate(samples)
    with pytest.raises(ValueError, match="rankings need a Seq2SeqTrainer with `predict_with_generate=True`"):
        Seq2SeqTrainer(new_model, Seq2SeqTrainingArguments(**arguments), **given).evaluate(samples)


ELSEWHERE = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, histories = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(histories=histories, return_tensors="pt")
sequences = model.generate(**inputs, num_beams=10, num_return_sequences=5)
print(json.dumps(tokenizer.decode_items(sequences, num_return_sequences=5)))
"""


def test_what_was_trained_and_saved_recommends_the_same_elsewhere(
    data, tokenizer, new_model, collate, tmp_path, run_elsewhere
):
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=5,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        eval_strategy="steps",
        eval_steps=5,
        save_steps=5,
        predict_with_generate=True,
        metric_for_best_model="ndcg@5",
        load_best_model_at_end=True,
        **OF_TRAINER,
    )
    new_model.generation_config.update(num_beams=10, num_return_sequences=5)
    trainer = Seq2SeqTrainer(
        new_model,
        arguments,
        data_collator=collate,
        train_dataset=samples_of(data, "train", max_history=8, prefixes_per_group=4),
        eval_dataset=samples_of(data, "validation", max_history=8),
        compute_metrics=ranking_compute_metrics(tokenizer, k=(5,)),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.best_metric == trainer.state.log_history[-2]["eval_ndcg@5"]
    trainer.save_model(str(tmp_path / "saved"))
    histories = samples_of(data, "test", max_history=8)["history"][:4]
    sequences = new_model.eval().generate(
        **tokenizer(histories=histories, return_tensors="pt"), num_beams=10, num_return_sequences=5
    )
    expected = tokenizer.decode_items(sequences, num_return_sequences=5)
    assert run_elsewhere(ELSEWHERE, [str(tmp_path / "saved"), histories]) == expected


# Bad rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": ["B0001", "gone"]}, "row 1 of the batch, column 'history': item 'gone' is not in the catalogue"),
        ({"history": []}, "row 1 of the batch, column 'history': a history is empty; give at least one item id"),
        ({"history": "B0001"}, "row 1 of the batch, column 'history': a history is a list of item ids, got the string"),
        ({"history": None}, "row 1 of the batch, column 'history': a history is a list of item ids, got a value of ty"),
        ({"history": [3]}, "row 1 of the batch, column 'history': item ids are strings, got 3"),
        ({"target": "gone"}, "row 1 of the batch, column 'target': item 'gone' is not in the catalogue of 30 items"),
        ({"target": []}, "row 1 of the batch, column 'target': there is no target; give at least one item id"),
        ({"target": None}, "row 1 of the batch, column 'target': a target is a list of item ids, got a value of type"),
    ],
)
def test_a_bad_row_is_named(collate, change, message):
    with pytest.raises(ValueError) as refused:
        collate([{"history": ["B0001"], "target": "B0002"}, {"history": ["B0001"], "target": "B0002", **change}])
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_columns_that_the_trainer_drops_are_missed(data, new_model, tokenizer, tmp_path):
    arguments = TrainingArguments(str(tmp_path), **{**OF_TRAINER, "remove_unused_columns": True})
    rows = samples_of(data, "train", max_history=8)
    with pytest.raises(ValueError, match=r"no column 'target', only 'history'.* give `remove_unused_columns=False`"):
        Trainer(new_model, arguments, data_collator=GramDataCollator(tokenizer), train_dataset=rows).train()


def test_columns_have_the_names_that_the_collator_is_told(collate, tokenizer):
    own = GramDataCollator(tokenizer, history_column="basket", target_column="next")
    found = own([{"basket": ["B0001", "B0004"], "next": "B0002"}])
    for name, values in collate([{"history": ["B0001", "B0004"], "target": "B0002"}]).items():
        assert torch.equal(found[name], values)


def test_a_teacher_of_other_data_is_refused(data, even, tokenizer, sasrec_file, model):
    teacher = Distillation(SASRec.load(sasrec_file), training_part(even), model.item_trie, weight=0.7)
    collate = GramDataCollator(tokenizer, teacher)
    rows = samples_of(data, "train", max_history=8)
    with pytest.raises(ValueError, match=r"the teacher has another item than 'B00.*' in place"):
        collate([rows[row] for row in range(8)])
    with pytest.raises(ValueError, match="no column 'place'"):
        collate([{"history": ["B0001"], "target": "B0002"}])
    assert "soft_targets" not in collate([samples_of(data, "test", max_history=8)[0]])

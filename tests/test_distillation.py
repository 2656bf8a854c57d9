"""Distillation: soft targets are the teacher's sums over subtrees, in whatever form and however launched."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from gram import ItemTrie, training_gram
from gram.collaborative.baselines import Popularity, TransitionGraph
from gram.collaborative.fitting import fit_or_load
from gram.collaborative.sasrec import SASRec, SASRecSettings
from gram.data import Interactions, RecommendationData, training_part
from gram.train_accelerate import main, train
from gram.training import distillation as module
from gram.training.distillation import Distillation, teacher_of
from gram.training.settings import TrainingSettings
from gram.training.start import tokenizer_of
from gram.training.steps import TrainingSteps, thinned
from gram.translation import SASREC_FILE, TranslationSettings

from .test_losses import assert_like, gradients
from .test_training import as_flags, newer, small, train_until
from .test_trie import catalogues

SMALL = SASRecSettings(dim=16, num_layers=1, num_heads=2, max_length=6, epochs=2)


class Table:
    """A teacher whose scores hang on the newest item alone."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, histories):
        return torch.stack([self.scores[int(history[-1])] for history in histories])


def sums_over_subtrees(sequences, target, chances, weight):
    """What is taught at each token of a target: every next token's share, item by item."""
    for place, true in enumerate(sequences[target]):
        expected = {}
        for tokens, chance in zip(sequences, chances, strict=True):
            if tokens[:place] == sequences[target][:place]:
                expected[tokens[place]] = expected.get(tokens[place], 0.0) + chance
        total, opinion = sum(expected.values()), weight if sum(expected.values()) > module.LEAST_MASS else 0.0
        shares = {token: opinion * of / max(total, 1e-300) for token, of in expected.items()}
        yield {**shares, true: shares[true] + 1 - opinion}


def as_shares(soft, row, place):
    tokens, shares = soft["tokens"][row, place].tolist(), soft["shares"][row, place].tolist()
    found = {}
    for token, share in zip(tokens, shares, strict=True):
        found[token] = found.get(token, 0.0) + share
    return {token: share for token, share in found.items() if token >= 0}  # -1 is what is beyond a node's children


@pytest.mark.parametrize("best", [None, 3])
@given(catalogues, st.integers(0, 99), st.sampled_from([0.3, 0.7, 1.0]), st.sampled_from([0.5, 1.0, 3.0]))
def test_soft_targets_are_sums_over_the_items_below(best, sequences, seed, weight, temperature):
    draw, num_items = np.random.default_rng(seed), len(sequences)
    training = Interactions.from_sequences("ab", [draw.integers(0, num_items, size) for size in (4, 3)])
    scores = torch.from_numpy(draw.normal(0, 4, (num_items, num_items)))
    samples = torch.tensor([1, 2, 3, 5, 6])
    with pytest.MonkeyPatch.context() as patch:
        if best:
            patch.setattr(module, "MANY_ITEMS", 0)
            patch.setattr(module, "BEST_ITEMS", min(best, num_items))
        patch.setattr(module, "_LEAST_ROWS", 2)
        patch.setattr(module, "_SCORES_AT_ONCE", 1)
        trie = ItemTrie.from_sequences(sequences)
        distil = Distillation(Table(scores), training, trie, weight, temperature, draws=2)
        labels = pad_sequence([torch.tensor(sequences[item]) for item in training.items[samples]], True, -100)
        found = distil(samples, labels)
    soft = {name: values.unflatten(0, (5, 3)) for name, values in found["soft_targets"].items()}
    own, *drawn = found["labels"].unflatten(0, (5, 3)).unbind(1)
    assert torch.equal(own[:, : labels.shape[1]], labels)
    for row, sample in enumerate(samples.tolist()):
        chances = (scores[training.items[sample - 1]] / temperature).softmax(-1)
        if best:
            chances[chances.argsort(descending=True)[best:]] = 0
            chances /= chances.sum()
        spelt = [[token for token in labels[row].tolist() if token >= 0] for labels in drawn]
        targets = [(training.items[sample], weight), *((sequences.index(tokens), 1.0) for tokens in spelt)]
        for target, (item, share) in enumerate(targets):
            assert not target or chances[item] > 0
            for place, expected in enumerate(sums_over_subtrees(sequences, item, chances.tolist(), share)):
                of_target = {name: values[:, target] for name, values in soft.items()}
                found = as_shares(of_target, row, place)
                assert {token: found.get(token, 0.0) for token in expected} == pytest.approx(expected, abs=2e-6)
                assert sum(found.values()) == pytest.approx(1)


def test_a_teacher_who_holds_the_target_for_impossible_has_no_say_below():
    sequences, training = [[5, 8, 1], [5, 9, 1], [7, 1]], Interactions.from_sequences("a", [[2, 0]])
    teacher = Table(torch.tensor([[0.0, 0, 0], [0, 0, 0], [-60, -60, 60]]))
    distil = Distillation(teacher, training, ItemTrie.from_sequences(sequences), weight=0.75)
    soft = distil(torch.tensor([1]), torch.tensor([sequences[0]]))["soft_targets"]
    assert [as_shares(soft, 0, place) for place in range(3)] == [{5: 0.25, 7: 0.75}, {8: 1.0, 9: 0.0}, {1: 1.0}]


def test_items_are_drawn_as_often_as_the_teacher_expects_them():
    sequences = [[5, 8, 1], [5, 9, 1], [6, 1], [7, 1]]
    chances = torch.tensor([0.5, 0.2, 0.3, 0.0])
    training = Interactions.from_sequences("ab", [[0, 1, 2], [3, 2]])
    teacher = Table(chances.log().clamp(min=-99).expand(4, 4))
    distil = Distillation(teacher, training, ItemTrie.from_sequences(sequences), weight=0.5, draws=3)
    samples, labels = torch.tensor([1, 2, 4]), torch.tensor([[5, 9, 1], [-100, -100, -100], [6, 1, -100]])
    epochs = [distil(samples, labels, epoch)["labels"].unflatten(0, (3, 4)) for epoch in range(50)]
    assert all((targets[1] == -100).all() for targets in epochs)
    drawn = torch.stack([targets[[0, 2], 1:] for targets in epochs]).flatten(0, 2).tolist()
    for item, chance in enumerate(chances.tolist()):
        padded = sequences[item] + [-100] * (3 - len(sequences[item]))
        assert drawn.count(padded) / len(drawn) == pytest.approx(chance, abs=0.02)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.fixture(scope="module")
def translation(data, tokenizer, tmp_path_factory):
    """A folder as the translation leaves it."""
    folder = tmp_path_factory.mktemp("translation") / "translation"
    tokenizer.save_pretrained(folder)
    fit_or_load(folder / SASREC_FILE, training_part(data), len(data.items), SMALL, progress=False)
    return folder


@pytest.fixture(scope="module")
def teacher(translation):
    return SASRec.load(translation / SASREC_FILE)


def test_a_sasrec_reads_every_history_once(teacher, data):
    training = training_part(data)
    states, draw = teacher.states(training), np.random.default_rng(0)
    for user in draw.permutation(len(training))[:10]:
        for place in range(1, len(training[user]) + 1):
            history = training[user][:place]
            if place > SMALL.max_length:  # windows that overlap by half
                start = SMALL.max_length + (place - 1 - SMALL.max_length) // 3 * 3 - 3
                history = history[start:]
                assert len(history) > SMALL.max_length // 2
            scores = states[training.offsets[user] + place - 1] @ teacher.items.weight.T
            scores[history] += teacher.repeat
            torch.testing.assert_close(scores, teacher.score([history])[0])


def test_any_teacher_that_scores_will_do(teacher, data, model):
    sequences = [sequence[: SMALL.max_length] for sequence in training_part(data)]
    training = Interactions.from_sequences(data.interactions.user_ids, sequences)
    samples = torch.from_numpy(np.setdiff1d(np.arange(len(training.items)), training.offsets))
    one, other = (
        Distillation(of, training, model.item_trie, 0.7)(samples, torch.zeros(len(samples), 1))["soft_targets"]
        for of in (teacher, SimpleNamespace(score=teacher.score))
    )
    assert torch.equal(one["tokens"], other["tokens"])
    torch.testing.assert_close(one["shares"], other["shares"])


@pytest.mark.parametrize("interaction_dropout", [0.0, 0.4])
def test_a_graph_teaches_what_it_has_not_counted_of_the_user(teacher, data, tokenizer, model, interaction_dropout):
    training, vectors = training_part(data), np.random.default_rng(0).normal(size=(len(data.items), 8))
    graph, read = TransitionGraph(training, vectors), thinned(training, interaction_dropout, seed=0, epoch=3)
    samples = torch.from_numpy(np.setdiff1d(np.arange(len(read.items)), read.offsets))[::7]
    users = np.searchsorted(read.offsets, samples.numpy(), side="right") - 1
    histories = [read[user][: place - read.offsets[user]] for user, place in zip(users, samples.tolist(), strict=True)]
    found = graph.score_without(users, histories)
    for row, (user, history) in enumerate(zip(users, histories, strict=True)):
        others = [[] if one == user else sequence for one, sequence in enumerate(training)]
        without = TransitionGraph(Interactions.from_sequences(training.user_ids, others), vectors)
        torch.testing.assert_close(found[row], without.score([history])[0], rtol=1e-4, atol=1e-6)

    other = SimpleNamespace(score=teacher.score)  # which reads every history by itself
    options = {"temperature": 0.5, "graph": graph, "graph_share": 0.4}
    distil = Distillation(other, training, model.item_trie, 1.0, **options)
    distil.read(read)
    soft = distil(samples, torch.zeros(len(samples), 1))["soft_targets"]
    counts = torch.from_numpy(np.bincount(training.items, minlength=len(data.items)))
    share = 0.4 + 0.6 * 20 / (20 + counts)  # the fewer have had an item, the more the graph knows of it
    for row, (place, history) in enumerate(zip(samples.tolist(), histories, strict=True)):
        scores, of_graph = teacher.score([history])[0], found[row].clone()
        of_sasrec = scores.softmax(-1)
        of_graph = 0.8 * of_graph / of_graph.sum().clamp(min=1e-12) + 0.2 / len(of_graph)
        of_graph[history] = of_sasrec[history]
        chances = (of_sasrec ** (1 - share) * of_graph**share) ** 2
        chances /= chances.sum()
        first = next(sums_over_subtrees(tokenizer.sequences, read.items[place], chances.tolist(), 1.0))
        assert as_shares(soft, row, 0) == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize("score_mode", ["vocabulary", "trie"])
@pytest.mark.parametrize(("draws", "at_once"), [(0, None), (0, 4000), (3, None)])
def test_grouped_micro_batches_give_loss_and_gradients_of_the_plain_form(
    data, tokenizer, model, teacher, monkeypatch, draws, at_once, score_mode
):
    model, training = copy.deepcopy(model), training_part(data)
    model.config.score_mode = score_mode
    distil = Distillation(teacher, training, model.item_trie, 0.7, draws=draws)

    def grouped(micro_batch_size, num_processes=1):
        model.zero_grad()
        total = 0.0
        for process in range(num_processes):
            shares = (process, num_processes)
            steps = TrainingSteps(training, tokenizer, 16, micro_batch_size, 4, 0, 0, *shares, with_samples=True)
            micro_batches, num_tokens = steps[0]
            for batch in micro_batches:
                batch |= distil(batch.pop("samples"), batch["labels"])
                loss = model(**batch, num_items_in_batch=num_tokens).loss
                loss.backward()
                total += loss.detach()
        return total, {name: p.grad.clone() for name, p in model.named_parameters()}, steps.groups(0)

    groups = grouped(64)[2]
    samples = [(group.user, place) for group in groups for place in range(group.first, group.last)]
    histories = [[tokenizer.item_ids[row] for row in training[user][:place]] for user, place in samples]
    targets = [torch.tensor(tokenizer.sequences[training[user][place]]) for user, place in samples]
    inputs = tokenizer(histories=histories, return_tensors="pt")
    inputs["labels"] = pad_sequence(targets, batch_first=True, padding_value=-100)
    rows = torch.tensor([training.offsets[user] + place for user, place in samples])
    inputs = {name: values.repeat_interleave(1 + draws, 0) for name, values in inputs.items()}
    inputs |= distil(rows, inputs["labels"][:: 1 + draws])

    logits, true = model(**inputs).logits, inputs["labels"] >= 0
    soft = {name: values[true] for name, values in inputs["soft_targets"].items()}
    if score_mode == "trie":
        row, choice = torch.where(soft["tokens"] >= 0)
        is_legal = torch.zeros_like(logits[true], dtype=torch.bool)
        is_legal[row, soft["tokens"][row, choice]] = True
        log_probs = logits[true].masked_fill(~is_legal, -1e9).log_softmax(-1)
    else:
        log_probs = logits[true].log_softmax(-1)
    expected = -(soft["shares"] * log_probs.gather(-1, soft["tokens"].clamp(min=0))).sum() / sum(map(len, targets))
    plain = gradients(model, expected)
    if at_once:
        monkeypatch.setattr(training_gram, "_LOGITS_AT_ONCE", at_once)
    loss = model(**inputs, num_items_in_batch=sum(map(len, targets))).loss
    found = gradients(model, loss)
    torch.testing.assert_close(loss, expected)
    assert_like(found, plain)
    for shares in ((64, 1), (8, 1), (64, 2), (64, len(groups) + 1)):
        loss, found, _ = grouped(*shares)
        torch.testing.assert_close(loss, expected.detach())
        assert_like(found, plain, 1e-4)


def test_a_teacher_who_knows_the_target_or_has_no_say_leaves_cross_entropy(data, tokenizer, model):
    training = training_part(data)
    (batch, *_), _ = TrainingSteps(training, tokenizer, 16, 64, 4, 0, 0, with_samples=True)[0]
    samples = batch.pop("samples")
    oracle = SimpleNamespace(score=lambda histories: 1e3 * torch.eye(len(data.items))[training.items[samples]])
    popularity = Popularity(training, len(data.items))
    for teacher, weight in ((oracle, 1.0), (popularity, 0.0)):
        soft = Distillation(teacher, training, model.item_trie, weight)(samples, batch["labels"])
        torch.testing.assert_close(model(**{**batch, **soft}).loss, model(**batch).loss)
    soft = Distillation(popularity, training, model.item_trie, 0.5)(samples, batch["labels"])
    assert not torch.isclose(model(**{**batch, **soft}).loss, model(**batch).loss, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": torch.zeros(2, 3, 4)}, r"`shares` must be a tensor of the shape of `tokens`, \(2, 3, 5\)"),
        ({"tokens": torch.zeros(2, 3, 5)}, "`tokens` must be a tensor .* of integers"),
        ({"tokens": torch.full((2, 3, 5), 10_000)}, "`tokens` holds 10000"),
        ({"tokens": torch.zeros(2, 4, 5).long()}, r"`tokens` must be \(2, 3, choices\)"),
        ({"labels": None}, "`soft_targets` stand in for `labels`: give these too"),
    ],
)
def test_soft_targets_that_cannot_be_are_named(model, changes, message):
    labels = torch.tensor([[5, 6, 1], [7, 1, -100]])
    given = {"labels": labels, "tokens": torch.zeros(2, 3, 5).long(), "shares": torch.zeros(2, 3, 5), **changes}
    soft = {name: given.pop(name) for name in ("tokens", "shares")}
    given["decoder_input_ids"] = labels.clamp(min=0) if given["labels"] is None else None
    inputs = {"input_ids": torch.tensor([[[5, 1]], [[7, 1]]]), "soft_targets": soft}
    with pytest.raises((ValueError, TypeError), match=message):
        model(**inputs, **given)


@pytest.fixture(scope="module")
def settings(data_folder, translation):
    def made(output_dir, **changes):
        fields = {"translation": str(translation), "distillation": "sasrec", "distillation_draws": 2}
        fields |= {"interaction_dropout": 0.1, "epochs": 2}
        return small(data_folder, output_dir, **{**fields, **changes})

    return made


@pytest.fixture(scope="module")
def trained(settings, data, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled") / "model"
    train(settings(folder), data, tokenizer)
    return folder


def weights_of(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_teacher_is_known_of_a_run_and_another_is_refused(trained, settings, data, tokenizer, tmp_path):
    facts = json.loads((trained / "training.json").read_text())["provenance"]
    assert facts["settings"]["distillation_weight"] == 0.7
    assert facts["inputs"]["teacher"]
    train(settings(trained), data, tokenizer)
    with pytest.raises(ValueError, match=r"trained with distillation_weight=0\.7, now 0\.5; "):
        train(settings(trained, distillation_weight=0.5), data, tokenizer)
    with pytest.raises(ValueError, match="trained with distillation=sasrec, now None; "):
        train(settings(trained, distillation=None), data, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    fit_or_load(tmp_path / SASREC_FILE, training_part(data), len(data.items), SMALL, seed=1, progress=False)
    with pytest.raises(ValueError, match="trained with other teacher; "):
        train(settings(trained, translation=str(tmp_path)), data, tokenizer)


def test_resuming_in_mid_epoch_gives_bit_identical_weights(trained, settings, data, tokenizer, tmp_path):
    train_until(12, settings(tmp_path / "resumed"), data, tokenizer)
    (checkpoint,) = (tmp_path / "resumed" / "checkpoints").glob("step-*")
    first_epoch = json.loads((trained / "training.json").read_text())["progress"]["validations"][0]["updates"]
    assert int(checkpoint.name.removeprefix("step-")) > first_epoch
    train(settings(tmp_path / "resumed"), data, tokenizer)
    assert weights_of(tmp_path / "resumed") == weights_of(trained)


def test_weight_0_is_as_no_teacher(trained, settings, data, tokenizer, tmp_path):
    train(settings(tmp_path / "none", distillation=None), data, tokenizer)
    train(settings(tmp_path / "weightless", distillation_weight=0.0), data, tokenizer)
    assert weights_of(tmp_path / "none") == weights_of(tmp_path / "weightless")
    assert weights_of(tmp_path / "none") != weights_of(trained)


def test_two_processes_learn_what_one_learns(settings, data, tokenizer, translation, launch, tmp_path):
    options = {"distillation": str(translation / SASREC_FILE), "dropout_rate": 0.0, "validation_users": 5}
    train(settings(tmp_path / "one", **options), data, tokenizer)
    done = launch(*as_flags(settings(tmp_path / "two", **options)))
    assert done.returncode == 0, done.stderr
    learnt = load_file(tmp_path / "two" / "model.safetensors")
    for name, weights in load_file(tmp_path / "one" / "model.safetensors").items():
        torch.testing.assert_close(learnt[name], weights, rtol=0, atol=2e-3, msg=name)


def test_a_given_translation_brings_its_own_teacher(settings, data, translation, tmp_path):
    of_run = tmp_path / "model" / "translation" / SASREC_FILE  # of a run before, in the same folder
    fit_or_load(of_run, training_part(data), len(data.items), SMALL, seed=7, progress=False)
    given = SASRec.load(translation / SASREC_FILE).items.weight
    assert torch.equal(teacher_of(settings(tmp_path / "model"), data).items.weight, given)
    assert not torch.equal(SASRec.load(of_run).items.weight, given)


def test_adapters_learn_from_the_teacher_too(trained, settings, data, tokenizer, tmp_path):
    start = {"translation": None, "init_from": str(trained), "lora": 2, "validation_users": 5}
    train(settings(tmp_path / "distilled", **start), data, tokenizer)
    train(settings(tmp_path / "plain", **start, distillation=None), data, tokenizer)
    adapters = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("distilled", "plain")]
    assert adapters[0].read_bytes() != adapters[1].read_bytes()
    frozen = [load_file(folder / "model.safetensors")["shared.weight"] for folder in (trained, tmp_path / "distilled")]
    assert torch.equal(*frozen)


def test_other_validation_and_test_items_leave_every_weight(data, data_folder, tmp_path):
    interactions = data.interactions
    held_out = [[(sequence[-1] + 5) % 29, (sequence[-2] + 7) % 29] for sequence in interactions]
    sequences = [[*sequence[:-2], *others] for sequence, others in zip(interactions, held_out, strict=True)]
    others = RecommendationData(data.items, Interactions.from_sequences(interactions.user_ids, sequences), data.folder)
    translation = TranslationSettings(num_clusters=4, depth=3, num_similar=3, vocab_size=300, sasrec_epochs=1)
    for name, of in (("one", data), ("other", others)):
        settings = small(data_folder, tmp_path / name, epochs=1, distillation="sasrec", validation_users=5)
        train(settings, of, tokenizer_of(settings, translation, of))
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "other")


def test_a_teacher_that_is_not_there_or_saw_other_data_is_named(settings, data, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "bare")
    remedy = "translate with --similar-items sasrec .*, or give the file of one"
    with pytest.raises(FileNotFoundError, match=f"bare/sasrec.safetensors: no such file, .* {remedy}"):
        train(settings(tmp_path / "model", translation=str(tmp_path / "bare")), data, tokenizer)
    with pytest.raises(ValueError, match=r"sasrec\.safetensors: was not fitted on the training part of .*; translate "):
        train(settings(tmp_path / "model"), newer(data), tokenizer)
    with pytest.raises(FileNotFoundError, match=f"sasrek: no such file, .* {remedy}"):
        main(as_flags(settings(tmp_path / "model", distillation="sasrek", translation=None)))
    assert not (tmp_path / "model" / "translation").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation_weight": 1.5}, "distillation_weight is 1.5; it must be a number, at least 0 and at most 1"),
        ({"distillation_temperature": 0.0}, "distillation_temperature is 0.0; it must be a number, above 0"),
    ],
)
def test_an_impossible_setting_names_its_field(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings("data", "model", **changes)

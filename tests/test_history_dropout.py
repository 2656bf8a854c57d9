"""History dropout: what is left of a sample's history, in any batch and process, and that it is all one reads."""

import copy
from collections import Counter

import numpy as np
import torch

from gram.data import training_part
from gram.data.training_steps import TrainingSteps


def samples(data, tokenizer, dropout=0.3, epoch=0, micro_batch_size=16, processes=1, batch_size=16) -> dict:
    """Of all samples of an epoch, (user, place): the history that its batch says it has, rows newest first."""
    prompts = {tuple(prompt): row for row, prompt in enumerate(tokenizer.item_prompts)}
    found = {}
    for process in range(processes):
        steps = TrainingSteps(
            *(training_part(data), tokenizer, batch_size, micro_batch_size, 4, 0, epoch, process, processes),
            history_dropout=dropout,
        )
        for index, groups in enumerate(steps.steps):
            share = iter(groups[process::processes])
            for batch in steps[index][0]:
                if not (batch["labels"] >= 0).any():
                    continue
                history = batch["history"]
                rows = [
                    prompts[tuple(ids[mask.bool()].tolist())]
                    for ids, mask in zip(history["input_ids"], history["attention_mask"], strict=True)
                ]
                user_prompts = iter(zip(batch["input_ids"], batch["attention_mask"], strict=True))
                for items, positions in zip(history["items"].tolist(), history["positions"].tolist(), strict=True):
                    group = next(share)
                    for number, places in enumerate(positions):
                        ids, mask = next(user_prompts)
                        if number >= len(group):
                            continue
                        by_place = {place: rows[item] for item, place in zip(items, places, strict=True) if place}
                        assert sorted(by_place) == list(range(1, len(by_place) + 1))
                        kept = [by_place[place] for place in sorted(by_place)]
                        assert ids[mask.bool()].tolist() == tokenizer.user_prompt(kept)
                        found[group.user, group.first + number] = kept
    return found


def whole_histories(data, tokenizer) -> dict:
    training = training_part(data)
    return {
        (user, place): training[user][max(place - tokenizer.max_history, 0) : place][::-1].tolist()
        for user, length in enumerate(training.lengths)
        for place in range(1, length)
    }


def test_without_dropout_every_sample_has_its_whole_history(data, tokenizer):
    assert samples(data, tokenizer, dropout=0.0) == whole_histories(data, tokenizer)


def test_items_are_left_out_with_the_probability_that_is_asked_for(data, tokenizer):
    whole, kept, longer = whole_histories(data, tokenizer), Counter(), Counter()
    for epoch in range(20):
        for sample, history in samples(data, tokenizer, epoch=epoch).items():
            assert history
            everything = iter(whole[sample])
            assert all(row in everything for row in history)  # what is left keeps its order
            if len(whole[sample]) > 3:  # of a short history one that always stays counts
                kept[epoch] += len(history)
                longer[epoch] += len(whole[sample])
    shares = np.array([kept[epoch] / longer[epoch] for epoch in kept])
    assert abs(shares.mean() - 0.7) < 0.02


def test_one_item_stays_however_much_is_dropped(data, tokenizer):
    histories = samples(data, tokenizer, dropout=1 - 1e-9)
    assert {len(history) for history in histories.values()} == {1}
    whole = whole_histories(data, tokenizer)
    places = Counter(whole[sample].index(*history) for sample, history in histories.items() if len(whole[sample]) == 4)
    assert len(places) == 4  # any of them may


def test_what_is_dropped_depends_on_seed_and_epoch_alone(data, tokenizer):
    first = samples(data, tokenizer)
    assert samples(data, tokenizer, micro_batch_size=3) == first
    assert samples(data, tokenizer, processes=3) == first
    assert samples(data, tokenizer, batch_size=40) == first
    assert samples(data, tokenizer, epoch=1) != first


def test_loss_and_gradients_are_those_of_the_items_that_are_left(data, tokenizer, model):
    model, training = copy.deepcopy(model), training_part(data)
    steps = TrainingSteps(training, tokenizer, 16, 64, 4, 0, 0, history_dropout=0.4)
    micro_batches, num_tokens = steps[0]
    grouped = sum(model(**batch, num_items_in_batch=num_tokens).loss for batch in micro_batches)
    grouped.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    kept = samples(data, tokenizer, dropout=0.4)
    step = [(group.user, place) for group in steps.steps[0] for place in range(group.first, group.last)]
    histories = [[tokenizer.item_ids[row] for row in kept[sample][::-1]] for sample in step]
    targets = [torch.tensor(tokenizer.sequences[training[user][place]]) for user, place in step]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    plain = model(**tokenizer(histories=histories, return_tensors="pt"), labels=labels).loss
    plain.backward()
    torch.testing.assert_close(grouped, plain)
    for name, weight in model.named_parameters():
        assert (found[name] - weight.grad).abs().max() <= 1e-4 * weight.grad.abs().max(), name


def test_item_prompts_that_nobody_reads_are_not_encoded(data, tokenizer):
    def count(dropout):
        steps = TrainingSteps(training_part(data), tokenizer, 16, 16, 1, 0, 0, history_dropout=dropout)
        return sum(len(batch["history"]["input_ids"]) for index in range(len(steps)) for batch in steps[index][0])

    assert count(0.7) < 0.7 * count(0.0)

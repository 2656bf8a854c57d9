"""Rows of a data set: the samples of a split, for the trainers of transformers."""

import numpy as np
import pytest

from gram.data import Interactions, RecommendationData, evaluation_histories, samples_of, training_part


def test_training_rows_are_every_prefix_with_what_came_before_it(data, tokenizer):
    training, ids = training_part(data), tokenizer.item_ids
    expected = [
        ([ids[row] for row in sequence[max(place - 3, 0) : place]], ids[sequence[place]])
        for sequence in training
        for place in range(1, len(sequence))
    ]
    rows = samples_of(data, "train", max_history=3)
    assert list(zip(rows["history"], rows["target"], strict=True)) == expected
    assert [ids[training.items[place]] for place in rows["place"]] == rows["target"][:]
    groups, found = samples_of(data, "train", max_history=3, prefixes_per_group=4), []
    for row in groups:
        user = np.searchsorted(training.offsets, row["place"], side="right") - 1
        assert row["user_id"] == training.user_ids[user]
        for number, target in enumerate(row["target"]):
            found.append(((row["history"] + row["target"][:number])[-3:], target))
    assert found == expected


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_rows_are_a_target_with_the_whole_history(data, tokenizer, split):
    histories, targets = evaluation_histories(data, split)
    rows = samples_of(data, split, max_history=3)
    assert rows["user_id"][:] == histories.user_ids
    assert [tokenizer.history_rows(history) for history in rows["history"]] == [of.tolist() for of in histories]
    assert rows["target"][:] == [tokenizer.item_ids[target] for target in targets]
    assert set(rows["place"]) == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", 0), "max_history is 0; it must be at least 1"),
        (("train", 8, 0), "prefixes_per_group is 0; it must be at least 1"),
        (("test", 8, 4), "prefixes_per_group is of the training samples alone"),
        (("all", 8), "split is 'all'; it must be"),
    ],
)
def test_rows_that_cannot_be_are_refused(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        samples_of(data, *arguments)


def test_data_without_a_training_sample_have_no_rows(data):
    short = RecommendationData(data.items, Interactions.from_sequences(["a"], [[1, 2, 3]]))
    with pytest.raises(ValueError, match="the data: no user has two items to train on"):
        samples_of(short, "train", max_history=8)

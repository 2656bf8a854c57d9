"""The baselines' scores against sums made by hand."""

import numpy as np
import pytest

from gram.collaborative.baselines import (
    ItemKNN,
    Popularity,
    TransitionGraph,
    TransitionGraphSettings,
    counted_baselines,
)
from gram.data import Interactions, training_part

TRAINING = Interactions.from_sequences(["a", "b", "c"], [[0, 1, 0], [0, 2], [1, 2]])
NO_TEXT = np.zeros((4, 2))


def test_popularity_counts_training_interactions():
    scores = Popularity(TRAINING, 4).score([np.array([3]), np.array([0, 1])])
    assert scores.tolist() == [[3, 2, 2, 0]] * 2


def test_item_knn_sums_cosines_of_binary_columns():
    columns = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=float)
    norms = np.maximum(np.linalg.norm(columns, axis=1), 1)
    cosines = columns @ columns.T / np.outer(norms, norms)
    np.fill_diagonal(cosines, 0)
    scores = ItemKNN(TRAINING, 4).score([np.array([0]), np.array([0, 1, 0]), np.array([3])])
    assert scores[0].numpy() == pytest.approx(cosines[0], abs=1e-6)
    assert scores[1].numpy() == pytest.approx(cosines[0] + cosines[1], abs=1e-6)
    assert scores[2].tolist() == [0, 0, 0, 0]


def test_a_transition_graph_shares_out_what_came_next():
    graph = TransitionGraph(TRAINING, NO_TEXT, TransitionGraphSettings(reach=0.5, recency=0.5))
    scores = graph.score([np.array([0]), np.array([1, 0]), np.array([3, 2]), np.array([], dtype=np.int32)])
    # After 0 came 1 and 2 as the next item, and 0 itself as the one after: 1, 1 and 1/2 of 5/2. After 1 came 0 and 2.
    assert scores[0].numpy() == pytest.approx([0.2, 0.4, 0.4, 0])
    assert scores[1].numpy() == pytest.approx([0.2 + 0.25, 0.4, 0.4 + 0.25, 0])  # 0 is the newest, 1 counts half
    assert scores[2:].abs().max() == 0  # nothing came after 2, and 3 is in nobody's sequence
    next_alone = TransitionGraph(TRAINING, NO_TEXT, TransitionGraphSettings(reach=0.0))
    assert next_alone.score([np.array([0])])[0].numpy() == pytest.approx([0, 0.5, 0.5, 0])


def test_items_with_few_transitions_speak_by_their_texts():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [3.0, 0.0]])  # 3 is like 0, and half as much like 2
    settings = TransitionGraphSettings(smoothing=2.5, reach=0.5, neighbours=2)
    scores = TransitionGraph(TRAINING, vectors, settings).score([np.array([0]), np.array([3])]).numpy()
    assert scores[1] == pytest.approx([1 / 1.6, 0, 0.6 / 1.6, 0])  # nobody had it: text alone
    assert scores[0] == pytest.approx([0.1, 0.2, 0.2 + 0.5 * 0.6 / 1.6, 0.5 / 1.6])  # as much text as transitions
    without = TransitionGraphSettings(smoothing=0.0, reach=0.5)
    more = TransitionGraph(TRAINING, vectors, without).score([np.array([0]), np.array([3])])
    assert more[0].numpy() == pytest.approx([0.2, 0.4, 0.4, 0])
    assert more[1].abs().max() == 0


@pytest.mark.parametrize("settings", [{}, {"smoothing": 3.0, "reach": 0.8, "neighbours": 4, "recency": 0.7}])
def test_a_transition_graph_is_what_loops_over_all_pairs_give(data, settings):
    training, vectors, num_items = training_part(data), np.random.default_rng(0).normal(size=(30, 5)), 30
    settings = TransitionGraphSettings(**settings)
    votes = np.zeros((num_items, num_items))
    for sequence in training:
        for place, item in enumerate(sequence):
            for distance, later in enumerate(sequence[place + 1 : place + 11]):
                votes[item, later] += settings.reach**distance
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(lengths, lengths)
    np.fill_diagonal(cosines, -1)
    for item, row in enumerate(cosines):
        alike = np.where(row >= np.sort(row)[-settings.neighbours], row, 0).clip(min=0)
        votes[item] += settings.smoothing * alike / alike.sum()
    votes /= votes.sum(axis=1, keepdims=True)
    histories = [np.array([3, 7, 3, 12]), np.array([29])]
    expected = votes[12] + settings.recency * votes[3] + settings.recency**2 * votes[7]
    found = TransitionGraph(training, vectors, settings).score(histories).numpy()
    assert found[0] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found[1] == pytest.approx(votes[29], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"smoothing": -1.0}, {"reach": 1.5}, {"neighbours": 0}, {"recency": 0.0}, {"recency": "new"}]
)
def test_settings_of_a_transition_graph_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; it must be "):
        TransitionGraphSettings(**wrong)


def test_the_scores_are_float32_of_users_by_items():
    for make in counted_baselines(TRAINING, NO_TEXT).values():
        scores = make().score([np.array([0], dtype=np.int32)] * 3)
        assert scores.shape == (3, 4)
        assert str(scores.dtype) == "torch.float32"

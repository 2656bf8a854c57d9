"""The baselines' scores against sums made by hand."""

import numpy as np
import pytest

from gram.collaborative.baselines import ItemKNN, Popularity
from gram.data import Interactions

TRAINING = Interactions.from_sequences(["a", "b", "c"], [[0, 1, 0], [0, 2], [1, 2]])


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


def test_the_scores_are_float32_of_users_by_items():
    for recommender in (Popularity(TRAINING, 4), ItemKNN(TRAINING, 4)):
        scores = recommender.score([np.array([0], dtype=np.int32)] * 3)
        assert scores.shape == (3, 4)
        assert str(scores.dtype) == "torch.float32"

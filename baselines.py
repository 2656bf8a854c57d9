"""Recommenders that GRAM is measured against. A SASRec, of the translation room, has the same `score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .data.interactions import Interactions


class Recommender(Protocol):
    """Whatever can score the whole catalogue for users' histories."""

    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, N) float32, higher is better, for B arrays of catalogue rows, oldest first."""
        ...


class Popularity:
    """Scores an item by how many training interactions it has, for every user alike.

    Example:
        >>> training = Interactions.from_sequences(["u1", "u2"], [[0, 1], [1, 2]])
        >>> Popularity(training, num_items=3).score([np.array([0])])
        tensor([[1., 2., 1.]])
    """

    def __init__(self, training: Interactions, num_items: int):
        """Count the interactions of the training part over a catalogue of `num_items`."""
        self.counts = torch.from_numpy(np.bincount(training.items, minlength=num_items).astype(np.float32))

    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, N) float32, whatever the histories hold; a view, not to be written to."""
        return self.counts.expand(len(histories), -1)


class ItemKNN:
    """Scores an item by the sum of its cosines with the history's items.

    The cosine of two items is that of their columns of the binary user-item matrix. An item is not its own neighbour.
    The item-item matrix is never made: scores pass through the users.

    Example:
        >>> training = Interactions.from_sequences(["u1", "u2"], [[0, 1], [0, 1, 2]])
        >>> ItemKNN(training, num_items=3).score([np.array([2])]).round(decimals=2)
        tensor([[0.7100, 0.7100, 0.0000]])
    """

    def __init__(self, training: Interactions, num_items: int):
        """Take the columns from the training part over a catalogue of `num_items`."""
        users = np.repeat(np.arange(len(training)), training.lengths)
        seen = sparse.csr_matrix(
            (np.ones(len(users), np.float32), (users, training.items)), shape=(len(training), num_items)
        )
        seen.sum_duplicates()
        seen.data[:] = 1  # bought twice is bought
        norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
        self.columns = (seen @ sparse.diags(1 / np.maximum(norms, 1))).tocsr()  # (U, N), columns of length 1
        self.present = norms > 0

    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, N) float32; 0 for an item that shares no user with the history."""
        offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
        items = np.concatenate([*histories, np.zeros(0)]).astype(np.int64)
        query = sparse.csr_matrix((np.ones(len(items)), items, offsets), shape=(len(histories), len(self.present)))
        query.sum_duplicates()
        query.data[:] = 1
        scores = ((query @ self.columns.T) @ self.columns).toarray()
        own = query.nonzero()
        scores[own] -= self.present[own[1]]
        return torch.from_numpy(scores.astype(np.float32))

"""Recommenders that GRAM is measured against. A SASRec has the same `score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ..common.settings import Settings, within
from ..data.interactions import Interactions
from .neighbours import item_cosines, user_item_matrix


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


@dataclass(frozen=True)
class ItemKNNSettings(Settings):
    """What an item-kNN is made of. The defaults are the plain one: all neighbours, all items of a history alike.

    Attributes:
        neighbours: how many of an item's most similar items it speaks for; none: all.
        shrinkage: is added to the denominator of the cosines, and lowers those of items with few users.
        recency: weight of an item of the history over that of the one after it; 1: all weigh the same.
    """

    neighbours: int | None = within(None, least=1)
    shrinkage: float = within(0.0, least=0)
    recency: float = within(1.0, above=0, most=1)


class ItemKNN:
    """Scores an item by the weighted sum of its cosines with the history's items.

    The cosine of two items is that of their columns of the binary user-item matrix. An item is not its own neighbour.
    With all neighbours and no shrinkage the item-item matrix is never made: scores pass through the users.

    Example:
        >>> training = Interactions.from_sequences(["u1", "u2"], [[0, 1], [0, 1, 2]])
        >>> ItemKNN(training, num_items=3).score([np.array([2])]).round(decimals=2)
        tensor([[0.7100, 0.7100, 0.0000]])
        >>> halved = ItemKNN(training, num_items=3, settings=ItemKNNSettings(recency=0.5))
        >>> halved.score([np.array([0, 2])]).round(decimals=2)  # item 2 is the newer
        tensor([[0.7100, 1.2100, 0.3500]])
    """

    def __init__(self, training: Interactions, num_items: int, settings: ItemKNNSettings | None = None):
        """Take the columns from the training part over a catalogue of `num_items`."""
        self.settings = settings = settings or ItemKNNSettings()
        self.cosines = self.columns = None
        if settings.neighbours is not None or settings.shrinkage:
            self.cosines = item_cosines(training, num_items, settings.neighbours, settings.shrinkage)  # (N, N)
            return
        seen = user_item_matrix(training, num_items).astype(np.float32)
        norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
        self.columns = (seen @ sparse.diags(1 / np.maximum(norms, 1))).tocsr()  # (U, N), columns of length 1
        self.present = norms > 0

    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, N) float32; 0 for an item that shares no user with the history."""
        query = self._query(histories)
        if self.cosines is not None:
            return torch.from_numpy((query @ self.cosines).toarray().astype(np.float32))
        scores = ((query @ self.columns.T) @ self.columns).toarray()
        own = query.tocoo()
        scores[own.row, own.col] -= own.data * self.present[own.col]
        return torch.from_numpy(scores.astype(np.float32))

    def _query(self, histories: Sequence[np.ndarray]) -> sparse.csr_matrix:
        """(B, N) weight of every item of the histories, once, by the last time that it is there."""
        latest = [np.unique(np.asarray(history, np.int64)[::-1], return_index=True) for history in histories]
        offsets = np.concatenate([[0], np.cumsum([len(items) for items, _ in latest])])
        items = np.concatenate([np.zeros(0, np.int64), *(items for items, _ in latest)])
        ages = np.concatenate([np.zeros(0, np.int64), *(age for _, age in latest)])
        num_items = (self.columns if self.cosines is None else self.cosines).shape[1]
        return sparse.csr_matrix((self.settings.recency**ages, items, offsets), (len(histories), num_items))

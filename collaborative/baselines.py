"""Recommenders that GRAM is measured against. A SASRec has the same `score`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..common.extras import needs
from ..common.settings import Settings, within
from ..data.interactions import Interactions, spans
from .together import item_cosines, row_shares, similar_texts

with needs("train"):
    from scipy import sparse

FARTHEST = 10  # items after one that still count as what came after it
LEAST_WEIGHT = np.finfo(np.float32).eps  # of an item of the history, beside the last one's; a lesser one rounds away


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
    """What an item-kNN is made of. By default all items of a history are alike.

    Attributes:
        neighbours: how many of an item's most similar items it speaks for; none: all, which takes memory where users
            have many items.
        shrinkage: is added to the denominator of the cosines, and lowers those of items with few users.
        recency: weight of an item of the history over that of the one after it; 1: all weigh the same.
    """

    neighbours: int | None = within(200, least=1)
    shrinkage: float = within(0.0, least=0)
    recency: float = within(1.0, above=0, most=1)


class ItemKNN:
    """Scores an item by the weighted sum of its cosines with the history's items.

    The cosine of two items is that of their columns of the binary user-item matrix. An item is not its own neighbour.

    Example:
        >>> training = Interactions.from_sequences(["u1", "u2"], [[0, 1], [0, 1, 2]])
        >>> halved = ItemKNN(training, num_items=3, settings=ItemKNNSettings(recency=0.5))
        >>> halved.score([np.array([0, 2])]).round(decimals=2)  # item 2 is the newer
        tensor([[0.7100, 1.2100, 0.3500]])
    """

    def __init__(self, training: Interactions, num_items: int, settings: ItemKNNSettings | None = None):
        """Take the columns from the training part over a catalogue of `num_items`."""
        self.settings = settings = settings or ItemKNNSettings()
        self.cosines = item_cosines(training, num_items, settings.neighbours, settings.shrinkage)  # (N, N)

    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, N) float32; 0 for an item that shares no user with the history."""
        return _sums_of_rows(self.cosines, histories, self.settings.recency)


@dataclass(frozen=True)
class TransitionGraphSettings(Settings):
    """What a transition graph is made of.

    Attributes:
        smoothing: as how many transitions the similarity of texts counts: an item with fewer speaks by its text first.
        reach: weight of the item after next over that of the next one, and so on; 0: the next one alone counts.
        neighbours: for how many items of the most similar texts an item speaks.
        recency: weight of an item of the history over that of the one after it; near 0: the last one alone counts.
    """

    smoothing: float = within(20.0, least=0)
    reach: float = within(0.8, least=0, most=1)
    neighbours: int = within(20, least=1)
    recency: float = within(0.7, above=0, most=1)


class TransitionGraph:
    """Scores an item by how often it came after the history's items in training, and by how its text is like theirs.

    Each item of the history has a vote. It is shared out over what came after it, in proportion to the counted
    transitions, with some that are not counted and go to the items of the most similar texts. Nothing is trained.

    Example:
        >>> training = Interactions.from_sequences(["u1", "u2"], [[0, 1, 2], [0, 1]])
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> graph = TransitionGraph(training, vectors, TransitionGraphSettings(smoothing=2.5, reach=0.5))
        >>> graph.score([np.array([0])])  # item 1 came next twice, item 2 after next, and item 3 has the same text
        tensor([[0.0000, 0.4000, 0.1000, 0.5000]])
    """

    def __init__(self, training: Interactions, vectors: np.ndarray, settings: TransitionGraphSettings | None = None):
        """Count the transitions of the training part over a catalogue whose texts have the `vectors` (N, d)."""
        self.training, self.settings = training, settings or TransitionGraphSettings()
        reach, neighbours, smoothing = self.settings.reach, self.settings.neighbours, self.settings.smoothing
        counted = _transitions(training, len(vectors), reach) + smoothing * similar_texts(vectors, neighbours)
        self.votes, self.counted = row_shares(counted), counted  # each (N, N)
        self.totals = np.asarray(counted.sum(axis=1)).ravel()  # (N,)

    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, N) float32; 0 for an item that never came after one of the history, and whose text is another."""
        return _sums_of_rows(self.votes, histories, self.settings.recency)

    def score_without(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> Tensor:
        """Scores for histories of training, had the transitions of each one's own user not been counted.

        With these a graph would know what comes next in training, where it has counted it, and not in any other place.

        Args:
            users: (B,) their rows in the training part.
            histories: B of them, of items that the user has there.

        Returns:
            (B, N) float32.
        """
        reach = self.settings.reach ** np.arange(FARTHEST)  # weights of what comes after an item, by its distance
        places, ends = spans(self.training.offsets[users], self.training.offsets[users + 1])  # (T,) all that they have
        lengths = np.diff(ends)
        row = np.repeat(np.arange(len(users)), lengths)
        later = np.repeat(ends[1:], lengths) - np.arange(len(places)) - 1  # how many of theirs come after it
        items, column = np.unique(self.training.items[places], return_inverse=True)
        weights = _latest(histories, items, self.settings.recency)

        def sums(values: np.ndarray) -> np.ndarray:
            """(B, M) of values (T,); a user may have an item several times."""
            of = np.bincount(row * len(items) + column, values, minlength=weights.size)
            return of.reshape(weights.shape)

        left = self.totals[items] - sums(np.append(0, reach.cumsum())[later.clip(max=FARTHEST)])
        weights[(weights < LEAST_WEIGHT) | (left <= 1e-9)] = 0
        weights /= left.clip(min=1e-9)
        votes, own = weights[row, column], np.zeros(len(row))  # (T,), and what the user's own transitions add
        for distance, weight in enumerate(reach, start=1):
            own[distance:] += weight * (votes * (later >= distance))[:-distance]
        scores = (sparse.csr_matrix(weights) @ self.counted[items]).toarray()
        scores[:, items] -= sums(own)
        return torch.from_numpy(scores.astype(np.float32))


def counted_baselines(training: Interactions, vectors: np.ndarray) -> dict[str, Callable[..., Recommender]]:
    """What makes each baseline that is not trained, of its settings, if it has any; `vectors` (N, d) of the texts."""
    return {
        "item-kNN": partial(ItemKNN, training, len(vectors)),
        "transition-graph": partial(TransitionGraph, training, vectors),
        "popularity": partial(Popularity, training, len(vectors)),
    }


def _transitions(training: Interactions, num_items: int, reach: float) -> sparse.csr_matrix:
    """(N, N) how often an item came after another; of those farther on each counts `reach` times the one before it."""
    users = np.repeat(np.arange(len(training)), training.lengths)
    total = sparse.csr_matrix((num_items, num_items))
    for distance in range(1, FARTHEST + 1 if reach else 2):
        same = users[distance:] == users[:-distance]
        pairs = training.items[:-distance][same], training.items[distance:][same]
        weight = np.full(same.sum(), reach ** (distance - 1))
        total += sparse.csr_matrix((weight, pairs), total.shape)
    return total


def _latest(histories: Sequence[np.ndarray], items: np.ndarray, recency: float) -> np.ndarray:
    """(B, M) what items (M,), in order, weigh by the last time that they are in a history; 0 where they are not."""
    weights = np.zeros((len(histories), len(items)))
    for of, history in zip(weights, histories, strict=True):
        of[np.searchsorted(items, history)] = recency ** np.arange(len(history))[::-1]  # the newer one stands
    return weights


def _sums_of_rows(matrix: sparse.csr_matrix, histories: Sequence[np.ndarray], recency: float) -> Tensor:
    """(B, N) sum of the rows of a history's items, each once, weighted by the last time that it is there."""
    items = np.unique(np.concatenate(histories))
    query = sparse.csr_matrix(_latest(histories, items, recency))
    return torch.from_numpy((query @ matrix[items]).toarray().astype(np.float32))

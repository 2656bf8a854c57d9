"""What a ranked list is worth: recall, NDCG and reciprocal rank of every user, and their mean with an interval.

The one definition that the package's evaluation and its `evaluate` metrics share. The metrics of `hub/metrics` carry
this file with them, so it imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

Z_95 = 1.959964  # of the normal distribution: 95 % lie within this many standard errors


class Hits(NamedTuple):
    """Where the relevant items of U users stand in their lists.

    Attributes:
        users (H,): user of each relevant item that was found, from 0.
        ranks (H,): its place in the user's list, from 1.
        relevant (U,): how many items are relevant to each user, found or not; at least 1.
    """

    users: np.ndarray
    ranks: np.ndarray
    relevant: np.ndarray

    @classmethod
    def of_targets(cls, ranks: np.ndarray) -> Hits:
        """One relevant item per user, of known rank (U,) from 1; 0 where it was not found.

        Example:
            >>> Hits.of_targets(np.array([3, 0, 1])).users
            array([0, 2])
        """
        users = np.flatnonzero(ranks >= 1)
        return cls(users, ranks[users], np.ones(len(ranks), dtype=np.int64))

    @classmethod
    def of_lists(cls, predictions: Iterable[Sequence], references: Iterable[Sequence]) -> Hits:
        """One ranked list of items per user, best first, and the items that are relevant to the user.

        Example:
            >>> Hits.of_lists([["a", "b", "c"]], [["c", "a", "x"]])
            Hits(users=array([0, 0]), ranks=array([1, 3]), relevant=array([3]))
        """
        found, relevant = [], []
        for user, (items, wanted) in enumerate(zip(predictions, references, strict=True)):
            wanted = set(wanted)
            relevant.append(len(wanted))
            found += [(user, rank) for rank, item in enumerate(items, start=1) if item in wanted]
        users, ranks = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return cls(users, ranks, np.array(relevant, dtype=np.int64))


def recall(hits: Hits, k: int) -> np.ndarray:
    """Share (U,) of a user's relevant items that are among the first `k`.

    Example:
        >>> recall(Hits.of_lists([["a", "b", "c"]], [["c", "a"]]), k=2)
        array([0.5])
    """
    return _sum_per_user(hits, k, np.ones(len(hits.ranks))) / hits.relevant


def ndcg(hits: Hits, k: int) -> np.ndarray:
    """Binary NDCG (U,): `1 / log2(rank + 1)` summed over the relevant among the first `k`, over the most possible.

    Example:
        >>> ndcg(Hits.of_lists([["a", "b", "c"]], [["c"]]), k=3)  # 1 / log2(4)
        array([0.5])
    """
    most = np.cumsum(1 / np.log2(np.arange(min(k, hits.relevant.max(initial=1))) + 2))  # (at most k,)
    return _sum_per_user(hits, k, 1 / np.log2(hits.ranks + 1)) / most[np.minimum(hits.relevant, len(most)) - 1]


def reciprocal_rank(hits: Hits, k: int) -> np.ndarray:
    """One over the rank of the first relevant item (U,), 0 where there is none among the first `k`.

    Example:
        >>> reciprocal_rank(Hits.of_lists([["a", "b", "c"]], [["c", "b"]]), k=3)
        array([0.5])
    """
    best = np.zeros(len(hits.relevant))
    np.maximum.at(best, hits.users, np.where(hits.ranks <= k, 1 / hits.ranks, 0.0))
    return best


def _sum_per_user(hits: Hits, k: int, gains: np.ndarray) -> np.ndarray:
    return np.bincount(hits.users, np.where(hits.ranks <= k, gains, 0.0), minlength=len(hits.relevant))


def estimate(values: np.ndarray) -> dict[str, float]:
    """Mean of the users' values (U,) in [0, 1] with its 95 % interval.

    The interval is the normal approximation: the mean and 1.96 standard errors to either side, clipped to [0, 1]. It
    tells how far the mean would move with other users. For a single user it is all of [0, 1].

    Example:
        >>> estimate(np.array([0.5]))
        {'mean': 0.5, 'low': 0.0, 'high': 1.0}
    """
    mean = float(values.mean())
    margin = Z_95 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 1.0
    return {"mean": mean, "low": max(mean - margin, 0.0), "high": min(mean + margin, 1.0)}


def at_cutoffs(
    name: str, metric: Callable[[Hits, int], np.ndarray], hits: Hits, k: int | Sequence[int], confidence_interval: bool
) -> dict[str, Any]:
    """`{"name@k": mean}` for every `k`; with `confidence_interval`, [`estimate`]'s dictionary in place of each mean."""
    estimates = {f"{name}@{cutoff}": estimate(metric(hits, cutoff)) for cutoff in cutoffs(k)}
    return estimates if confidence_interval else {key: values["mean"] for key, values in estimates.items()}


def cutoffs(k: int | Sequence[int]) -> list[int]:
    """The values of `k`, one or several.

    Raises:
        ValueError: one of them is not a whole number of at least 1; there are none.

    Example:
        >>> cutoffs(5), cutoffs([5, 10])
        ([5], [5, 10])
    """
    values = [k] if isinstance(k, Integral) else list(k) if isinstance(k, Sequence | np.ndarray) else [k]
    for value in values or [k]:
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"k is {value!r}; give a whole number of at least 1, or several")
    return values


class RankedLists:
    """Takes an `evaluate` metric's inputs: checks them as they come, and lets a single reference stand without a list.

    To be inherited before `evaluate.Metric`. An error leaves what was added before as it is.
    """

    def add(self, *, prediction=None, reference=None):
        """Add one user.

        Args:
            prediction: the ranked list of item ids.
            reference: the relevant item id, or several.
        """
        self.add_batch(predictions=[prediction], references=None if reference is None else [reference])

    def add_batch(self, *, predictions=None, references=None):
        """Add a batch of users.

        Args:
            predictions: a ranked list of item ids for every user.
            references: the relevant item id of every user, or several.
        """
        given = {"predictions": predictions, "references": references}
        names = list(self.features[0])  # one dictionary of features for every type of item id
        batch = {name: _as_lists(name, given[name]) for name in names}
        if len({len(column) for column in batch.values()}) > 1:
            raise ValueError(
                f"there are {len(batch['predictions'])} predictions and {len(batch['references'])} references; "
                "give one of each for every user"
            )
        for row, items in enumerate(batch["predictions"]):
            if len(set(items)) < len(items):
                twice = next(item for place, item in enumerate(items) if item in items[:place])
                raise ValueError(f"predictions, row {row}: item {twice!r} is in the list twice")
        for row, items in enumerate(batch.get("references", [])):
            if not items:
                raise ValueError(f"references, row {row}: no relevant item; leave this user out")
        super().add_batch(**batch)


def _as_lists(name: str, column) -> list[list]:
    if column is None or not len(column):
        raise ValueError(f"{name} are missing; give a list with an entry for every user")
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in column]  # of arrays and tensors
    if name == "references":
        rows = [[row] if isinstance(row, str | Integral) else row for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple | set) or any(item is None for item in row):
            raise ValueError(f"{name}, row {number}: {row!r} is not a list of item ids")
    return [list(row) for row in rows]

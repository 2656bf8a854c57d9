"""The one schema that every reader fills and every other room reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Users' item sequences in compressed sparse rows.

    Attributes:
        user_ids: (U,) names of the users.
        items: (total,) int32 rows of the catalogue, user after user, each user's oldest item first.
        offsets: (U + 1,) int64; user `u` owns `items[offsets[u]:offsets[u + 1]]`.

    Example:
        >>> interactions = Interactions.from_sequences(["u1", "u2"], [[0, 2, 1], [1, 0]])
        >>> interactions[1], interactions.lengths
        (array([1, 0], dtype=int32), array([3, 2]))
    """

    user_ids: list[str]
    items: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_sequences(cls, user_ids: Sequence[str], sequences: Iterable[Sequence[int]]) -> Interactions:
        """Pack one sequence of catalogue rows per user, oldest first."""
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        if len(arrays) != len(user_ids):
            raise ValueError(f"{len(user_ids)} users but {len(arrays)} sequences; give one sequence per user")
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(list(user_ids), np.concatenate([np.zeros(0, dtype=np.int32), *arrays]), offsets)

    @property
    def lengths(self) -> np.ndarray:
        """(U,) int64 number of items of each user."""
        return np.diff(self.offsets)

    @property
    def num_repeats(self) -> int:
        """How many interactions are with an item that the user has had before."""
        pairs = np.repeat(np.arange(len(self)), self.lengths) * (self.items.max(initial=0) + 1) + self.items
        return len(pairs) - len(np.unique(pairs))

    def __len__(self) -> int:
        return len(self.user_ids)

    def __getitem__(self, user: int) -> np.ndarray:
        """The whole sequence of the user in row `user`, oldest item first."""
        return self.items[self.offsets[:-1][user] : self.offsets[1:][user]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[user] for user in range(len(self)))


@dataclass(frozen=True)
class ItemTable:
    """One row per item; this row order is the catalogue order everywhere.

    Attributes:
        item_ids: (N,) unique names of the items.
        titles: (N,) what people are shown.
        texts: (N,) what models read: `title: ...; brand: ...; categories: ...`, empty fields left out.
        fields: N rows, the fields as they were read, to choose items by; None where they are not known.
    """

    item_ids: list[str]
    titles: list[str]
    texts: list[str]
    fields: pa.Table | None = None

    @classmethod
    def from_catalogue(cls, catalogue: pa.Table) -> ItemTable:
        """The items of a translated catalogue, such as a tokenizer's."""
        return cls(*(catalogue[name].to_pylist() for name in ("item_id", "title", "text")))

    def __len__(self) -> int:
        return len(self.item_ids)


def spans(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places `start ... end - 1` of each of N spans, laid end to end, and the offsets (N + 1,) of the spans in that.

    Example:
        >>> spans(np.array([5, 0]), np.array([7, 1]))
        (array([5, 6, 0]), array([0, 2, 3]))
    """
    lengths = ends - starts
    offsets = np.concatenate([[0], lengths.cumsum()])
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]), offsets


def leave_one_out(interactions: Interactions) -> np.ndarray:
    """(total,) int8 splits: a user's last item is for testing, the one before for validation, the rest for training.

    Raises:
        ValueError: where a user has fewer than 3 items.
    """
    short = interactions.lengths < 3
    if short.any():
        user = int(short.argmax())
        name, length = interactions.user_ids[user], interactions.lengths[user]
        raise ValueError(f"user {name} has {length} items, leave-one-out needs at least 3; drop the user")
    splits = np.full(len(interactions.items), TRAIN, dtype=np.int8)
    splits[interactions.offsets[1:] - 1] = TEST
    splits[interactions.offsets[1:] - 2] = VALIDATION
    return splits


@dataclass(frozen=True, eq=False)
class RecommendationData:
    """A data set: its items, its users' sequences, and which of these are to learn from.

    Attributes:
        items: the catalogue.
        interactions: whole sequences.
        folder: that they were read from; None: made in memory.
        splits: (total,) int8, `TRAIN`, `VALIDATION` or `TEST` for each of `interactions.items`; leave-one-out where
            none are given.

    Raises:
        ValueError: no splits are given, and a user has fewer than 3 items.
    """

    items: ItemTable
    interactions: Interactions
    folder: Path | None = None
    splits: np.ndarray | None = None

    def __post_init__(self):
        if self.splits is None:
            object.__setattr__(self, "splits", leave_one_out(self.interactions))

    def in_catalogue(self, items: ItemTable) -> RecommendationData:
        """The same sequences in rows of another catalogue, whose order and extent may differ.

        Raises:
            ValueError: an item of a sequence is not in it.
        """
        row_of = {item: row for row, item in enumerate(items.item_ids)}
        rows = np.array([row_of.get(item, -1) for item in self.items.item_ids], dtype=np.int32)[self.interactions.items]
        if (rows < 0).any():
            item = self.items.item_ids[self.interactions.items[int((rows < 0).argmax())]]
            place = self.folder or "the data"
            raise ValueError(f"{place}: item {item} is not in the model's catalogue; `gram add-items` adds new items")
        return replace(self, items=items, interactions=replace(self.interactions, items=rows))

    @property
    def is_leave_one_out(self) -> bool:
        """Whether exactly the last item of every user is for testing, and the one before for validation."""
        short = (self.interactions.lengths < 3).any()
        return not short and np.array_equal(self.splits, leave_one_out(self.interactions))

"""Samples: a target, and what the user had before it; in groups of one user's, and as a `datasets.Dataset`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from ..common.extras import needs
from .interactions import Interactions, RecommendationData, spans
from .splits import evaluation_histories, training_part

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PrefixGroup:
    """Samples of one user: predict items `first ... last - 1` of the sequence, each from the items before it."""

    user: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def split(self, size: int) -> list[PrefixGroup]:
        """The same in parts of like lengths, of at most `size` samples."""
        parts = -(-len(self) // size)
        bounds = [self.first + len(self) * part // parts for part in range(parts + 1)]
        return [PrefixGroup(self.user, *part) for part in pairwise(bounds)]


def prefix_groups(
    interactions: Interactions, prefixes_per_group: int, prefixes_per_user: int | None = None
) -> np.ndarray:
    """All users' prefixes, or the latest `prefixes_per_user`, in groups of at most `prefixes_per_group`.

    A user's first item is never a target.

    Returns:
        (G, 3) int64, the fields of a [`PrefixGroup`]: a run counts its steps long before it needs their groups.
    """
    samples = np.clip(interactions.lengths - 1, 0, prefixes_per_user)  # (users,)
    counts = -(-samples // prefixes_per_group)
    users = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(users)) - np.repeat(counts.cumsum() - counts, counts)  # of the group among its user's
    start = (interactions.lengths - samples)[users]
    first, last = (start + samples[users] * bound // counts[users] for bound in (place, place + 1))
    return np.stack([users, first, last], axis=1)


def samples_of(
    data: RecommendationData,
    split: Literal["train", "validation", "test"],
    max_history: int,
    prefixes_per_group: int | None = None,
    prefixes_per_user: int | None = None,
) -> Dataset:
    """The samples of a split, for [`gram.GramDataCollator`]; users and their samples in the order of the data.

    Args:
        data: see [`read_folder`].
        split: in `"train"` every item of a user but the first is a target; in the others one item of each user is, see
            [`evaluation_histories`].
        max_history: items of a history that are kept in `"train"`, the newest; the tokenizer's `max_history` is what
            the model reads. Histories of the other splits are whole.
        prefixes_per_group: make a row of up to so many consecutive targets of a user, for the grouped form.
        prefixes_per_user: how many of a user's targets count, the latest; all by default.

    Returns:
        Columns `user_id`; `history`, item ids before the target, oldest first; `target`, an item id, or with
        `prefixes_per_group` a list of them, of which each comes after those before it too; and `place`, that of the
        (first) target in `training_part(data).items`, by which a teacher finds it; null in the other splits.

    Raises:
        ValueError: for another split; where it has no sample; for a number below 1; `prefixes_per_group` or
            `prefixes_per_user` with another split than `"train"`.

    Example:
        >>> samples = samples_of(data, "train", max_history=8, prefixes_per_group=4)
        >>> samples[0]["history"], samples[0]["target"]
        (['B0014'], ['B0015', 'B0016', 'B0019', 'B0021'])
    """
    with needs("data", "a data set of samples"):
        from datasets import Dataset

    sizes = {"prefixes_per_group": prefixes_per_group, "prefixes_per_user": prefixes_per_user}
    for name, value in {"max_history": max_history, **sizes}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    ids = pa.array(data.items.item_ids, pa.string())

    def lists(items: np.ndarray, offsets: np.ndarray) -> pa.Array:
        return pa.LargeListArray.from_arrays(pa.array(offsets), ids.take(pa.array(items)))

    if split != "train":
        for name, value in sizes.items():
            if value is not None:
                raise ValueError(f"{name} is of the training samples alone, not of {split!r}")
        histories, targets = evaluation_histories(data, split)
        users, history = histories.user_ids, lists(histories.items, histories.offsets)
        target, places = ids.take(pa.array(targets)), pa.nulls(len(targets), pa.int64())
    else:
        training = training_part(data)
        rows, first, last = prefix_groups(training, prefixes_per_group or 1, prefixes_per_user).T
        if not len(rows):
            raise ValueError(f"{data.folder or 'the data'}: no user has two items to train on; give longer sequences")
        start = training.offsets[rows]
        before, offsets = spans(start + np.maximum(first - max_history, 0), start + first)
        history, places = lists(training.items[before], offsets), pa.array(start + first)
        if prefixes_per_group is None:
            target = ids.take(pa.array(training.items[start + first]))
        else:
            of_target, offsets = spans(start + first, start + last)
            target = lists(training.items[of_target], offsets)
        users = pa.array(training.user_ids, pa.string()).take(pa.array(rows))
    return Dataset(pa.table({"user_id": users, "history": history, "target": target, "place": places}))

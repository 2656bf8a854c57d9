"""What is to be learnt from, and what is to be predicted from all that was before it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from .interactions import SPLIT_NAMES, TEST, TRAIN, Interactions, RecommendationData, spans


def training_part(data: RecommendationData) -> Interactions:
    """The interactions of the training split, of all users; some may have none."""
    return _only(data.interactions, data.splits == TRAIN)


def without_test(data: RecommendationData) -> RecommendationData:
    """The data as if nobody had a test interaction: what settings may be chosen on."""
    kept = data.splits != TEST
    return replace(data, interactions=_only(data.interactions, kept), splits=data.splits[kept])


def _only(interactions: Interactions, kept: np.ndarray) -> Interactions:
    offsets = np.concatenate([[0], np.cumsum(kept)])[interactions.offsets]
    return Interactions(interactions.user_ids, interactions.items[kept], offsets)


def evaluation_histories(
    data: RecommendationData, split: Literal["validation", "test"]
) -> tuple[Interactions, np.ndarray]:
    """What is known of every user when the first interaction of a split is to be predicted, and its item.

    Under leave-one-out that is the last item but one for `"validation"` and the last for `"test"`, whose history then
    includes the validation item.

    Returns:
        The histories of the users who have an interaction in the split with another before it, and the targets, (U,)
        int32 rows of the catalogue.

    Raises:
        ValueError: for another split, or where there is no such user.

    Example:
        >>> histories, targets = evaluation_histories(data, "test")
        >>> list(histories[0]) + [targets[0]] == list(data.interactions[0])
        True
    """
    if split not in SPLIT_NAMES[1:]:
        raise ValueError(f"split is {split!r}; it must be 'validation' or 'test'")
    interactions = data.interactions
    users, targets = split_targets(interactions, data.splits, SPLIT_NAMES.index(split))
    if not len(users):
        place = data.folder or "the data"
        raise ValueError(f"{place}: no user has a {split} interaction with another before it; split in another way")
    places, offsets = spans(interactions.offsets[users], targets)
    names = [interactions.user_ids[user] for user in users]
    return Interactions(names, interactions.items[places], offsets), interactions.items[targets].astype(np.int32)


def drawn_users(num_users: int, most: int | None, seed: int = 0) -> np.ndarray:
    """Rows of at most `most` users (None: all), drawn at random and in order: a file's first are not like the others.

    Example:
        >>> drawn_users(6, most=3), drawn_users(3, most=None)
        (array([2, 3, 5]), array([0, 1, 2]))
    """
    return np.sort(np.random.default_rng(seed).permutation(num_users)[:most])


def split_targets(interactions: Interactions, splits: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Each user's first interaction of a split that has another before it.

    Gives the rows of the users who have one, and its place in `interactions.items`, both int64.
    """
    places = np.flatnonzero(splits == split)
    users = np.searchsorted(interactions.offsets, places, side="right") - 1
    known = places > interactions.offsets[users]
    users, first = np.unique(users[known], return_index=True)
    return users, places[known][first]


def sample_users(data: RecommendationData, fraction: float, seed: int = 0) -> RecommendationData:
    """A random fraction of the users, in the order they had, with the whole catalogue; all of them for 1."""
    if fraction == 1:
        return data
    interactions = data.interactions
    users = drawn_users(len(interactions), math.ceil(fraction * len(interactions)), seed)
    names = [interactions.user_ids[user] for user in users]
    sample = Interactions.from_sequences(names, [interactions[user] for user in users])
    kept = np.repeat(np.isin(np.arange(len(interactions)), users), interactions.lengths)
    return RecommendationData(data.items, sample, data.folder, data.splits[kept])

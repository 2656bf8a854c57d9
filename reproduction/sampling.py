"""Fewer users, for a rehearsal."""

from __future__ import annotations

import math

import numpy as np

from ..data import Interactions, RecommendationData, drawn_users


def sample_users(data: RecommendationData, fraction: float, seed: int = 0) -> RecommendationData:
    """A random fraction of the users, in the order they had, with the whole catalogue; all of them for 1.

    Example:
        >>> len(sample_users(data, 0.25).interactions), len(sample_users(data, 0.25).items)
        (10, 30)
    """
    if fraction == 1:
        return data
    interactions = data.interactions
    count = math.ceil(fraction * len(interactions))
    users = drawn_users(len(interactions), count, seed)
    offsets = np.concatenate([[0], np.cumsum(interactions.lengths[users])])
    kept = np.repeat(np.isin(np.arange(len(interactions)), users), interactions.lengths)
    names = [interactions.user_ids[user] for user in users]
    sample = Interactions(names, interactions.items[kept], offsets)
    return RecommendationData(data.items, sample, data.folder, data.splits[kept])

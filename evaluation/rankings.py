"""What a ranked list is worth: recall and NDCG of every user's one held-out item, and their mean with an interval.

`ranks` (U,) are the items' places in the lists, from 1; 0 where an item was not found.
"""

from __future__ import annotations

import numpy as np

Z_95 = 1.959964  # of the normal distribution: 95 % lie within this many standard errors


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 for the users (U,) whose item is among the first `k`, 0 for the others.

    Example:
        >>> recall(np.array([2, 3, 0]), k=2)
        array([1., 0., 0.])
    """
    return ((ranks >= 1) & (ranks <= k)).astype(float)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG (U,): `1 / log2(rank + 1)` where the item is among the first `k`, else 0.

    Example:
        >>> ndcg(np.array([1, 3, 0]), k=3)  # 1 / log2(2), 1 / log2(4)
        array([1. , 0.5, 0. ])
    """
    return recall(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)


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

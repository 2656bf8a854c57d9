"""How much each recommender's score counts where several rank the same candidates: chosen by NDCG@10.

A score is divided by how far the recommender's scores spread over the catalogue, so that one grid of weights suits all.
Their mean would move all of a user's candidates alike, and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .candidates import Candidates, target_ranks
from .rankings import ndcg

GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROUNDS = 2  # of choosing one weight after the other

ByName = Mapping[str, float]  # a number of each recommender


def weighted_ranking(
    candidates: Candidates, scores: Mapping[str, np.ndarray], weights: ByName, spread: ByName
) -> np.ndarray:
    """The candidates (U, C), best first, -1 beyond the last; of equal ones that which stood before the other.

    The candidates' own scores count as they are, and beside them of each recommender its `scores` (U, C), of no meaning
    where there is no candidate, times its weight, over its spread.

    Example:
        >>> candidates = Candidates(np.array([[4, 2, -1]]), np.array([[-1.0, -1.5, -np.inf]]), num_generated=3)
        >>> weighted_ranking(candidates, {"SASRec": np.array([[0.0, 3.0, 0.0]])}, {"SASRec": 0.5}, {"SASRec": 2.0})
        array([[ 2,  4, -1]])
    """
    total = candidates.scores.astype(np.float64)
    for name, weight in weights.items():
        if weight:
            total += weight * scores[name] / (spread[name] or 1)
    order = np.argsort(-total, axis=1, kind="stable")
    return np.take_along_axis(candidates.items, order, axis=1)


def choose_weights(
    candidates: Candidates,
    scores: Mapping[str, np.ndarray],
    spread: ByName,
    targets: np.ndarray,
    given: ByName | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The weights of highest NDCG@10, each recommender's in turn from `GRID`, the smallest of equally good ones.

    Args:
        candidates, scores, spread: as of [`weighted_ranking`]; scores in the order in which weights are chosen.
        targets: (U,) catalogue rows.
        given: weights that are not chosen.

    Returns:
        The weights; and all that were tried, `{"weights", "ndcg@10"}`.
    """
    found = (candidates.items == targets[:, None]).any(axis=1)  # nobody else's NDCG can be anything but 0
    some = Candidates(candidates.items[found], candidates.scores[found], candidates.num_generated)
    own = {name: of[found] for name, of in scores.items()}

    def judged(weights: ByName) -> float:
        ranks = np.zeros(len(targets), dtype=np.int64)
        ranks[found] = target_ranks(weighted_ranking(some, own, weights, spread), targets[found])
        return float(ndcg(ranks, 10).mean())

    given = given or {}
    chosen = [name for name in scores if name not in given]
    weights, tried = {**dict.fromkeys(scores, 0.0), **given}, []
    for name in chosen * ROUNDS if len(chosen) > 1 else chosen:
        of_value = {value: judged({**weights, name: value}) for value in GRID}
        tried += [{"weights": {**weights, name: value}, "ndcg@10": reached} for value, reached in of_value.items()]
        weights[name] = max(GRID, key=of_value.get)  # the first of equals
    return weights, tried

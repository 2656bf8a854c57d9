"""How much each recommender's score counts where several rank the same candidates: chosen by NDCG@10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .candidates import Candidates, target_ranks
from .rankings import ndcg

GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROUNDS = 2  # of choosing one weight after the other


@dataclass(frozen=True)
class Weighting:
    """How much the scores of other recommenders count beside the candidates' own.

    A recommender's score is divided by how far its scores spread over the catalogue, so that one grid of weights suits
    all. Its mean would move all of a user's candidates alike, and stays.

    Attributes:
        weights: of each recommender.
        spread: of each recommender, what to divide by.

    Example:
        >>> candidates = Candidates(np.array([[4, 2, -1]]), np.array([[-1.0, -1.5, -np.inf]]), num_generated=3)
        >>> Weighting({"SASRec": 0.5}, {"SASRec": 2.0}).rank(candidates, {"SASRec": np.array([[0.0, 3.0, 0.0]])})
        array([[ 2,  4, -1]])
    """

    weights: Mapping[str, float]
    spread: Mapping[str, float]

    def rank(self, candidates: Candidates, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The candidates (U, C), best first, -1 beyond the last; of equal ones that which stood before the other.

        Args:
            candidates: of U users.
            scores: of each recommender (U, C); of no meaning where there is no candidate.
        """
        total = candidates.scores.astype(np.float64)
        for name, weight in self.weights.items():
            if weight:
                total += weight * scores[name] / (self.spread[name] or 1)
        order = np.argsort(-total, axis=1, kind="stable")
        return np.take_along_axis(candidates.items, order, axis=1)


def choose_weighting(
    candidates: Candidates,
    scores: Mapping[str, np.ndarray],
    spread: Mapping[str, float],
    targets: np.ndarray,
    given: Mapping[str, float] | None = None,
) -> tuple[Weighting, list[dict[str, Any]]]:
    """The weights of highest NDCG@10, each recommender's in turn from `GRID`, the smallest of equally good ones.

    Args:
        candidates, scores: as of [`Weighting.rank`], in the order in which weights are chosen.
        spread: of each recommender.
        targets: (U,) catalogue rows.
        given: weights that are not chosen.

    Returns:
        The weighting; and all that were tried, `{"weights", "ndcg@10"}`.

    Example:
        >>> candidates = Candidates(np.array([[4, 2], [2, 4]]), np.array([[-1.0, -1.5], [-1.0, -1.5]]), 2)
        >>> truth, spread = {"oracle": np.array([[0.0, 1.0], [0.0, 1.0]])}, {"oracle": 1.0}
        >>> choose_weighting(candidates, truth, spread, targets=np.array([2, 4]))[0].weights
        {'oracle': 1.0}
    """
    found = (candidates.items == targets[:, None]).any(axis=1)  # nobody else's NDCG can be anything but 0
    some = Candidates(candidates.items[found], candidates.scores[found], candidates.num_generated)
    own = {name: of[found] for name, of in scores.items()}

    def judged(weights: Mapping[str, float]) -> float:
        ranks = np.zeros(len(targets), dtype=np.int64)
        ranks[found] = target_ranks(Weighting(weights, spread).rank(some, own), targets[found])
        return float(ndcg(ranks, 10).mean())

    given = given or {}
    chosen = [name for name in scores if name not in given]
    weights, tried = {**dict.fromkeys(scores, 0.0), **given}, []
    for name in chosen * ROUNDS if len(chosen) > 1 else chosen:
        of_value = {value: judged({**weights, name: value}) for value in GRID}
        tried += [{"weights": {**weights, name: value}, "ndcg@10": reached} for value, reached in of_value.items()]
        weights[name] = max(GRID, key=of_value.get)  # the first of equals
    return Weighting(weights, spread), tried

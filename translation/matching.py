"""Which node gets which token, when the nodes of one parent may not share any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

_TABLE = 1 << 24  # entries of the table of who holds what


def greedy_matching(
    nodes: np.ndarray,
    groups: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    candidates: Candidates,
    skip: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Hand out tokens by weight: in each group the heaviest pair of a free node and a free token first.

    Found as the stable matching of deferred acceptance, many groups at once: every free node asks for its heaviest
    token that it has not been refused yet, and a token stays with the node it weighs most in. Weights rank the pairs
    from both sides alike, so that matching is the greedy one, and the only stable one. Equal weights go by token, then
    by node.

    Args:
        nodes: (n,) those that take part, numbers of rows of the next three.
        groups: (total,) int, from 0; only nodes of one group are rivals.
        first: (total,) int64 where the candidates of each node start.
        end: (total,) int64 where they end.
        candidates: tokens and weights, each node's heaviest first.
        skip: moves places (n,) of nodes (n,) on to the next candidate that the nodes may take.

    Returns:
        (n,) int64 the place of each node's token among the candidates, -1 for one that is left without.
    """
    found = np.full(len(nodes), -1, dtype=np.int64)
    if not len(nodes):
        return found
    tokens = int(candidates.tokens.max(initial=0)) + 1
    order = np.argsort(groups[nodes], kind="stable")
    number = np.unique(groups[nodes[order]], return_inverse=True)[1]
    groups_at_once = max(_TABLE // tokens, 1)
    holder = np.full(min(groups_at_once, int(number[-1]) + 1) * tokens, -1, dtype=np.int64)
    bounds = np.searchsorted(number, np.arange(0, number[-1] + groups_at_once + 1, groups_at_once))
    for start, stop in pairwise(bounds):
        part = order[start:stop]
        rows = (number[start:stop] - number[start]) * tokens
        found[part] = _match(nodes[part], rows, first, end, candidates, skip, holder)
    return found


def _match(nodes, rows, first, end, candidates, skip, holder) -> np.ndarray:
    """`greedy_matching` of some groups; `holder` is -1 all over, and left so."""
    place, asked = first[nodes].copy(), []
    free = np.arange(len(nodes))
    while True:
        free = free[place[free] < end[nodes[free]]]
        if not len(free):
            break
        keys = rows[free] + candidates.tokens[place[free]]
        asked.append(keys)
        rivals = np.unique(holder[keys])
        everyone = np.concatenate([free, rivals[rivals >= 0]])
        keys = rows[everyone] + candidates.tokens[place[everyone]]
        best = np.lexsort((nodes[everyone], -candidates.weights[place[everyone]], keys))
        wins = np.concatenate([[True], keys[best][1:] != keys[best][:-1]])
        holder[keys[best[wins]]] = everyone[best[wins]]
        free = everyone[best[~wins]]
        place[free] = skip(nodes[free], place[free] + 1)
    keys = np.concatenate(asked) if asked else np.zeros(0, dtype=np.int64)
    holders = np.unique(holder[keys])
    holder[keys] = -1
    found = np.full(len(nodes), -1, dtype=np.int64)
    found[holders] = place[holders]
    return found


NUM_CANDIDATES = 50


_BLOCK = 1 << 14  # texts or nodes that are worked on at once


@dataclass(frozen=True, eq=False)
class Candidates:
    """The tokens that may name each node, heaviest first, equal ones by token.

    Attributes:
        offsets: (nodes + 1,) int64; node `n` owns the entries `offsets[n]` to `offsets[n + 1]`.
        tokens: (total,) int32.
        weights: (total,) float64.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, weights: sparse.csr_matrix) -> Candidates:
        """The heaviest tokens of every row."""
        counts, tokens, values = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0)]
        for start in range(0, weights.shape[0], _BLOCK):
            block = weights[start : start + _BLOCK]
            rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
            order = np.lexsort((block.indices, -block.data, rows))
            place = np.arange(len(order)) - block.indptr[rows]
            best = order[place < NUM_CANDIDATES]
            counts.append(np.minimum(np.diff(block.indptr), NUM_CANDIDATES))
            tokens.append(block.indices[best].astype(np.int32))
            values.append(block.data[best])
        return cls(np.cumsum(np.concatenate(counts)), np.concatenate(tokens), np.concatenate(values))

    def __add__(self, other: Candidates) -> Candidates:
        """The nodes of one after those of the other."""
        return Candidates(
            np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.weights, other.weights]),
        )

"""New items in a tree of lexical IDs that stands: where each belongs, and what it is called there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .lexical_ids import MAX_FAN_OUT, digit_tokens, heaviest, token_weights

_DISTANCES = 1 << 24  # that are in memory at once
_ENDS = -1  # stands among the children of a node where an ID ends


def place_items(
    lexical_ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    vectors: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    max_fan_out: int = MAX_FAN_OUT,
    blocked: Collection[str] = (),
    progress: bool = False,
) -> list[list[int]]:
    """Lexical IDs of items that come after the first ones, which keep theirs.

    From the root down an item goes to the child whose items' mean vector is nearest to its own, as long as a node has
    more items than the root has children: such nodes k-means has split. From there on it is named as [`name_items`]
    names a single item: each place gets the heaviest of its tokens that the path does not hold yet, the last place one
    that no other item of the same beginning has; where the text offers none, digits follow. An ID gets as many tokens
    as most of those that are there have.

    Args:
        lexical_ids: token ids of the IDs of the first N items, without an end token, no two alike.
        texts: of all N + M items, the new ones last; they tell how common a token is.
        vectors: (N + M, d) float.
        tokenizer: whose tokens these are.
        max_fan_out, blocked, progress: as of [`name_items`].

    Returns:
        Token ids of the IDs of the M new items, without an end token, no two alike, and none as one of the first.

    Raises:
        ValueError: digits are needed and the vocabulary lacks one.
    """
    num_old, tree = len(lexical_ids), _Tree(lexical_ids)
    depth = int(np.bincount([len(one) for one in lexical_ids]).argmax())
    clusters = tree.nearest_clusters(np.asarray(vectors, dtype=np.float32), depth - 1)
    weights = heaviest(token_weights(texts, tokenizer, blocked, progress)[num_old:])
    wishes = np.split(weights.indices, weights.indptr[1:-1])
    named = []
    for path, own in zip(clusters, tqdm(wishes, "new items", disable=not progress, leave=False), strict=True):
        path = tree.spell(path, own.tolist(), depth, max_fan_out)
        if not path or _ENDS in tree.children(path):
            digits = tokenizer.convert_tokens_to_ids(list(digit_tokens(tokenizer).values()))
            numbered = ([*path, *(digits[int(digit)] for digit in str(number))] for number in count())
            path = next(one for one in numbered if _ENDS not in tree.children(one))
        tree.add(path)
        named.append(path)
    return named


class _Tree:
    """The IDs that there are, in sorted rows, so that those of one beginning are neighbours; and what is added."""

    def __init__(self, lexical_ids: Sequence[Sequence[int]]):
        lengths = np.array([len(one) for one in lexical_ids])
        ids = np.full((len(lengths), lengths.max() + 1), _ENDS)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(one) for one in lexical_ids])
        self.order = np.lexsort(ids.T[::-1])
        self.ids = ids[self.order]
        self._children: dict[tuple[int, ...], set[int]] = {}

    def nearest_clusters(self, vectors: np.ndarray, most: int) -> list[list[int]]:
        """The beginnings of the new items' IDs, at most so many tokens: the split nodes that they belong to."""
        num_old = len(self.ids)
        paths: list[list[int]] = [[] for _ in vectors[num_old:]]
        nodes = [(0, num_old, np.arange(len(paths)))]  # first row, row after the last, new items
        least = len(np.unique(self.ids[:, 0]))
        for level in range(most):
            below = []
            for first, after, items in nodes:
                if level and after - first <= least:
                    continue
                tokens, starts = np.unique(self.ids[first:after, level], return_index=True)
                bounds = first + np.append(starts, after - first)
                sums = np.add.reduceat(vectors[self.order[first:after]], starts, dtype=np.float64)
                centres = (sums / np.diff(bounds)[:, None]).astype(np.float32)
                if tokens[0] == _ENDS:  # an item of its own, and no node
                    tokens, bounds, centres = tokens[1:], bounds[1:], centres[1:]
                nearest = _nearest(vectors[num_old + items], centres)
                for item, child in zip(items.tolist(), nearest.tolist(), strict=True):
                    paths[item].append(int(tokens[child]))
                below += [(bounds[k], bounds[k + 1], items[nearest == k]) for k in np.unique(nearest)]
            nodes = below
        return paths

    def children(self, path: Sequence[int]) -> set[int]:
        """The tokens that follow a beginning."""
        key = tuple(path)
        if key not in self._children:
            first, after = 0, len(self.ids)
            for level, token in enumerate(key[: self.ids.shape[1]]):
                column = self.ids[first:after, level]
                first, after = (first + int(column.searchsorted(token, side)) for side in ("left", "right"))
            is_longer = len(key) >= self.ids.shape[1]
            self._children[key] = set() if is_longer else set(self.ids[first:after, len(key)].tolist())
        return self._children[key]

    def spell(self, path: Sequence[int], wishes: Sequence[int], depth: int, max_fan_out: int) -> list[int]:
        """Go on from a beginning with an item's own tokens, heaviest first, as long as it has some."""
        path = list(path)
        while len(path) < depth:
            there = self.children(path)
            own = [token for token in wishes if token not in path]
            if len(path) == depth - 1:
                own = [token for token in own if token not in there] or own
            elif len(there) >= max_fan_out:
                own = [token for token in own if token in there] or [max(there)]
            if not own:
                break
            path.append(own[0])
        return path

    def add(self, path: Sequence[int]) -> None:
        """Let there be this ID."""
        for length, token in enumerate((*path, _ENDS)):
            self.children(path[:length]).add(token)


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) the centre (k, d) that is nearest to each vector (n, d)."""
    norms, rows = (centres**2).sum(axis=1), max(_DISTANCES // len(centres), 1)
    parts = np.split(vectors, range(rows, len(vectors), rows))
    return np.concatenate([(norms - 2 * (part @ centres.T)).argmin(axis=1) for part in parts])

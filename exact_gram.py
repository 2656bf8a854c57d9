"""Exact generation for GRAM: the provably best items of one user, without scoring the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from typing import NamedTuple

import numpy as np
import torch

from .trie_gram import ItemTrie

# A prefix that the decoder has given a log-probability. `bound` is no less than the score of any item below it, and at
# an item the score itself; `parent` is the slot of the token before its last; `item` is -1 at a prefix that goes on.
PREFIX = np.dtype([("bound", "f8"), ("sum", "f8"), ("node", "i4"), ("item", "i4"), ("parent", "i4"), ("length", "i4")])


class ExactResult(NamedTuple):
    """What exact search found.

    Attributes:
        leaves (K,): leaves of the trie, best first; -1 where there are fewer items.
        scores (K,): their scores, float32; -inf where there are fewer items.
        num_scored_nodes: prefixes that went through the decoder.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    num_scored_nodes: int


@torch.no_grad()
def exact_search(
    step: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    trie: ItemTrie,
    num_return_sequences: int,
    length_penalty: float,
    start_token_id: int,
    excluded_items: torch.Tensor | None = None,
    nodes_per_step: int = 64,
) -> ExactResult:
    """Best-first search over an item trie for one user: what ranking every item would return.

    Log-probabilities are never above 0. So no item below a prefix scores more than the prefix's sum over the most
    favourable length of an ID below it, to the power of `length_penalty`. The prefix with the highest such bound is
    expanded first, and the search is over when no bound reaches the K-th best item. Items of equal score come in
    catalogue order.

    Args:
        step: takes tokens (1, W) to append, the slots (1, W) of the tokens that they follow, -1 for the start token,
            candidates (1, W, F) for the token after each, and which of these are legal (1, W, F); returns the
            candidates' log-probabilities (1, W, F), -inf where not legal. Tokens take slots 0, 1, 2 ... in the order
            in which they are appended; those of one call may stand at different depths.
        trie: the lexical IDs to choose from.
        num_return_sequences: K, the items returned.
        length_penalty: a sequence's score is its summed log-probability over its length, end token included, to the
            power of this; any number.
        start_token_id: the decoder's first token.
        excluded_items (E,): catalogue rows that the user must not get; -1 is none.
        nodes_per_step: most prefixes expanded at once, W.

    Raises:
        ValueError: `num_return_sequences` or `nodes_per_step` is below 1.

    Example:
        >>> def step(tokens, slots, candidates, legal):  # in place of a decoder: it likes token 7
        ...     return torch.where(candidates == 7, -0.1, -2.0).masked_fill(~legal, -torch.inf)
        >>> trie = ItemTrie.from_sequences([[5, 1], [7, 1]])
        >>> found = exact_search(step, trie, num_return_sequences=1, length_penalty=1.0, start_token_id=0)
        >>> trie.items[found.leaves], found.num_scored_nodes
        (tensor([1], dtype=torch.int32), 3)
    """
    if min(num_return_sequences, nodes_per_step) < 1:
        raise ValueError(
            "`num_return_sequences` and `nodes_per_step` must be at least 1, "
            f"got {num_return_sequences} and {nodes_per_step}"
        )
    device = trie.offsets.device
    exhausted = None if excluded_items is None else trie.exhausted_nodes(excluded_items.to(device)[None])
    leaves_before = trie.leaves_before() if length_penalty < 0 else None
    divisors = np.arange(1, trie.depth + 1, dtype=np.float64) ** length_penalty  # of lengths 1, 2, ...
    best, open_prefixes = np.empty(0, dtype=PREFIX), _OpenPrefixes()
    batch, num_scored = np.array([(0, 0, 0, -1, -1, 0)], dtype=PREFIX), 0  # the root
    while len(batch):
        nodes, parents = (torch.from_numpy(batch[name]).to(device).long()[None] for name in ("node", "parent"))
        tokens = trie.tokens[nodes].long().masked_fill(nodes == 0, start_token_id)  # (1, W)
        children, legal = trie.expand(nodes)  # (1, W, F)
        log_probs = step(tokens, parents, trie.tokens[children].long().clamp(min=0), legal)
        if exhausted is not None:
            log_probs = log_probs.masked_fill(torch.isin(children, exhausted), -torch.inf)

        rows, places = (log_probs[0] > -torch.inf).nonzero(as_tuple=True)  # (C,)
        nodes, log_probs = children[0, rows, places], log_probs[0, rows, places]
        distance = trie.deepest(nodes) if leaves_before is None else trie.nearest(nodes, leaves_before)
        of_child = (nodes, trie.items[nodes], rows, log_probs, distance)
        nodes, items, rows, log_probs, distance = (values.numpy(force=True) for values in of_child)
        found = np.empty(len(rows), dtype=PREFIX)
        found["node"], found["item"], found["parent"] = nodes, items, num_scored + rows
        found["length"] = batch["length"][rows] + 1
        found["sum"] = batch["sum"][rows] + log_probs
        found["bound"] = found["sum"] / divisors[found["length"] + distance - 1]
        num_scored += len(batch)

        ends = items >= 0
        best = np.concatenate([best, found[ends]])
        best = best[np.lexsort((best["item"], -best["bound"]))[:num_return_sequences]]
        enough = best["bound"][-1] if len(best) == num_return_sequences else -np.inf
        open_prefixes.push(found[~ends & (found["bound"] >= enough)])
        batch = open_prefixes.pop(nodes_per_step, enough)

    leaves = torch.full((num_return_sequences,), -1, device=device)
    scores = torch.full((num_return_sequences,), -torch.inf, dtype=torch.float32, device=device)
    leaves[: len(best)] = torch.from_numpy(best["node"]).to(device, leaves.dtype)
    scores[: len(best)] = torch.from_numpy(best["bound"]).to(scores.dtype).to(device)
    return ExactResult(leaves, scores, num_scored)


class _OpenPrefixes:
    """Prefixes to expand, highest bound first, of equal ones the first node.

    What one step finds is kept as a sorted run, and the heap holds but the head of each run: so its size is the number
    of steps, and a wide node costs a sort in place of a thousand insertions.
    """

    def __init__(self):
        self.runs: dict[int, np.ndarray] = {}
        self.heads: list[tuple[float, int, int, int]] = []  # bound, negated; node; run; place in it
        self.num_runs = 0

    def push(self, prefixes: np.ndarray) -> None:
        if len(prefixes):
            run = prefixes[np.lexsort((prefixes["node"], -prefixes["bound"]))]
            self.runs[self.num_runs] = run
            heappush(self.heads, self._head(self.num_runs, 0))
            self.num_runs += 1

    def pop(self, count: int, enough: float) -> np.ndarray:
        """Up to `count` of the best; none with a bound below `enough`."""
        popped = []
        while self.heads and len(popped) < count and -self.heads[0][0] >= enough:
            _, _, run, place = self.heads[0]
            popped.append(self.runs[run][place])
            if place + 1 < len(self.runs[run]):
                heapreplace(self.heads, self._head(run, place + 1))
            else:
                heappop(self.heads)
                del self.runs[run]
        return np.array(popped, dtype=PREFIX)

    def _head(self, run: int, place: int) -> tuple[float, int, int, int]:
        prefix = self.runs[run][place]
        return -float(prefix["bound"]), int(prefix["node"]), run, place

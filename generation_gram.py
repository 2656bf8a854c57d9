"""Constrained generation for GRAM: beam search over an item trie, and exact search, which is best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .trie_gram import ItemSubset, ItemTrie

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def beam_search(
    step: Step,
    trie: ItemTrie,
    batch_size: int,
    num_beams: int,
    num_return_sequences: int,
    length_penalty: float,
    start_token_id: int,
    excluded_items: torch.Tensor | None = None,
    allowed: ItemSubset | None = None,
    renormalised: bool = False,
    is_static: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Beam search over an item trie: prune by summed log-probability, rank what has ended by the normalised score.

    Every item that a beam can end with is ranked, on top of the `num_beams` prefixes that go on. So no item is ever
    returned twice, and with as many beams as items the ranking is that of scoring every item.

    Args:
        step: appends tokens and scores what may follow; see [`PrefixDecoder`].
        trie: the lexical IDs to choose from.
        batch_size: B, the number of users.
        num_beams: prefixes kept at each step.
        num_return_sequences: K, the items returned.
        length_penalty: a sequence's score is its summed log-probability over its length, end token included, to the
            power of this.
        start_token_id: the decoder's first token.
        excluded_items (B, E): catalogue rows that a user must not get, padded with -1.
        allowed: the items that users may get, see [`ItemTrie.subset`]; by default all. The beams go to these alone,
            and scores are as without it.
        renormalised: log-probabilities are over legal tokens alone, so that a prefix of one item needs no more steps.
        is_static: append `num_beams` tokens at every step, whether or not as many are needed.

    Returns:
        Leaves of the trie (B, K), best first, -1 where there are fewer items; and their scores (B, K), there -inf.

    Example:
        >>> def step(tokens, slots, candidates, legal):  # in place of a decoder: it likes token 7
        ...     return torch.where(candidates == 7, -0.1, -2.0).masked_fill(~legal, -torch.inf)
        >>> trie = ItemTrie.from_sequences([[5, 1], [7, 1]])
        >>> leaves, scores = beam_search(step, trie, 1, 2, num_return_sequences=2, length_penalty=1.0, start_token_id=0)
        >>> trie.items[leaves], scores
        (tensor([[1, 0]], dtype=torch.int32), tensor([[-1.0500, -2.0000]]))
    """
    device = trie.offsets.device
    exhausted = None if excluded_items is None else trie.exhausted_nodes(excluded_items, allowed)
    users = torch.arange(batch_size, device=device)[:, None, None]  # (B, 1, 1)
    nodes = torch.zeros(batch_size, num_beams if is_static else 1, dtype=torch.long, device=device)  # (B, W)
    tokens, slots, num_slots = torch.full_like(nodes, start_token_id), torch.full_like(nodes, -1), 0
    scores = torch.full_like(nodes, -torch.inf, dtype=torch.float32)  # (B, W), summed log-probabilities, falling
    scores[:, 0] = 0
    leaves = torch.full((batch_size, num_return_sequences), -1, device=device)  # (B, K)
    leaf_scores = scores.new_full(leaves.shape, -torch.inf)

    for level in range(trie.depth):
        children, exists = trie.expand(nodes, level)  # (B, W, F)
        child_tokens = trie.tokens[children].long().clamp(min=0)
        log_probs = scores.new_zeros(exists.shape).masked_fill(~exists, -torch.inf)
        undecided = scores > -torch.inf
        if renormalised:
            undecided &= trie.sizes[nodes] > 1
        width = num_beams if is_static else int(undecided.sum(dim=1).max())
        if width:
            asked = undecided.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]  # (B, width)
            wide = asked[..., None]
            found = step(
                tokens.gather(1, asked),
                slots.gather(1, asked),
                child_tokens.take_along_dim(wide, dim=1),
                exists.take_along_dim(wide, dim=1),
            )
            found = torch.where(
                undecided.take_along_dim(asked, dim=1)[..., None], found, log_probs.take_along_dim(wide, dim=1)
            )
            log_probs.scatter_(1, wide.expand_as(found), found)
            slots.scatter_(1, asked, torch.arange(num_slots, num_slots + width, device=device).expand(batch_size, -1))
            num_slots += width
        if allowed is not None:
            exists = exists & (allowed[children] > 0)
        if exhausted is not None and len(exhausted):
            keys = users * trie.num_nodes + children
            at = torch.searchsorted(exhausted, keys).clamp(max=len(exhausted) - 1)
            exists = exists & (exhausted[at] != keys)
        totals = (scores[..., None] + log_probs).masked_fill(~exists, -torch.inf).flatten(1)  # (B, W * F)
        children, child_tokens = children.flatten(1), child_tokens.flatten(1)
        ends = trie.items[children] >= 0

        ranked = (totals / (level + 1) ** length_penalty).masked_fill(~ends, -torch.inf)
        leaf_scores, order = torch.cat([leaf_scores, ranked], dim=1).topk(num_return_sequences)
        leaves = torch.cat([leaves, children], dim=1).gather(1, order)

        goes_on = totals.masked_fill(ends, -torch.inf)
        scores, order = goes_on.topk(min(num_beams, goes_on.shape[1]))  # (B, W')
        if torch.isneginf(scores).all():
            break
        slots = slots.gather(1, order // exists.shape[2])
        nodes, tokens = children.gather(1, order), child_tokens.gather(1, order)
        nodes = nodes.masked_fill(scores == -torch.inf, 0)  # fewer prefixes than beams: the rest stay at -inf

    return leaves.masked_fill(leaf_scores == -torch.inf, -1), leaf_scores


# A prefix that the decoder has given a log-probability. `bound` is no less than the score of any item below it, and at
# an item the score itself; `parent` is the slot of the token before its last; `item` is -1 at a prefix that goes on.
PREFIX = np.dtype([("bound", "f8"), ("sum", "f8"), ("node", "i4"), ("item", "i4"), ("parent", "i4"), ("length", "i4")])


@torch.no_grad()
def exact_search(
    step: Step,
    trie: ItemTrie,
    num_return_sequences: int,
    length_penalty: float,
    start_token_id: int,
    excluded_items: torch.Tensor | None = None,
    allowed: ItemSubset | None = None,
    nodes_per_step: int = 64,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Best-first search over an item trie for one user: what ranking every item would return.

    Log-probabilities are never above 0. So no item below a prefix scores more than the prefix's sum over the most
    favourable length of an ID below it, to the power of `length_penalty`. The prefix with the highest such bound is
    expanded first, and the search is over when no bound reaches the K-th best item. Items of equal score come in
    catalogue order.

    Args:
        step, trie, num_return_sequences, length_penalty, start_token_id: as of [`beam_search`], for B = 1.
        excluded_items (E,): catalogue rows that the user must not get; -1 is none.
        allowed: as of [`beam_search`].
        nodes_per_step: most prefixes expanded at once, W.

    Returns:
        Leaves (K,), their scores (K,) float32, and how many prefixes went through the decoder.

    Example:
        >>> def step(tokens, slots, candidates, legal):
        ...     return torch.where(candidates == 7, -0.1, -2.0).masked_fill(~legal, -torch.inf)
        >>> trie = ItemTrie.from_sequences([[5, 1], [7, 1]])
        >>> leaves, _, num_scored = exact_search(step, trie, 1, length_penalty=1.0, start_token_id=0)
        >>> trie.items[leaves], num_scored
        (tensor([1], dtype=torch.int32), 3)
    """
    device = trie.offsets.device
    exhausted = None if excluded_items is None else trie.exhausted_nodes(excluded_items.to(device)[None], allowed)
    divisors = np.arange(1, trie.depth + 1, dtype=np.float64) ** length_penalty  # of lengths 1, 2, ...
    best = open_prefixes = np.empty(0, dtype=PREFIX)
    batch, num_scored = np.array([(0, 0, 0, -1, -1, 0)], dtype=PREFIX), 0  # the root
    while len(batch):
        nodes, parents = (torch.from_numpy(batch[name]).to(device).long()[None] for name in ("node", "parent"))
        tokens = trie.tokens[nodes].long().masked_fill(nodes == 0, start_token_id)  # (1, W)
        children, legal = trie.expand(nodes)  # (1, W, F)
        log_probs = step(tokens, parents, trie.tokens[children].long().clamp(min=0), legal)
        if allowed is not None:
            log_probs = log_probs.masked_fill(allowed[children] == 0, -torch.inf)
        if exhausted is not None:
            log_probs = log_probs.masked_fill(torch.isin(children, exhausted), -torch.inf)

        rows, places = (log_probs[0] > -torch.inf).nonzero(as_tuple=True)  # (C,)
        nodes, log_probs = children[0, rows, places], log_probs[0, rows, places]
        # Tokens to the most favourable end: the farthest, or with a negative penalty no nearer one than the next.
        distance = trie.deepest(nodes) if length_penalty >= 0 else (trie.items[nodes] < 0).long()
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
        found = found[~ends & (found["bound"] >= enough)]
        found = found[np.argsort(-found["bound"], kind="stable")]
        places = np.searchsorted(-open_prefixes["bound"], -found["bound"], side="right")
        open_prefixes = np.insert(open_prefixes, places, found)  # highest bound first
        batch, open_prefixes = np.split(open_prefixes, [nodes_per_step])
        batch = batch[batch["bound"] >= enough]

    leaves = torch.full((num_return_sequences,), -1, device=device)
    scores = torch.full((num_return_sequences,), -torch.inf, dtype=torch.float32, device=device)
    leaves[: len(best)] = torch.from_numpy(best["node"]).to(device, leaves.dtype)
    scores[: len(best)] = torch.from_numpy(best["bound"]).to(scores.dtype).to(device)
    return leaves, scores, num_scored

"""Constrained generation for GRAM: beam search over an item trie."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .trie_gram import ItemTrie


@torch.no_grad()
def beam_search(
    step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    trie: ItemTrie,
    batch_size: int,
    num_beams: int,
    num_return_sequences: int,
    length_penalty: float,
    start_token_id: int,
    excluded_items: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Beam search over an item trie: prune by summed log-probability, rank what has ended by the normalised score.

    Every item that a beam can end with is ranked, on top of the `num_beams` prefixes that go on. So no item is ever
    returned twice, and with as many beams as items the ranking is that of scoring every item.

    Args:
        step: takes the tokens (B, W) to append and, for each, the beam (B, W) of the previous step that it extends;
            returns log-probabilities (B, W, V) of the next token over the whole vocabulary. W is `num_beams` or less.
        trie: the lexical IDs to choose from.
        batch_size: B, the number of users.
        num_beams: prefixes kept at each step.
        num_return_sequences: K, the items returned.
        length_penalty: a sequence's score is its summed log-probability over its length, end token included, to the
            power of this.
        start_token_id: the decoder's first token.
        excluded_items (B, E): catalogue rows that a user must not get, padded with -1.

    Returns:
        Leaves of the trie (B, K), best first, -1 where there are fewer items; and their scores (B, K), there -inf.
    """
    device = trie.offsets.device
    exhausted = None if excluded_items is None else trie.exhausted_nodes(excluded_items)
    users = torch.arange(batch_size, device=device)[:, None, None]  # (B, 1, 1)
    nodes = torch.zeros(batch_size, 1, dtype=torch.long, device=device)  # (B, W)
    tokens, beams = torch.full_like(nodes, start_token_id), nodes
    scores = torch.zeros(batch_size, 1, device=device)  # (B, W), summed log-probabilities
    leaves = torch.full((batch_size, num_return_sequences), -1, device=device)  # (B, K)
    leaf_scores = torch.full((batch_size, num_return_sequences), -torch.inf, device=device)

    for level in range(trie.depth):
        log_probs = step(tokens, beams)  # (B, W, V)
        children, allowed = trie.expand(nodes, level)  # (B, W, F)
        if exhausted is not None and len(exhausted):
            keys = users * trie.num_nodes + children
            found = torch.searchsorted(exhausted, keys).clamp(max=len(exhausted) - 1)
            allowed = allowed & (exhausted[found] != keys)
        child_tokens = trie.tokens[children].long().clamp(min=0)
        totals = scores[..., None] + log_probs.gather(-1, child_tokens)
        totals = totals.masked_fill(~allowed, -torch.inf).flatten(1)  # (B, W * F)
        children, child_tokens = children.flatten(1), child_tokens.flatten(1)
        ends = trie.items[children] >= 0

        ranked = (totals / (level + 1) ** length_penalty).masked_fill(~ends, -torch.inf)
        leaf_scores, order = torch.cat([leaf_scores, ranked], dim=1).topk(num_return_sequences)
        leaves = torch.cat([leaves, children], dim=1).gather(1, order)

        goes_on = totals.masked_fill(ends, -torch.inf)
        scores, order = goes_on.topk(min(num_beams, goes_on.shape[1]))  # (B, W')
        beams = order // allowed.shape[2]
        nodes, tokens = children.gather(1, order), child_tokens.gather(1, order)
        nodes = nodes.masked_fill(scores == -torch.inf, 0)  # fewer prefixes than beams: the rest stay at -inf

    return leaves.masked_fill(leaf_scores == -torch.inf, -1), leaf_scores

"""Why an item is recommended: the share of attention of every passage, and its lexical ID's way through the trie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .decoding_gram import heads, joined, keys_and_values, over_vocabulary
from .elementwise_gram import clamped, norm
from .encoding_gram import add_feed_forward
from .fusion_gram import FusedPassages
from .trie_gram import ItemTrie


@dataclass
class GramExplanation(ModelOutput):
    """Of K items for each of B users. All is 0 (tokens: padding) behind an ID's end and where there is no item.

    Args:
        attention_shares (`torch.FloatTensor` of shape `(B, K, P)`):
            How the decoder's cross-attention divides over the passages, 0 the user prompt, 1 the newest item and so on,
            while it spells out the item: mean over layers, heads and tokens, end token included. An item's sum to 1.
        token_ids (`torch.LongTensor` of shape `(B, K, T)`):
            The item's lexical ID with its end token.
        token_log_probs (`torch.FloatTensor` of shape `(B, K, T)`):
            Each token's log-probability over the vocabulary. Their sum, over the number of tokens to the power of
            `length_penalty`, is the score that `generate` gives.
        choice_probs (`torch.FloatTensor` of shape `(B, K, T)`):
            Each token's probability among those that the trie allows in its place.
        num_choices (`torch.LongTensor` of shape `(B, K, T)`):
            How many tokens the trie allows there.
        num_items_left (`torch.LongTensor` of shape `(B, K, T)`):
            Items whose IDs begin with the tokens up to this one; 1 at the end.
    """

    attention_shares: torch.FloatTensor | None = None
    token_ids: torch.LongTensor | None = None
    token_log_probs: torch.FloatTensor | None = None
    choice_probs: torch.FloatTensor | None = None
    num_choices: torch.LongTensor | None = None
    num_items_left: torch.LongTensor | None = None


def explain_items(
    model, fused: FusedPassages, num_passages: int, items: torch.Tensor, trie: ItemTrie
) -> GramExplanation:
    """Explain items (B, K) to users, all of a user's in one pass of the decoder; see [`GramExplanation`].

    Args:
        model: a [`GramForConditionalGeneration`].
        fused: what the users attend to.
        num_passages: P, of the user with most.
        items (B, K): catalogue rows, -1 for none.
        trie: their lexical IDs.

    Raises:
        ValueError: `items` is empty, or holds an item that is not in the trie.
    """
    leaves = _leaves(items, trie)
    path = trie.paths(leaves)  # (B, K, D), from the leaf up
    place = (path > 0).sum(-1, keepdim=True) - 1 - torch.arange(trie.depth, device=path.device)
    place = place[..., : max(int(place.amax()), 0) + 1]  # (B, K, T)
    spelled = (place >= 0) & (items >= 0)[..., None]
    after = path.gather(-1, place.clamp(min=0)).masked_fill(~spelled, 0)  # the node that each token leads to
    before = F.pad(after, (1, -1))
    token_ids = trie.tokens[after].long().masked_fill(~spelled, model.config.pad_token_id)

    given = F.pad(token_ids, (1, -1), value=model.config.decoder_start_token_id)
    states, shares = _decode(model, fused, num_passages, given)  # (B, K, T, d), (B, K, T, P)
    children, legal = trie.expand(before.flatten(1))  # (B, K * T, F)
    children, legal = children.flatten(0, 1), legal.flatten(0, 1)
    candidates = trie.tokens[children].long().clamp(min=0)
    log_probs = over_vocabulary(model, states.flatten(0, 2), candidates, legal)  # (B * K * T, F)
    chosen = (after - trie.offsets[before]).clamp(min=0).flatten()[:, None]

    def of_tokens(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(spelled.shape).masked_fill(~spelled, 0)

    num_tokens = spelled.sum(-1, keepdim=True).clamp(min=1)
    return GramExplanation(
        attention_shares=shares.masked_fill(~spelled[..., None], 0).sum(2) / num_tokens,
        token_ids=token_ids,
        token_log_probs=of_tokens(log_probs.gather(1, chosen)),
        choice_probs=of_tokens(log_probs.softmax(-1).gather(1, chosen)),
        num_choices=of_tokens(legal.sum(-1)),
        num_items_left=of_tokens(trie.sizes[after].long()),
    )


def _leaves(items: torch.Tensor, trie: ItemTrie) -> torch.Tensor:
    """Leaves (B, K) where items end; any, where there is no item."""
    if not items.numel():
        raise ValueError(f"`item_indices` must be of shape ({len(items)}, 1 or more), got {tuple(items.shape)}")
    unknown = (items >= trie.num_items) | (trie.leaves[items.clamp(0, trie.num_items - 1)] < 0) & (items >= 0)
    if unknown.any():
        raise ValueError(f"`item_indices`: item {int(items[unknown][0])} is not in the trie of lexical IDs")
    return trie.leaves[items.clamp(min=0)].long().clamp(min=0)


def _decode(model, fused: FusedPassages, num_passages: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """T5's decoder on prefixes that are known in full.

    A user's passages have keys and values once: their K prefixes of T tokens are folded into the query length. Of
    forward hooks those of modules with weights run, and no others.

    Args:
        model: a [`GramForConditionalGeneration`].
        fused: what the users attend to.
        num_passages: P.
        given (B, K, T): tokens, the start token first.

    Returns:
        States (B, K, T, d) after the final norm, and shares of attention (B, K, T, P), mean over layers and heads.
    """
    decoder, (num_items, length) = model.decoder, given.shape[1:]
    of_passage = (F.one_hot(fused.place, num_passages) * fused.mask[..., None]).float()  # (B, M, P)
    bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length, device=given.device)[0]  # (H, T, T)
    bias = bias.masked_fill(torch.ones_like(bias, dtype=torch.bool).triu(1), -torch.inf)
    states, shares = decoder.embed_tokens(given.flatten(1)), 0  # (B, K * T, d)
    positions = model.passage_positions
    for block in decoder.block:
        attention, normed = block.layer[0].SelfAttention, norm(block.layer[0].layer_norm, states)
        query, key, value = (
            heads(attention, linear(normed)).unflatten(2, (num_items, length))  # (H, B, K, T, dk)
            for linear in (attention.q, attention.k, attention.v)
        )
        weights = (query @ key.transpose(3, 4) + bias[:, None, None]).softmax(dim=-1)  # T5 does not scale
        states = clamped(states + joined(attention, (weights @ value).flatten(2, 3)))

        attention = block.layer[1].EncDecAttention
        keys, values = keys_and_values(attention, fused, positions)  # (H, B, M, dk)
        query = heads(attention, attention.q(norm(block.layer[1].layer_norm, states)))
        scores = (query @ keys.transpose(2, 3)).masked_fill_(~fused.mask[:, None], -torch.inf)  # (H, B, K * T, M)
        weights = scores.softmax(dim=-1)
        shares = shares + weights.float().mean(0) @ of_passage / len(decoder.block)  # (B, K * T, P)
        states = clamped(states + joined(attention, weights @ values))

        states = add_feed_forward(block.layer[-1], states)
    states = norm(decoder.final_layer_norm, states)
    return states.view(*given.shape, -1), shares.view(*given.shape, -1)


__all__ = ["GramExplanation", "explain_items"]

"""GRAM's decoder at recommending time: many prefixes of lexical IDs per user, over keys and values held once."""

from __future__ import annotations

import json
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CompileConfig

from .elementwise_gram import norm
from .fusion_gram import FusedPassages
from .linear_gram import feed_forward, project

_STATIC_TOKENS = 256  # the passages of a batch are padded to a multiple of this where every step has one shape
_ROWS_OF_LOGITS = 64  # that are computed at once on a CPU: a block of them stays in its cache


class PrefixDecoder:
    """Appends tokens to prefixes and scores what may come next.

    Every appended token has a slot; its parent is the slot of the token before it. A user's tokens attend to the
    user's passages, whose keys and values exist once, and each to its own ancestors among the slots: so prefixes that
    share a beginning share its slots, nothing is copied or reordered when beams are, and one call may append tokens at
    different depths.

    Args:
        model: a [`GramForConditionalGeneration`].
        fused: the users' passages.
        depth: the longest prefix, in tokens.
        num_slots: room to begin with; it is doubled where it runs out.
        score_mode: `"vocabulary"`: log-probabilities over all tokens. `"trie"`: over the legal ones alone.
        compile_config: settings of `torch.compile` for the decoder's blocks. Calls of one width then have one shape,
            for which all slots are attended to and the passages are padded to a multiple of tokens.
    """

    def __init__(
        self,
        model,
        fused: FusedPassages,
        depth: int,
        num_slots: int,
        score_mode: str = "vocabulary",
        compile_config: CompileConfig | None = None,
    ):
        self.model, self.decoder, self.score_mode = model, model.decoder, score_mode
        self.is_static = compile_config is not None
        self.run_blocks = _compiled(json.dumps(compile_config.to_dict())) if self.is_static else _run_blocks
        fused = fused.padded(_STATIC_TOKENS) if self.is_static else fused
        self.batch_size, self.num_slots = len(fused.index), 0
        self.padding = None if fused.mask.all() and not self.is_static else ~fused.mask[:, None]  # (B, 1, M)
        as_it_is = not self.is_static
        self.memory = [
            keys_and_values(block.layer[1].EncDecAttention, fused, model.passage_positions, as_it_is)
            for block in self.decoder.block
        ]
        self.ancestors = fused.index.new_full((self.batch_size, num_slots, depth), -1)  # (B, S, D): itself, parent ...
        attention = self.decoder.block[0].layer[0].SelfAttention
        shape = (len(self.memory), 2, attention.n_heads, self.batch_size, num_slots, attention.key_value_proj_dim)
        self.slots = fused.states.new_zeros(shape)  # keys and values of every layer, (L, 2, H, B, S, dk)
        self.bias = attention.compute_bias(depth, depth)[0, :, -1].flip(-1)  # (H, D), by distance

    def __call__(
        self, tokens: torch.Tensor, parents: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor
    ) -> torch.Tensor:
        """Append tokens, and score what may follow each.

        Args:
            tokens (B, W): appended to slots S ... S + W - 1, S being the number of slots before.
            parents (B, W): slot of the token before, appended by an earlier call; -1 for the start token.
            candidates (B, W, F): tokens that may come next.
            legal (B, W, F): False where there is no such candidate.

        Returns:
            float32 log-probabilities (B, W, F), -inf where not legal.
        """
        first, self.num_slots = self.num_slots, self.num_slots + parents.shape[1]
        bias = self._append(parents, first)
        states, new = self.run_blocks(
            self.decoder,
            self.decoder.embed_tokens(tokens),  # (B, W, d)
            self.slots if self.is_static else self.slots[..., :first, :],
            self.memory,
            bias,
            self.padding,
        )
        self.slots[..., first : self.num_slots, :] = new
        scores = over_legal if self.score_mode == "trie" else over_vocabulary
        flat = (states.flatten(0, 1), candidates.flatten(0, 1), legal.flatten(0, 1))
        return scores(self.model, *flat).view(candidates.shape)

    def _append(self, parents: torch.Tensor, first: int) -> torch.Tensor:
        """Note where tokens come from; returns the scores' bias (H, B, W, S + 1) for the slots and the token itself.

        It is T5's relative one, and -inf at all slots but the ancestors.
        """
        while self.num_slots > self.ancestors.shape[1]:
            self.ancestors = torch.cat([self.ancestors, self.ancestors], dim=1)
            self.slots = torch.cat([self.slots, self.slots], dim=4)
        before = self.ancestors.take_along_dim(parents.clamp(min=0)[..., None], dim=1)[..., :-1]
        before = before.masked_fill(parents[..., None] < 0, -1)  # (B, W, D - 1)
        self.ancestors[:, first : self.num_slots, 0] = torch.arange(first, self.num_slots, device=parents.device)
        self.ancestors[:, first : self.num_slots, 1:] = before
        width = self.ancestors.shape[1] if self.is_static else first
        bias = self.bias.new_full((len(self.bias), *parents.shape, width + 1), -torch.inf)
        slot = before.masked_fill(before < 0, width).expand(len(bias), -1, -1, -1)  # no ancestor: the last, set below
        bias.scatter_(-1, slot, self.bias[:, None, None, 1:].expand_as(slot))
        bias[..., -1] = self.bias[:, :1, None]
        return bias


def keys_and_values(
    attention, fused: FusedPassages, positions: torch.Tensor, as_it_is: bool = True
) -> list[torch.Tensor]:
    """Keys and values (H, B, M, dk) of cross-attention: linear, `W(h + p) = W h + W p`, so projected once per passage.

    Args:
        attention: a decoder block's `EncDecAttention`.
        fused: the users' passages.
        positions (P, d): weights of the passage position embedding.
        as_it_is: what one user attends to need not be laid out anew.
    """
    projected = [heads(attention, p[None])[:, 0] for p in project(fused.states, attention.k, attention.v)]
    if as_it_is and fused.is_placed and fused.index.shape == (1, len(fused.states)):  # (H, T, dk), all of one user's
        return [values[:, None].contiguous() for values in projected]
    laid_out = [values.index_select(1, fused.index.flatten()) for values in projected]
    if not fused.is_placed:
        for values, linear in zip(laid_out, (attention.k, attention.v), strict=True):
            values += heads(attention, linear(positions)[None])[:, 0].index_select(1, fused.place.flatten())
    return [values.unflatten(1, fused.index.shape) for values in laid_out]


def over_vocabulary(model, states: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, F), over all tokens, of what may follow each of N prefixes; -inf where not legal.

    Args:
        model: the GRAM whose head scores the vocabulary.
        states (N, d): of its decoder.
        candidates, legal (N, F): tokens that may come next, and False where there is no such candidate.
    """
    parts, states = [], _scaled(model, states)
    rows = _ROWS_OF_LOGITS if states.device.type == "cpu" else len(states)
    for some, wanted in zip(states.split(rows), candidates.split(rows), strict=True):
        logits = project(some, model.lm_head)[0].float()
        chosen, highest = logits.gather(-1, wanted), logits.amax(dim=-1, keepdim=True)
        parts.append(chosen - highest - logits.sub_(highest).exp_().sum(dim=-1, keepdim=True).log_())
    return torch.cat(parts).masked_fill(~legal, -torch.inf)


def over_legal(model, states: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """The same over the legal candidates alone, and with gradients where they are wanted."""
    head, states = model.lm_head, _scaled(model, states)
    if type(head) is nn.Linear:
        tokens, place = candidates.unique(return_inverse=True)
        logits = F.linear(states, F.embedding(tokens, head.weight)).float().gather(-1, place)
    else:  # an adapter or a quantised layer: there is more to it than its weight
        logits = head(states).float().gather(-1, candidates)
    logits = logits.masked_fill(~legal, -torch.inf)
    # A prefix without a legal token is padding: its log-softmax is not a number.
    return logits.log_softmax(dim=-1).masked_fill(~legal, -torch.inf)


def _scaled(model, states: torch.Tensor) -> torch.Tensor:
    return states * model.model_dim**-0.5 if model.config.scale_decoder_outputs else states


@cache
def _compiled(config: str):
    return torch.compile(_run_blocks, **json.loads(config))


def _run_blocks(decoder, states, slots, memory, bias, padding) -> tuple[torch.Tensor, torch.Tensor]:
    """T5's decoder on tokens that each attend to slots, to themselves and to the passages.

    Args:
        decoder: a `T5Stack`.
        states (B, W, d): embedded tokens.
        slots (L, 2, H, B, S, dk): keys and values of every layer.
        memory: keys and values (H, B, M, dk) of every layer.
        bias (H, B, W, S + 1): of the self-attention's scores.
        padding (B, 1, M): True where there is no passage; None where there is everywhere.

    Returns:
        States (B, W, d) after the final norm; keys and values (L, 2, H, B, W, dk) of the new tokens.
    """
    new = []
    for block, own_slots, passages in zip(decoder.block, slots, memory, strict=True):
        attention, normed = block.layer[0].SelfAttention, norm(block.layer[0].layer_norm, states)
        query, key, value = (heads(attention, p) for p in project(normed, attention.q, attention.k, attention.v))
        scores = [query @ own_slots[0].transpose(2, 3), (query * key).sum(dim=-1, keepdim=True)]
        weights = torch.cat(scores, dim=-1).add_(bias).softmax(dim=-1)  # (H, B, W, S + 1); T5 does not scale
        states = states + joined(attention, weights[..., :-1] @ own_slots[1] + weights[..., -1:] * value)
        new.append(torch.stack([key, value]))

        attention, (keys, values) = block.layer[1].EncDecAttention, passages
        query = heads(attention, project(norm(block.layer[1].layer_norm, states), attention.q)[0])
        scores = query @ keys.transpose(2, 3)  # (H, B, W, M)
        if padding is not None:
            scores = scores.masked_fill_(padding, -torch.inf)
        states = states + joined(attention, scores.softmax(dim=-1) @ values)

        states = states + feed_forward(block.layer[-1], states)
    return norm(decoder.final_layer_norm, states), torch.stack(new)


def heads(attention, projected: torch.Tensor) -> torch.Tensor:
    """(B, W, H * dk) as (H, B, W, dk): with the heads first, a user's keys and values are laid out once."""
    return projected.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).permute(2, 0, 1, 3)


def joined(attention, mixed: torch.Tensor) -> torch.Tensor:
    """(H, B, W, dk) through the output layer, (B, W, d)."""
    return project(mixed.permute(1, 2, 0, 3).flatten(2), attention.o)[0]


__all__ = ["PrefixDecoder", "heads", "joined", "keys_and_values", "over_legal", "over_vocabulary"]

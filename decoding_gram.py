"""GRAM's decoder at recommending time: many prefixes of lexical IDs per user, over passages that are held once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CompileConfig

from .encoding_gram import add_feed_forward
from .layers_gram import clamped, has_hooks_between, is_plain, norm

_STATIC_TOKENS = 256  # the passages of a batch are padded to a multiple of this where every step has one shape
_ROWS_OF_LOGITS, _TOKENS_OF_LOGITS = 64, 512  # that are computed at once on a CPU: what they need stays in its cache


@dataclass(frozen=True)
class FusedPassages:
    """What the decoder attends to: a batch's distinct passages, each encoded once, and each user's view of them."""

    states: torch.Tensor  # (T, d) encoder states of real tokens, passage after passage, without passage position
    index: torch.Tensor  # (B, M) row of `states` of every token that a user attends to; 0 at padding
    place: torch.Tensor | None  # (B, M) position of the token's passage; None where that is not known
    mask: torch.Tensor  # (B, M) False at padding
    is_placed: bool  # whether `states` have their passage's position already

    @classmethod
    def of(
        cls, states: torch.Tensor, lengths: torch.Tensor, passages: torch.Tensor, positions: torch.Tensor
    ) -> FusedPassages:
        """Lay out users' passages.

        States (T, d) are the distinct ones, laid end to end, of lengths (U,); `passages` (B, P) says which of them each
        user has, in the order of their positions (P', d), -1 for none.
        """
        counts = lengths[passages.clamp(min=0)].masked_fill(passages < 0, 0)  # (B, P)
        ends = counts.cumsum(1)
        is_placed = int(ends[:, -1].sum()) == len(states)
        if is_placed:  # nobody shares a passage: position may be added here and now
            user, place = (passages >= 0).nonzero(as_tuple=True)
            of_passage = torch.empty_like(lengths).index_copy(0, passages[user, place], place)
            of_token = of_passage.repeat_interleave(lengths)  # (T,)
            states = states + positions[of_token]
            if len(passages) == 1:  # and of one user's passages the order does not matter
                index = torch.arange(len(states), device=states.device)[None]
                return cls(states, index, of_token[None], torch.ones_like(index, dtype=torch.bool), True)
        token = torch.arange(int(ends[:, -1].max()), device=states.device).expand(len(passages), -1).contiguous()
        mask = token < ends[:, -1:]  # (B, M)
        place = torch.searchsorted(ends, token, right=True).clamp(max=passages.shape[1] - 1)
        starts = lengths.cumsum(0) - lengths
        offset = starts[passages.clamp(min=0)] - ends + counts  # (B, P), of a passage's row from its place in M
        index = (token + offset.gather(1, place)).masked_fill(~mask, 0)
        return cls(states, index, place, mask, is_placed)

    @classmethod
    def of_encoder_outputs(cls, states: torch.Tensor, mask: torch.Tensor) -> FusedPassages:
        """Take states (B, M, d) that have their positions, and their mask (B, M); padding is left out."""
        mask = mask.bool()
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(dim=1).max())]
        index = order + torch.arange(len(mask), device=mask.device)[:, None] * mask.shape[1]
        return cls(states.flatten(0, 1), index, None, mask.take_along_dim(order, dim=1), True)

    def padded(self, multiple: int) -> FusedPassages:
        """The same with M rounded up, so that batches of many lengths have few shapes."""
        more = -self.index.shape[1] % multiple
        index, mask = F.pad(self.index, (0, more)), F.pad(self.mask, (0, more))
        place = None if self.place is None else F.pad(self.place, (0, more))
        return FusedPassages(self.states, index, place, mask, self.is_placed)

    def by_user(self, positions: torch.Tensor) -> torch.Tensor:
        """States (B, M, d) of all that each user attends to, their passages' positions (P, d) added."""
        states = F.embedding(self.index, self.states)
        return states if self.is_placed else states + F.embedding(self.place, positions)

    def of_user(self, user: int) -> FusedPassages:
        """What one user attends to, without the rest of the batch."""
        mask = self.mask[user]
        index = torch.arange(int(mask.sum()), device=mask.device)[None]
        place = None if self.place is None else self.place[user, mask][None]
        states = self.states[self.index[user, mask]]
        return FusedPassages(states, index, place, torch.ones_like(index, dtype=torch.bool), self.is_placed)


class PrefixDecoder:
    """Appends tokens to prefixes and scores what may come next.

    Every appended token has a slot; its parent is the slot of the token before it. A user's tokens attend to the
    user's passages, whose keys and values exist once, and each to its own ancestors among the slots: so prefixes that
    share a beginning share its slots, nothing is copied or reordered when beams are, and one call may append tokens at
    different depths. Where modules of the decoder that are run by hand have hooks, T5's own decoder runs on whole
    prefixes: slower, and the same.

    Args:
        model: a [`GramForConditionalGeneration`].
        fused: the users' passages.
        depth: the longest prefix, in tokens.
        num_slots: room to begin with; it is doubled where it runs out.
        score_mode: `"vocabulary"`: log-probabilities over all tokens. `"trie"`: over the legal ones alone.
        compile_config: settings of `torch.compile` for the decoder's blocks. Calls of one width then have one shape,
            for which every prefix is padded to `depth` and the passages to a multiple of tokens.
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
        self.is_static, self.sums = compile_config is not None, []
        self.run_blocks = _compiled(json.dumps(compile_config.to_dict())) if self.is_static else run_blocks
        fused = fused.padded(_STATIC_TOKENS) if self.is_static else fused
        batch_size, self.num_slots, self.longest = len(fused.index), 0, depth if self.is_static else 0
        self.ancestors = fused.index.new_full((batch_size, num_slots, depth), -1)  # (B, S, D): itself, parent ...
        self.tokens = fused.index.new_zeros(batch_size, num_slots)  # (B, S)
        self.fused = fused if has_hooks_between(self.decoder) else None
        if self.fused is not None:
            self.slots = fused.states.new_empty(0, 2, batch_size, num_slots, 0)
            return
        self.padding = None if fused.mask.all() and not self.is_static else ~fused.mask[:, None]  # (B, 1, M)
        self.bias, self.memory, self.slots = decoder_inputs(model, fused, depth, num_slots, not self.is_static)

    def __call__(
        self, tokens: torch.Tensor, parents: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor
    ) -> torch.Tensor:
        """Append tokens, and score what may follow each: float32 log-probabilities (B, W, F), -inf where not legal.

        Args:
            tokens (B, W): appended to slots S ... S + W - 1, S being the number of slots before.
            parents (B, W): slot of the token before, appended by an earlier call; -1 for the start token.
            candidates, legal (B, W, F): tokens that may come next; False where there is no such candidate.
        """
        ancestors = self._append(tokens, parents)  # (B, W, D)
        states = self._by_hand(tokens, ancestors) if self.fused is None else self._as_it_is(ancestors)  # (B, W, d)
        flat = (states.flatten(0, 1), candidates.flatten(0, 1), legal.flatten(0, 1))
        log_probs = SCORES[self.score_mode](self.model, *flat).view(candidates.shape)
        self.sums.append(log_probs.where(legal, 0).sum())  # not finite where one of them is not
        return log_probs

    def _append(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Note tokens and where they come from; returns their slots (B, W, D): its own, its parent's ..., then -1."""
        first, self.num_slots = self.num_slots, self.num_slots + parents.shape[1]
        while self.num_slots > self.tokens.shape[1]:
            self.tokens = torch.cat([self.tokens, self.tokens], dim=1)
            self.ancestors = torch.cat([self.ancestors, self.ancestors], dim=1)
            self.slots = torch.cat([self.slots, self.slots], dim=3)
        own = torch.arange(first, self.num_slots, device=parents.device).expand_as(parents)
        before = self.ancestors.take_along_dim(parents.clamp(min=0)[..., None], dim=1)[..., :-1]
        before = before.masked_fill(parents[..., None] < 0, -1)
        ancestors = torch.cat([own[..., None], before], dim=-1)
        self.ancestors[:, first : self.num_slots] = ancestors
        self.tokens[:, first : self.num_slots] = tokens
        self.longest = min(self.longest + 1, ancestors.shape[2])
        return ancestors[..., : self.longest]

    def _by_hand(self, tokens: torch.Tensor, ancestors: torch.Tensor) -> torch.Tensor:
        slots = self.slots.flatten(2, 3)  # (L, 2, B * S, H * dk)
        users = torch.arange(len(tokens), device=tokens.device)[:, None, None]
        rows = ancestors.clamp(min=0) + users * self.slots.shape[3]
        bias = self.bias[: ancestors.shape[2]].masked_fill((ancestors < 0)[..., None], -torch.inf)  # (B, W, D, H)
        return self.run_blocks(
            self.decoder, self.decoder.embed_tokens(tokens), slots, rows, bias, self.memory, self.padding
        )

    def _as_it_is(self, ancestors: torch.Tensor) -> torch.Tensor:
        """The same by T5's decoder as it is, whose hooks then run, on whole prefixes."""
        width, lengths = ancestors.shape[1], (ancestors >= 0).sum(-1)  # (B, W)
        place = lengths[..., None] - 1 - torch.arange(ancestors.shape[2], device=lengths.device)
        slots = ancestors.gather(-1, place.clamp(min=0))  # (B, W, D), the first token's first; any behind the last
        decoded = self.decoder(
            input_ids=self.tokens.gather(1, slots.flatten(1)).view(-1, slots.shape[2]),
            encoder_hidden_states=self.fused.by_user(self.model.passage_positions).repeat_interleave(width, dim=0),
            encoder_attention_mask=self.fused.mask.repeat_interleave(width, dim=0),
            use_cache=False,
        ).last_hidden_state  # (B * W, D, d)
        last = decoded[torch.arange(len(decoded), device=decoded.device), lengths.flatten() - 1]
        return last.view(*lengths.shape, -1)


def decoder_inputs(
    model, fused: FusedPassages, depth: int, num_slots: int, as_it_is: bool = True
) -> tuple[torch.Tensor, list[list[torch.Tensor]], torch.Tensor]:
    """What [`run_blocks`] needs of a model: bias (D, H) by distance, memory, and empty slots (L, 2, B, S, H * dk)."""
    blocks, positions = model.decoder.block, model.passage_positions
    memory = [_keys_and_values(block.layer[1].EncDecAttention, fused, positions, as_it_is) for block in blocks]
    attention = blocks[0].layer[0].SelfAttention
    bias = attention.compute_bias(depth, depth, device=fused.states.device)[0, :, -1]
    slots = fused.states.new_zeros(len(memory), 2, len(fused.index), num_slots, attention.inner_dim)
    return bias.flip(-1).T, memory, slots


def _keys_and_values(
    attention, fused: FusedPassages, positions: torch.Tensor, as_it_is: bool = True
) -> list[torch.Tensor]:
    """Keys and values (H, B, M, dk) of cross-attention: linear, `W(h + p) = W h + W p`, so projected once per passage.

    `positions` (P, d) of passages; `as_it_is`: what one user attends to need not be laid out anew.
    """
    projected = [heads(attention, p[None])[:, 0] for p in (attention.k(fused.states), attention.v(fused.states))]
    if as_it_is and fused.is_placed and fused.index.shape == (1, len(fused.states)):  # (H, T, dk), all of one user's
        return [values[:, None].contiguous() for values in projected]
    laid_out = [values.index_select(1, fused.index.flatten()) for values in projected]
    if not fused.is_placed:
        for values, linear in zip(laid_out, (attention.k, attention.v), strict=True):
            values += heads(attention, linear(positions)[None])[:, 0].index_select(1, fused.place.flatten())
    return [values.unflatten(1, fused.index.shape) for values in laid_out]


def over_vocabulary(model, states: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, F), over all tokens, of candidates (N, F) after states (N, d); -inf where not legal."""
    states, parts = _scaled(model, states), []
    rows = _ROWS_OF_LOGITS if states.device.type == "cpu" else len(states)
    for some, wanted in zip(states.split(rows), candidates.split(rows), strict=True):
        logits = _logits(model.lm_head, some).float()
        chosen, highest = logits.gather(-1, wanted), logits.amax(dim=-1, keepdim=True)
        parts.append(chosen - highest - logits.sub_(highest).exp_().sum(dim=-1, keepdim=True).log_())
    return torch.cat(parts).masked_fill(~legal, -torch.inf)


def _logits(head, states: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of a few states; on a CPU in blocks of tokens, which takes three quarters of the time."""
    if states.device.type != "cpu" or not _is_product(head) or states.dtype != head.weight.dtype:
        return head(states)
    logits = states.new_empty(len(states), len(head.weight))
    for block, weight in zip(logits.split(_TOKENS_OF_LOGITS, dim=1), head.weight.split(_TOKENS_OF_LOGITS), strict=True):
        torch.mm(states, weight.T, out=block)
    return logits


def _is_product(head) -> bool:
    """Whether there is no more to a head, such as an adapter, than its weight."""
    return is_plain(head, nn.Linear) and head.bias is None


def over_legal(model, states: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """The same over the legal candidates alone."""
    head, states = model.lm_head, _scaled(model, states)
    if _is_product(head):
        tokens, place = candidates.unique(return_inverse=True)
        logits = F.linear(states, F.embedding(tokens, head.weight)).float().gather(-1, place)
    else:
        logits = head(states).float().gather(-1, candidates)
    logits = logits.masked_fill(~legal, -torch.inf)
    # A prefix without a legal token is padding: its log-softmax is not a number.
    return logits.log_softmax(dim=-1).masked_fill(~legal, -torch.inf)


SCORES = {"vocabulary": over_vocabulary, "trie": over_legal}


def _scaled(model, states: torch.Tensor) -> torch.Tensor:
    return states * model.model_dim**-0.5 if model.config.scale_decoder_outputs else states


@cache
def _compiled(config: str):
    return torch.compile(run_blocks, **json.loads(config))


def run_blocks(decoder, states, slots, rows, bias, memory, padding, watch=None) -> torch.Tensor:
    """T5's decoder on tokens that each attend to themselves, to their ancestors and to the passages.

    Args:
        decoder: a `T5Stack`.
        states (B, W, d): embedded tokens.
        slots (L, 2, B * S, H * dk): keys and values of every layer; those of the tokens are put there.
        rows (B, W, D): where in the slots each token is, its parent ...
        bias (B, W, D, H): of the self-attention's scores.
        memory: keys and values (H, B, M, dk) of every layer.
        padding (B, 1, M): True where there is no passage; None where there is everywhere.
        watch: called with what each layer's tokens attend to, (H, B, W, M).

    Returns:
        States (B, W, d) after the final norm.
    """
    for block, own_slots, (keys, values) in zip(decoder.block, slots, memory, strict=True):
        attention, normed = block.layer[0].SelfAttention, norm(block.layer[0].layer_norm, states)
        new = torch.stack([attention.k(normed), attention.v(normed)]).flatten(1, 2)  # (2, B * W, H * dk)
        own_slots.index_copy_(1, rows[..., 0].flatten(), new.to(own_slots.dtype))
        past = own_slots.index_select(1, rows.flatten()).unflatten(1, rows.shape)
        past_keys, past_values = past.unflatten(-1, (attention.n_heads, -1))  # (B, W, D, H, dk)
        query = attention.q(normed).to(past.dtype).view_as(past_keys[:, :, 0])[:, :, None]
        weights = (torch.linalg.vecdot(query, past_keys) + bias).softmax(dim=2)  # (B, W, D, H); T5 does not scale
        mixed = torch.linalg.vecdot(weights.to(past.dtype)[..., None], past_values, dim=2)  # (B, W, H, dk)
        states = clamped(states + attention.o(mixed.flatten(2)))

        attention = block.layer[1].EncDecAttention
        query = heads(attention, attention.q(norm(block.layer[1].layer_norm, states)))
        scores = query @ keys.transpose(2, 3)  # (H, B, W, M)
        if padding is not None:
            scores = scores.masked_fill_(padding, -torch.inf)
        weights = scores.softmax(dim=-1)
        if watch is not None:
            watch(weights)
        states = clamped(states + attention.o((weights @ values).permute(1, 2, 0, 3).flatten(2)))  # (B, W, d)

        states = add_feed_forward(block.layer[-1], states)
    return norm(decoder.final_layer_norm, states)


def heads(attention, projected: torch.Tensor) -> torch.Tensor:
    """(B, W, H * dk) as (H, B, W, dk): with the heads first, a user's keys and values are laid out once."""
    return projected.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).permute(2, 0, 1, 3)

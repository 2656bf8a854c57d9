"""GRAM's decoder at recommending time: many prefixes of lexical IDs per user, over keys and values held once."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .fusion_gram import FusedPassages
from .linear_gram import feed_forward, norm, project

SCORE_MODES = ("vocabulary", "trie")
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
    """

    def __init__(self, model, fused: FusedPassages, depth: int, num_slots: int, score_mode: str = "vocabulary"):
        self.model, self.decoder, self.score_mode = model, model.decoder, score_mode
        self.batch_size, self.num_slots = len(fused.index), 0
        self.padding = None if fused.mask.all() else ~fused.mask[:, None]  # (B, 1, M)
        self.memory = [self._projected(block.layer[1].EncDecAttention, fused) for block in self.decoder.block]
        self.ancestors = fused.index.new_full((self.batch_size, num_slots, depth), -1)  # (B, S, D): itself, parent ...
        attention = self.decoder.block[0].layer[0].SelfAttention
        shape = (2, attention.n_heads, self.batch_size, num_slots, attention.key_value_proj_dim)
        self.slots = [fused.states.new_empty(shape) for _ in self.decoder.block]  # keys and values of every layer
        self.bias = attention.compute_bias(depth, depth)[0, :, -1].flip(-1)  # (H, D), by distance

    def __call__(
        self, tokens: torch.Tensor, parents: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor
    ) -> torch.Tensor:
        """Append tokens, and score what may follow each.

        Args:
            tokens (B, W): appended to slots S ... S + W - 1, S being the number of slots before.
            parents (B, W): slot of the token before; -1 for the start token.
            candidates (B, W, F): tokens that may come next.
            legal (B, W, F): False where there is no such candidate.

        Returns:
            float32 log-probabilities (B, W, F), -inf where not legal.
        """
        bias = self._append(parents)
        states = self.decoder.embed_tokens(tokens)  # (B, W, d)
        for block, slots, memory in zip(self.decoder.block, self.slots, self.memory, strict=True):
            states = states + self._self_attention(block.layer[0], states, slots, bias)
            states = states + self._cross_attention(block.layer[1], states, memory)
            states = states + feed_forward(block.layer[-1], states)
        states = norm(self.decoder.final_layer_norm, states)
        if self.model.config.scale_decoder_outputs:
            states = states * self.model.model_dim**-0.5
        scores = self._over_legal if self.score_mode == "trie" else self._over_vocabulary
        return scores(states.flatten(0, 1), candidates.flatten(0, 1), legal.flatten(0, 1)).view(candidates.shape)

    def _append(self, parents: torch.Tensor) -> torch.Tensor:
        """Take slots; returns the scores' bias (H, B, W, S): T5's relative one, -inf at all but the ancestors."""
        first, self.num_slots = self.num_slots, self.num_slots + parents.shape[1]
        while self.num_slots > self.ancestors.shape[1]:
            self.ancestors = torch.cat([self.ancestors, self.ancestors], dim=1)
            self.slots = [torch.cat([slots, slots], dim=3) for slots in self.slots]
        lineage = self.ancestors[:, first : self.num_slots]  # (B, W, D)
        lineage[..., 0] = torch.arange(first, self.num_slots, device=parents.device)
        before = self.ancestors.take_along_dim(parents.clamp(min=0)[..., None], dim=1)[..., :-1]
        lineage[..., 1:] = before.masked_fill(parents[..., None] < 0, -1)
        bias = self.bias.new_full((len(self.bias), *parents.shape, self.num_slots + 1), -torch.inf)
        slot = lineage.masked_fill(lineage < 0, self.num_slots).expand(len(bias), -1, -1, -1)  # no ancestor: the last
        bias.scatter_(-1, slot, self.bias[:, None, None].expand_as(slot))
        return bias[..., :-1]

    def _self_attention(self, sublayer, states, slots, bias) -> torch.Tensor:
        attention, normed = sublayer.SelfAttention, norm(sublayer.layer_norm, states)
        query, *new = (_heads(attention, p) for p in project(normed, attention.q, attention.k, attention.v))
        slots[:, :, :, self.num_slots - states.shape[1] : self.num_slots] = torch.stack(new)
        keys, values = slots[:, :, :, : self.num_slots]  # (H, B, S, dk)
        return self._mixed(attention, (query @ keys.transpose(2, 3)).add_(bias), values)

    def _cross_attention(self, sublayer, states, memory) -> torch.Tensor:
        attention, (keys, values) = sublayer.EncDecAttention, memory
        query = _heads(attention, project(norm(sublayer.layer_norm, states), attention.q)[0])
        scores = query @ keys.transpose(2, 3)  # (H, B, W, M)
        if self.padding is not None:
            scores.masked_fill_(self.padding, -torch.inf)
        return self._mixed(attention, scores, values)

    def _mixed(self, attention, scores, values) -> torch.Tensor:
        mixed = scores.softmax(dim=-1) @ values  # (H, B, W, dk); T5 does not scale the scores
        return project(mixed.permute(1, 2, 0, 3).flatten(2), attention.o)[0]

    def _projected(self, attention, fused: FusedPassages) -> list[torch.Tensor]:
        """Keys and values (H, B, M, dk). Both are linear, `W(h + p) = W h + W p`: each passage is projected once."""
        projected = [_heads(attention, p[None])[:, 0] for p in project(fused.states, attention.k, attention.v)]
        if fused.place is None and len(fused.index) == 1:  # (H, T, dk), of one user, in any order
            return [values[:, None].contiguous() for values in projected]
        laid_out = [values.index_select(1, fused.index.flatten()) for values in projected]
        if fused.place is not None:
            for values, linear in zip(laid_out, (attention.k, attention.v), strict=True):
                places = _heads(attention, linear(self.model.position_embedding.weight)[None])[:, 0]
                values += places.index_select(1, fused.place.flatten())
        return [values.unflatten(1, fused.index.shape) for values in laid_out]

    def _over_vocabulary(self, states: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
        parts = []
        rows = _ROWS_OF_LOGITS if states.device.type == "cpu" else len(states)
        for some, wanted in zip(states.split(rows), candidates.split(rows), strict=True):
            logits = project(some, self.model.lm_head)[0].float()
            chosen, highest = logits.gather(-1, wanted), logits.amax(dim=-1, keepdim=True)
            parts.append(chosen - highest - logits.sub_(highest).exp_().sum(dim=-1, keepdim=True).log_())
        return torch.cat(parts).masked_fill(~legal, -torch.inf)

    def _over_legal(self, states: torch.Tensor, candidates: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
        tokens, place = candidates.unique(return_inverse=True)
        logits = F.linear(states, self.model.lm_head.weight[tokens]).float().gather(-1, place)
        logits = logits.masked_fill(~legal, -torch.inf)
        # A prefix without a legal token is padding: its log-softmax is not a number.
        return logits.log_softmax(dim=-1).masked_fill(~legal, -torch.inf)


def _heads(attention, projected: torch.Tensor) -> torch.Tensor:
    """(B, W, H * dk) as (H, B, W, dk): with the heads first, a user's keys and values are laid out once."""
    return projected.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).permute(2, 0, 1, 3)


__all__ = ["PrefixDecoder"]

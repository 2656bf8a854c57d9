"""GRAM's training form: a user's prefixes folded into the query length, and losses in chunks.

It is exact: up to rounding it gives what T5's own decoder gives on padded passages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .decoding_gram import over_legal
from .encoding_gram import PackedLayout, add_feed_forward, drop, encode_embedded, passage_lengths, run_block
from .layers_gram import clamped, dropout, has_hooks_between, is_plain, norm

_LOGITS_AT_ONCE = 1 << 26  # elements; several tensors of this size live at once while a loss is computed


def decode_grouped(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    decoder_input_ids: torch.Tensor,
    history: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Decoder states (K * N, T, d) of the grouped form, of K targets of each of N samples, one after the other.

    See `GramForConditionalGeneration.forward` for the arguments.
    """
    item_mask = history["attention_mask"]
    lengths = passage_lengths(attention_mask) + passage_lengths(item_mask)
    layout = PackedLayout(lengths, input_ids.device)
    tokens = torch.cat([input_ids[attention_mask.bool()], history["input_ids"][item_mask.bool()]])
    embedded, targets = _embed(model, tokens[layout.order], decoder_input_ids)
    states = encode_embedded(model.encoder, embedded, layout)  # (M, d)
    memory = _memory(attention_mask.bool(), item_mask.bool(), history, layout)
    positions, decoder, length = model.passage_positions, model.decoder, decoder_input_ids.shape[1]
    if has_hooks_between(decoder):
        each = len(targets) // len(input_ids)
        hidden, mask = (of.repeat_interleave(each, 0) for of in _by_sample(memory, states, positions))
        decoded = decoder(inputs_embeds=targets, encoder_hidden_states=hidden, encoder_attention_mask=mask)
        return decoded.last_hidden_state
    bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length, device=states.device)
    future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
    bias = bias.masked_fill(future, torch.finfo(bias.dtype).min)
    decoded = drop(decoder, targets)
    for block in decoder.block:
        decoded = run_block(block, _decoder_block, decoded, states, bias, memory, positions)
    return drop(decoder, norm(decoder.final_layer_norm, decoded))


def _embed(model, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (T, d) of the encoder's tokens and (N, T', d) of the decoder's."""
    of_encoder, of_decoder = model.encoder.embed_tokens, model.decoder.embed_tokens
    is_one = all(is_plain(module, nn.Embedding) for module in (of_encoder, of_decoder))
    if not is_one or of_encoder.weight is not of_decoder.weight:
        return of_encoder(tokens), of_decoder(targets)
    # One look-up, because the gradient of each is as large as the vocabulary's.
    tokens, after = of_encoder(torch.cat([tokens, targets.flatten()])).split([len(tokens), targets.numel()])
    return tokens, after.view(*targets.shape, -1)


@dataclass(frozen=True)
class GroupedMemory:
    """What the samples of each group attend to, as rows of the packed encoder states; rows at padding are arbitrary."""

    user_rows: torch.Tensor  # (N, Lu) each sample's user prompt
    item_rows: torch.Tensor  # (G, S, L) each group's item prompts, one per slot
    positions: torch.Tensor  # (G, R, S) place of each slot in each sample's history, 0 where it is not in it
    # (G, 1, R, 1, S * L + Lu) what a sample may attend to, its group's items first, then its user prompt
    mask: torch.Tensor


def _memory(user_mask, item_mask, history, layout) -> GroupedMemory:
    items, positions = history["items"], history["positions"]
    num_groups, num_samples, _ = positions.shape
    flat = torch.cat([user_mask.flatten(), item_mask.flatten()])
    rows = torch.zeros_like(flat, dtype=torch.long)
    rows[flat] = layout.inverse
    user_rows, item_rows = rows.split([user_mask.numel(), item_mask.numel()])
    in_history = (positions > 0)[..., None] & item_mask[items][:, None]  # (G, R, S, L)
    of_user = user_mask.view(num_groups, num_samples, -1)
    mask = torch.cat([in_history.flatten(2), of_user], dim=-1)[:, None, :, None]
    return GroupedMemory(user_rows.view_as(user_mask), item_rows.view_as(item_mask)[items], positions, mask)


def _by_sample(memory, states, passage_positions) -> tuple[torch.Tensor, torch.Tensor]:
    """What every sample attends to, states (N, M, d) with their positions, and their mask (N, M)."""
    num_samples = memory.positions.shape[1]
    items = memory.item_rows.flatten(1)[:, None].expand(-1, num_samples, -1).flatten(0, 1)  # (N, S * L)
    places = memory.positions.flatten(0, 1).repeat_interleave(memory.item_rows.shape[2], dim=1)
    rows = torch.cat([items, memory.user_rows], dim=1)
    places = torch.cat([places, torch.zeros_like(memory.user_rows)], dim=1)
    hidden = F.embedding(rows, states) + F.embedding(places, passage_positions)
    return hidden, memory.mask[:, 0, :, 0].flatten(0, 1)


def _decoder_block(block, decoded, states, bias, memory, passage_positions) -> torch.Tensor:
    decoded = clamped(block.layer[0](decoded, position_bias=bias)[0])
    folded = decoded.view(len(memory.user_rows), -1, decoded.shape[-1])  # all targets of a sample read the same
    folded = _cross_attention(block.layer[1], folded, states, memory, passage_positions)
    return add_feed_forward(block.layer[-1], folded.view_as(decoded))


def _cross_attention(sublayer, decoded, states, memory, passage_positions) -> torch.Tensor:
    """T5's cross-attention sub-layer for prefixes of one sequence folded into the query length.

    A group's item keys exist once, without passage position, because that differs between prefixes. Keys and values
    are linear in the encoder's output, `W(h + p) = W h + W p`: so `q . W_k p` is added to the score, and the weights,
    summed by position, multiply `W_v p`. `decoded` (N, T, d), N = G * R, T tokens of all targets of a sample; `states`
    (M, d) are the encoder's, packed.
    """
    attention, positions = sublayer.EncDecAttention, memory.positions
    (num_groups, num_samples, num_slots), length = positions.shape, decoded.shape[1]
    heads, width = attention.n_heads, attention.key_value_proj_dim

    def by_head(values):  # (..., M, H * dk) -> (..., H, M, dk)
        return values.unflatten(-1, (heads, width)).transpose(-3, -2)

    def project(linear):  # -> (N, H, Lu, dk), (G, H, S * L, dk), (H, P, dk)
        rows, of_place = linear(states), by_head(linear(passage_positions))
        users, items = F.embedding(memory.user_rows, rows), F.embedding(memory.item_rows.flatten(1), rows)
        return by_head(users) + of_place[:, :1], by_head(items), of_place

    query = by_head(attention.q(norm(sublayer.layer_norm, decoded)))  # (N, H, T, dk)
    folded = query.unflatten(0, (num_groups, num_samples)).transpose(1, 2)  # (G, H, R, T, dk)
    place = positions[:, None, :, None].expand(-1, heads, -1, length, -1)  # (G, H, R, T, S)

    user_keys, item_keys, place_keys = project(attention.k)
    item_scores = folded.flatten(2, 3) @ item_keys.transpose(2, 3)  # (G, H, R * T, S * L)
    item_scores = item_scores.unflatten(2, (num_samples, length)).unflatten(-1, (num_slots, -1))
    place_scores = folded @ place_keys[:, None].transpose(2, 3)  # (G, H, R, T, P)
    item_scores += place_scores.gather(-1, place)[..., None]  # (G, H, R, T, S, L), the largest tensor: in place
    user_scores = (query @ user_keys.transpose(2, 3)).unflatten(0, (num_groups, num_samples)).transpose(1, 2)

    scores = torch.cat([item_scores.flatten(-2), user_scores], dim=-1)
    scores.masked_fill_(~memory.mask, torch.finfo(scores.dtype).min)
    weights = dropout(scores.softmax(dim=-1), attention.dropout, attention.training)
    item_weights, user_weights = weights.split([item_keys.shape[2], user_keys.shape[2]], dim=-1)

    user_values, item_values, place_values = project(attention.v)
    mixed = item_weights.flatten(2, 3) @ item_values  # (G, H, R * T, dk)
    by_slot = item_weights.unflatten(-1, (num_slots, -1)).sum(-1)  # (G, H, R, T, S)
    by_place = torch.zeros_like(place_scores, dtype=by_slot.dtype).scatter_add(-1, place, by_slot)  # (G, H, R, T, P)
    mixed = mixed.unflatten(2, (num_samples, length)) + by_place @ place_values[:, None]
    user_weights = user_weights.transpose(1, 2).flatten(0, 1)  # (N, H, T, Lu)
    mixed = mixed.transpose(1, 2).flatten(0, 1) + user_weights @ user_values  # (N, H, T, dk)
    return clamped(decoded + drop(sublayer, attention.o(mixed.transpose(1, 2).flatten(2))))


def shares_of(model: nn.Module, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The targets (N, T) as soft targets over the tokens that the trie allows; see the model's `forward`."""
    tokens = model._trie(None).legal_tokens(labels)
    return {"tokens": tokens, "shares": (tokens == labels[..., None]).float()}


def places_to_decode(tokens: torch.Tensor) -> int:
    """How many places of lexical IDs are to be decoded for a loss over the tokens (N, T, F) that are possible.

    Where one alone is, its probability is 1 whatever the decoder says: behind the last choice nothing is to be learnt.
    """
    is_choice = ((tokens >= 0).sum(-1) > 1).any(0)  # (T,)
    return int((is_choice * torch.arange(1, len(is_choice) + 1, device=tokens.device)).amax().clamp(min=1))


def target_loss(
    model: nn.Module,
    states: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: int | torch.Tensor | None = None,
    soft_targets: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of the targets (N, T), with logits at these alone and never of all of them at once.

    See `GramForConditionalGeneration.forward` for the arguments; `states` (N, T, d) are the decoder's.
    """
    is_target, over_trie = labels >= 0, model.config.score_mode == "trie"
    if over_trie and soft_targets is None:
        soft_targets = shares_of(model, labels)
    soft = () if soft_targets is None else (soft_targets["tokens"], soft_targets["shares"])
    given = [values[is_target] for values in (states, labels, *soft)]  # (n, d), (n,), and perhaps (n, F) twice

    def summed(states, targets, tokens=None, shares=None):
        if over_trie:
            legal = tokens >= 0
            return -(shares * over_legal(model, states, tokens.clamp(min=0), legal).masked_fill(~legal, 0)).sum()
        logits = model._logits(states).float()
        if tokens is None:
            return F.cross_entropy(logits, targets, reduction="sum")
        return -(shares * logits.log_softmax(-1).gather(-1, tokens.clamp(min=0))).sum()

    # In each place of an ID few tokens are legal, in all of them together many.
    place = is_target.nonzero()[:, 1]
    groups = [place == level for level in range(labels.shape[1])] if over_trie else [slice(None)]
    num_targets, loss = len(place), 0
    for some in groups:
        values = [of[some] for of in given]
        chunks = max(-(-len(values[0]) * model.config.vocab_size // _LOGITS_AT_ONCE), 1)
        if chunks == 1:
            loss = loss + summed(*values)
        else:
            parts = zip(*(of.chunk(chunks) for of in values), strict=True)
            loss = loss + sum(checkpoint(summed, *part, use_reentrant=False) for part in parts)
    return loss / (num_targets if num_items_in_batch is None else num_items_in_batch)

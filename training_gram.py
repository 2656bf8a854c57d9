"""GRAM's training form: passages packed without padding, a user's prefixes folded into the query length, chunked loss.

All of it is exact: up to rounding it gives what T5's own encoder and decoder give on padded passages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_LOGITS_AT_ONCE = 1 << 26  # elements; several tensors of this size live at once while a loss is computed


@dataclass(frozen=True)
class Bucket:
    """Passages of like length, and how attention sees them.

    Attributes:
        rows: their tokens, a slice of the packed ones.
        count: how many passages.
        length: tokens of the longest.
        places (rows,): where in the padded layout (count * length) each token stands; None where all are of one length.
        padding (count, 1, 1, length): True at padding; None likewise.
    """

    rows: slice
    count: int
    length: int
    places: torch.Tensor | None
    padding: torch.Tensor | None

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """This bucket's rows of packed values (T, d), as (count, length, d)."""
        rows = packed[self.rows]
        if self.places is not None:
            rows = rows.new_zeros(self.count * self.length, rows.shape[1]).index_copy(0, self.places, rows)
        return rows.view(self.count, self.length, -1)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """Padded values (count, length, d) as this bucket's rows."""
        rows = padded.flatten(0, 1)
        return rows if self.places is None else rows.index_select(0, self.places)


class PackedLayout:
    """Passages laid end to end, longest first, in buckets of like length.

    Everything but attention sees the real tokens alone; attention sees each bucket padded to its longest passage, and
    bounds are such that at most an eighth of a passage is padding (of short ones, 7 tokens).

    Args:
        lengths (N,): tokens of every passage; 0 for one that is not there.
        device: of the indices.

    Attributes:
        order (T,): for every packed token its place among the real tokens of the passages as they were given.
        inverse (T,): for every real token, in the given order, its packed row.
        buckets: the buckets, in order.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu"):
        lengths = np.asarray(lengths, dtype=np.int64)
        starts = lengths.cumsum() - lengths
        passages = np.argsort(-lengths, kind="stable")
        passages = passages[lengths[passages] > 0]
        starts, lengths = starts[passages], lengths[passages]
        ends = lengths.cumsum()
        order = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
        self.order = torch.from_numpy(order).to(device)
        self.inverse = torch.from_numpy(np.argsort(order)).to(device)
        self.longest = int(lengths[0]) if len(lengths) else 0
        self.buckets: list[Bucket] = []
        first = 0
        while first < len(lengths):
            longest = lengths[first]
            last = int(np.searchsorted(-lengths, -(longest - max(longest // 8, 7)), side="right"))
            rows = slice(int(ends[first] - longest), int(ends[last - 1]))
            self.buckets.append(_bucket(rows, lengths[first:last], device))
            first = last


def _bucket(rows: slice, lengths: np.ndarray, device) -> Bucket:
    count, longest = len(lengths), int(lengths[0])
    if lengths[-1] == longest:
        return Bucket(rows, count, longest, None, None)
    real = torch.from_numpy(np.arange(longest) < lengths[:, None])  # (count, length)
    places = real.flatten().nonzero().flatten()
    return Bucket(rows, count, longest, places.to(device), ~real[:, None, None].to(device))


def passage_lengths(attention_mask: torch.Tensor) -> list[int]:
    """Tokens of every passage, from their mask (N, L).

    Raises:
        ValueError: a passage has padding between its tokens.
    """
    mask = attention_mask.bool()
    runs = (mask[:, 1:] & ~mask[:, :-1]).sum(-1) + mask[:, 0]
    lengths, runs = torch.stack([mask.sum(-1), runs]).tolist()  # one transfer from the device
    if max(runs, default=0) > 1:
        row = next(row for row, count in enumerate(runs) if count > 1)
        raise ValueError(f"`attention_mask`: passage {row} has padding between its tokens; pad at one end")
    return lengths


def encode_packed(encoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """What T5's encoder makes of the real tokens of passages, at no cost for padding.

    Args:
        encoder: a `T5Stack` that is an encoder.
        input_ids, attention_mask (N, L): the passages; padded at one end, 0-masked.

    Returns:
        States (T, d) of the T real tokens, in the order of `input_ids[attention_mask.bool()]`.

    Raises:
        ValueError: a passage has padding between its tokens.
    """
    layout = PackedLayout(passage_lengths(attention_mask), input_ids.device)
    tokens = input_ids[attention_mask.bool()][layout.order]
    states = encode_embedded(encoder, encoder.embed_tokens(tokens), layout)
    return torch.empty_like(states).index_copy(0, layout.order, states)


def encode_embedded(encoder: nn.Module, embedded: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """T5's encoder on packed embeddings (T, d), both in the layout's order."""
    states = encoder.dropout(embedded)
    if not layout.buckets:
        return states
    bias = encoder.block[0].layer[0].SelfAttention.compute_bias(layout.longest, layout.longest)[0]  # (H, L, L)
    for block in encoder.block:
        states = _run(block, _encoder_block, states, bias, layout)
    return encoder.dropout(encoder.final_layer_norm(states))


def _run(block: nn.Module, function: Callable, *inputs):
    """`function(block, *inputs)`, checkpointed where the block is to be."""
    if block.gradient_checkpointing and block.training:
        return block._gradient_checkpointing_func(function, block, *inputs)
    return function(block, *inputs)


def _encoder_block(block, states, bias, layout) -> torch.Tensor:
    """A block of T5's encoder on packed states (T, d); only the attention's core knows of passages."""
    sublayer = block.layer[0]
    attention, normed = sublayer.SelfAttention, sublayer.layer_norm(states)
    projected = [linear(normed) for linear in (attention.q, attention.k, attention.v)]  # (T, H * dk)
    mixed = torch.cat([_attend(attention, projected, bias, bucket) for bucket in layout.buckets])
    return block.layer[-1](states + sublayer.dropout(attention.o(mixed)))


def _attend(attention, projected, bias, bucket) -> torch.Tensor:
    """Self-attention within each passage of a bucket: its rows of (T, H * dk)."""
    length = bucket.length
    query, key, value = (bucket.pad(p).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for p in projected)
    scores = query @ key.transpose(2, 3) + bias[:, :length, :length]  # (count, H, length, length)
    if bucket.padding is not None:
        scores = scores.masked_fill_(bucket.padding, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(dim=-1), p=attention.dropout, training=attention.training)
    return bucket.unpad((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


def decode_grouped(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    decoder_input_ids: torch.Tensor,
    history: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Decoder states (N, T, d) of the grouped form; see `GramForConditionalGeneration.forward` for the arguments."""
    item_mask = history["attention_mask"]
    lengths = passage_lengths(attention_mask) + passage_lengths(item_mask)
    layout = PackedLayout(lengths, input_ids.device)
    tokens = torch.cat([input_ids[attention_mask.bool()], history["input_ids"][item_mask.bool()]])
    # One look-up for encoder and decoder, because the gradient of each is as large as the vocabulary's.
    tokens = torch.cat([tokens[layout.order], decoder_input_ids.flatten()])
    embedded, targets = model.shared(tokens).split([len(layout.order), decoder_input_ids.numel()])
    states = encode_embedded(model.encoder, embedded, layout)  # (M, d)
    memory = _memory(attention_mask.bool(), item_mask.bool(), history, layout)

    decoder, length = model.decoder, decoder_input_ids.shape[1]
    bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
    bias = bias.masked_fill(future, torch.finfo(bias.dtype).min)
    decoded = decoder.dropout(targets.view(*decoder_input_ids.shape, -1))
    for block in decoder.block:
        decoded = _run(block, _decoder_block, decoded, states, bias, memory, model.position_embedding.weight)
    return decoder.dropout(decoder.final_layer_norm(decoded))


@dataclass(frozen=True)
class GroupedMemory:
    """What the samples of each group attend to, as rows of the packed encoder states; rows at padding are arbitrary.

    Attributes:
        user_rows (N, Lu): each sample's user prompt.
        item_rows (G, S, L): each group's item prompts, one per slot.
        positions (G, R, S): place of each slot in each sample's history, 0 where it is not in it.
        mask (G, 1, R, 1, S * L + Lu): what a sample may attend to, its group's items first, then its user prompt.
    """

    user_rows: torch.Tensor
    item_rows: torch.Tensor
    positions: torch.Tensor
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


def _decoder_block(block, decoded, states, bias, memory, passage_positions) -> torch.Tensor:
    decoded = block.layer[0](decoded, position_bias=bias)[0]
    return block.layer[-1](_cross_attention(block.layer[1], decoded, states, memory, passage_positions))


def _cross_attention(sublayer, decoded, states, memory, passage_positions) -> torch.Tensor:
    """T5's cross-attention sub-layer for prefixes of one sequence folded into the query length.

    A group's item keys exist once, without passage position, because that differs between prefixes. Keys and values
    are linear in the encoder's output, `W(h + p) = W h + W p`: so `q . W_k p` is added to the score, and the weights,
    summed by position, multiply `W_v p`.

    Args:
        sublayer: a decoder block's `T5LayerCrossAttention`.
        decoded (N, T, d): decoder states, N = G * R.
        states (M, d): packed encoder states, no position added.
        memory: where in `states` are the passages of whom.
        passage_positions (P, d): weights of the passage position embedding.
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

    query = by_head(attention.q(sublayer.layer_norm(decoded)))  # (N, H, T, dk)
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
    weights = F.dropout(scores.softmax(dim=-1), p=attention.dropout, training=attention.training)
    item_weights, user_weights = weights.split([item_keys.shape[2], user_keys.shape[2]], dim=-1)

    user_values, item_values, place_values = project(attention.v)
    mixed = item_weights.flatten(2, 3) @ item_values  # (G, H, R * T, dk)
    by_slot = item_weights.unflatten(-1, (num_slots, -1)).sum(-1)  # (G, H, R, T, S)
    by_place = torch.zeros_like(place_scores, dtype=by_slot.dtype).scatter_add(-1, place, by_slot)  # (G, H, R, T, P)
    mixed = mixed.unflatten(2, (num_samples, length)) + by_place @ place_values[:, None]
    user_weights = user_weights.transpose(1, 2).flatten(0, 1)  # (N, H, T, Lu)
    mixed = mixed.transpose(1, 2).flatten(0, 1) + user_weights @ user_values  # (N, H, T, dk)
    return decoded + sublayer.dropout(attention.o(mixed.transpose(1, 2).flatten(2)))


def target_loss(
    model: nn.Module,
    states: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of the target tokens, with logits at these alone and never of all of them at once.

    Args:
        model: the GRAM whose head scores the vocabulary.
        states (N, T, d): of the decoder.
        labels (N, T): -100 where there is no target.
        num_items_in_batch: divisor of the sum in place of the number of targets here.
    """
    is_target = labels >= 0
    states, labels = states[is_target], labels[is_target]  # (M, d), (M,)
    chunks = max(-(-len(labels) * model.config.vocab_size // _LOGITS_AT_ONCE), 1)

    def summed(states, labels):
        return F.cross_entropy(model._logits(states).float(), labels, reduction="sum")

    if chunks == 1:
        loss = summed(states, labels)
    else:
        pairs = zip(states.chunk(chunks), labels.chunk(chunks), strict=True)
        loss = sum(checkpoint(summed, *pair, use_reentrant=False) for pair in pairs)
    return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)

"""T5's encoder on passages laid end to end: padding costs nothing.

It is exact: up to rounding it gives what T5's own encoder gives on padded passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .layers_gram import clamped, dropout, has_hooks_between, norm


@dataclass(frozen=True)
class Bucket:
    """Passages of like length, and how attention sees them."""

    rows: slice  # their tokens, a slice of the packed ones
    count: int  # how many passages
    length: int  # tokens of the longest
    # (rows,) where in the padded layout (count * length) each token stands; None where all are of one length
    places: torch.Tensor | None
    padding: torch.Tensor | None  # (count, 1, 1, length) True at padding; None likewise

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
    """What T5's encoder makes of the real tokens of passages (N, L), at no cost for padding, which is at one end.

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
    if not layout.buckets:
        return embedded
    if has_hooks_between(encoder):
        return torch.cat([bucket.unpad(_encode_padded(encoder, bucket, embedded)) for bucket in layout.buckets])
    states = drop(encoder, embedded)
    attention = encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(layout.longest, layout.longest, device=states.device)[0]  # (H, L, L)
    for block in encoder.block:
        states = run_block(block, _encoder_block, states, bias, layout)
    return drop(encoder, norm(encoder.final_layer_norm, states))


def _encode_padded(encoder: nn.Module, bucket: Bucket, embedded: torch.Tensor) -> torch.Tensor:
    """A bucket's states (count, length, d) by the encoder as it is, whose hooks then run."""
    mask = None if bucket.padding is None else ~bucket.padding[:, 0, 0]
    return encoder(inputs_embeds=bucket.pad(embedded), attention_mask=mask).last_hidden_state


def run_block(block: nn.Module, function: Callable, *inputs):
    """`function(block, *inputs)`, checkpointed where the block is to be."""
    if block.gradient_checkpointing and block.training:
        return block._gradient_checkpointing_func(function, block, *inputs)
    return function(block, *inputs)


def _encoder_block(block, states, bias, layout) -> torch.Tensor:
    """A block of T5's encoder on packed states (T, d); only the attention's core knows of passages."""
    sublayer = block.layer[0]
    attention, normed = sublayer.SelfAttention, norm(sublayer.layer_norm, states)
    projected = [linear(normed) for linear in (attention.q, attention.k, attention.v)]  # (T, H * dk)
    mixed = torch.cat([_attend(attention, projected, bias, bucket) for bucket in layout.buckets])
    states = clamped(states + drop(sublayer, attention.o(mixed)))
    return add_feed_forward(block.layer[-1], states)


def add_feed_forward(sublayer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """A block's last sub-layer, gated or not; one that has been compiled is called as it is."""
    if torch.is_grad_enabled() and sublayer._compiled_call_impl is not None:
        return clamped(sublayer(states))
    dense, normed = sublayer.DenseReluDense, norm(sublayer.layer_norm, states)
    inner = dense.dropout
    if hasattr(dense, "wi_0"):
        hidden = dropout(dense.act(dense.wi_0(normed)) * dense.wi_1(normed), inner.p, inner.training)
    else:
        hidden, rectify = dense.wi(normed), isinstance(dense.act, nn.ReLU)
        hidden = dropout(hidden if rectify else dense.act(hidden), inner.p, inner.training, rectify)
    weight = dense.wo.weight  # in a layer that torch.ao has quantised a method
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        hidden = hidden.to(weight.dtype)  # it stays in float32 where the model is loaded in float16
    return clamped(states + drop(sublayer, dense.wo(hidden)))


def drop(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """The states through a module's dropout."""
    return dropout(states, module.dropout.p, module.dropout.training)


def _attend(attention, projected, bias, bucket) -> torch.Tensor:
    """Self-attention within each passage of a bucket: its rows of (T, H * dk)."""
    length = bucket.length
    query, key, value = (bucket.pad(p).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for p in projected)
    scores = query @ key.transpose(2, 3) + bias[:, :length, :length]  # (count, H, length, length)
    if bucket.padding is not None:
        scores = scores.masked_fill_(bucket.padding, torch.finfo(scores.dtype).min)
    weights = dropout(scores.softmax(dim=-1), attention.dropout, attention.training)
    return bucket.unpad((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))

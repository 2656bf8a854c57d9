"""Groups of samples as inputs of the grouped form: a user's prefixes folded, each item prompt once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.interactions import Interactions, spans
from ..data.samples import PrefixGroup

if TYPE_CHECKING:
    from ..tokenization_gram import GramTokenizer

_AT_ONCE = (3, 4, 6)  # prefixes whose items are attended to together, where a group is not left whole
_DECODING = 5  # passages to attend to that take as long as the rest of what a sample costs the decoder


@dataclass(frozen=True)
class Ragged:
    """Sequences laid end to end: `values` (T,), and `offsets` (N + 1,) where each starts and the last one ends."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Lay sequences end to end."""
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)), out=offsets[1:])
        return cls(np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(offsets[-1])), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(N,) the length of every sequence."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Ragged:
        """The sequences of these rows (M,), in that order."""
        index, offsets = spans(self.offsets[rows], self.offsets[rows + 1])
        return Ragged(self.values[index], offsets)

    def only(self, is_kept: np.ndarray) -> Ragged:
        """The same, where those that are not kept (N,) are empty."""
        values = self.values[np.repeat(is_kept, self.lengths)]
        return Ragged(values, np.concatenate([[0], (self.lengths * is_kept).cumsum()]))

    def padded(self, value: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, longest, at least 1) filled up with `value`, and the mask, 1 at what is real."""
        lengths = self.lengths
        mask = np.arange(max(lengths.max(initial=0), 1)) < lengths[:, None]
        rows = np.full(mask.shape, value, dtype=np.int64)
        rows[mask] = self.values
        return rows, mask.astype(np.int64)


@lru_cache(maxsize=1)  # steps and batches are many, over one catalogue
def tokenized(tokenizer: GramTokenizer) -> tuple[Ragged, Ragged]:
    """Every item's prompt, and its lexical ID with the end token."""
    tokenizer.user_prompt([0])  # keeps the wording, so that no worker process needs the text tokenizer
    return Ragged.of(tokenizer.item_prompts), Ragged.of(tokenizer.sequences)


class GroupedBatches:
    """Makes groups of samples into batches.

    Args:
        interactions: that the groups are of.
        tokenizer: makes the prompts.
        is_target: (N,) bool, the items that can be recommended; those that were removed from the catalogue are read in
            histories alone.
    """

    def __init__(self, interactions: Interactions, tokenizer: GramTokenizer, is_target: np.ndarray | None = None):
        self.interactions, self.tokenizer = interactions, tokenizer
        self.item_prompts, self.sequences = tokenized(tokenizer)
        if is_target is not None and not is_target.all():
            self.sequences = self.sequences.only(is_target)

    def targets(self, group: PrefixGroup) -> np.ndarray:
        """(len(group),) catalogue rows of a group's targets."""
        return self.interactions[group.user][group.first : group.last]

    def _start(self, group: PrefixGroup) -> int:
        """Place of the oldest item that any sample of the group reads."""
        return max(0, group.first - self.tokenizer.max_history)

    def num_tokens(self, group: PrefixGroup) -> int:
        """Tokens of a group's prompts; those of user prompts are bounded by the longest passage."""
        items = self.interactions[group.user][self._start(group) : group.last - 1]
        ids = (self.sequences.lengths[items].sum() + 8).clip(max=self.tokenizer.max_passage_length)
        return int(self.item_prompts.lengths[items].sum() + len(group) * ids)

    def _pieces(self, groups: list[PrefixGroup]) -> list[PrefixGroup]:
        """The groups in pieces that attend apart: of many prefixes' items, few are in each one's history.

        All pieces are padded to the longest, so how long they are is chosen for all together.
        """

        def cost(pieces: list[PrefixGroup]) -> int:
            slots = max(piece.last - 1 - self._start(piece) for piece in pieces)
            return len(pieces) * max(map(len, pieces)) * (slots + _DECODING)

        sizes = (max(map(len, groups)), *_AT_ONCE)
        return min(([piece for group in groups for piece in group.split(size)] for size in sizes), key=cost)

    def __call__(self, groups: list[PrefixGroup], idle: bool = False) -> dict:
        """Inputs of the grouped form; see `GramForConditionalGeneration.forward` for the shapes.

        Beside these there is `samples` (N,), the place of each sample's target in `interactions.items`; padding repeats
        a group's last sample. What is `idle` has no labels.
        """
        tokenizer, longest = self.tokenizer, self.tokenizer.max_history
        groups = self._pieces(groups)
        starts = [self._start(group) for group in groups]
        num_samples = max(map(len, groups))  # R
        num_slots = max(group.last - 1 - start for group, start in zip(groups, starts, strict=True))  # S
        rows = np.full((len(groups), num_slots), -1)
        targets = np.full((len(groups), num_samples), -1)
        positions = np.zeros((len(groups), num_samples, num_slots), dtype=np.int64)
        prompts = []
        for index, (group, start) in enumerate(zip(groups, starts, strict=True)):
            items = self.interactions[group.user][start : group.last - 1]
            rows[index, : len(items)] = items
            targets[index, : len(group)] = self.targets(group)
            places = np.arange(group.first, group.last)
            distance = places[:, None] - np.arange(start, group.last - 1)
            in_history = (distance >= 1) & (distance <= longest)
            positions[index, : len(places), : len(items)] = np.where(in_history, distance, 0)
            newest_first = items[::-1].tolist()
            for newer in range(len(group) - 1, -1, -1):  # how many items of the group come after the sample's newest
                prompts.append(tokenizer.user_prompt(newest_first[newer : newer + longest]))
            prompts += [[tokenizer.eos_token_id]] * (num_samples - len(places))
        unique, slots = np.unique(rows, return_inverse=True)
        if unique[0] < 0:  # padding slots: no sample's history holds them, so any item will do
            unique, slots = unique[1:], np.maximum(slots - 1, 0)
        pad = tokenizer.pad_token_id
        input_ids, attention_mask = Ragged.of(prompts).padded(pad)
        item_ids, item_mask = self.item_prompts.take(unique).padded(pad)
        labels, _ = self.sequences.take(np.maximum(targets, 0).flatten()).padded(-100)
        labels[targets.flatten() < 0] = -100
        if idle:
            labels = np.full_like(labels[:, :1], -100)
        slots = slots.reshape(rows.shape)
        history = {"input_ids": item_ids, "attention_mask": item_mask, "items": slots, "positions": positions}
        own = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        places = [np.arange(group.first, group.first + num_samples).clip(max=group.last - 1) for group in groups]
        offsets = self.interactions.offsets[[group.user for group in groups]]
        own["samples"] = (offsets[:, None] + places).flatten()
        history, own = ({name: torch.from_numpy(of) for name, of in arrays.items()} for arrays in (history, own))
        return {**own, "history": history}

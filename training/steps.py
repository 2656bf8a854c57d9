"""Optimizer steps as batches: every prefix a sample, a user's prefixes grouped, each item prompt once.

A group is a run of consecutive prefixes of one user's sequence. Its samples share their history items, so the model
encodes each once and folds the samples into the query length of the cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.interactions import Interactions

if TYPE_CHECKING:
    from ..tokenization_gram import GramTokenizer

_STEPS_SORTED_TOGETHER = 32
# What steps take from `TrainingSettings`.
SIZES = ("batch_size", "micro_batch_size", "micro_batch_tokens", "prefixes_per_group", "prefixes_per_user", "seed")
_AT_ONCE = (3, 4, 6)  # prefixes whose items are attended to together, where a group is not left whole
_DECODING = 5  # passages to attend to that take as long as the rest of what a sample costs the decoder


@dataclass(frozen=True)
class PrefixGroup:
    """Samples of one user: predict items `first ... last - 1` of the sequence, each from the items before it."""

    user: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def split(self, size: int) -> list[PrefixGroup]:
        """The same in parts of like lengths, of at most `size` samples."""
        parts = -(-len(self) // size)
        bounds = [self.first + len(self) * part // parts for part in range(parts + 1)]
        return [PrefixGroup(self.user, *part) for part in pairwise(bounds)]


def prefix_groups(
    interactions: Interactions, prefixes_per_group: int, prefixes_per_user: int | None = None
) -> np.ndarray:
    """All users' prefixes, or the latest `prefixes_per_user`, in groups of at most `prefixes_per_group`.

    A user's first item is never a target.

    Returns:
        (G, 3) int64, the fields of a [`PrefixGroup`]: a run counts its steps long before it needs their groups.
    """
    samples = np.clip(interactions.lengths - 1, 0, prefixes_per_user)  # (users,)
    counts = -(-samples // prefixes_per_group)
    users = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(users)) - np.repeat(counts.cumsum() - counts, counts)  # of the group among its user's
    start = (interactions.lengths - samples)[users]
    first, last = (start + samples[users] * bound // counts[users] for bound in (place, place + 1))
    return np.stack([users, first, last], axis=1)


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
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], lengths.cumsum()])
        index = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
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


@lru_cache(maxsize=1)  # every epoch has steps of its own, over one catalogue
def _tokenized(tokenizer: GramTokenizer) -> tuple[Ragged, Ragged]:
    """Every item's prompt, and its lexical ID with the end token."""
    tokenizer.user_prompt([0])  # keeps the wording, so that no worker process needs the text tokenizer
    return Ragged.of(tokenizer.item_prompts), Ragged.of(tokenizer.sequences)


class TrainingSteps(Dataset):
    """The optimizer steps of one epoch: item `i` is what one process does in step `i`.

    The steps are a function of the arguments alone, so that training can resume at any of them, and the samples of a
    step are the same for any number of processes.

    Args:
        interactions: the training part.
        tokenizer: makes the prompts.
        batch_size: samples of a step, over all processes; the last groups may overshoot it by less than one group.
        micro_batch_size: samples that a process runs through the model at once.
        micro_batch_tokens: tokens of prompts that it encodes at once; a single group may have more.
        prefixes_per_group, prefixes_per_user: see [`prefix_groups`].
        seed, epoch: determine the order.
        process, num_processes: which share of every step to give.
        same_count: give every process as many micro-batches of a step; those that it has too few of count nothing.
        with_samples: say which sample each row of a micro-batch is, as `samples` (N,): the place of its target in
            `interactions.items`; padding repeats a group's last sample.
        is_target: (N,) bool, the items that can be recommended; those that were removed from the catalogue are read in
            histories alone.
    """

    def __init__(
        self,
        interactions: Interactions,
        tokenizer: GramTokenizer,
        batch_size: int,
        micro_batch_size: int,
        prefixes_per_group: int,
        seed: int,
        epoch: int,
        process: int = 0,
        num_processes: int = 1,
        micro_batch_tokens: int = 16384,
        same_count: bool = False,
        with_samples: bool = False,
        prefixes_per_user: int | None = None,
        is_target: np.ndarray | None = None,
    ):
        self.interactions, self.tokenizer = interactions, tokenizer
        self.item_prompts, self.targets = _tokenized(tokenizer)
        if is_target is not None and not is_target.all():
            self.targets = self.targets.only(is_target)
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.process, self.num_processes, self.same_count = process, num_processes, same_count
        self.with_samples = with_samples
        rng = np.random.default_rng([seed, epoch])
        self._groups = prefix_groups(interactions, prefixes_per_group, prefixes_per_user)  # (G, 3)
        self._groups = self._groups[rng.permutation(len(self._groups))]
        self._steps = _steps(self._groups, batch_size, rng)

    def __len__(self) -> int:
        return len(self._steps)

    def groups(self, index: int) -> list[PrefixGroup]:
        """What is done in a step, over all processes."""
        return [PrefixGroup(*group) for group in self._groups[self._steps[index]].tolist()]

    def num_samples(self, index: int) -> int:
        """Samples of a step, over all processes."""
        return sum(map(len, self.groups(index)))

    def __getitem__(self, index: int) -> tuple[list[dict], int]:
        """Micro-batches, keyword arguments of the model's `forward`, and the target tokens of all processes' shares."""
        step = self.groups(index)
        targets = np.concatenate([self._targets(group) for group in step])
        num_tokens = int(self.targets.lengths[targets].sum())
        # A process without a share still takes part in the exchange of gradients, with a sample that counts nothing.
        share = step[self.process :: self.num_processes] or [step[0]]
        idle = self.process >= len(step)
        batches = [self._collate(groups, idle) for groups in self._micro_batches(share)]
        if self.same_count:
            shares = [step[process :: self.num_processes] for process in range(min(self.num_processes, len(step)))]
            most = max(sum(1 for _ in self._micro_batches(groups)) for groups in shares)
            batches = [self._collate([step[0]], idle=True)] * (most - len(batches)) + batches
        return batches, num_tokens

    def _micro_batches(self, groups: Sequence[PrefixGroup]) -> Iterator[list[PrefixGroup]]:
        batch: list[PrefixGroup] = []
        longest = tokens = 0
        for group in groups:
            longest, tokens = max(longest, len(group)), tokens + self._num_tokens(group)
            too_many = (len(batch) + 1) * longest > self.micro_batch_size or tokens > self.micro_batch_tokens
            if batch and too_many:
                yield batch
                batch, longest, tokens = [], len(group), self._num_tokens(group)
            batch.append(group)
        yield batch

    def _targets(self, group: PrefixGroup) -> np.ndarray:
        return self.interactions[group.user][group.first : group.last]

    def _start(self, group: PrefixGroup) -> int:
        """Place of the oldest item that any sample of the group reads."""
        return max(0, group.first - self.tokenizer.max_history)

    def _num_tokens(self, group: PrefixGroup) -> int:
        """Tokens of a group's prompts; those of user prompts are bounded by the longest passage."""
        items = self.interactions[group.user][self._start(group) : group.last - 1]
        ids = (self.targets.lengths[items].sum() + 8).clip(max=self.tokenizer.max_passage_length)
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

    def _collate(self, groups: list[PrefixGroup], idle: bool) -> dict:
        """Inputs of the grouped form; see `GramForConditionalGeneration.forward` for the shapes."""
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
            targets[index, : len(group)] = self._targets(group)
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
        labels, _ = self.targets.take(np.maximum(targets, 0).flatten()).padded(-100)
        labels[targets.flatten() < 0] = -100
        if idle:
            labels = np.full_like(labels[:, :1], -100)
        slots = slots.reshape(rows.shape)
        history = {"input_ids": item_ids, "attention_mask": item_mask, "items": slots, "positions": positions}
        own = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self.with_samples:
            places = [np.arange(group.first, group.first + num_samples).clip(max=group.last - 1) for group in groups]
            offsets = self.interactions.offsets[[group.user for group in groups]]
            own["samples"] = (offsets[:, None] + places).flatten()
        history, own = ({name: torch.from_numpy(of) for name, of in arrays.items()} for arrays in (history, own))
        return {**own, "history": history}


def _steps(groups: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of groups (G, 3) of similar shape together, so that little is padded, in random order nevertheless."""
    _, firsts, lasts = groups.T
    sizes = lasts - firsts
    steps, chunk = [], max(int(_STEPS_SORTED_TOGETHER * batch_size / max(sizes.mean(), 1)), 1) if len(groups) else 1
    for start in range(0, len(groups), chunk):
        order = start + np.lexsort((lasts[start : start + chunk], sizes[start : start + chunk]))
        total, first = sizes[order].cumsum(), 0
        while first < len(order):
            before = total[first - 1] if first else 0
            last = min(int(np.searchsorted(total, before + batch_size)) + 1, len(order))
            steps.append(order[first:last])
            first = last
    return [steps[index] for index in rng.permutation(len(steps))]

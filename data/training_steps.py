"""Optimizer steps as batches: every prefix a sample, a user's prefixes grouped, each item prompt once.

A group is a run of consecutive prefixes of one user's sequence. Its samples share their history items, so the model
encodes each once and folds the samples into the query length of the cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from .interactions import Interactions

if TYPE_CHECKING:
    from ..tokenization_gram import GramTokenizer

_STEPS_SORTED_TOGETHER = 32


@dataclass(frozen=True)
class PrefixGroup:
    """Samples of one user: predict items `first ... last - 1` of the sequence, each from the items before it."""

    user: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def prefix_groups(interactions: Interactions, prefixes_per_group: int) -> list[PrefixGroup]:
    """All prefixes of all users, in groups of at most `prefixes_per_group`; the first item is never a target."""
    groups = []
    for user, length in enumerate(interactions.lengths.tolist()):
        count = max(-(-(length - 1) // prefixes_per_group), 1)
        bounds = np.linspace(1, length, count + 1).astype(int).tolist() if length > 1 else [1]
        groups += [PrefixGroup(user, first, last) for first, last in pairwise(bounds)]
    return groups


class TrainingSteps(Dataset):
    """The optimizer steps of one epoch: item `i` is what one process does in step `i`.

    The steps are a function of the arguments alone, so that training can resume at any of them, and the samples of a
    step are the same for any number of processes.

    Args:
        interactions: the training part.
        tokenizer: makes the prompts.
        batch_size: samples of a step, over all processes; the last groups may overshoot it by less than one group.
        micro_batch_size: samples that a process runs through the model at once.
        prefixes_per_group: see [`prefix_groups`].
        seed, epoch: determine the order.
        process, num_processes: which share of every step to give.
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
    ):
        self.interactions, self.tokenizer = interactions, tokenizer
        self.micro_batch_size, self.process, self.num_processes = micro_batch_size, process, num_processes
        rng = np.random.default_rng([seed, epoch])
        groups = prefix_groups(interactions, prefixes_per_group)
        self.steps = _steps([groups[index] for index in rng.permutation(len(groups))], batch_size, rng)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[list[dict], int]:
        """Micro-batches, keyword arguments of the model's `forward`, and the target tokens of all processes' shares."""
        step = self.steps[index]
        num_tokens = sum(len(self._target(group, place)) for group in step for place in range(group.first, group.last))
        # A process without a share still takes part in the exchange of gradients, with a sample that counts nothing.
        share = step[self.process :: self.num_processes] or [step[0]]
        idle = self.process >= len(step)
        return [self._collate(groups, idle) for groups in self._micro_batches(share)], num_tokens

    def _micro_batches(self, groups: Sequence[PrefixGroup]) -> Iterator[list[PrefixGroup]]:
        batch: list[PrefixGroup] = []
        for group in groups:
            if batch and (len(batch) + 1) * max(map(len, [*batch, group])) > self.micro_batch_size:
                yield batch
                batch = []
            batch.append(group)
        yield batch

    def _target(self, group: PrefixGroup, place: int) -> list[int]:
        return self.tokenizer.sequences[self.interactions[group.user][place]]

    def _collate(self, groups: list[PrefixGroup], idle: bool) -> dict:
        """Inputs of the grouped form; see `GramForConditionalGeneration.forward` for the shapes."""
        longest = self.tokenizer.max_history
        starts = [max(0, group.first - longest) for group in groups]
        num_samples = max(map(len, groups))  # R
        num_slots = max(group.last - 1 - start for group, start in zip(groups, starts, strict=True))  # S
        rows = np.full((len(groups), num_slots), -1)
        positions = np.zeros((len(groups), num_samples, num_slots), dtype=np.int64)
        prompts, labels = [], []
        for index, (group, start) in enumerate(zip(groups, starts, strict=True)):
            sequence = self.interactions[group.user]
            rows[index, : group.last - 1 - start] = sequence[start : group.last - 1]
            places = np.arange(group.first, group.last)
            distance = places[:, None] - np.arange(start, group.last - 1)
            within = (distance >= 1) & (distance <= longest)
            positions[index, : len(places), : distance.shape[1]] = np.where(within, distance, 0)
            for place in places:
                prompts.append(self.tokenizer.user_prompt(sequence[max(0, place - longest) : place][::-1]))
                labels.append([] if idle else self._target(group, place))
            prompts += [[self.tokenizer.eos_token_id]] * (num_samples - len(places))
            labels += [[]] * (num_samples - len(places))
        unique, slots = np.unique(rows, return_inverse=True)
        if unique[0] < 0:  # padding slots: no sample's history holds them, so any item will do
            unique, slots = unique[1:], np.maximum(slots - 1, 0)
        pad = self.tokenizer.pad_token_id
        input_ids, attention_mask = _pad(prompts, pad)
        item_ids, item_mask = _pad([self.tokenizer.item_prompts[row] for row in unique], pad)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": _pad(labels, -100)[0],
            "history": {
                "input_ids": item_ids,
                "attention_mask": item_mask,
                "items": torch.from_numpy(slots.reshape(rows.shape)),
                "positions": torch.from_numpy(positions),
            },
        }


def _steps(groups: list[PrefixGroup], batch_size: int, rng: np.random.Generator) -> list[list[PrefixGroup]]:
    """Groups of similar shape together, so that little is padded, and in random order nevertheless."""
    steps, start, average = [], 0, max(sum(map(len, groups)) / max(len(groups), 1), 1)
    while start < len(groups):
        chunk = groups[start : start + max(int(_STEPS_SORTED_TOGETHER * batch_size / average), 1)]
        start += len(chunk)
        step: list[PrefixGroup] = []
        for group in sorted(chunk, key=lambda group: (len(group), group.last)):
            step.append(group)
            if sum(map(len, step)) >= batch_size:
                steps.append(step)
                step = []
        steps += [step] if step else []
    return [steps[index] for index in rng.permutation(len(steps))]


def _pad(rows: Sequence[Sequence[int]], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one tensor (N, longest), filled up with `value`, and their mask."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(max(lengths.max(), 1)) < lengths[:, None]
    padded = np.full(mask.shape, value, dtype=np.int64)
    padded[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return torch.from_numpy(padded), torch.from_numpy(mask.astype(np.int64))

"""Optimizer steps as batches: every prefix a sample, a user's prefixes grouped, each item prompt once.

A group is a run of consecutive prefixes of one user's sequence. Its samples share their history items, so the model
encodes each once and folds the samples into the query length of the cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from ..data.interactions import Interactions
from ..data.samples import PrefixGroup, prefix_groups
from .batches import GroupedBatches

if TYPE_CHECKING:
    from ..tokenization_gram import GramTokenizer

_STEPS_SORTED_TOGETHER = 32
_THINNED = 1  # draws other numbers than the order of the steps does
# What steps take from `TrainingSettings`.
SIZES = ("batch_size", "micro_batch_size", "micro_batch_tokens", "prefixes_per_group", "prefixes_per_user", "seed")


def thinned(interactions: Interactions, dropout: float, seed: int, epoch: int) -> Interactions:
    """What an epoch takes of the training part: each interaction by chance, a user's last two always.

    Example:
        >>> part = thinned(Interactions.from_sequences(["a", "b"], [[0, 1, 2, 3, 4, 5], [6, 7]]), 0.5, seed=0, epoch=0)
        >>> [items.tolist() for items in part]
        [[2, 4, 5], [6, 7]]
    """
    if not dropout:
        return interactions
    is_kept = np.random.default_rng([seed, epoch, _THINNED]).random(len(interactions.items)) >= dropout
    for place in (1, 2):
        is_kept[interactions.offsets[1:][interactions.lengths >= place] - place] = True
    offsets = np.concatenate([[0], is_kept.cumsum()])[interactions.offsets]
    return Interactions(interactions.user_ids, interactions.items[is_kept], offsets)


class TrainingSteps(Dataset):
    """The optimizer steps of one epoch: item `i` is what one process does in step `i`.

    The steps are a function of the arguments alone, so that training can resume at any of them, and the samples of a
    step are the same for any number of processes.

    Args:
        interactions: the training part, or what is [`thinned`] of it.
        tokenizer: makes the prompts.
        batch_size: samples of a step, over all processes; the last groups may overshoot it by less than one group.
        micro_batch_size: samples that a process runs through the model at once.
        micro_batch_tokens: tokens of prompts that it encodes at once; a single group may have more.
        prefixes_per_group, prefixes_per_user: see [`prefix_groups`].
        seed, epoch: determine the order.
        process, num_processes: which share of every step to give.
        same_count: give every process as many micro-batches of a step; those that it has too few of count nothing.
        with_samples: leave `samples` in micro-batches, see [`GroupedBatches`].
        is_target: as of [`GroupedBatches`].
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
        self._batches = GroupedBatches(interactions, tokenizer, is_target)
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
        targets = np.concatenate([self._batches.targets(group) for group in step])
        num_tokens = int(self._batches.sequences.lengths[targets].sum())
        # A process without a share still takes part in the exchange of gradients, with a sample that counts nothing.
        share = step[self.process :: self.num_processes] or [step[0]]
        idle = self.process >= len(step)
        batches = [self._batches(groups, idle) for groups in self._micro_batches(share)]
        if self.same_count:
            shares = [step[process :: self.num_processes] for process in range(min(self.num_processes, len(step)))]
            most = max(sum(1 for _ in self._micro_batches(groups)) for groups in shares)
            batches = [self._batches([step[0]], idle=True)] * (most - len(batches)) + batches
        if not self.with_samples:
            batches = [{name: of for name, of in batch.items() if name != "samples"} for batch in batches]
        return batches, max(num_tokens, 1)  # 0 where all targets were removed from the catalogue

    def _micro_batches(self, groups: Sequence[PrefixGroup]) -> Iterator[list[PrefixGroup]]:
        batch: list[PrefixGroup] = []
        longest = tokens = 0
        for group in groups:
            longest, tokens = max(longest, len(group)), tokens + self._batches.num_tokens(group)
            too_many = (len(batch) + 1) * longest > self.micro_batch_size or tokens > self.micro_batch_tokens
            if batch and too_many:
                yield batch
                batch, longest, tokens = [], len(group), self._batches.num_tokens(group)
            batch.append(group)
        yield batch


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

"""Warm start without a download: a model learns to fill in spans cut out of the catalogue's own texts, as T5 did.

Of every passage 15 % of the tokens are cut out, in spans of three on average. A sentinel token stands in each span's
place, and the decoder writes every span after its sentinel.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset

from ..tokenization_gram import GramTokenizer
from .ragged import Ragged

NOISE_DENSITY, MEAN_SPAN_LENGTH = 0.15, 3.0


@lru_cache(maxsize=1)  # every epoch has steps of its own, over one catalogue
def denoising_passages(tokenizer: GramTokenizer) -> Ragged:
    """What is to be restored: each item's prompt, and its lexical ID with as much of its text as fits.

    In the prompts the model meets lexical IDs beside those of similar items, but there they may leave little text.
    """
    texts = [f"; {text}" for text in tokenizer.catalogue["text"].to_pylist()]
    texts = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    most, end = tokenizer.max_passage_length - 1, tokenizer.eos_token_id
    described = ([*[*item, *text][:most], end] for item, text in zip(tokenizer.lexical_ids, texts, strict=True))
    return Ragged.of([*tokenizer.item_prompts, *described])


def num_sentinels(tokenizer: GramTokenizer) -> int:
    """The most spans that are cut out of one passage."""
    return int(_noise(np.array(tokenizer.max_passage_length - 1))[1])


def sentinels_of(tokenizer: GramTokenizer, vocab_size: int) -> list[int]:
    """Ids of the sentinel tokens: T5's `<extra_id_0>` and so on, or ids of the model that are no token's.

    Raises:
        ValueError: the tokenizer has no sentinels, and all ids of the model are tokens of it.
    """
    wanted, vocabulary = num_sentinels(tokenizer), tokenizer.get_vocab()
    names = (f"<extra_id_{number}>" for number in range(wanted))
    found = [vocabulary[name] for name in names if name in vocabulary]
    found = found or list(range(len(tokenizer), vocab_size))[:wanted]
    if not found:
        raise ValueError(
            f"denoising_epochs: the tokenizer has no <extra_id_0>, and its {len(tokenizer)} tokens leave none of the "
            f"model's {vocab_size} ids to mark spans with; start from a model of a larger vocabulary, or from none"
        )
    return found


def corrupt(passage: np.ndarray, sentinels: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut spans out of a passage; the end token stays.

    Args:
        passage (L,): two tokens or more, and the end token.
        sentinels: ids of as many tokens as there may be spans.
        rng: chooses the spans.

    Returns:
        The passage with a sentinel in each span's place, and the spans, each after its sentinel, with the end token.

    Example:
        >>> passage = np.array([11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 1])
        >>> for tokens in corrupt(passage, [98, 99], np.random.default_rng(0)):
        ...     print(tokens)
        [11 12 13 14 15 16 17 98 20  1]
        [98 18 19  1]
    """
    tokens, end = passage[:-1], passage[-1:]
    num_noise, num_spans = map(int, _noise(np.array(len(tokens)), len(sentinels)))
    lengths = np.empty(2 * num_spans + 1, dtype=np.int64)  # of what stays and what goes, in turns
    lengths[1::2] = _parts(num_noise, num_spans, rng)
    lengths[::2] = _parts(len(tokens) - num_noise + 2, num_spans + 1, rng)
    lengths[[0, -1]] -= 1  # between two spans a token stays; before the first and after the last there may be none
    pieces = np.split(tokens, lengths.cumsum()[:-1])
    marks = [[sentinel] for sentinel in sentinels[:num_spans]]
    corrupted = [*chain(*zip(pieces[:-1:2], marks, strict=True)), pieces[-1], end]
    target = [*chain(*zip(marks, pieces[1::2], strict=True)), end]
    return np.concatenate(corrupted), np.concatenate(target)


def _noise(lengths: np.ndarray, most_spans: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens are cut out of passages of these lengths, without the end token, and in how many spans."""
    num_noise = np.clip(np.rint(lengths * NOISE_DENSITY), 1, None).astype(np.int64)
    return num_noise, np.clip(np.rint(num_noise / MEAN_SPAN_LENGTH), 1, most_spans).astype(np.int64)


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random lengths (count,) of at least 1 that add up to `total`."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


class DenoisingSteps(Dataset):
    """The optimizer steps of one epoch of denoising: item `i` is what one process does in step `i`.

    As with `TrainingSteps`, they are a function of the arguments alone, and together the processes do in a step what
    one would do. Each has as many micro-batches of a step; those that it has too few of count nothing.

    Args:
        tokenizer: see [`denoising_passages`].
        sentinels: see [`sentinels_of`].
        batch_size: passages of a step, over all processes.
        micro_batch_size: passages that a process runs through the model at once.
        seed, epoch: determine the order and the spans.
        process, num_processes: which share of every step to give.
        micro_batch_tokens: tokens that it encodes at once.
    """

    def __init__(
        self,
        tokenizer: GramTokenizer,
        sentinels: list[int],
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        epoch: int,
        process: int = 0,
        num_processes: int = 1,
        micro_batch_tokens: int = 16384,
    ):
        self.passages, self.sentinels = denoising_passages(tokenizer), sentinels
        self.pad_token_id, self.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        self.seed, self.epoch, self.process, self.num_processes = seed, epoch, process, num_processes
        lengths = self.passages.lengths
        self.most_at_once = max(min(micro_batch_size, micro_batch_tokens // int(lengths.max())), 1)
        order = np.random.default_rng([seed, epoch]).permutation(np.flatnonzero(lengths > 2))
        self.steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        return len(self.steps)

    def num_samples(self, index: int) -> int:
        """Passages of a step, over all processes."""
        return len(self.steps[index])

    def __getitem__(self, index: int) -> tuple[list[dict], int]:
        """Micro-batches, keyword arguments of the model's `forward`, and the target tokens of all processes' shares."""
        step = self.steps[index]
        num_noise, num_spans = _noise(self.passages.lengths[step] - 1, len(self.sentinels))
        share = step[self.process :: self.num_processes]
        largest = -(-len(step) // self.num_processes)
        batches = []
        for start in range(0, largest, self.most_at_once):
            rows = share[start : start + self.most_at_once]
            batches.append(self._collate(rows if len(rows) else step[:1], idle=not len(rows)))
        return batches, int((num_noise + num_spans + 1).sum())

    def _collate(self, rows: np.ndarray, idle: bool) -> dict:
        """Inputs of the grouped form, whose loss never holds all logits: user prompts, and no item that they read."""
        draw = (np.random.default_rng([self.seed, self.epoch, row + 1]) for row in rows.tolist())
        passages = (self.passages.values[slice(*self.passages.offsets[row : row + 2])] for row in rows)
        pairs = [corrupt(passage, self.sentinels, rng) for passage, rng in zip(passages, draw, strict=True)]
        corrupted, targets = zip(*pairs, strict=True)
        input_ids, attention_mask = Ragged.of(corrupted).padded(self.pad_token_id)
        labels, _ = Ragged.of(targets).padded(-100)
        labels = np.full_like(labels, -100) if idle else labels
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        nothing = {
            "input_ids": torch.full((1, 1), self.eos_token_id),
            "attention_mask": torch.ones(1, 1, dtype=torch.long),
            "items": torch.zeros(len(rows), 1, dtype=torch.long),
            "positions": torch.zeros(len(rows), 1, 1, dtype=torch.long),
        }
        return {**{name: torch.from_numpy(array) for name, array in arrays.items()}, "history": nothing}


__all__ = ["DenoisingSteps", "corrupt", "denoising_passages", "num_sentinels", "sentinels_of"]

"""Sequences of unequal length in two flat arrays, which worker processes share instead of copying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Sequences laid end to end.

    Attributes:
        values (T,): all sequences, one after the other.
        offsets (N + 1,): where each starts, and where the last one ends.
    """

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

    def padded(self, value: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, longest, at least 1) filled up with `value`, and the mask, 1 at what is real."""
        lengths = self.lengths
        mask = np.arange(max(lengths.max(initial=0), 1)) < lengths[:, None]
        rows = np.full(mask.shape, value, dtype=np.int64)
        rows[mask] = self.values
        return rows, mask.astype(np.int64)

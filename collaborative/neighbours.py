"""Which items are similar by their vectors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.extras import needs

MAX_SCORES = 1 << 24  # entries of a block of item-item cosines
EXACT_ITEMS = 30_000  # beyond, each item is compared with those of the nearest cells only
ITEMS_PER_CELL, CELLS_PROBED = 256, 16
TRAINING_ITEMS_PER_CELL = 64


def nearest_items(embeddings: Tensor | np.ndarray, k: int, first: int = 0) -> np.ndarray:
    """The `k` most similar items of every item, by cosine, or of those from row `first` on.

    Beyond 30,000 items faiss sorts them into cells, and each is compared with those of the 16 nearest cells.
    Gives (N - first, k) int32 for embeddings (N, d), nearest first, never the item itself, equally near ones by row; -1
    where the catalogue has too few.

    Example:
        >>> nearest_items(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1)
        array([[1],
               [0],
               [1]], dtype=int32)
    """
    vectors = F.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
    found = np.full((len(vectors) - first, k), -1, dtype=np.int32)
    kept = min(k, len(vectors) - 1)
    if kept <= 0:
        return found
    if len(vectors) > EXACT_ITEMS:
        found[:, :kept] = _approximate(vectors.numpy(), kept, first)
        return found
    rows = max(MAX_SCORES // len(vectors), 1)  # of the matrix (N, N) in memory at once
    for start in range(first, len(vectors), rows):
        cosines = vectors[start : start + rows] @ vectors.T  # (rows, N)
        own = torch.arange(len(cosines))
        cosines[own, start + own] = -torch.inf
        found[start - first : start - first + rows, :kept] = largest(cosines, kept)
    return found


def largest(values: Tensor, k: int) -> Tensor:
    """(rows, k) columns of the largest values, equal ones by column; `topk` alone breaks ties at will."""
    least = values.topk(k, dim=1).values[:, -1:]
    above, tied = values > least, values == least
    wanted = k - above.sum(dim=1, keepdim=True)
    columns = (above | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= wanted))).nonzero()[:, 1].view(-1, k)
    by_value = values.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    return columns.gather(1, by_value)


def _approximate(vectors: np.ndarray, k: int, first: int) -> np.ndarray:
    with needs("faiss", f"comparing more than {EXACT_ITEMS:,} items"):
        import faiss  # before its threads are limited
        from threadpoolctl import threadpool_limits

    found = np.zeros((len(vectors) - first, k), dtype=np.int32)
    with threadpool_limits(limits=1):  # sums in an order that does not depend on the number of cores
        quantizer = faiss.IndexFlatIP(vectors.shape[1])
        cells = len(vectors) // ITEMS_PER_CELL
        index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = TRAINING_ITEMS_PER_CELL
        index.train(vectors)
        index.add(vectors)
        index.nprobe = CELLS_PROBED
        rows = 1 << 14
        for start in range(first, len(vectors), rows):
            _, nearest = index.search(vectors[start : start + rows], k + 1)
            is_own = nearest == np.arange(start, start + len(nearest))[:, None]
            last = np.argsort(is_own, axis=1, kind="stable")[:, :k]  # its own row, if it is there, comes last
            found[start - first : start - first + rows] = np.take_along_axis(nearest, last, axis=1)
    return found

"""Which items are similar: by their vectors, by who has them, or as another tool says."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..data.interactions import Interactions

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
    import faiss  # before its threads are limited

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


def items_bought_together(interactions: Interactions, num_items: int, k: int) -> np.ndarray:
    """The items that share most users with each item: cosine of the columns of the binary user-item matrix.

    Gives (N, k) int32 of a training part over N items, nearest first, equally near ones by row; -1 where fewer share a
    user with the item.
    """
    found = np.full((num_items, k), -1, dtype=np.int32)
    row, column, _, place = _cosines(interactions, num_items, k, shrinkage=0.0)
    found[row, place] = column
    return found


def item_cosines(
    interactions: Interactions, num_items: int, neighbours: int | None = None, shrinkage: float = 0.0
) -> sparse.csr_matrix:
    """How alike items are by who has them: `common users / (sqrt(users of one * users of the other) + shrinkage)`.

    Args:
        interactions: the training part only.
        num_items: size of the catalogue, N.
        neighbours: of each row only so many of the largest values, equal ones by column; none: all.
        shrinkage: lowers the cosines of items with few users.

    Returns:
        (N, N) float32, its diagonal empty.
    """
    row, column, value, _ = _cosines(interactions, num_items, neighbours, shrinkage)
    return sparse.csr_matrix((value.astype(np.float32), (row, column)), (num_items, num_items))


def similar_texts(vectors: np.ndarray, k: int) -> sparse.csr_matrix:
    """(N, N) shares of each item's `k` nearest by the vectors (N, d), in proportion to the cosines above 0."""
    nearest = nearest_items(vectors, k)
    vectors = F.normalize(torch.as_tensor(vectors, dtype=torch.float32), dim=1).numpy()
    cosines = np.stack([(vectors * vectors[rows]).sum(axis=1) for rows in nearest.T], axis=1)  # (N, k)
    row, place = ((nearest >= 0) & (cosines > 0)).nonzero()
    return row_shares(sparse.csr_matrix((cosines[row, place], (row, nearest[row, place])), (len(vectors),) * 2))


def row_shares(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The matrix with each row divided by its sum; an empty one stays empty."""
    total = np.asarray(matrix.sum(axis=1)).ravel()
    return (sparse.diags(1 / np.where(total > 0, total, 1)) @ matrix).tocsr()


def _cosines(interactions: Interactions, num_items: int, k: int | None, shrinkage: float) -> tuple[np.ndarray, ...]:
    """Rows, columns and values of `item_cosines`, and their places in the rows; it is worked on some rows at once."""
    users = np.repeat(np.arange(len(interactions)), interactions.lengths)
    seen = sparse.csr_matrix((np.ones(len(users)), (users, interactions.items)), (len(interactions), num_items))
    seen.data[:] = 1  # bought twice is bought
    norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
    by_item, rows, parts = seen.tocsc(), 1 << 12, []
    for start in range(0, num_items, rows):
        common = (by_item[:, start : start + rows].T @ seen).tocoo()  # (rows, N)
        others = common.row + start != common.col
        row, column = common.row[others] + start, common.col[others]
        value = common.data[others] / (norms[row] * norms[column] + shrinkage)
        order = np.lexsort((column, -value.round(12), row))  # rounded: a tie must not hang on the last bit
        row, column, value = row[order], column[order], value[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        kept = place < (num_items if k is None else k)
        parts.append((row[kept], column[kept], value[kept], place[kept]))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

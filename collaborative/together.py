"""Which items are similar by who has them, as sparse matrices."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..common.extras import needs
from ..data.interactions import Interactions
from .neighbours import nearest_items

with needs("train"):
    from scipy import sparse


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

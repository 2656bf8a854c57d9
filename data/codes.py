"""Interactions as columns of integer codes: what to keep of them, and in which order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def first_of_each(*columns: np.ndarray) -> np.ndarray:
    """(n,) bool: the first of the rows that are alike in all columns."""
    order = np.lexsort(columns)
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    first = np.ones(len(order), dtype=bool)
    first[order[1:][same]] = False
    return first


def k_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """Rows that are left when users and items with too few interactions are dropped again and again.

    Args:
        users: (n,) codes from 0.
        items: (n,) codes from 0.
        user_core: fewest interactions of a user.
        item_core: fewest interactions of an item.

    Returns:
        (m,) rows in ascending order.
    """
    kept = np.arange(len(users))
    while True:
        enough = np.ones(len(kept), dtype=bool)
        for codes, core in ((users[kept], user_core), (items[kept], item_core)):
            enough &= np.bincount(codes)[codes] >= core
        if enough.all():
            return kept
        kept = kept[enough]


def recoded(codes: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Codes of the ids that are left, in order: by number if all are numbers, else as text."""
    left = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    ids = ids.take(pa.array(left))
    keys = {"text": ids}
    if pc.all(pc.match_substring_regex(ids, r"^[0-9]{1,18}$")).as_py():
        keys = {"number": ids.cast(pa.int64()), **keys}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    new = np.full(len(np.bincount(codes)), -1, dtype=np.int32)
    new[left[order]] = np.arange(len(left), dtype=np.int32)
    return new[codes], ids.take(pa.array(order))

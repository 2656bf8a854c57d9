"""Whether two runs are of the same: data by their hash, settings by their values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..collaborative.fitting import hash_of_interactions
from ..common.provenance import hash_of_texts
from ..data import RecommendationData


def hash_of_data(data: RecommendationData) -> str:
    """SHA-256 of all that a reproduction reads of a data set: items with their texts, users, sequences, splits."""
    items = data.items
    texts = hash_of_texts(items.item_ids, items.titles, items.texts, data.interactions.user_ids)
    digest = hashlib.sha256(f"{texts} {hash_of_interactions(data.interactions)} ".encode())
    digest.update(data.splits.astype("i1").tobytes())
    return digest.hexdigest()


def hash_of_ranks(ranks: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of every user's rank (U,), for each protocol."""
    digest = hashlib.sha256()
    for protocol in sorted(ranks):
        digest.update(protocol.encode() + ranks[protocol].astype("<i8").tobytes())
    return digest.hexdigest()


def settings_differ(written: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first entry in which two trees of settings differ, for an error; empty where they are the same.

    Entries that only one of them has are left out, so that a new setting does not make old results stale.

    Example:
        >>> settings_differ({"training": {"epochs": 2}}, {"training": {"epochs": 3, "label_smoothing": 0.1}})
        'training.epochs=2, now 3'
    """
    for name in (name for name in written if name in wanted):
        before, now = written[name], wanted[name]
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            difference = settings_differ(before, now)
            if difference:
                return f"{name}.{difference}"
        elif before != now:
            return f"{name}={before}, now {now}"
    return ""

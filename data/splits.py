"""Leave-one-out: a user's last item is for testing, the one before for validation, the rest for training."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .interactions import Interactions


def training_part(interactions: Interactions) -> Interactions:
    """All but the last two items of every user.

    Raises:
        ValueError: where a user has fewer than 3 items.
    """
    return _without_last(interactions, 2)


def evaluation_histories(
    interactions: Interactions, split: Literal["validation", "test"]
) -> tuple[Interactions, np.ndarray]:
    """What is known of every user when the held-out item is to be predicted, and that item.

    Args:
        interactions: whole sequences.
        split: `"validation"` (target: the last item but one) or `"test"` (target: the last item; the history then
            includes the validation item).

    Returns:
        The histories (U users) and the targets, (U,) int32 rows of the catalogue.

    Raises:
        ValueError: for another split, or where a user has fewer than 3 items.
    """
    held_out = {"validation": 2, "test": 1}.get(split)
    if held_out is None:
        raise ValueError(f"split is {split!r}; it must be 'validation' or 'test'")
    histories = _without_last(interactions, held_out)
    targets = interactions.items[interactions.offsets[1:] - held_out]
    return histories, targets.astype(np.int32)


def _without_last(interactions: Interactions, count: int) -> Interactions:
    lengths = interactions.lengths
    if (lengths < 3).any():
        user = int(np.argmax(lengths < 3))
        name = interactions.user_ids[user]
        raise ValueError(f"user {name} has {lengths[user]} items, leave-one-out needs at least 3; drop the user")
    kept = lengths - count
    offsets = np.concatenate([[0], np.cumsum(kept)])
    place = np.arange(len(interactions.items)) - np.repeat(interactions.offsets[:-1], lengths)
    return Interactions(interactions.user_ids, interactions.items[place < np.repeat(kept, lengths)], offsets)

"""Many users: batches of like history length, and every item encoded once for as many of them as memory allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..item_cache_gram import ItemCache

MOST_BYTES = 1 << 30  # of a group's item encodings in memory; of two groups' while one follows the other


def batches_of_users(
    model,
    tokenizer,
    histories: Sequence[Sequence[int]],
    batch_size: int,
    item_cache: ItemCache | None = None,
    progress: bool = False,
) -> Iterator[tuple[np.ndarray, ItemCache]]:
    """Batches of users of like history length, each with a cache that holds their items.

    Where no cache is given, users are taken in groups whose items' encodings, in float32, fill at most `MOST_BYTES`,
    and the items of a group are encoded once. Histories are catalogue rows, oldest first.

    Yields:
        Indices of users, longest histories first (little padding, and what does not fit in memory shows at once), and
        the cache.
    """
    read = [np.asarray(history)[-tokenizer.max_history :].tolist() for history in histories]
    order = np.argsort([-len(history) for history in read], kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if item_cache is not None:
        yield from ((batch, item_cache) for batch in batches)
        return
    start = 0
    while start < len(batches):
        items, size, end = set(), 0, start
        while end < len(batches):
            own = {row for user in batches[end] for row in read[user]} - items
            size += _num_bytes(model, tokenizer, own)
            if end > start and size > MOST_BYTES:
                break
            items.update(own)
            end += 1
        cache = ItemCache.in_memory(model, tokenizer, sorted(items), progress=progress)
        yield from ((batch, cache) for batch in batches[start:end])
        start = end


def cache_of_users(model, tokenizer, histories: Iterable[Sequence[int]], progress: bool = False) -> ItemCache | None:
    """A cache of all items that the model reads of these histories; None where it would fill more than `MOST_BYTES`."""
    items = {int(row) for history in histories for row in history[-tokenizer.max_history :]}
    fits = _num_bytes(model, tokenizer, items) <= MOST_BYTES
    return ItemCache.in_memory(model, tokenizer, sorted(items), progress=progress) if fits else None


def _num_bytes(model, tokenizer, rows: set[int]) -> int:
    prompts = tokenizer.item_prompts
    return 4 * model.config.d_model * sum(len(prompts[row]) for row in rows)

"""Random catalogues for benchmarks: lexical IDs of any number of items, and the plain form of their trie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LENGTH, FAN_OUT = 7, 20  # tokens of a lexical ID before its end token, and choices at each
END = 1


def random_ids(num_items: int, vocab_size: int, seed: int) -> np.ndarray:
    """Distinct lexical IDs of one length whose first tokens are shared, as in a cluster tree.

    Memory beside the result is three numbers an item, so that 10 million items are little.

    Args:
        num_items: I, far below the 20 ** 7 possible IDs.
        vocab_size: tokens 3 and on are words.
        seed: of the draw.

    Returns:
        (I, 8) int32, the end token last, in random order.
    """
    draw = np.random.default_rng(seed)
    tokens = draw.permutation(np.arange(3, vocab_size, dtype=np.int32))[: FAN_OUT * LENGTH].reshape(LENGTH, FAN_OUT)
    codes = draw.integers(FAN_OUT**LENGTH, size=num_items + num_items // 10 + 10)
    codes.sort()
    codes = codes[np.append(True, codes[1:] != codes[:-1])]
    draw.shuffle(codes)
    codes = codes[:num_items]
    ids = np.full((num_items, LENGTH + 1), END, dtype=np.int32)
    for place in range(LENGTH):
        ids[:, place] = tokens[place, codes % FAN_OUT]
        codes //= FAN_OUT
    return ids


def prefix_table(ids: Iterable[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """The tokens that may follow each prefix of the lexical IDs: what `prefix_allowed_tokens_fn` looks up."""
    table: dict[tuple[int, ...], list[int]] = {}
    for row in ids:
        tokens = tuple(map(int, row))
        for place, token in enumerate(tokens):
            following = table.setdefault(tokens[:place], [])
            if token not in following:
                following.append(token)
    return table

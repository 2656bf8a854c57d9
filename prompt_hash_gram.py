"""What decides the item prompts of a catalogue, as hashes: two catalogues of one hash have the same prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# All of a tokenizer's own settings that decides what an item prompt is.
SETTINGS = (
    *("max_passage_length", "with_item_prompts", "with_id_in_item_prompt"),
    *("eos_token_id", "split_special_tokens"),
)


def prompt_hasher(tokenizer) -> Callable[[int, int], str]:
    """A function that gives, for catalogue rows `first` up to `after`, the SHA-256 of all that makes their prompts.

    The prompts themselves are not made, which would take longer than all else that opening a cache does.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())  # what a call has left of truncation does not matter
    parts = [backend[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
    parts += [getattr(tokenizer, name) for name in SETTINGS]
    common = json.dumps(parts, sort_keys=True).encode()
    columns = {name: tokenizer.catalogue[name] for name in ("text", "lexical_id", "similar_items")}
    neighbours = pc.index_in(columns["similar_items"].combine_chunks().flatten(), tokenizer.catalogue["item_id"])
    ends = np.cumsum(pc.list_value_length(columns["similar_items"]).to_numpy())

    def hash_of_prompts(first: int, after: int) -> str:
        digest = hashlib.sha256(common)
        for column in columns.values():
            _add_strings(digest, column.slice(first, after - first))
        begin, end = (int(ends[row - 1]) if row else 0 for row in (first, after))
        _add_strings(digest, columns["lexical_id"].take(neighbours[begin:end]))
        return digest.hexdigest()

    return hash_of_prompts


def _add_strings(digest, column: pa.ChunkedArray) -> None:
    """Hash a column of strings, or of lists of them, unambiguous in where one ends."""
    if pa.types.is_list(column.type):
        digest.update(pc.list_value_length(column).to_numpy())
        column = pc.list_flatten(column)
    digest.update(pc.binary_length(column).to_numpy())
    digest.update("".join(column.to_pylist()).encode("utf-8", "surrogatepass"))


__all__ = ["prompt_hasher"]

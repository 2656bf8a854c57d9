"""Search in the catalogue by words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...tokenization_gram import GramTokenizer
from ...trie_gram import ItemTrie


class CatalogueSearch:
    """Finds items by the beginnings of words in their id, title or text, whatever their case. Threads may share one.

    Args:
        tokenizer: with the catalogue.
        trie: the model's; items that it leaves out are not found.
    """

    def __init__(self, tokenizer: GramTokenizer, trie: ItemTrie):
        table, self._rows = tokenizer.catalogue, tokenizer.item_rows
        self._is_in = (trie.leaves >= 0).numpy(force=True)
        self._titles = _spelled(table["title"])
        self._all = pc.binary_join_element_wise(_spelled(table["item_id"]), self._titles, _spelled(table["text"]), "")

    def find(self, query: str) -> np.ndarray:
        """Rows (n,) of the items that hold every word of the query, or its beginning; every item where it has none.

        First the item of which this is the id, then items with all words in the title, then the others.
        """
        words = _spelled(pa.chunked_array([[query]]))[0].as_py().split()
        by_title, found = _hold(self._titles, words), np.flatnonzero(_hold(self._all, words) & self._is_in)
        is_it = found == self._rows.get(query.strip(), -1)
        return found[np.lexsort([found, ~by_title[found], ~is_it])]


def _hold(texts: pa.ChunkedArray, words: list[str]) -> np.ndarray:
    held = [pc.match_substring(texts, f" {word}").to_numpy() for word in words]
    return np.logical_and.reduce(held) if held else np.ones(len(texts), dtype=bool)


def _spelled(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lower-case words, each after a space."""
    texts = pc.utf8_lower(pc.fill_null(texts, ""))
    return pc.binary_join_element_wise("", pc.replace_substring_regex(texts, r"[^\pL\pN\pM]+", " "), " ")

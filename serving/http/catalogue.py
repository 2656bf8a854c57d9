"""Search in the catalogue by words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...tokenization_gram import GramTokenizer


class CatalogueSearch:
    """Finds items by the beginnings of words in their id, title or text, whatever their case. Threads may share one.

    Args:
        tokenizer: with the catalogue.
        num_items: rows of the catalogue that count, from the first: those of the model's item trie.
    """

    def __init__(self, tokenizer: GramTokenizer, num_items: int):
        self.tokenizer, self.num_items = tokenizer, num_items
        table = tokenizer.catalogue.slice(0, num_items)
        self._titles = _spelled(table["title"])
        self._all = pc.binary_join_element_wise(_spelled(table["item_id"]), self._titles, _spelled(table["text"]), "")

    def find(self, query: str) -> np.ndarray:
        """Catalogue rows of the items that hold every word of the query.

        Args:
            query: words, of which a beginning is enough; none: every item.

        Returns:
            Rows (n,): the item of which this is the id, then items with all words in the title, then the others; in
            the order of the catalogue.
        """
        words = _spelled(pa.chunked_array([[query]]))[0].as_py().split()
        found = np.flatnonzero(self._holds(self._all, words))
        by_title = self._holds(self._titles, words)[found]
        is_it = found == self.tokenizer.item_rows.get(query.strip(), -1)
        return found[np.lexsort([found, ~by_title, ~is_it])]

    def _holds(self, texts: pa.ChunkedArray, words: list[str]) -> np.ndarray:
        held = np.ones(self.num_items, dtype=bool)
        for word in words:
            held &= pc.match_substring(texts, f" {word}").to_numpy()
        return held


def _spelled(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lower-case words, each after a space."""
    texts = pc.utf8_lower(pc.fill_null(texts, ""))
    return pc.binary_join_element_wise("", pc.replace_substring_regex(texts, r"[^\pL\pN\pM]+", " "), " ")

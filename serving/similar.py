"""Which items are like an item: by what the model reads of them, or by who has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..collaborative.neighbours import largest
from ..common.files import check_outputs, holds_table, new_file
from ..item_cache_gram import ItemCache
from ..pipeline_gram import check_search
from .recommendation import Recommendation, Recommender

TEXT, USERS, BOTH = "text", "users", "both"
SOURCES = (TEXT, USERS, BOTH)


class SimilarItems:
    """Finds the items that are like an item. Threads may share one.

    Args:
        recommender: its item cache holds all items; without one all are encoded.
    """

    def __init__(self, recommender: Recommender):
        self.recommender = recommender
        self.cache = recommender.item_cache or ItemCache.in_memory(recommender.model, recommender.tokenizer)
        self.vectors = self.cache.pooled()  # (N, d)

    def find(
        self,
        item: str | Mapping[str, Any],
        top_k: int = 10,
        by: str = BOTH,
        exclude: Sequence[str] = (),
        only: Sequence[str] | None = None,
        where: Sequence[str] = (),
    ) -> list[Recommendation]:
        """The items that are most like one, at most `top_k`, most alike first, never itself.

        Args:
            item: its id; or its fields, such as `{"title": "Silk soap"}`, if it is in no catalogue.
            top_k: how many.
            by: `"text"`: by the model's encodings of the item prompts, scored by the cosine of their means. `"users"`:
                those that the catalogue calls similar, as the same users take them, scored by 1 / rank: few, and none
                of an item that is in no catalogue. `"both"`: by the sum of 1 / rank in the two lists.
            exclude, only, where: as of [`Recommender.recommend`].

        Raises:
            ValueError: the item is not in the catalogue, or has no text; another argument has an impossible value.

        Example:
            >>> similar = SimilarItems(Recommender(model, tokenizer))
            >>> [found.item_id for found in similar.find("B0003", top_k=2, by="users")]
            ['B0...', 'B0...']
        """
        if by not in SOURCES:
            raise ValueError(f"by is {by!r}; it must be one of {', '.join(SOURCES)}")
        check_search(top_k=top_k)
        tokenizer = self.recommender.tokenizer
        (own,) = self.recommender.rows_or_texts([item])
        may = self._may_be_shown(own, self.recommender.allowed_rows(exclude, only, where))
        by_text, by_users = [], []
        if by != USERS:
            cosines = (self.vectors @ self._vector(own)).masked_fill(~may, -torch.inf)
            by_text = largest(cosines[None], min(top_k, int(may.sum())))[0].tolist() if may.any() else []
        if by != TEXT and isinstance(own, int):
            others = tokenizer.catalogue["similar_items"][own].as_py()
            by_users = [row for row in map(tokenizer.item_rows.get, others) if may[row]]
        if by == TEXT:
            scores = {row: float(cosines[row]) for row in by_text}
        else:
            scores = dict.fromkeys((*by_text, *by_users), 0.0)
            for rows in (by_text, by_users):
                for rank, row in enumerate(rows, start=1):
                    scores[row] += 1 / rank
        best = sorted(scores, key=lambda row: (-scores[row], row))[:top_k]
        return [Recommendation(tokenizer.item_ids[row], tokenizer.titles[row], scores[row]) for row in best]

    def _may_be_shown(self, own: int | str, allowed: np.ndarray | None) -> torch.Tensor:
        """(N,) bool: what may be recommended, and is not the item itself."""
        may = (self.recommender.model.item_trie.leaves >= 0).to(self.vectors.device)
        if allowed is not None:
            is_allowed = torch.zeros_like(may)
            is_allowed[torch.from_numpy(allowed)] = True
            may &= is_allowed
        if isinstance(own, int):
            may[own] = False
        return may

    def _vector(self, own: int | str) -> torch.Tensor:
        if isinstance(own, int):
            return self.vectors[own]
        model, tokenizer = self.recommender.model, self.recommender.tokenizer
        with_text = self.cache.with_prompts(model, tokenizer.text_prompts([own]))
        return with_text.pooled([self.cache.num_items])[0]


def export_vectors(recommender: Recommender, output: str | Path) -> tuple[int, int]:
    """Write a vector for each item that may be recommended, for a vector index; gives how many, and their length.

    They are the means of the encodings of the item prompts, float32 of length 1, so that an inner product is a cosine.
    In `.parquet` the columns are `item_id` and `vector`; in `.npy` the rows are those of the catalogue, all of them.

    Raises:
        ValueError: the output has another ending, or is there and holds something else.

    Example:
        >>> export_vectors(Recommender(model, tokenizer), "vectors.parquet")
        (30, 32)
    """
    output = Path(output)
    if output.suffix not in (".parquet", ".npy") or output.is_dir():
        raise ValueError(f"{output}: give the name of a file that ends in .parquet or .npy")
    check_outputs({output: lambda path: path.suffix == ".parquet" and holds_table(path, "item_id", "vector")})
    vectors = SimilarItems(recommender).vectors.numpy(force=True)
    rows = np.flatnonzero((recommender.model.item_trie.leaves >= 0).numpy(force=True))
    with new_file(output) as part:
        if output.suffix == ".npy":
            with part.open("wb") as file:
                np.save(file, vectors)
            return vectors.shape
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), vectors.shape[1])
        ids = pa.array([recommender.tokenizer.item_ids[row] for row in rows.tolist()], pa.string())
        pq.write_table(pa.table({"item_id": ids, "vector": lists}), part)
    return len(rows), vectors.shape[1]

"""Recommending to a few users at once, or to many in batches of like history length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..item_cache_gram import ItemCache
from ..modeling_gram import GramForConditionalGeneration
from ..pipeline_gram import UserItems, items_of_rows, recommend_rows
from ..tokenization_gram import GramTokenizer
from .loading import find_item_cache, load_model
from .user_batches import batches_of_users


@dataclass(frozen=True)
class Recommendation:
    """An item of the catalogue for a user, with its title there.

    `score`: mean log-probability of the tokens of the item's lexical ID, end token included; higher is better.
    """

    item_id: str
    title: str
    score: float


class Recommender:
    """A model with its item trie, in evaluation mode, and its tokenizer. Threads may share one.

    Args:
        batch_size: users in one search.
        item_cache: with the encodings of all items; without it the items of the histories are encoded at every call.

    Example:
        >>> recommender = Recommender.from_pretrained(model_folder)
        >>> recommender.recommend([["B0003", "B0007"]], top_k=1)
        [[Recommendation(item_id='B0...', title='...', score=-...)]]
    """

    def __init__(
        self,
        model: GramForConditionalGeneration,
        tokenizer: GramTokenizer,
        batch_size: int = 16,
        item_cache: ItemCache | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.model, self.tokenizer, self.batch_size, self.item_cache = model, tokenizer, batch_size, item_cache
        self._is_available: np.ndarray | None = None  # (N,) bool, replaced and never changed; None: all are
        self._changing = Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        batch_size: int = 16,
        item_cache: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
    ) -> Recommender:
        """Load a model folder, or a model of the Hub, and its item cache: that in `item_cache`, or in the model folder.

        Raises as [`load_model`] and [`find_item_cache`] do.
        """
        model, tokenizer = load_model(name_or_path, revision, device)
        return cls(model, tokenizer, batch_size, find_item_cache(name_or_path, model, tokenizer, item_cache, revision))

    def recommend(
        self,
        histories: Sequence[Sequence[str | Mapping[str, Any]]],
        top_k: int = 10,
        exclude_seen: bool = True,
        num_beams: int = 50,
        exclude: Sequence[str] = (),
        only: Sequence[str] | None = None,
        where: Sequence[str] = (),
        skip_unknown: bool = True,
        cold_share: float = 0.0,
        cold_below: int = 1,
    ) -> list[UserItems]:
        """The next items of each user: at most `top_k`, best first, fewer where the catalogue has no more.

        Each is a list of [`Recommendation`], which also says which items of the history were `skipped`, as the
        catalogue does not have them, and whether it `is_fallback`: what is popular, where no item of them is known.

        Args:
            histories: item ids of each user, oldest first; the model reads the newest of them. An item that is in no
                catalogue may be given by its fields, such as `{"title": "Silk soap"}`, in place of an id.
            top_k: items per user.
            exclude_seen: leave out every item of the user's whole history.
            num_beams: width of the search; at least `top_k` are taken.
            exclude: ids of items that none of these users gets: what is sold out, say.
            only: ids of the items that they may get; by default all.
            where: conditions that what they get meets, such as `genres=Comedy`; see [`GramTokenizer.allowed_rows`].
            skip_unknown: read what the catalogue has of each history; without it all must be there.
            cold_share, cold_below: this share of the `top_k` is for items with fewer interactions than that, for new
                ones if it is 1; see [`gram.pipeline_gram.recommend_rows`].

        Raises:
            ValueError: a history is no list of strings; `exclude` or `only` holds an item that is not in the catalogue,
                or without `skip_unknown` a history does, or is empty; a condition cannot be evaluated; a number is
                below 1.

        Example:
            >>> users = Recommender(model, tokenizer).recommend([["B0003", "B0007"], ["B0001"]], top_k=3)
            >>> [len(items) for items in users]
            [3, 3]
        """
        allowed, found = self.allowed_rows(exclude, only, where), []
        search = {"top_k": top_k, "exclude_seen": exclude_seen, "num_beams": num_beams}
        search |= {"cold_share": cold_share, "cold_below": cold_below}
        place = "histories[{}]: " if len(histories) > 1 else ""
        users = [
            self.tokenizer.known_rows(history, where) if skip_unknown else (self.rows_or_texts(history, where), [])
            for history, where in zip(histories, map(place.format, range(len(histories))), strict=True)
        ]
        for start in range(0, len(users), self.batch_size):
            rows, skipped = zip(*users[start : start + self.batch_size], strict=True)
            best = self.recommend_rows(rows, self.item_cache, allowed=allowed, **search)
            for items, history, strangers in zip(items_of_rows(self.tokenizer, *best), rows, skipped, strict=True):
                items = (Recommendation(**item) for item in items)
                found.append(UserItems(items, strangers, is_fallback=not history))
        return found

    def set_available(self, items: Sequence[str], available: bool = True) -> None:
        """From the next call on recommend these items to nobody, or again to whom they suit; all are at first.

        Raises:
            ValueError: an item is not in the catalogue; nothing is changed then.

        Example:
            >>> recommender = Recommender(model, tokenizer)
            >>> (before,) = recommender.recommend([["B0003"]], top_k=1)
            >>> recommender.set_available([before[0].item_id], False)
            >>> recommender.recommend([["B0003"]], top_k=1)[0] == before
            False
        """
        rows = self.tokenizer.rows_of(items)
        with self._changing:
            now = np.ones(len(self.tokenizer.item_ids), bool) if self._is_available is None else self._is_available
            now = now.copy()
            now[rows] = available
            self._is_available = None if now.all() else now

    def is_available(self, item: str) -> bool:
        """Whether `set_available` has left this item of the catalogue in."""
        now = self._is_available
        return now is None or bool(now[self.tokenizer.item_rows[item]])

    @property
    def unavailable(self) -> list[str]:
        """Ids of the items that `set_available` has taken out, in the order of the catalogue."""
        now = self._is_available
        return [] if now is None else [self.tokenizer.item_ids[row] for row in np.flatnonzero(~now).tolist()]

    def allowed_rows(
        self, exclude: Sequence[str] = (), only: Sequence[str] | None = None, where: Sequence[str] = ()
    ) -> np.ndarray | None:
        """Rows of the items that may be recommended now; see [`GramTokenizer.allowed_rows`]."""
        rows, now = self.tokenizer.allowed_rows(exclude, only, where), self._is_available
        if now is None:
            return rows
        return np.flatnonzero(now) if rows is None else rows[now[rows]]

    def rows_or_texts(self, items: Sequence[str | Mapping[str, Any]], place: str = "") -> list[int | str]:
        """What [`GramTokenizer.known_rows`] gives of items that must all be known, and be some.

        Raises:
            ValueError: led in by `place`: it is empty, or an item is not in the catalogue or has no text.
        """
        read, skipped = self.tokenizer.known_rows(items, place)
        if skipped or not read:
            self.tokenizer.history_rows(skipped, place)  # says what is wrong
        return read

    def recommend_rows(
        self, histories: Sequence[Sequence[int | str]], item_cache: ItemCache | None, **search: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """One search for users whose histories are rows or texts; see [`gram.pipeline_gram.recommend_rows`]."""
        return recommend_rows(self.model, self.tokenizer, histories, item_cache=item_cache, **search)


def search_users(
    recommender: Recommender, histories: Sequence[Sequence[int | str]], search: Mapping[str, Any], item_cache, bar: tqdm
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (U, K) for users in their order, -1 and -inf for none; those of like history length together."""
    model, tokenizer = recommender.model, recommender.tokenizer
    rows = np.full((len(histories), min(search["top_k"], model.item_trie.num_items)), -1)
    scores = np.zeros(rows.shape, dtype=np.float32)
    for users, cache in batches_of_users(model, tokenizer, histories, recommender.batch_size, item_cache):
        batch = [histories[user] for user in users]
        rows[users], scores[users] = recommender.recommend_rows(batch, cache, **search)
        bar.update(len(users))
    return rows, scores

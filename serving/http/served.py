"""What a server serves: a model that can be exchanged for another while requests are answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

from ..recommendation import Recommender
from ..similar import SimilarItems
from .catalogue import CatalogueSearch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """A model with all that is made for it once; `since` is when it was loaded, in seconds since 1970."""

    recommender: Recommender
    since: float

    @cached_property
    def search(self) -> CatalogueSearch:
        """In its catalogue."""
        return CatalogueSearch(self.recommender.tokenizer, self.recommender.model.item_trie)

    @cached_property
    def similar(self) -> SimilarItems:
        """To its items."""
        return SimilarItems(self.recommender)


class Served:
    """The model that new requests get; those that have arrived keep theirs.

    Args:
        load: makes the recommender, and makes it anew for every reload.
    """

    def __init__(self, load: Callable[[], Recommender]):
        self._load, self._reloading = load, Lock()
        self._exchange = Lock()  # so that what becomes unavailable meanwhile is not forgotten
        self.now = Generation(load(), time.time())

    @property
    def recommender(self) -> Recommender:
        """Of the model that new requests get."""
        return self.now.recommender

    def set_available(self, item: str, available: bool) -> None:
        """As of [`Recommender.set_available`], and for the models that come after this one too."""
        with self._exchange:
            self.recommender.set_available([item], available)

    def reload(self) -> None:
        """Load the model again, and serve it from then on; where that fails, the old one goes on.

        What is unavailable stays so, as far as the new catalogue has it. While one reload is on its way, others do
        nothing.
        """
        if not self._reloading.acquire(blocking=False):
            return
        try:
            new = self._load()
            with self._exchange:
                gone = [item for item in self.recommender.unavailable if item in new.tokenizer.item_rows]
                new.set_available(gone, False)
                self.now = Generation(new, time.time())
            logger.info({"event": "reload", "items": int(new.model.item_trie.sizes[0])})
        except Exception as error:
            logger.exception("the model was not reloaded, the old one is served on: %s", error)
        finally:
            self._reloading.release()

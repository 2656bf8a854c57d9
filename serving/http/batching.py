"""Dynamic batching: users of concurrent requests share one search."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from ..recommendation import Recommendation, Recommender
from .metrics import ServerMetrics
from .settings import ServeSettings

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """More users wait than may.

    Attributes:
        retry_after: whole seconds in which the queue is likely to have moved on.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"too many users are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class SearchError(Exception):
    """A search failed, by no fault of the request; the log says why."""


@dataclass(eq=False)
class _User:
    """One who waits for a search. Searches are of users with the same `search`: width, and whether seen items count."""

    history: Sequence[str]
    top_k: int
    search: tuple[int, bool]
    arrived: float
    found: asyncio.Future


class Batcher:
    """Gathers users who wait, and searches for them together in a thread of its own.

    A batch is the user who has waited longest and those who want the same kind of search, in order of arrival. Its
    search ranks as many items as the most demanding of them wants, and each gets the best of their own number, so that
    everyone gets what [`Recommender.recommend`] gives them alone. All methods belong to the event loop's thread.

    Args:
        recommender: with a cache of all items, and a batch size that is not below the settings'.
        settings: batch size, longest wait, longest queue.
        metrics: told of every search.
    """

    def __init__(self, recommender: Recommender, settings: ServeSettings, metrics: ServerMetrics):
        self.recommender, self.settings, self.metrics = recommender, settings, metrics
        self._max_wait = settings.max_wait_ms / 1000
        self._waiting: dict[_User, None] = {}  # in order of arrival
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
        self._worker: asyncio.Task | None = None

    @property
    def num_waiting(self) -> int:
        """Users whose search has not begun."""
        return len(self._waiting)

    @property
    def is_ready(self) -> bool:
        """Whether there is somebody to search."""
        return self._worker is not None and not self._worker.done()

    def start(self) -> None:
        """Begin to work."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def hurry(self) -> None:
        """From now on nobody waits for others to come."""
        self._max_wait = 0.0
        self._arrival.set()

    async def stop(self) -> None:
        """Search no more; a search that has begun is ended first."""
        self._worker.cancel()
        await asyncio.wait([self._worker])
        self._thread.shutdown()

    async def recommend(
        self, histories: Sequence[Sequence[str]], top_k: int, exclude_seen: bool, num_beams: int
    ) -> list[list[Recommendation]]:
        """The next items of each user, as [`Recommender.recommend`] gives them; cancelled, they leave the queue.

        Raises:
            QueueFullError: more users would wait than may.
            SearchError: the search failed.
        """
        if self.num_waiting + len(histories) > self.settings.max_pending:
            raise QueueFullError(self._retry_after())
        loop, search = asyncio.get_running_loop(), (max(num_beams, top_k), exclude_seen)
        users = [_User(history, top_k, search, loop.time(), loop.create_future()) for history in histories]
        self._waiting.update(dict.fromkeys(users))
        self._arrival.set()
        try:
            return await asyncio.gather(*(user.found for user in users))
        finally:
            for user in users:
                self._waiting.pop(user, None)

    def _retry_after(self) -> int:
        """Whole seconds in which those who wait now are likely to be served."""
        (seconds,), (users,) = self.metrics.search_seconds.sums.values(), self.metrics.users.values.values()
        return max(1, math.ceil(self.num_waiting * seconds / max(users, 1)))

    async def _work(self) -> None:
        while True:
            await self._search(await self._next_batch())

    async def _next_batch(self) -> list[_User]:
        loop = asyncio.get_running_loop()
        while True:
            self._arrival.clear()
            left = None
            if self._waiting:
                oldest = next(iter(self._waiting))
                alike = (user for user in self._waiting if user.search == oldest.search)
                batch = list(islice(alike, self.settings.batch_size))
                left = oldest.arrived + self._max_wait - loop.time()
                if len(batch) == self.settings.batch_size or left <= 0:
                    for user in batch:
                        del self._waiting[user]
                    return batch
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except asyncio.TimeoutError:
                pass

    async def _search(self, batch: list[_User]) -> None:
        loop = asyncio.get_running_loop()
        start, (num_beams, exclude_seen) = loop.time(), batch[0].search
        histories, top_k = [user.history for user in batch], max(user.top_k for user in batch)
        try:
            found = await loop.run_in_executor(
                self._thread, self.recommender.recommend, histories, top_k, exclude_seen, num_beams
            )
        except Exception as error:
            logger.exception("a search for %d users failed", len(batch))
            said = (
                f": {error}" if isinstance(error, ValueError) else ""
            )  # our own words, as of scores that are no numbers
            for user in batch:
                if not user.found.done():
                    user.found.set_exception(SearchError(f"the search failed{said}"))
            return
        self.metrics.search_seconds.observe(loop.time() - start)
        self.metrics.batches.observe(len(batch))
        self.metrics.users.add(amount=len(batch))
        for user, items in zip(batch, found, strict=True):
            if not user.found.done():  # its request may have been given up
                user.found.set_result(items[: user.top_k])

"""Dynamic batching: users of concurrent requests share one search."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ...common.extras import needs
from ...pipeline_gram import UserItems
from ..recommendation import Recommender
from .metrics import ServerMetrics
from .served import Served
from .settings import ServeSettings

with needs("serve", "serving"):
    from fastapi import HTTPException

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _User:
    """One who waits. A search is of users with the same `search`: the arguments of [`Recommender.recommend`]."""

    history: Sequence[str]
    recommender: Recommender
    top_k: int
    search: dict[str, Any]
    arrived: float
    found: asyncio.Future


class Batcher:
    """Gathers users who wait, and searches for them together in a thread.

    A batch is the user who has waited longest and those who want the same kind of search, in order of arrival. Its
    search ranks as many items as the most demanding of them wants, and each gets the best of their own number, so that
    everyone gets what [`Recommender.recommend`] gives them alone. All methods belong to the event loop's thread.

    Args:
        served: whose recommender has a cache of all items, and a batch size that is not below the settings'.
        settings: batch size, longest wait, longest queue.
        metrics: told of every search.
    """

    def __init__(self, served: Served, settings: ServeSettings, metrics: ServerMetrics):
        self.served, self.settings, self.metrics = served, settings, metrics
        self._max_wait = settings.max_wait_ms / 1000
        self._seconds_per_user = 0.0  # of the last search
        self._waiting: dict[_User, None] = {}  # in order of arrival
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task | None = None
        metrics.waiting.set_function(lambda: self.num_waiting)

    @property
    def num_waiting(self) -> int:
        """Users whose search has not begun."""
        return len(self._waiting)

    @property
    def is_ready(self) -> bool:
        """Whether there is somebody to search."""
        return self._worker is not None and not self._worker.done()

    def hurry(self) -> None:
        """From now on nobody waits for others to come."""
        self._max_wait = 0.0
        self._arrival.set()

    @asynccontextmanager
    async def working(self, _: object = None):
        """Search while this is open."""
        self._worker = asyncio.ensure_future(self._work())
        yield
        self._worker.cancel()
        await asyncio.wait([self._worker])

    async def recommend(
        self, histories: Sequence[Sequence[str]], top_k: int, num_beams: int, **search: Any
    ) -> list[UserItems]:
        """The next items of each user, as [`Recommender.recommend`] gives them; cancelled, they leave the queue.

        `search` are its other arguments.

        Raises:
            HTTPException: more users would wait than may (503), or the search failed (500).
        """
        if self.num_waiting + len(histories) > self.settings.max_pending:
            seconds = max(1, math.ceil(self.num_waiting * self._seconds_per_user))  # when these are likely served
            detail = f"too many users are waiting; try again in {seconds} s"
            raise HTTPException(503, detail, {"Retry-After": str(seconds)})
        loop, search = asyncio.get_running_loop(), {"num_beams": max(num_beams, top_k), **search}
        if search.get("cold_share"):  # which places these are hangs on their number
            search["top_k"] = top_k
        of_all = self.served.recommender, top_k, search, loop.time()
        users = [_User(history, *of_all, loop.create_future()) for history in histories]
        self._waiting.update(dict.fromkeys(users))
        self._arrival.set()
        try:
            return await asyncio.gather(*(user.found for user in users))
        finally:
            for user in users:
                self._waiting.pop(user, None)

    async def _work(self) -> None:
        while True:
            self._arrival.clear()
            batch, left = self._next_batch()
            if batch and left <= 0:
                for user in batch:
                    del self._waiting[user]
                await self._search(batch)
            else:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._arrival.wait(), left)

    def _next_batch(self) -> tuple[list[_User], float | None]:
        """Who is to be searched for next, and in how many seconds if nobody else comes."""
        if not self._waiting:
            return [], None
        oldest = next(iter(self._waiting))
        kind = oldest.recommender, oldest.search
        alike = (user for user in self._waiting if (user.recommender, user.search) == kind)
        batch = list(islice(alike, self.settings.batch_size))
        is_full = len(batch) == self.settings.batch_size
        return batch, 0.0 if is_full else oldest.arrived + self._max_wait - asyncio.get_running_loop().time()

    async def _search(self, batch: list[_User]) -> None:
        loop = asyncio.get_running_loop()
        start, histories = loop.time(), [user.history for user in batch]
        search = {"top_k": max(user.top_k for user in batch), **batch[0].search}
        try:  # one search at a time, so that it is always the same thread
            found = await asyncio.to_thread(batch[0].recommender.recommend, histories, **search)
        except Exception as error:
            logger.exception("a search for %d users failed", len(batch))
            said = f": {error}" if isinstance(error, ValueError) else ""  # our own words: of scores that are no numbers
            for user in batch:
                if not user.found.done():
                    user.found.set_exception(HTTPException(500, f"the search failed{said}"))
            return
        seconds = loop.time() - start
        self._seconds_per_user = seconds / len(batch)
        self.metrics.search_seconds.observe(seconds)
        self.metrics.batches.observe(len(batch))
        self.metrics.users.inc(len(batch))
        for user, items in zip(batch, found, strict=True):
            if not user.found.done():  # its request may have been given up
                user.found.set_result(UserItems(items[: user.top_k], items.skipped, items.is_fallback))

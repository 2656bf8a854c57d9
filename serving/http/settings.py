"""What a server may take on: batches, queue, time and sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...common.settings import Settings, within

_MOST = 999_999_999  # more than anything can use


@dataclass(frozen=True)
class ServeSettings(Settings):
    """Limits of a server, and its flags; each is at least 1, but for the wait.

    Attributes:
        batch_size: users in one search.
        max_wait_ms: milliseconds that a user waits for others to share a search, while nothing else is searched for.
        max_pending: users who may wait for a search; requests beyond get status 503.
        request_timeout: seconds from a request's first byte to its answer.
        max_history_length: items in a history. The model reads the newest; all of them count as seen.
        max_histories: users in a request.
        max_top_k: items per user.
        max_num_beams: width of the search that a request may ask for.
        max_body_bytes: size of a request's body.

    Raises:
        ValueError: a number is below its least, or one request may hold more users than may wait.
    """

    batch_size: int = within(16, least=1, most=_MOST)
    max_wait_ms: float = within(5.0, least=0, below=math.inf)
    max_pending: int = within(1024, least=1, most=_MOST)
    request_timeout: float = within(30.0, least=1, below=math.inf)
    max_history_length: int = within(1000, least=1, most=_MOST)
    max_histories: int = within(64, least=1, most=_MOST)
    max_top_k: int = within(100, least=1, most=_MOST)
    max_num_beams: int = within(200, least=1, most=_MOST)
    max_body_bytes: int = within(1 << 18, least=1, most=_MOST)

    def __post_init__(self):
        super().__post_init__()
        if self.max_histories > self.max_pending:
            raise ValueError(
                f"max_histories is {self.max_histories}, more than max_pending, {self.max_pending}: such a request "
                "could never be served; lower the one or raise the other"
            )

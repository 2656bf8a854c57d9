"""What a server may take on: batches, queue, time and sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ServeSettings:
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

    batch_size: int = 16
    max_wait_ms: float = 5.0
    max_pending: int = 1024
    request_timeout: float = 30.0
    max_history_length: int = 1000
    max_histories: int = 64
    max_top_k: int = 100
    max_num_beams: int = 200
    max_body_bytes: int = 1 << 18

    def __post_init__(self):
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "max_wait_ms" else 1
            if not least <= value < float("inf"):
                raise ValueError(f"{field.name} is {value}; it must be at least {least}")
        if self.max_histories > self.max_pending:
            raise ValueError(
                f"max_histories is {self.max_histories}, more than max_pending, {self.max_pending}: such a request "
                "could never be served; lower the one or raise the other"
            )

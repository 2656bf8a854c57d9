"""What every request meets first and last: limits of size and time, metrics, and a line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from .metrics import ServerMetrics
from .settings import ServeSettings

logger = logging.getLogger(__name__)

CLIENT_GONE = 499  # in metrics and log, as nginx has it: the client did not wait for its answer
RECOMMEND = "/recommend"  # the one path whose requests have a body, and take long


class Guard:
    """ASGI middleware around the whole application.

    The body of a request for recommendations is read here, whole, and no further than its limit; other bodies are not
    read. A request that takes too long, or whose client has gone, is cancelled, and with it the search that it waits
    for. So that memory is bounded, as many bodies may be on their way as users may wait for a search. One more, and the
    one that has been so longest is given up: a client who never ends keeps nobody out.

    Args:
        app: what answers the requests.
        settings: the limits.
        metrics: counts every request.

    Attributes:
        is_closing: tell clients that their connections are not to be used again.
    """

    def __init__(self, app, settings: ServeSettings, metrics: ServerMetrics):
        self.app, self.settings, self.metrics = app, settings, metrics
        self.is_closing = False
        self._arriving: dict[asyncio.Task, None] = {}  # in order of arrival

    async def __call__(self, scope, receive, send) -> None:
        """Handle a request; what is no HTTP request is handed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, answer = time.perf_counter(), _Answer(self, send)
        self.metrics.in_flight += 1
        try:
            await self._handle(scope, receive, answer)
        finally:
            self.metrics.in_flight -= 1
            self._account(scope, answer, time.perf_counter() - start)

    async def _handle(self, scope, receive, answer: _Answer) -> None:
        """Let the application answer, unless the request is too large, too slow or one too many."""
        timeout = self.settings.request_timeout
        deadline = time.monotonic() + timeout
        if scope["path"] != RECOMMEND:
            await self._answer(scope, b"", asyncio.get_running_loop().create_future(), answer, deadline)
            return
        try:
            body = await self._arrival(scope, receive)
        except asyncio.TimeoutError:
            await answer.refuse(408, f"the request did not arrive within {timeout:g} s, or others came before its end")
            return
        except ConnectionError:
            answer.status = CLIENT_GONE
            return
        if body is None:
            await answer.refuse(413, f"the body has more than {self.settings.max_body_bytes} bytes")
            return
        # After the body, all that can come is that the client has gone.
        await self._answer(scope, body, asyncio.ensure_future(receive()), answer, deadline)

    async def _arrival(self, scope, receive) -> bytes | None:
        """The body; TimeoutError where it takes too long, or is given up for another."""
        reading = asyncio.ensure_future(self._body(scope, receive))
        self._arriving[reading] = None
        if len(self._arriving) > self.settings.max_pending:
            longest = next(iter(self._arriving))
            del self._arriving[longest]
            longest.cancel()
        try:
            await asyncio.wait({reading}, timeout=self.settings.request_timeout)
            if not reading.done() or reading.cancelled():
                raise asyncio.TimeoutError
            return reading.result()
        finally:
            reading.cancel()
            self._arriving.pop(reading, None)

    async def _answer(self, scope, body: bytes, gone: asyncio.Future, answer: _Answer, deadline: float) -> None:
        """Let the application answer in time, for as long as the client waits."""
        messages = [{"type": "http.request", "body": body}]

        async def replay() -> dict:
            return messages.pop() if messages else await asyncio.shield(gone)

        answering = asyncio.ensure_future(self.app(scope, replay, answer.send))
        try:
            left = deadline - time.monotonic()
            await asyncio.wait({answering, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer.is_complete:
                await asyncio.wait({answering})
            if answering.done():
                answering.result()  # what it raises is the server's to log
            elif gone.done():
                answer.status = CLIENT_GONE
            else:
                answering.cancel()
                await asyncio.wait({answering})
                await answer.refuse(504, f"no answer within {self.settings.request_timeout:g} s")
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.wait({answering, gone})

    async def _body(self, scope, receive) -> bytes | None:
        """The whole body, or None as soon as it is known to be too large; ConnectionError where it breaks off."""
        most = self.settings.max_body_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > most:
            return None
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client has gone")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                return None
        return bytes(body)

    def _account(self, scope, answer: _Answer, seconds: float) -> None:
        unrouted = RECOMMEND if scope["path"] == RECOMMEND else "other"  # paths that do not exist are without number
        path = getattr(scope.get("route"), "path_format", unrouted)
        self.metrics.requests.add(path, str(answer.status))
        self.metrics.seconds.observe(seconds, path)
        line = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": answer.status,
            "ms": round(1000 * seconds, 1),
            "client": (scope.get("client") or ("",))[0],
            **scope.get("state", {}).get("access", {}),
        }
        logger.info(line)


class _Answer:
    """Sends the answer to a request, and notes its status."""

    def __init__(self, guard: Guard, send):
        self.guard, self._send, self.status = guard, send, 500
        self.has_begun = self.is_complete = False

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            if self.guard.is_closing:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with an error in place of the application, unless it has begun to."""
        if self.has_begun:
            return
        body = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

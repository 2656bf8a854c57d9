"""What a request meets first and last: limits of size and time, metrics, and a line in the log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from ...common.extras import needs
from .metrics import ServerMetrics
from .settings import ServeSettings

with needs("serve", "serving"):
    import anyio
    from fastapi import HTTPException, Request
    from fastapi.responses import JSONResponse, Response
    from fastapi.routing import APIRoute
    from starlette.requests import ClientDisconnect

logger = logging.getLogger(__name__)

FREE = ("/live", "/health")  # of the key: what watches a server need not know it
CLIENT_GONE = 499  # in metrics and log, as nginx has it: the client did not wait for its answer


class Accounts:
    """ASGI middleware around the whole application: every request is counted and has a line in the log."""

    def __init__(self, app, metrics: ServerMetrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send) -> None:
        """Handle a request; what is no HTTP request is handed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500  # what an exception becomes

        async def note(message: dict) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            with self.metrics.in_flight.track_inprogress():
                await self.app(scope, receive, note)
        finally:
            seconds = time.perf_counter() - start
            path = getattr(scope.get("route"), "path_format", "other")  # paths that do not exist are without number
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            line = {"method": scope["method"], "path": scope["path"][:200], "status": status}
            line |= {"ms": round(1000 * seconds, 1), "client": (scope.get("client") or ("",))[0]}
            logger.info(line | scope.get("access", {}))


class Keyed:
    """ASGI middleware that lets nobody in without the header `Authorization: Bearer KEY`."""

    def __init__(self, app, api_key: str):
        self.app, self.wanted = app, f"Bearer {api_key}".encode()

    async def __call__(self, scope, receive, send) -> None:
        """Hand a request on, or answer 401."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] != "http" or scope["path"] in FREE or hmac.compare_digest(given, self.wanted):
            await self.app(scope, receive, send)
            return
        detail = {"detail": "give the server's key in the header 'Authorization: Bearer KEY'"}
        await JSONResponse(detail, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)


def guarded_route(settings: ServeSettings) -> type[APIRoute]:
    """A class of routes whose requests have a body, and take long.

    The body is read whole, and no further than its limit. A request that takes too long, or whose client has gone, is
    cancelled, and with it the search that it waits for. So that memory is bounded, as many bodies may be on their way
    as users may wait for a search. One more, and the one that has been so longest is given up: a client who never ends
    keeps nobody out.
    """
    arriving: OrderedDict[anyio.CancelScope, None] = OrderedDict()

    async def arrival(request: Request) -> bytes:
        body = bytearray()
        with anyio.move_on_after(settings.request_timeout) as limit:
            arriving[limit] = None
            if len(arriving) > settings.max_pending:
                arriving.popitem(last=False)[0].cancel()
            try:
                async for part in request.stream():
                    body += part
                    if len(body) > settings.max_body_bytes:
                        raise HTTPException(413, f"the body has more than {settings.max_body_bytes} bytes")
                return bytes(body)
            except ClientDisconnect:
                raise HTTPException(CLIENT_GONE, "the client has gone") from None
            finally:
                arriving.pop(limit, None)
        seconds = f"{settings.request_timeout:g} s"
        raise HTTPException(408, f"the request did not arrive within {seconds}, or others came before its end")

    async def answer(handle: Callable, request: Request) -> Response:
        deadline = time.monotonic() + settings.request_timeout
        messages = [{"type": "http.request", "body": await arrival(request)}]
        gone = asyncio.ensure_future(request.receive())  # after the body, nothing else can come

        async def replay() -> dict:
            return messages.pop() if messages else await asyncio.shield(gone)

        answering = asyncio.ensure_future(handle(Request(request.scope, replay)))
        try:
            left = deadline - time.monotonic()
            await asyncio.wait({answering, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            if gone.done():
                raise HTTPException(CLIENT_GONE, "the client has gone")
            raise HTTPException(504, f"no answer within {settings.request_timeout:g} s")
        finally:
            answering.cancel()
            gone.cancel()

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable:
            return partial(answer, super().get_route_handler())

    return GuardedRoute

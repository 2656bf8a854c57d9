"""Running the server: the socket, the model, the signals."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...common.extras import needs
from ...item_cache_gram import ItemCache
from ..recommendation import Recommender
from .app import create_app
from .batching import Batcher
from .metrics import ServerMetrics
from .served import Served
from .settings import ServeSettings

with needs("serve", "serving"):
    import uvicorn

DRAIN_SECONDS = 0.2  # what clients sent before the listening socket was closed is read within this
HEAD_SECONDS = 10  # in this time, or at most twice it, the head of the next request arrives, or its connection is cut
BACKLOG = 4096  # connections that wait to be accepted; systems allow no more
MOST_OPEN_FILES = 1 << 16  # a connection is one; what a process gets unasked is often 1024
EXIT_SECONDS = 5.0  # beyond the request timeout, until connections are cut


def serve(
    name_or_path: str | Path,
    host: str,
    port: int,
    settings: ServeSettings,
    item_cache: Path | None = None,
    unavailable: Sequence[str] = (),
    api_key: str | None = None,
    device: str | None = None,
) -> None:
    """Serve a model until SIGTERM or SIGINT; requests that have arrived by then are answered first.

    Weights and item encodings are held in memory: what happens to their files does not matter to a running server. At
    a SIGHUP, which a closed terminal sends too, it loads the model again, see [`Served.reload`]. Says `listening on
    http://HOST:PORT` on the standard output as soon as it does.

    Args:
        name_or_path: a model folder, or a name on the Hub.
        host: address to listen on.
        port: 0 picks a free one.
        settings: limits.
        item_cache: folder of item encodings, instead of the model folder's. Where there is none, all items are encoded
            first, into memory.
        unavailable: ids of items that nobody gets until a client says otherwise.
        api_key: that clients must know.
        device: as of `choose_device`.

    Raises:
        ValueError: the address cannot be listened on; an item is not in the catalogue; or as
            `Recommender.from_pretrained` does.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    _allow_connections()
    with _bound_socket(host, port) as listening:  # first of all: loading takes long
        served = Served(lambda: _recommender(name_or_path, settings, item_cache, device))
        served.recommender.set_available(unavailable, False)
        batcher = Batcher(served, settings, ServerMetrics())
        config = uvicorn.Config(
            create_app(batcher, _shown(name_or_path), api_key),
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            timeout_notify=HEAD_SECONDS,
            timeout_graceful_shutdown=int(settings.request_timeout + EXIT_SECONDS),
        )
        server = _Server(config, batcher)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn hands them on when it has stopped
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says where it listens, and answers whatever has arrived before it ends."""

    def __init__(self, config: uvicorn.Config, batcher: Batcher):
        super().__init__(config)
        self.batcher = batcher
        self._idle: set[tuple] = set()
        config.callback_notify = self._cut_idle

    async def _cut_idle(self) -> None:
        """Cut the connections that have waited for a request since the last call: uvicorn lets them wait for ever."""
        connections = [(one, one.cycle) for one in self.server_state.connections]
        idle = {(one, cycle) for one, cycle in connections if cycle is None or cycle.response_complete}
        for one, _ in idle & self._idle:
            one.transport.close()
        self._idle = idle

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if hasattr(signal, "SIGHUP"):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, self.batcher.served.reload)
        host, port = sockets[0].getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.default_headers.append((b"connection", b"close"))  # of every answer from now on
        for server in self.servers:
            server.close()
        self.batcher.hurry()
        await asyncio.sleep(DRAIN_SECONDS)
        await super().shutdown(sockets=sockets)


def _recommender(
    name_or_path: str | Path, settings: ServeSettings, item_cache: Path | None, device: str | None
) -> Recommender:
    """With the encodings of all items, its first search done, and nothing that is mapped from a file.

    To a process that has it mapped, a file that is written over in place is other numbers, or its end.
    """
    recommender = Recommender.from_pretrained(name_or_path, settings.batch_size, item_cache, device=device)
    for tensor in (*recommender.model.parameters(), *recommender.model.buffers()):
        tensor.data = tensor.data.clone()
    if recommender.item_cache is None:
        recommender.item_cache = ItemCache.in_memory(recommender.model, recommender.tokenizer, progress=True)
    else:
        recommender.item_cache = copy.deepcopy(recommender.item_cache)
    recommender.recommend([recommender.tokenizer.item_ids[:1]])
    return recommender


def _allow_connections() -> None:
    with suppress(ImportError, ValueError, OSError):  # not on Windows, or not allowed
        import resource

        number, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(number, min(most, MOST_OPEN_FILES)), most))


def _bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has its port, and does not listen yet: connections are refused until there is an answer."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound
    except (OSError, ValueError) as error:  # a host that is no name is a ValueError
        remedy = "give another --host or --port, or --port 0 for a free one"
        why = f"{getattr(error, 'strerror', error)}; {remedy}"
        raise ValueError(f"cannot listen on port {port} of {host}: {why}") from None


def _shown(name_or_path: str | Path) -> str:
    """A folder's name alone: where it lies is not for everybody to know."""
    name = Path(name_or_path).resolve().name if Path(name_or_path).is_dir() else str(name_or_path)
    return name.encode("utf-8", "replace").decode()  # a folder's name need not be UTF-8


class JSONLines(logging.Formatter):
    """A JSON object per line; a message that is one already has its fields beside the time and the level."""

    converter = time.gmtime
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {"time": self.formatTime(record), "level": record.levelname.lower()}
        is_line = isinstance(record.msg, dict)
        line |= record.msg if is_line else {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(level: str) -> None:
    """Log this package from a level on, and warnings of all others, as JSON lines on the standard error output."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("gram").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

"""`gram serve`: recommending over HTTP."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from .command import Command, at_least_one, port, quiet

# oneDNN keeps compiled kernels for a thousand shapes of input. Every batch of users has shapes of its own, so that they
# are of little use, and take some 300 MB in time.
KEPT_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
LIMITS = {
    "max_pending": "users who may wait for a search; requests beyond get status 503",
    "max_histories": "users in a request",
    "max_history_length": "items in a history",
    "max_top_k": "items per user",
    "max_num_beams": "width of the search that a request may ask for",
    "max_body_bytes": "size of a request's body",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..serving.http.settings import ServeSettings

    defaults = ServeSettings()
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=port, default=8000, metavar="N", help="0 picks a free one (%(default)s)")
    batch = f"users in one search ({defaults.batch_size})"
    parser.add_argument("--batch-size", type=at_least_one, default=defaults.batch_size, metavar="N", help=batch)
    wait = f"how long a user waits for others to share a search ({defaults.max_wait_ms:g})"
    parser.add_argument("--max-wait-ms", type=float, default=defaults.max_wait_ms, metavar="MS", help=wait)
    timeout = f"seconds for a request, its wait included ({defaults.request_timeout:g})"
    parser.add_argument("--request-timeout", type=float, default=defaults.request_timeout, metavar="S", help=timeout)
    for name, what in LIMITS.items():
        value = getattr(defaults, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=at_least_one, default=value, metavar="N", help=f"{what} ({value})")
    cache = "item encodings made by `gram encode`, read into memory (MODEL/item_encodings; without them items are "
    cache += "encoded at the start)"
    parser.add_argument("--item-cache", type=Path, metavar="DIR", help=cache)
    levels = ("error", "warning", "info")
    level = "info has a line per request, without its histories (%(default)s)"
    parser.add_argument("--log-level", choices=levels, default="info", help=level)


def _run(arguments: argparse.Namespace) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "prometheus_client", "uvicorn")):
        raise ValueError('serving needs FastAPI, uvicorn and prometheus-client; pip install "gram-recommender[serve]"')
    from ..serving.http.settings import ServeSettings

    names = ("batch_size", "max_wait_ms", "request_timeout", *LIMITS)
    settings = ServeSettings(**{name: getattr(arguments, name) for name in names})
    for name, number in KEPT_KERNELS.items():  # read when torch first computes something
        os.environ.setdefault(name, number)
    quiet()
    from ..serving.http.server import log_to_stderr, serve

    log_to_stderr(arguments.log_level)
    serve(arguments.model, arguments.host, arguments.port, settings, arguments.item_cache)


COMMAND = Command(
    "answer requests for recommendations over HTTP",
    "runs/quickstart\nruns/quickstart --port 0 --batch-size 32 --max-pending 512",
    _add_arguments,
    _run,
)

"""Answer requests for recommendations over HTTP.

gram serve runs/quickstart
gram serve runs/quickstart --port 0 --batch-size 32 --max-pending 512
gram serve runs/quickstart --unavailable @sold-out.txt --api-key "$KEY"
"""

import argparse
import os
from pathlib import Path

from ..common.settings import add_flags, settings_from
from .command import add_device, item_ids, port, quiet

# oneDNN keeps compiled kernels for a thousand shapes of input. Every batch of users has shapes of its own, so that they
# are of little use, and take some 300 MB in time.
KEPT_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..serving.http.settings import ServeSettings

    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=port, default=8000, metavar="N", help="0 picks a free one (%(default)s)")
    what = "item encodings made by `gram encode`, read into memory (MODEL/item_encodings; without them items are "
    what += "encoded at the start)"
    parser.add_argument("--item-cache", type=Path, metavar="DIR", help=what)
    what = "an item that nobody gets until PUT /items/ID/availability says otherwise; again for each, or @FILE"
    parser.add_argument("--unavailable", action="append", default=[], metavar="ID", help=what)
    what = "what clients must send as 'Authorization: Bearer KEY' (the environment's GRAM_API_KEY; without it none)"
    parser.add_argument("--api-key", default=os.environ.get("GRAM_API_KEY") or None, metavar="KEY", help=what)
    what = "info has a line per request, without its histories (%(default)s)"
    parser.add_argument("--log-level", choices=("error", "warning", "info"), default="info", help=what)
    add_device(parser)
    add_flags(parser, ServeSettings)


def run(arguments: argparse.Namespace) -> None:
    from ..serving.http.settings import ServeSettings

    (settings,) = settings_from(vars(arguments), ServeSettings)
    for name, number in KEPT_KERNELS.items():  # read when torch first computes something
        os.environ.setdefault(name, number)
    quiet()
    from ..serving.http.server import log_to_stderr, serve

    log_to_stderr(arguments.log_level)
    options = {"unavailable": item_ids(arguments.unavailable), "api_key": arguments.api_key, "device": arguments.device}
    serve(arguments.model, arguments.host, arguments.port, settings, arguments.item_cache, **options)

"""Turn raw data into a data folder: filtered, in order of time, split.

gram prepare --format movielens --input ml-1m --output data/ml-1m
gram prepare --config recipes/prepare-yelp.yaml --input yelp_dataset --output data/yelp
"""

import argparse
import logging
from pathlib import Path

from ..common.settings import add_flags, settings_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..data.prepare import PrepareSettings

    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new data folder")
    add_flags(parser, PrepareSettings, config=True)


def run(arguments: argparse.Namespace) -> None:
    from ..data.prepare import PrepareSettings, prepare

    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # its errors come as our one line
    (settings,) = settings_from(vars(arguments), PrepareSettings)
    print(prepare(settings, arguments.output, progress=True))
    print(f"saved to {arguments.output}")

"""Train and evaluate a small GRAM on MovieLens-100k, and recommend films by title.

gram quickstart --output-dir runs/quickstart
"""

import argparse
import logging
from pathlib import Path

from .command import quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "becomes the model folder (%(default)s); run again on it, finished stages are skipped"
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quickstart"), metavar="DIR", help=what)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    logging.basicConfig(format="     %(message)s")
    logging.getLogger("gram.train_accelerate").setLevel(logging.INFO)
    from ..common.files import locked
    from ..reproduction import quickstart

    with locked(arguments.output_dir, inside=True):
        quickstart.run(arguments.output_dir, say=print)

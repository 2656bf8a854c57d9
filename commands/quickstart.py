"""`gram quickstart`: from nothing to a GRAM that recommends films."""

from __future__ import annotations

import argparse
from pathlib import Path

from .command import Command, quiet


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("runs/quickstart"),
        metavar="DIR",
        help="becomes the model folder (runs/quickstart); run again on it, finished stages are skipped",
    )


def _run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..common.files import locked
    from ..reproduction.quickstart import run

    with locked(arguments.output_dir, inside=True):
        run(arguments.output_dir, say=print)


COMMAND = Command(
    "train and evaluate a small GRAM on MovieLens-100k, and recommend films by title",
    "--output-dir runs/quickstart",
    _add_arguments,
    _run,
)

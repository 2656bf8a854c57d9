"""What the sub-commands of `gram` have in common.

Nothing heavy is imported here, nor at the top of a command's file, so that `gram --help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """A sub-command: what it says of itself, how it fills its parser, and what it does."""

    summary: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def quiet() -> None:
    """Leave the terminal to what the command has to say."""
    import logging
    import warnings

    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    set_verbosity_error()
    disable_progress_bar()
    for library in ("accelerate", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for module in ("torch", "transformers", "accelerate"):
        warnings.filterwarnings("ignore", module=module)


def at_least_one(text: str) -> int:
    """An argument's `type`: a whole number of at least 1."""
    if not text.isdecimal() or (len(text) <= 9 and int(text) < 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    if len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:20]} is more than anything can use; give at most 999999999")
    return int(text)


def port(text: str) -> int:
    """An argument's `type`: a port to listen on."""
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data`, a data folder."""
    what = "data folder that `gram prepare` made, or with user_sequence.txt (USER ITEM ITEM ...) and item_text.tsv"
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help=what)


def add_search(parser: argparse.ArgumentParser) -> None:
    """What beam search is to be told: its width, users at once, the item cache."""
    parser.add_argument("--num-beams", type=at_least_one, default=50, metavar="N", help="width of the search (50)")
    parser.add_argument("--batch-size", type=at_least_one, default=16, metavar="N", help="users in one search (16)")
    what = "item encodings made by `gram encode` (MODEL/item_encodings if it is there; stale ones are an error)"
    parser.add_argument("--item-cache", type=Path, metavar="DIR", help=what)

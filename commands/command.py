"""What the sub-commands of `gram` have in common.

Nothing heavy is imported here, nor at the top of a command's file, so that `gram --help` answers at once.
"""

import argparse
from collections.abc import Callable
from pathlib import Path


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


def whole_number(least: int, most: int = 999_999_999) -> Callable[[str], int]:
    """An argument's `type`: a whole number within bounds; the highest is more than anything can use."""

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from {least} to {most}")
        return int(text)

    return read


at_least_one, port = whole_number(1), whole_number(0, 65535)


def share(text: str) -> float:
    """An argument's `type`: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 to 1")
    return value


def add_data(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """`--data`, a data folder."""
    what = "data folder that `gram prepare` made, or with user_sequence.txt (USER ITEM ITEM ...) and item_text.tsv"
    parser.add_argument("--data", required=required, type=Path, metavar="DIR", help=what)


def add_search(parser: argparse.ArgumentParser) -> None:
    """What beam search is to be told: its width, users at once, the item cache."""
    parser.add_argument("--num-beams", type=at_least_one, default=50, metavar="N", help="width of the search (50)")
    parser.add_argument("--batch-size", type=at_least_one, default=16, metavar="N", help="users in one search (16)")
    what = "item encodings made by `gram encode` (MODEL/item_encodings if it is there; stale ones are an error)"
    parser.add_argument("--item-cache", type=Path, metavar="DIR", help=what)


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`, where the model works."""
    what = "where the model works: cpu, cuda, cuda:1, xpu, mps ... (the accelerator that is there, or else the cpu)"
    parser.add_argument("--device", metavar="NAME", help=what)


def add_engine(parser: argparse.ArgumentParser, does: str) -> None:
    """`--engine` and its workers. `does`: what the engine does."""
    what = f"{does}: this process, or the workers of a cluster of Ray (local)"
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=what)
    parser.add_argument("--num-workers", type=at_least_one, default=1, metavar="N", help="of Ray (1)")
    parser.add_argument("--gpus-per-worker", type=float, default=0, metavar="G", help="of Ray (0)")


def item_ids(named: list[str]) -> list[str]:
    """Items as they are named on the command line; those of a file are its lines."""
    from ..data.sources.lines import filled_lines

    found = []
    for name in named:
        found += [line.strip() for _, line in filled_lines(Path(name[1:]))] if name.startswith("@") else [name]
    return found


def print_items(found: list) -> None:
    """Show recommendations as a table."""
    if not found:
        print("there is no item that may be recommended")
        return
    width = max([7, *(len(item.item_id) for item in found)])
    print(f"{'rank':>4}  {'score':>8}  {'item':<{width}}  title")
    for rank, item in enumerate(found, start=1):
        print(f"{rank:>4}  {item.score:>8.4f}  {item.item_id:<{width}}  {item.title}")

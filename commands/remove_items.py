"""Make a model that recommends some items no more; histories may still hold them.

gram remove-items runs/quickstart --ids @gone.txt --output runs/today
"""

import argparse
from pathlib import Path

from .command import item_ids, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub; it stays as it is")
    what = "an item; again for each, or @FILE with one on a line"
    parser.add_argument("--ids", required=True, action="append", metavar="ID", help=what)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder for the model")


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..hub.model_card import refresh_model_card
    from ..serving.catalogue_changes import remove_items

    left = remove_items(arguments.model, item_ids(arguments.ids), arguments.output)
    refresh_model_card(arguments.output)
    print(f"{left:,} items left, the model saved to {arguments.output}")

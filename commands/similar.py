"""Show the items that are like an item.

gram similar runs/quickstart --item 50
gram similar runs/quickstart --title 'The Return of the Space Pirates' --top-k 5
"""

import argparse

from .command import add_device, at_least_one, print_items, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--item", metavar="ID", help="an item of the catalogue")
    which.add_argument("--title", metavar="TEXT", help="the title of one that is in no catalogue")
    parser.add_argument("--top-k", type=at_least_one, default=10, metavar="K", help="how many (10)")
    what = "'text', what the model reads of them; 'users', who takes them; or both (both)"
    parser.add_argument("--by", choices=("text", "users", "both"), default="both", help=what)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..serving.recommendation import Recommender
    from ..serving.similar import SimilarItems

    similar = SimilarItems(Recommender.from_pretrained(arguments.model, device=arguments.device))
    item = {"title": arguments.title} if arguments.item is None else arguments.item
    print_items(similar.find(item, arguments.top_k, arguments.by))

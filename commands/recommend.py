"""Recommend items for a history, or for a file of users.

gram recommend runs/quickstart --history 50 --history 172 --top-k 10
gram recommend runs/quickstart --users users.txt --output recs.parquet --exclude @sold-out.txt
gram recommend runs/quickstart --users users/ --output recs/ --engine ray --num-workers 8
"""

import argparse
from pathlib import Path

from .command import add_device, add_engine, add_search, at_least_one, item_ids, print_items, quiet, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    what = "an item of the history; once for each, oldest first"
    parser.add_argument("--history", action="append", metavar="ID", help=what)
    what = "the title of one that is in no catalogue; likewise, in its place among the others"
    parser.add_argument("--history-title", dest="history", action="append", type=_fields, metavar="TEXT", help=what)
    what = "many users: a file, 'USER ITEM ITEM ...' on each line, oldest item first; a .parquet of user_id and items, "
    what += "a list; or a folder of such"
    parser.add_argument("--users", type=Path, metavar="PATH", help=what)
    what = "where those to --users go: a .parquet or .csv, or for a folder another folder; resumable"
    parser.add_argument("--output", type=Path, metavar="PATH", help=what)
    add_engine(parser, "what works through a folder of users")
    parser.add_argument("--top-k", type=at_least_one, default=10, metavar="K", help="items per user (10)")
    what = "items of the history may be recommended too"
    parser.add_argument("--include-seen", dest="exclude_seen", action="store_false", help=what)
    what = "an item that nobody gets; again for each, or @FILE with one on a line"
    parser.add_argument("--exclude", action="append", default=[], metavar="ID", help=what)
    what = "an item that may be recommended, and none that is not named (all); likewise"
    parser.add_argument("--only", action="append", metavar="ID", help=what)
    what = "a condition that they meet, such as 'genres=Comedy' or 'price<=20'; again for each"
    parser.add_argument("--where", action="append", default=[], metavar="COND", help=what)
    what = "this share of the places is for cold items (0)"
    parser.add_argument("--cold-share", type=share, default=0.0, metavar="S", help=what)
    what = "these have fewer than N in the training part (1: new items alone)"
    parser.add_argument("--cold-below", type=at_least_one, default=1, metavar="N", help=what)
    what = "as with --users: skip items that the catalogue does not have; if there is no other, give what is popular"
    parser.add_argument("--skip-unknown", action="store_true", help=what)
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model on the Hub (main)")
    add_search(parser)
    add_device(parser)


def _fields(title: str) -> dict[str, str]:
    return {"title": title}


def run(arguments: argparse.Namespace) -> None:
    if (arguments.users is None) == (arguments.history is None):
        raise ValueError("give the items of a history (--history), or a file of users (--users)")
    if (arguments.users is None) != (arguments.output is None):
        raise ValueError("--users and --output belong together: give both, or --history")
    quiet()
    names = ("top_k", "exclude_seen", "num_beams", "where", "cold_share", "cold_below")
    search = {name: getattr(arguments, name) for name in names}
    search |= {"exclude": item_ids(arguments.exclude), "only": arguments.only and item_ids(arguments.only)}
    if arguments.users is not None:
        from ..serving.tables import TableRecommender, recommend_tables

        loading = (arguments.model, arguments.item_cache, arguments.revision, arguments.batch_size, arguments.device)
        workers = (arguments.engine, arguments.num_workers, arguments.gpus_per_worker)
        recommender = TableRecommender(*loading, **search)
        count = recommend_tables(recommender, arguments.users, arguments.output, *workers)
        print(f"recommendations to {count:,} users saved to {arguments.output}")
        return
    from ..serving.recommendation import Recommender

    loading = (arguments.batch_size, arguments.item_cache, arguments.revision, arguments.device)
    recommender = Recommender.from_pretrained(arguments.model, *loading)
    (found,) = recommender.recommend([arguments.history], skip_unknown=arguments.skip_unknown, **search)
    if found.skipped:
        print(f"skipped, as the catalogue does not have them: {', '.join(found.skipped)}")
    if found.is_fallback:
        print("nothing of the history is known: these are the most popular items")
    print_items(found)

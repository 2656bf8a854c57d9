"""Write a vector for every item, for a vector index of your own.

gram export-vectors runs/quickstart --output vectors.parquet
"""

import argparse
from pathlib import Path

from .command import add_device, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    what = "a .parquet with item_id and vector, or a .npy with a row for each of the catalogue"
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=what)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..serving.recommendation import Recommender
    from ..serving.similar import export_vectors

    recommender = Recommender.from_pretrained(arguments.model, device=arguments.device)
    count, length = export_vectors(recommender, arguments.output)
    print(f"{count:,} vectors of {length} numbers saved to {arguments.output}")

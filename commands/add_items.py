"""Make a model with more items, without training: each gets a lexical ID beside those of items like it.

gram add-items runs/quickstart --items new.tsv --output runs/today
gram add-items runs/books --items new.parquet --output runs/books-2 --encoder nvidia/NV-Embed-v2
"""

import argparse
from pathlib import Path

from .command import quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub; it stays as it is")
    what = "the new items: a .parquet, .tsv or .txt in the form of a data folder's items"
    parser.add_argument("--items", required=True, type=Path, metavar="FILE", help=what)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder for the model")
    what = "what the model's items were embedded with, 'tfidf-svd' or a model's name or path (tfidf-svd)"
    parser.add_argument("--encoder", default="tfidf-svd", metavar="NAME", help=what)
    what = "given vectors of all items, old and new, instead of an encoder: .npy, .safetensors or .parquet"
    parser.add_argument("--vectors", type=Path, metavar="FILE", help=what)
    what = "words that no lexical ID may show, one per line"
    parser.add_argument("--blocked-tokens", type=Path, metavar="FILE", help=what)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..hub.model_card import refresh_model_card
    from ..serving.catalogue_changes import add_items

    embedding = {"encoder": arguments.encoder, "vectors": arguments.vectors}
    options = {**embedding, "blocked_tokens": arguments.blocked_tokens}
    count = add_items(arguments.model, arguments.items, arguments.output, **options)
    refresh_model_card(arguments.output)
    print(f"{count:,} items added, the model saved to {arguments.output}")

"""Evaluate, and look where GRAM and a baseline differ: `python examples/evaluate_model.py --max-users 100`."""

import argparse
from pathlib import Path

import pyarrow.compute as pc

from gram.data import read_folder
from gram.evaluation.full_ranking import evaluate, format_table
from gram.serving.loading import load_model
from gram.translation import SASREC_FILE


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart", type=Path)
    parser.add_argument("--data", default="runs/quickstart/data")
    parser.add_argument("--max-users", type=int, default=200, help="only so many users, drawn at random")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    data = read_folder(arguments.data)
    sasrec = arguments.model / SASREC_FILE
    evaluation = evaluate(
        model, tokenizer, data, sasrec_file=sasrec, model_sasrec=sasrec, max_users=arguments.max_users
    )
    print(format_table(evaluation.results))

    # Every user's rank by every model is kept (null beyond 50): here, whose item GRAM alone has found.
    ranks = evaluation.per_user.filter(pc.field("protocol") == "unseen_items")
    found = {
        name: set(ranks.filter((pc.field("model") == name) & (pc.field("rank") <= 10))["user_id"].to_pylist())
        for name in ("GRAM", "item-kNN")
    }
    alone = found["GRAM"] - found["item-kNN"]
    print(f"\n{len(alone)} users have their item among GRAM's ten and not among item-kNN's: {sorted(alone)[:10]}")


if __name__ == "__main__":
    main()

"""Recommend to a file of users, into Parquet: `python examples/recommend_to_many.py`.

Interrupted, it goes on where it was. Without `--users` it takes the quickstart's users with their whole histories.
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from gram.data import read_folder
from gram.serving.tables import TableRecommender


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart")
    parser.add_argument("--users", type=Path, help="a line 'USER ITEM ITEM ...' each, oldest item first")
    parser.add_argument("--output", type=Path, default="runs/recommendations.parquet")
    parser.add_argument("--max-users", type=int, default=100, help="of the quickstart's users")
    arguments = parser.parse_args()

    users = arguments.users
    if users is None:
        users, data = Path("runs/users.txt"), read_folder("runs/quickstart/data")
        item_ids, sequences = data.items.item_ids, data.interactions
        with users.open("w", encoding="utf-8") as file:
            for user, rows in list(zip(sequences.user_ids, sequences, strict=True))[: arguments.max_users]:
                file.write(" ".join([user, *(item_ids[row] for row in rows)]) + "\n")

    count = TableRecommender(arguments.model, top_k=10).recommend_file(users, arguments.output, progress=True)
    print(f"recommendations to {count} users in {arguments.output}; to the first of them:")
    first = pq.read_table(arguments.output).slice(0, 1).to_pylist()[0]  # user_id, items, scores, skipped, fallback
    for item, score in zip(first["items"], first["scores"], strict=True):
        print(f"  {item} ({score:.3f})")


if __name__ == "__main__":
    main()

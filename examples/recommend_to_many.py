"""Recommend to a file of users, into Parquet: `python examples/recommend_to_many.py`.

Interrupted, it goes on where it was. Without `--users` it takes the quickstart's users with their whole histories.
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from gram.data import read_folder
from gram.serving.recommendation import Recommender, recommend_users


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

    recommender = Recommender.from_pretrained(arguments.model)
    count = recommend_users(recommender, users, arguments.output, top_k=10, exclude_seen=True)
    table = pq.read_table(arguments.output)  # user_id, rank, item_id, title, score
    print(f"{count} users, {table.num_rows} recommendations in {arguments.output}; the first:")
    for row in table.slice(0, 3).to_pylist():
        print(f"  user {row['user_id']}, rank {row['rank']}: {row['title']} ({row['score']:.3f})")


if __name__ == "__main__":
    main()

"""Recommend to a table of users, on a cluster of Spark: `python examples/recommend_with_spark.py --users users/`.

Every worker needs the package, and must see the model at the same place. Without `--users` it takes the quickstart's.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from gram.data import read_folder
from gram.serving.tables import TableRecommender

RANKED = "user_id string, items array<string>, scores array<float>, skipped array<string>, fallback boolean"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default="runs/quickstart")
    parser.add_argument("--users", help="Parquet, with user_id and items, a list, oldest first")
    parser.add_argument("--output", default="runs/ranked", help="folder, of a file for each partition")
    parser.add_argument("--master", default="local[2]", help="of the cluster (%(default)s)")
    arguments = parser.parse_args()

    users = arguments.users
    if users is None:
        users, data = "runs/users.parquet", read_folder("runs/quickstart/data")
        histories = [[data.items.item_ids[row] for row in rows] for rows in data.interactions]
        pq.write_table(pa.table({"user_id": data.interactions.user_ids, "items": histories}), users)

    spark = SparkSession.builder.master(arguments.master).appName("gram").getOrCreate()
    recommender = TableRecommender(arguments.model.resolve(), top_k=10)
    tables = spark.read.parquet(users).select("user_id", "items").repartition(4)
    tables.mapInArrow(recommender.of_batches, RANKED).write.mode("overwrite").parquet(arguments.output)
    ranked = spark.read.parquet(arguments.output)
    print(f"{ranked.count()} users, in {arguments.output}; the first: {ranked.sort('user_id').first()['items']}")
    spark.stop()


if __name__ == "__main__":
    main()

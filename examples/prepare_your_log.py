"""A log and a table of items become a data folder: `python examples/prepare_your_log.py`.

Unless they are there, both are made of the quickstart's data; yours may be CSV, TSV, JSON lines or Parquet.
"""

import argparse
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq

from gram.data import read_folder
from gram.data.prepare import PrepareSettings, prepare


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, default="runs/log.csv", help="columns user_id, item_id, time")
    parser.add_argument("--items", type=Path, default="runs/films.csv", help="columns item_id, title, year, genres")
    parser.add_argument("--output", type=Path, default="runs/films", help="new data folder")
    arguments = parser.parse_args()

    if not arguments.log.exists():
        quickstart = Path("runs/quickstart/data")
        log = pq.read_table(quickstart / "interactions.parquet", columns=["user_id", "item_id", "time"])
        csv.write_csv(log, arguments.log)
        csv.write_csv(pq.read_table(quickstart / "items.parquet"), arguments.items)

    settings = PrepareSettings(
        format="table",
        interactions=str(arguments.log),
        items=str(arguments.items),
        time_column="time",
        text_columns="title, year, genres",
        user_core=5,  # users and items with fewer interactions are dropped, until there are none
        item_core=5,
    )
    print(prepare(settings, arguments.output))

    data = read_folder(arguments.output)
    history = [data.items.titles[row] for row in data.interactions[0]]
    print(f"{data.interactions.user_ids[0]} first had {history[0]!r} and last {history[-1]!r}")


if __name__ == "__main__":
    main()

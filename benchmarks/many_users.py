"""Users by the ten thousand: one process against the workers of Ray, and against these with one of them killed.

`python -m benchmarks.many_users MODEL --data DIR --num-workers 2 --output-dir DIR`, for a model folder with item
encodings (`gram encode MODEL`). The users are those of the data, again and again; each way must give the same tables. A
worker's start is counted, as it is by who waits for it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gram.commands.command import quiet
from gram.common.command_line import exit_code_of
from gram.data import evaluation_histories, read_folder
from gram.serving.engines import LOCAL, RAY
from gram.serving.tables import TableRecommender, recommend_tables

from .measuring import markdown, write_json

USERS_PER_FILE = 500


class Dying(TableRecommender):
    """The first worker that comes to the middle of the tables is killed there."""

    def __init__(self, model: str, mark: Path, file: str):
        super().__init__(model)
        self.mark, self.file = mark, file

    def recommend_file(self, users: str | Path, output: str | Path, progress: bool = False) -> int:
        """As its parent does, unless it is killed."""
        if Path(users).name == self.file and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().recommend_file(users, output, progress)


def write_users(data: Path, count: int, folder: Path) -> list[str]:
    """Write tables of so many users; gives their names."""
    whole = read_folder(data)
    histories, _ = evaluation_histories(whole, "test")
    ids, names = np.array(whole.items.item_ids), []
    folder.mkdir(parents=True)
    for first in range(0, count, USERS_PER_FILE):
        users = range(first, min(first + USERS_PER_FILE, count))
        items = [ids[histories[user % len(histories)]].tolist() for user in users]
        names.append(f"users-{first:07d}.parquet")
        pq.write_table(pa.table({"user_id": [f"u{user}" for user in users], "items": items}), folder / names[-1])
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the tables and many_users.json")
    parser.add_argument("--users", type=int, default=20_000, help="how many (%(default)s)")
    parser.add_argument("--num-workers", type=int, default=2, help="of Ray (%(default)s)")
    given = parser.parse_args(argv)
    quiet()
    os.environ["RAY_worker_niceness"] = "0"  # as high as that of one process
    users, mark = given.output_dir / "users", given.output_dir / "killed"
    for name in ("users", "one", "ray", "ray-killed"):
        shutil.rmtree(given.output_dir / name, ignore_errors=True)
    mark.unlink(missing_ok=True)
    names = write_users(given.data, given.users, users)
    dying = Dying(given.model, mark.absolute(), names[len(names) // 2])
    ways = {"one": (TableRecommender(given.model), LOCAL), "ray": (TableRecommender(given.model), RAY)}
    seconds = {}
    for name, (recommender, engine) in {**ways, "ray-killed": (dying, RAY)}.items():
        start, output = time.perf_counter(), given.output_dir / name
        recommend_tables(recommender, users, output, engine, given.num_workers if engine == RAY else 1)
        seconds[name] = time.perf_counter() - start
        for file in names:
            if not pq.read_table(output / file).equals(pq.read_table(given.output_dir / "one" / file)):
                raise ValueError(f"{output / file}: is not what one process gives")
    if not mark.exists():
        raise RuntimeError("no worker was killed")
    rows = [
        [name, f"{of:.0f}", f"{given.users / of:.0f}", f"{seconds['one'] / of:.2f}"] for name, of in seconds.items()
    ]
    print("\n" + markdown(["", "seconds", "users a second", "times one process"], rows))
    write_json(
        {"users": given.users, "num_workers": given.num_workers, "seconds": seconds},
        given.output_dir / "many_users.json",
    )


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.many_users"))

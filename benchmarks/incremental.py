"""What a daily training brings: a trained GRAM that goes on with a newer log, against one that is trained anew.

`python -m benchmarks.incremental --data DIR --output-dir DIR --config cpu --epochs 3`: the log of an earlier day has
all but each user's last two items. A model is trained on it; the items that came later are added with `gram add-items`;
and it is trained on with the whole log for one epoch. Beside it one model is trained anew on the whole log for one
epoch, and one for as many as the first. All of them look for each user's test item among ten. Run again, what is
finished is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gram.commands.command import quiet
from gram.common.command_line import exit_code_of
from gram.data import Interactions, RecommendationData, evaluation_histories, leave_one_out, read_folder
from gram.data.folder import write_parquet_folder
from gram.evaluation.candidates import target_ranks
from gram.evaluation.rankings import estimate_text, ranking_metrics
from gram.serving.catalogue_changes import add_items
from gram.train_accelerate import main as train

from .cold_items import searched, table_of_items
from .measuring import markdown, write_json

LATER = 2  # of each user's items, the validation and the test item
NEW_ITEMS = "new.parquet"
METRICS = ("recall@10", "ndcg@10")


def earlier_log(data: RecommendationData, folder: Path) -> None:
    """Write a data folder of what each user had before the last two items, and beside it a file of the items since."""
    if (folder / "prepare.json").is_file():
        return
    sequences = [sequence[:-LATER] for sequence in data.interactions]
    was_there = np.zeros(len(data.items), dtype=bool)
    was_there[np.concatenate(sequences)] = True
    row, table = np.cumsum(was_there) - 1, table_of_items(data)
    log = Interactions.from_sequences(data.interactions.user_ids, [row[sequence] for sequence in sequences])
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.filter(pa.array(~was_there)), folder.parent / NEW_ITEMS)
    times = np.concatenate([np.arange(length) for length in log.lengths])
    write_parquet_folder(folder, table.filter(pa.array(was_there)), log, times, leave_one_out(log), {})


def measure(data: RecommendationData, output_dir: Path, training: Sequence[str]) -> dict:
    """Metrics of every model on the same users, and how long each was trained."""
    folder = {name: output_dir / name for name in ("earlier-log", "earlier", "added", "goes-on", "anew-one", "anew")}
    earlier_log(data, folder["earlier-log"])
    whole, once = ["--data", str(data.folder)], ["--epochs", "1"]
    train([*training, "--data", str(folder["earlier-log"]), "--output-dir", str(folder["earlier"])])
    if not folder["added"].is_dir():
        add_items(folder["earlier"], output_dir / NEW_ITEMS, folder["added"])
    goes_on = ["--init-from", str(folder["added"])]
    train([*training, *once, *whole, *goes_on, "--output-dir", str(folder["goes-on"])])
    train([*training, *once, *whole, "--output-dir", str(folder["anew-one"])])
    train([*training, *whole, "--output-dir", str(folder["anew"])])
    histories, targets = evaluation_histories(data, "test")
    histories = [np.asarray(history) for history in histories]
    rows = {}
    for name in ("earlier", "added", "goes-on", "anew-one", "anew"):
        ranks = target_ranks(searched(folder[name], data, histories), targets)
        facts = json.loads((folder[name] / "training.json").read_text(encoding="utf-8"))
        rows[name] = {metric: of for metric, of in ranking_metrics(ranks, [10]).items() if metric in METRICS}
        rows[name]["seconds"] = facts["progress"]["seconds"]
    new = pq.read_metadata(output_dir / NEW_ITEMS).num_rows
    return {"new_items": new, "users": len(targets), "rows": rows}


NAMES = {
    "earlier": "trained on the earlier log",
    "added": "and the new items added",
    "goes-on": "and trained on with the whole log, one epoch",
    "anew-one": "trained anew on the whole log, one epoch",
    "anew": "trained anew on the whole log",
}


def as_table(found: dict) -> str:
    """Markdown: a row per model."""
    rows = []
    for name, of in found["rows"].items():
        means = [estimate_text(of[metric]) for metric in METRICS]
        rows.append([NAMES[name], *means, "" if name == "added" else f"{of['seconds']:.0f}"])
    return markdown(["", *METRICS, "training, seconds"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, add, train on, look for; print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for data, models and incremental.json")
    parser.epilog = "All other flags are those of train_accelerate.py."
    given, training = parser.parse_known_args(argv)
    quiet()
    found = measure(read_folder(given.data), given.output_dir, training)
    print(f"\n{as_table(found)}")
    write_json(found, given.output_dir / "incremental.json")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.incremental"))

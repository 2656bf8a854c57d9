"""What becomes of items that nobody has had yet: left out of training, added to the trained model, and looked for.

`python -m benchmarks.cold_items --data DIR --output-dir DIR --config cpu --budget 20m`: a share of the items, drawn by
seed, is taken out of the data with all that users did with them. A model is trained on the rest, `gram add-items` adds
them, and each user's test item is looked for among fifty: those that the model was trained on, warm, and the others,
cold. Beside it a ranking by texts alone: the items whose vectors are nearest to the mean of those of the latest ones.
Run again, what is finished is kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from gram.commands.command import quiet
from gram.common.command_line import exit_code_of
from gram.data import Interactions, RecommendationData, evaluation_histories, read_folder
from gram.data.folder import write_parquet_folder
from gram.evaluation.candidates import target_ranks
from gram.evaluation.rankings import estimate_text, ranking_metrics
from gram.item_cache_gram import ItemCache
from gram.serving.catalogue_changes import add_items
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender, search_users
from gram.train_accelerate import main as train
from gram.translation.embedding import embed_texts

from .measuring import markdown, write_json

CUTOFF, LATEST = 50, 5
COLD_SHARES = (0.06, 0.1, 0.2)  # three, five and ten of fifty places
COLD_FILE = "cold.parquet"


def table_of_items(data: RecommendationData) -> pa.Table:
    """The items as a data folder has them: ids, titles, then the other fields."""
    fields = {"item_id": data.items.item_ids, "title": data.items.titles}
    if data.items.fields is None:
        raise ValueError(
            "the items have no fields of their own; give a data folder with items.parquet or item_text.tsv"
        )
    table = pa.table(fields)
    for name in data.items.fields.column_names:
        table = table.append_column(name, data.items.fields[name]) if name not in fields else table
    return table


def hold_out(data: RecommendationData, share: float, seed: int, folder: Path) -> np.ndarray:
    """Write a data folder without some items, and beside it a file of these; gives (N,) bool, which they are."""
    is_cold = np.zeros(len(data.items), dtype=bool)
    drawn = np.random.default_rng(seed).permutation(len(is_cold))
    is_cold[drawn[: max(int(share * len(is_cold)), 1)]] = True
    if (folder / "prepare.json").is_file():
        return is_cold
    table = table_of_items(data)
    kept = ~is_cold[data.interactions.items]
    offsets = np.concatenate([[0], np.cumsum(kept)])[data.interactions.offsets]
    row = np.cumsum(~is_cold) - 1  # among those that are kept
    interactions = Interactions(
        data.interactions.user_ids, row[data.interactions.items[kept]].astype(np.int32), offsets
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.filter(pa.array(is_cold)), folder.parent / COLD_FILE)
    times = np.arange(len(interactions.items)) - np.repeat(offsets[:-1], np.diff(offsets))
    write_parquet_folder(folder, table.filter(pa.array(~is_cold)), interactions, times, data.splits[kept], {})
    return is_cold


def by_texts(data: RecommendationData, histories: Sequence[np.ndarray]) -> np.ndarray:
    """(U, 50) the rows whose vectors are nearest to the mean of the latest five, items of the history left out."""
    vectors, found = embed_texts(data.items.texts), []
    for history in histories:
        cosines = vectors @ vectors[history[-LATEST:]].mean(axis=0)
        cosines[history] = -np.inf
        found.append(np.argsort(-cosines, kind="stable")[:CUTOFF])
    return np.stack(found)


def searched(
    folder: Path, data: RecommendationData, histories: Sequence[np.ndarray], cold_share: float = 0.0
) -> np.ndarray:
    """(U, 50) the rows that a model recommends, of what it knows of each history; -1 where that is nothing."""
    model, tokenizer = load_model(folder)
    rows = np.array([tokenizer.item_rows.get(item, -1) for item in data.items.item_ids])
    back = np.full(len(tokenizer.item_ids) + 1, -1)  # a row of the model as one of the data; the last is for none
    back[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    known = [rows[history][rows[history] >= 0].tolist() for history in histories]
    recommender = Recommender(model, tokenizer, item_cache=ItemCache.in_memory(model, tokenizer))
    search = {"top_k": CUTOFF, "exclude_seen": True, "num_beams": CUTOFF, "cold_share": cold_share}
    with tqdm(total=len(known), desc=f"{folder.name}, {cold_share:g}", unit="user") as bar:
        found, _ = search_users(recommender, known, search, recommender.item_cache, bar)
    return back[found]


def measure(data: RecommendationData, output_dir: Path, share: float, seed: int, training: Sequence[str]) -> dict:
    """Recall among fifty of every way, for warm and cold targets, and how long adding took."""
    warm, trained, added = (output_dir / name for name in ("warm", "trained", "added"))
    is_cold = hold_out(data, share, seed, warm)
    if not (trained / "training.json").is_file():
        train([*training, "--data", str(warm), "--output-dir", str(trained)])
    seconds = None
    if not added.is_dir():
        start = time.perf_counter()
        add_items(trained, output_dir / COLD_FILE, added)
        seconds = time.perf_counter() - start
    histories, targets = evaluation_histories(data, "test")
    histories = [np.asarray(history) for history in histories]
    rankings = {
        "GRAM, before": searched(trained, data, histories),
        "GRAM, with the new items": searched(added, data, histories),
        **{f"GRAM, `cold_share` {share:g}": searched(added, data, histories, share) for share in COLD_SHARES},
        "texts alone": by_texts(data, histories),
    }
    rows = {}
    for name, items in rankings.items():
        ranks = target_ranks(items, targets)
        parts = {"warm": ~is_cold[targets], "cold": is_cold[targets]}
        rows[name] = {part: ranking_metrics(ranks[of], [CUTOFF])[f"recall@{CUTOFF}"] for part, of in parts.items()}
        rows[name]["share of cold items"] = float(is_cold[items[items >= 0]].mean())
    counts = {"items": int(is_cold.sum()), "users": {name: int(of.sum()) for name, of in parts.items()}}
    return {"cold": counts, "add_seconds": seconds, "rows": rows}


def as_table(found: dict) -> str:
    """Markdown: a row per way."""
    head = [f"recall@{CUTOFF}", "warm targets", "cold targets", "cold items among the fifty"]
    rows = []
    for name, of in found["rows"].items():
        recall = [estimate_text(of[part]) for part in ("warm", "cold")]
        rows.append([name, *recall, f"{100 * of['share of cold items']:.1f} %"])
    return markdown(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Hold out, train, add, look for; print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for data, models and cold_items.json")
    parser.add_argument("--share", type=float, default=0.1, help="of the items that are held out (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out (%(default)s)")
    parser.epilog = "All other flags are those of train_accelerate.py."
    given, training = parser.parse_known_args(argv)
    quiet()
    data = read_folder(given.data)
    found = measure(data, given.output_dir, given.share, given.seed, training)
    print(f"\n{as_table(found)}")
    write_json(found, given.output_dir / "cold_items.json")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.cold_items"))

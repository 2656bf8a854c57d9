"""What each way to search costs in quality: cached encodings of fewer bits, fewer beams, scores over the trie.

`python -m benchmarks.quality MODEL --data DIR --output-dir DIR [--users 500]`, for a trained model. Every way ranks the
held-out test item of the same users, seen items allowed, and is compared with float32 encodings and 50 beams, and with
exact search, which returns the provably best items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from gram import GramForConditionalGeneration, GramTokenizer
from gram.data import drawn_users, evaluation_histories, read_folder
from gram.evaluation.rankings import ranking_metrics
from gram.item_cache_gram import ItemCache

from .measuring import markdown, write_json

TOP, BATCH = 10, 16
REFERENCE = "float32, 50 beams"
WAYS = {
    REFERENCE: {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "int8"},
    "10 beams": {"num_beams": 10},
    "20 beams": {"num_beams": 20},
    "100 beams": {"num_beams": 100},
    "200 beams": {"num_beams": 200},
    "exact": {"exact": True},
    "trie scores, 50 beams": {"score_mode": "trie"},
    "trie scores, exact": {"score_mode": "trie", "exact": True},
}


class Users:
    """A trained model, and users of its data with the item that each took next."""

    def __init__(self, name: str, data: Path, count: int, seed: int = 0):
        self.model = GramForConditionalGeneration.from_pretrained(name).eval()
        self.tokenizer = GramTokenizer.from_pretrained(name)
        folder = read_folder(data)
        histories, targets = evaluation_histories(folder, "test")
        chosen = drawn_users(len(targets), count, seed)
        ids = folder.items.item_ids
        self.histories = [[ids[row] for row in histories[user]] for user in chosen]
        self.targets = np.array([self.tokenizer.item_rows[ids[targets[user]]] for user in chosen])
        self.rows = sorted({self.tokenizer.item_rows[item] for history in self.histories for item in history})

    def ranked(self, name: str, dtype: str = "float32", num_beams: int = 50, **options) -> tuple[np.ndarray, dict]:
        """Catalogue rows (U, 10), best first, and what they took."""
        cache = ItemCache.in_memory(self.model, self.tokenizer, self.rows, dtype)
        found, nodes, start = [], [], time.perf_counter()
        for first in tqdm(range(0, len(self.histories), BATCH), desc=name, unit="batch"):
            histories = self.histories[first : first + BATCH]
            output = self.model.generate(
                **self.tokenizer(histories=histories, item_prompts=False, return_tensors="pt"),
                item_cache=cache,
                num_beams=max(num_beams, TOP),
                num_return_sequences=TOP,
                return_dict_in_generate=True,
                **options,
            )
            found.append(output.item_indices)
            nodes += [] if output.num_scored_nodes is None else output.num_scored_nodes.tolist()
        seconds = (time.perf_counter() - start) / len(self.histories)
        taken = {"seconds_per_user": seconds}
        if nodes:
            taken["nodes_scored"] = {"median": float(np.median(nodes)), "most": int(max(nodes))}
        return torch.cat(found).numpy(), taken

    def ndcg(self, items: np.ndarray) -> float:
        """NDCG@10 of the held-out items."""
        hit = items == self.targets[:, None]
        ranks = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
        return ranking_metrics(ranks, [TOP])[f"ndcg@{TOP}"]["mean"]


def share_equal(items: np.ndarray, others: np.ndarray) -> float:
    """Share of the users who have the same ten items in the same order."""
    return float((items == others).all(axis=1).mean())


def share_found(items: np.ndarray, best: np.ndarray) -> float:
    """Mean share of the truly best ten that are among the ten found."""
    return float(np.mean([len(set(some) & set(true)) / len(true) for some, true in zip(items, best, strict=True)]))


def compare(users: Users) -> list[dict]:
    """A row per way."""
    ranked, taken = {}, {}
    for name, options in WAYS.items():
        ranked[name], taken[name] = users.ranked(name, **options)
    rows = []
    for name, options in WAYS.items():
        best = ranked["trie scores, exact" if options.get("score_mode") == "trie" else "exact"]
        rows.append(
            {
                "way": name,
                "equal_top_10": share_equal(ranked[name], ranked[REFERENCE]),
                "best_found": share_found(ranked[name], best),
                "best_missed_by": float((ranked[name] != best).any(axis=1).mean()),
                "ndcg@10": users.ndcg(ranked[name]),
                "ndcg@10_change": users.ndcg(ranked[name]) - users.ndcg(ranked[REFERENCE]),
                **taken[name],
            }
        )
    return rows


def as_table(rows: Sequence[dict]) -> str:
    """Markdown: a row per way."""
    head = ["", f"equal top 10 to {REFERENCE}", "of the best 10 found", "users with another top 10 than exact"]
    head += ["NDCG@10", "change", "ms per user", "nodes scored, median (most)"]
    lines = []
    for row in rows:
        nodes = row.get("nodes_scored")
        lines.append(
            [
                *(row["way"], f"{row['equal_top_10']:.1%}", f"{row['best_found']:.2%}", f"{row['best_missed_by']:.1%}"),
                *(f"{row['ndcg@10']:.4f}", f"{row['ndcg@10_change']:+.4f}", f"{1000 * row['seconds_per_user']:.0f}"),
                f"{nodes['median']:,.0f} ({nodes['most']:,})" if nodes else "",
            ]
        )
    return markdown(head, lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all ways, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for quality.json")
    parser.add_argument("--users", type=int, default=500, help="random users (%(default)s)")
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    users = Users(given.model, given.data, given.users)
    rows = compare(users)
    items = users.model.item_trie
    print(f"{len(users.targets)} users, {items.num_items:,} items, {items.num_nodes:,} nodes\n\n{as_table(rows)}")
    write_json({"model": given.model, "users": len(users.targets), "rows": rows}, given.output_dir / "quality.json")


if __name__ == "__main__":
    main()

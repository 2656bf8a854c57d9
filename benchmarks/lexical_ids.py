"""Own lexical IDs, one set per encoder, against those that came with the data: the same measures for all.

`python -m benchmarks.lexical_ids --data DIR --tokenizer NAME`; the data folder holds `lexical_ids.txt`, and its
items have a column `categories`. Levels of a category path are parted by ` > `, several paths of an item by ` | `;
the first path is the item's category. The texts that own IDs are made of hold the categories too, so that agreement
with them tells how well an ID keeps what its text says, not what it finds out by itself.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gram.data import RecommendationData, read_folder
from gram.translation import TranslationSettings, TreeStatistics, translate

from .measuring import markdown

GIVEN = "lexical_ids.txt"
PREFIXES = (1, 2)  # leading tokens that make a cluster


def categories_of(data: RecommendationData) -> list[str]:
    """(N,) the first category path of each item, such as `"Beauty > Makeup > Lips"`, empty where it has none.

    Raises:
        ValueError: the items have no field `categories`, or nothing in it.
    """
    fields = data.items.fields
    if fields is None or "categories" not in fields.column_names:
        raise ValueError(f"{data.folder}: the items have no column 'categories'; add one")
    cells = [" ".join((cell or "").split()) for cell in fields["categories"].to_pylist()]
    if not any(cells):
        raise ValueError(f"{data.folder}: no item has a category; fill the column 'categories'")
    return [cell.split(" | ")[0] for cell in cells]


def leading_tokens(lexical_ids: Sequence[Sequence[str]], length: int) -> list[tuple[str, ...]]:
    """(N,) clusters: the first `length` tokens of each of N IDs, the whole ID where it is shorter."""
    return [tuple(tokens[:length]) for tokens in lexical_ids]


def shared_tokens(lexical_ids: Sequence[Sequence[str]], groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """How many leading tokens the pairs of items within each group share, over all pairs.

    A node of the ID tree adds 1 to every pair of items below it, so nothing is ever counted pair by pair.

    Args:
        lexical_ids: N token lists.
        groups: (N,) the group of every item.

    Returns:
        (G,) int64 shared tokens summed over the pairs of a group, and (G,) int64 its number of pairs; groups in order
        of their first item.
    """
    row_of = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    rows = [row_of[group] for group in groups]
    nodes = Counter(
        (row, tuple(tokens[:depth]))
        for row, tokens in zip(rows, lexical_ids, strict=True)
        for depth in range(1, len(tokens) + 1)
    )
    shared = np.zeros(len(row_of), dtype=np.int64)
    for (row, _), items in nodes.items():
        shared[row] += items * (items - 1) // 2
    sizes = np.bincount(rows, minlength=len(row_of))
    return shared, sizes * (sizes - 1) // 2


def mean_over_pairs(shared: np.ndarray, pairs: np.ndarray) -> float | None:
    """Mean of `shared` (G,) over all pairs; large groups weigh by their `pairs` (G,). None without pairs."""
    return float(shared.sum() / pairs.sum()) if pairs.any() else None


def purity(clusters: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """Share of items whose class, (N,), is the commonest of their cluster, (N,). It is 1 if each has its own."""
    commonest: dict[Hashable, int] = {}
    for (cluster, _), items in Counter(zip(clusters, classes, strict=True)).items():
        commonest[cluster] = max(commonest.get(cluster, 0), items)
    return sum(commonest.values()) / len(clusters)


def normalised_mutual_information(clusters: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """Mutual information of clusters (N,) and classes (N,) over the mean of their entropies: 0 to 1."""
    return float(normalized_mutual_info_score(_numbered(classes), _numbered(clusters)))


def adjusted_mutual_information(clusters: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """The same less what random clusters of these sizes would have, (N,) and (N,): 0 by chance, at most 1."""
    return float(adjusted_mutual_info_score(_numbered(classes), _numbered(clusters)))


def _numbered(labels: Sequence[Hashable]) -> list[int]:
    """(N,) labels as numbers, which is what scikit-learn takes; tuples would be read as a matrix."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def measure(lexical_ids: Sequence[Sequence[str]], categories: Sequence[str]) -> dict:
    """Every measure of N lexical IDs against N categories; items without one count in the tree's measures only."""
    statistics = TreeStatistics.of(lexical_ids)
    having = [row for row, category in enumerate(categories) if category]
    ids, classes = [lexical_ids[row] for row in having], [categories[row] for row in having]
    agreement = {}
    for length in PREFIXES:
        clusters = leading_tokens(ids, length)
        agreement[length] = {
            "clusters": len(set(clusters)),
            "purity": purity(clusters, classes),
            "normalised_mutual_information": normalised_mutual_information(clusters, classes),
            "adjusted_mutual_information": adjusted_mutual_information(clusters, classes),
        }
    return {
        "items": statistics.items,
        "duplicates": statistics.duplicates,
        "suffixed": statistics.suffixed,
        "levels": [
            {"level": level, "nodes": nodes, "mean_fan_out": mean, "max_fan_out": widest}
            for level, nodes, widest, mean in statistics.levels
        ],
        "items_without_category": len(categories) - len(having),
        "categories": len(set(classes)),
        "shared_tokens": mean_over_pairs(*shared_tokens(ids, classes)),
        "agreement": agreement,
    }


def as_table(results: dict[str, dict]) -> str:
    """A Markdown table: a row per measure, a column per set of IDs."""
    sets = list(results.values())
    rows = [[name, *(f"{found[key]:,}" for found in sets)] for name, key in _COUNTS.items()]
    for level in range(max(len(found["levels"]) for found in sets)):
        levels = [found["levels"][level] if level < len(found["levels"]) else None for found in sets]
        cells = ["{nodes:,}; {mean_fan_out:.2f}; {max_fan_out:,}".format(**one) if one else "-" for one in levels]
        rows.append([f"level {level + 1}: nodes; mean fan-out; maximum fan-out", *cells])
    shared = [found["shared_tokens"] for found in sets]
    cells = ["-" if mean is None else f"{mean:.3f}" for mean in shared]
    rows.append(["shared leading tokens of two items of one leaf category, mean over pairs", *cells])
    for length in PREFIXES:
        prefix = "first token" if length == 1 else f"first {length} tokens"
        agreements = [found["agreement"][length] for found in sets]
        rows.append([f"{prefix}: clusters", *(f"{found['clusters']:,}" for found in agreements)])
        for name, key in _AGREEMENT.items():
            rows.append([f"{prefix}: {name}", *(f"{found[key]:.3f}" for found in agreements)])
    head = ["", *("/".join(Path(name).parts[-2:]) for name in results)]  # a folder's whole path is too wide
    return markdown(head, rows)


_COUNTS = {
    "items": "items",
    "duplicate IDs": "duplicates",
    "items with a suffix": "suffixed",
    "items without category, left out below the levels": "items_without_category",
    "leaf categories (classes)": "categories",
}
_AGREEMENT = {
    "purity": "purity",
    "normalised mutual information": "normalised_mutual_information",
    "adjusted mutual information": "adjusted_mutual_information",
}


def compare(
    data: RecommendationData,
    tokenizer: PreTrainedTokenizerBase,
    encoders: Sequence[str],
    num_clusters: int = 128,
    depth: int = 7,
    seed: int = 0,
) -> dict[str, dict]:
    """The measures of the given IDs, then of own ones by each encoder, with the seconds that these took.

    Raises:
        FileNotFoundError: the data folder lacks `lexical_ids.txt`.
        ValueError: the given IDs do not fit the tokenizer, there are no categories, or an encoder cannot be loaded.
    """
    categories = categories_of(data)
    shape = {"num_clusters": num_clusters, "depth": depth, "seed": seed, "num_similar": 0}
    results = {}
    for name in dict.fromkeys([GIVEN, *encoders]):
        choice = {"lexical_ids": str(data.folder / GIVEN)} if name == GIVEN else {"encoder": name}
        start = time.perf_counter()
        translation = translate(data, tokenizer, TranslationSettings(**shape, **choice), progress=False)
        seconds = time.perf_counter() - start
        results[name] = measure(translation.catalogue["lexical_id"].to_pylist(), categories)
        if name != GIVEN:
            results[name]["seconds"] = seconds
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print the table, and write the JSON file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data folder with lexical_ids.txt")
    parser.add_argument("--tokenizer", required=True, help="name or folder of the tokenizer of the given IDs")
    parser.add_argument("--encoders", default="tfidf-svd", help="names or paths, parted by commas (%(default)s)")
    parser.add_argument("--num-clusters", type=int, default=128, help="children of a node, at most (%(default)s)")
    parser.add_argument("--depth", type=int, default=7, help="tokens of an ID, at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of encoder and clustering (%(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the measures")
    given = parser.parse_args(argv)
    encoders = [name.strip() for name in given.encoders.split(",") if name.strip()]
    try:
        data = read_folder(given.data)
        tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
        results = compare(data, tokenizer, encoders, given.num_clusters, given.depth, given.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if given.output:
        settings = {name: getattr(given, name) for name in ("data", "tokenizer", "num_clusters", "depth", "seed")}
        report = {"settings": settings, "lexical_ids": results}
        given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(as_table(results))


if __name__ == "__main__":
    main()

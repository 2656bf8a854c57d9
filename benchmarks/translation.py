"""Time and peak memory of the translation at several catalogue sizes, on made-up items.

`python -m benchmarks.translation --items 10000 100000 1000000 --output-dir DIR`. Every size runs in a fresh process,
so that its peak memory is its own. The vectors are a mixture of nested Gaussians; the texts draw their words from a
Zipf law that an item's cluster shifts. The items of a size are the first ones of every larger size.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from .measuring import GB, forget_peak, in_fresh_process, markdown, peak_gb, write_json

# What is heavy is imported where it is used: on Linux a process starts with the peak memory of the one that started it.

DIMENSIONS = 128
KINDS, SUB_KINDS = 200, 50  # clusters, and clusters in each of them
BLOCK = 1 << 14  # items that are drawn at once, each block from a seed of its own
NUM_WORDS, SHORT_WORDS = 50_000, 5_000  # words, and the most frequent of them, which have two syllables
SHORTEST, LONGEST = 20, 60  # words of a text
SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvwyz" for vowel in "aeiou"]
VOCABULARY_TEXTS, VOCABULARY_SIZE = 20_000, 8_000
NUM_CLUSTERS, DEPTH, NUM_SIMILAR, SEED = 128, 7, 10, 0
COUNTED = ("cluster", "name", "neighbours", "write")  # the translation; making the data is not part of it


def synthetic_kinds(num_items: int, seed: int = SEED) -> np.ndarray:
    """(N, 2) int64: the cluster of every item, and the cluster in it."""
    blocks = []
    for block in range(math.ceil(num_items / BLOCK)):
        draw = np.random.default_rng([seed, 0, block])
        blocks.append(np.stack([draw.integers(KINDS, size=BLOCK), draw.integers(SUB_KINDS, size=BLOCK)], axis=1))
    return np.concatenate(blocks)[:num_items]


def synthetic_vectors(kinds: np.ndarray, seed: int = SEED) -> np.ndarray:
    """(N, 128) float32 of length 1 for `kinds` (N, 2): about the centres of clusters about those of clusters."""
    draw = np.random.default_rng([seed, 1])
    outer = draw.standard_normal((KINDS, 1, DIMENSIONS), dtype=np.float32)
    centres = outer + 0.5 * draw.standard_normal((KINDS, SUB_KINDS, DIMENSIONS), dtype=np.float32)
    vectors = np.empty((len(kinds), DIMENSIONS), dtype=np.float32)
    for block, start in enumerate(range(0, len(kinds), BLOCK)):
        some = kinds[start : start + BLOCK]
        noise = np.random.default_rng([seed, 2, block]).standard_normal((BLOCK, DIMENSIONS), dtype=np.float32)
        part = centres[some[:, 0], some[:, 1]] + 0.35 * noise[: len(some)]  # (block, 128)
        vectors[start : start + BLOCK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def synthetic_words(seed: int = SEED) -> list[str]:
    """50,000 distinct words, the most frequent first."""
    draw, base = np.random.default_rng([seed, 3]), len(SYLLABLES)
    short = draw.permutation(base**2)[:SHORT_WORDS].tolist()
    long = draw.permutation(base**3)[: NUM_WORDS - SHORT_WORDS].tolist()
    words = [SYLLABLES[number // base] + SYLLABLES[number % base] for number in short]
    heads = [SYLLABLES[number // base**2] for number in long]
    return words + [
        head + SYLLABLES[number // base % base] + SYLLABLES[number % base]
        for head, number in zip(heads, long, strict=True)
    ]


def synthetic_texts(kinds: np.ndarray, seed: int = SEED) -> list[str]:
    """N texts of 20 to 60 words for `kinds` (N, 2).

    The r-th word of a law has probability proportional to 1 / r. Half of a text's words follow the law that all items
    share; a quarter that of the item's cluster, and a quarter that of the cluster in it, which have other words first.
    """
    words = np.array(synthetic_words(seed), dtype=object)
    law = np.cumsum(1 / np.arange(1, NUM_WORDS + 1))
    shifts = np.zeros((len(kinds), 4), dtype=np.int64)
    shifts[:, 2] = kinds[:, 0] * (NUM_WORDS // KINDS)
    shifts[:, 3] = shifts[:, 2] + (1 + kinds[:, 1]) * (NUM_WORDS // KINDS // SUB_KINDS)
    texts: list[str] = []
    for block, start in enumerate(range(0, len(kinds), BLOCK)):
        draw = np.random.default_rng([seed, 4, block])
        lengths = draw.integers(SHORTEST, LONGEST + 1, size=BLOCK)  # all of the block, so that texts do not depend on N
        ends = lengths.cumsum()
        item = np.repeat(np.arange(BLOCK), lengths)  # of each word
        ranks = np.searchsorted(law, draw.random(ends[-1]) * law[-1])
        whose = draw.integers(4, size=ends[-1])
        count = min(len(kinds) - start, BLOCK)
        used = ends[count - 1]
        shifted = ranks[:used] + shifts[start + item[:used], whose[:used]]
        chosen = words[shifted % NUM_WORDS].tolist()
        texts += [" ".join(chosen[end - size : end]) for end, size in zip(ends[:count], lengths[:count], strict=True)]
    return texts


def cluster(vectors: np.ndarray, num_workers: int | None) -> np.ndarray:
    """(N, depth) paths in the cluster tree."""
    from gram.translation.hierarchy import cluster_hierarchy

    return cluster_hierarchy(vectors, NUM_CLUSTERS, DEPTH, SEED, num_workers=num_workers or 1)


def name(paths: np.ndarray, texts: list[str], tokenizer) -> list[list[str]]:
    """N lexical IDs."""
    from gram.translation.lexical_ids import name_items

    return name_items(paths, texts, tokenizer)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """(N, 10) int32 rows of the most similar items."""
    from gram.collaborative.neighbours import nearest_items

    return nearest_items(vectors, NUM_SIMILAR)


def write(path: Path, texts: list[str], lexical_ids: list[list[str]], similar: np.ndarray) -> None:
    """The catalogue as Parquet, some rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gram.tokenization_gram import CATALOGUE_SCHEMA

    item_ids = pa.array([f"item{row:07d}" for row in range(len(texts))])
    with pq.ParquetWriter(path, CATALOGUE_SCHEMA) as writer:
        for start in range(0, len(texts), BLOCK):
            some = slice(start, start + BLOCK)
            rows = similar[some]
            found = rows >= 0
            offsets = np.concatenate([[0], found.sum(axis=1).cumsum()])
            lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), item_ids.take(pa.array(rows[found])))
            titles = [" ".join(text.split(" ", 6)[:6]) for text in texts[some]]
            columns = [item_ids[some], titles, texts[some], lexical_ids[some], lists]
            writer.write_table(pa.table(columns, schema=CATALOGUE_SCHEMA))


@dataclass(frozen=True)
class Stage:
    """What one stage took.

    Attributes:
        stage: its name.
        seconds: of wall time.
        cpu_seconds: of all cores, of finished workers too.
        peak_gb: the most memory of the process during the stage, what it held before included.
        worker_peak_gb: the most memory of one worker process that has finished, in this stage or before; 0: no worker.
    """

    stage: str
    seconds: float
    cpu_seconds: float
    peak_gb: float
    worker_peak_gb: float


class Stopwatch:
    """Runs stages one after the other and keeps what each took."""

    def __init__(self):
        self.stages: list[Stage] = []
        self.own_peaks = True

    def run(self, stage: str, function: Callable, *arguments):
        """The function's result."""
        self.own_peaks &= forget_peak()
        cpu, start = _cpu_seconds(), time.perf_counter()
        result = function(*arguments)
        seconds = time.perf_counter() - start
        peaks = [peak_gb(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        self.stages.append(Stage(stage, seconds, _cpu_seconds() - cpu, *peaks))
        return result


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_vocabulary(folder: Path) -> None:
    """Train the vocabulary on the first 20,000 texts, the same for every size, and save it."""
    from gram.translation import train_vocabulary

    train_vocabulary(synthetic_texts(synthetic_kinds(VOCABULARY_TEXTS)), VOCABULARY_SIZE).save_pretrained(folder)


def measure(num_items: int, tokenizer_name: str, num_workers: int | None, folder: Path) -> None:
    """Translate so many items, and leave what it took in `folder / "items-N.json"`."""
    from transformers import AutoTokenizer

    import gram.collaborative.fitting  # noqa: F401 - torch, sklearn and scipy: no stage should pay for the import
    from gram.translation import TreeStatistics

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    watch = Stopwatch()

    def make_data() -> tuple[np.ndarray, list[str]]:
        kinds = synthetic_kinds(num_items)
        return synthetic_vectors(kinds), synthetic_texts(kinds)

    vectors, texts = watch.run("make the data", make_data)
    paths = watch.run("cluster", cluster, vectors, num_workers)
    lexical_ids = watch.run("name", name, paths, texts, tokenizer)
    similar = watch.run("neighbours", neighbours, vectors)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "catalogue.parquet"
        watch.run("write", write, file, texts, lexical_ids, similar)
        size = file.stat().st_size
    statistics = TreeStatistics.of(lexical_ids)
    result = {
        "items": num_items,
        "stages": [asdict(stage) for stage in watch.stages],
        "peaks_of_each_stage": watch.own_peaks,  # False: a peak is the highest so far
        "catalogue_gb": size / GB,
        "duplicates": statistics.duplicates,
        "suffixed": statistics.suffixed,
        "nodes": [level.nodes for level in statistics.levels],
    }
    (folder / f"items-{num_items}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def with_total(stages: Sequence[dict]) -> dict[str, dict]:
    """The stages by name, and the whole translation, which making the data is not part of."""
    counted = [stage for stage in stages if stage["stage"] in COUNTED]
    total = {name: sum(stage[name] for stage in counted) for name in ("seconds", "cpu_seconds")}
    total |= {name: max(stage[name] for stage in counted) for name in ("peak_gb", "worker_peak_gb")}
    return {stage["stage"]: stage for stage in stages} | {"translation": total}


def as_table(results: Sequence[dict]) -> str:
    """A Markdown table: a row per stage; seconds and peak memory of every size."""
    sizes = [result["items"] for result in results]
    workers = any(stage["worker_peak_gb"] for result in results for stage in result["stages"])
    stages = [with_total(result["stages"]) for result in results]
    units = ["s", "peak GB", *(["worker's peak GB"] if workers else [])]
    heads = [f"{size:,} items: {unit}" for size in sizes for unit in units]
    head = ["stage", *heads]
    lines = []
    for stage in stages[0]:
        took = [of_size[stage] for of_size in stages]
        cells = chain.from_iterable(
            [f"{one['seconds']:.2f}", f"{one['peak_gb']:.2f}", *([f"{one['worker_peak_gb']:.2f}"] if workers else [])]
            for one in took
        )
        lines.append([stage, *cells])
    return markdown(head, lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size, then print the table and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="catalogue sizes")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for translation.json")
    parser.add_argument("--tokenizer", help="name or folder; without it a vocabulary is trained on the texts")
    parser.add_argument("--num-workers", type=int, help="worker processes of the clustering")
    given = parser.parse_args(argv)
    if min(given.items) < 2:
        parser.error("--items: a catalogue has at least 2 items")
    folder = given.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results, failure = [], None
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            tokenizer = given.tokenizer or scratch
            if not given.tokenizer:
                in_fresh_process(make_vocabulary, Path(scratch))
            for size in sorted(set(given.items)):
                print(f"{size:,} items ...", file=sys.stderr, flush=True)
                in_fresh_process(measure, size, tokenizer, given.num_workers, folder)
                results.append(json.loads((folder / f"items-{size}.json").read_text(encoding="utf-8")))
        except RuntimeError as error:
            failure = str(error)  # what smaller sizes took is still worth showing
    if results:
        write_json({"num_workers": given.num_workers, "results": results}, folder / "translation.json")
        print(as_table(results))
        for result in results:
            counts = f"{result['duplicates']:,} duplicate IDs, {result['suffixed']:,} with a suffix"
            print(f"\n{result['items']:,} items: {counts}, catalogue {result['catalogue_gb']:.3f} GB")
    if failure:
        sys.exit(failure)


if __name__ == "__main__":
    main()

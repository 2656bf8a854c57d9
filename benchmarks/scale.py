"""What a large catalogue costs one machine: trie, tokenizer, restricted search, and item encodings on the disk.

`python -m benchmarks.scale --items 100000 1000000 --output-dir DIR`. Each size is measured in a fresh process, on
random lexical IDs and fields, with a model of random weights in the shape of the recipe `cpu`. A search is of one user
with 50 beams. `--without-tokenizer` leaves the tokenizer out, where it does not fit into memory; the conditions
are the same. The output folder holds the encodings while they are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie
from gram.arguments_gram import items_where
from gram.common.command_line import exit_code_of
from gram.data.interactions import ItemTable
from gram.item_cache_gram import Block, ItemCache
from gram.serving.catalogue_changes import with_items
from gram.tokenization_gram import CATALOGUE_SCHEMA, PROMPT_WORDING
from gram.translation import train_vocabulary

from .catalogues import random_ids
from .measuring import GB, in_fresh_process, markdown, medians, peak_gb, resident_gb, write_json

SHAPE = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 4}
BEAMS, HISTORY, USERS, REPEATS = 50, 10, 16, 20
WORDS, LABELLED = 600, 20  # that texts are made of, and how many each has
SHARES = (0.5, 0.1, 0.01, 0.0001)  # of the items that meet a condition
CONDITIONS, ENCODED = 1000, 5000


def catalogue_of(num_items: int, seed: int = 0) -> tuple[pa.Table, GramTokenizer]:
    """A random catalogue with prices and brands, and the text tokenizer that spells it."""
    draw = np.random.default_rng(seed)
    words = np.array(["".join(chr(97 + letter) for letter in draw.integers(26, size=5)) for _ in range(WORDS)])
    texts = np.array([" ".join(words[draw.integers(WORDS, size=LABELLED)]) for _ in range(1000)])
    tokenizer = train_vocabulary([*texts, *PROMPT_WORDING], 1000)
    ids = random_ids(num_items, len(tokenizer), seed)[:, :-1]
    pieces = pa.DictionaryArray.from_arrays(ids.ravel(), tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    ends = np.arange(num_items + 1, dtype=np.int32)
    columns = {
        "item_id": pa.array(np.char.add("i", np.arange(num_items).astype(str))),
        "title": pa.array(words[draw.integers(WORDS, size=num_items)]),
        "text": pa.array(texts[draw.integers(len(texts), size=num_items)]),
        "lexical_id": pa.ListArray.from_arrays(ends * ids.shape[1], pieces.cast(pa.string())),
        "similar_items": pa.ListArray.from_arrays(ends * 0, pa.array([], pa.string())),
        "price": pa.array(draw.random(num_items)),
        "brand": pa.array(np.char.add("b", draw.integers(CONDITIONS, size=num_items).astype(str))),
    }
    assert list(columns)[: len(CATALOGUE_SCHEMA)] == CATALOGUE_SCHEMA.names
    return pa.table(columns), tokenizer


def random_model(vocab_size: int) -> GramForConditionalGeneration:
    """The recipe's shape, random weights."""
    torch.manual_seed(0)
    return GramForConditionalGeneration(GramConfig(vocab_size=vocab_size, score_mode="trie", **SHAPE)).eval()


def measure(num_items: int, with_tokenizer: bool, tokens: int, additions: float, folder: Path) -> None:
    """Measure one size, and leave it in `items-N.json`."""
    table, words = catalogue_of(num_items)
    sequences = random_ids(num_items, len(words), seed=0)
    start = time.perf_counter()
    trie = ItemTrie.from_sequences(sequences)
    found = {"items": num_items, "trie_seconds": time.perf_counter() - start}
    found["trie_gb"] = sum(of.nbytes for of in trie.buffers()) / GB
    del sequences

    fields = table.set_column(table.column_names.index("brand"), "brand", table["brand"].dictionary_encode())
    kept: dict[str, np.ndarray] = {}

    def rows_where(condition: str) -> np.ndarray:  # as the tokenizer does it
        if condition not in kept:
            kept[condition] = np.packbits(items_where(fields, condition))
        return np.unpackbits(kept[condition], count=num_items).view(bool).nonzero()[0]

    if with_tokenizer:
        held, start = resident_gb(), time.perf_counter()
        tokenizer = GramTokenizer.from_catalogue(words, table)
        found["tokenizer_seconds"], found["tokenizer_gb"] = time.perf_counter() - start, resident_gb() - held

        def rows_where(condition: str) -> np.ndarray:
            return tokenizer.allowed_rows(where=[condition])

        if count := round(additions * num_items):
            found |= {"added": count, "add_seconds": measure_additions(tokenizer, count)}

    found |= measure_search(trie, rows_where, len(words)) | measure_cache(num_items, tokens, folder)
    found["peak_gb"] = peak_gb()
    (folder / f"items-{num_items}.json").write_text(json.dumps(found), encoding="utf-8")


def measure_additions(tokenizer: GramTokenizer, count: int) -> float:
    """Seconds to place and name new items, each like an old one; vectors agree with the first two words of the IDs."""
    draw, num_old = np.random.default_rng(0), len(tokenizer.item_ids)
    _, cluster = np.unique([words[:2] for words in tokenizer.lexical_ids], axis=0, return_inverse=True)
    vectors = draw.normal(size=(cluster.max() + 1, 64)).astype(np.float32)[cluster.ravel()]
    vectors += 0.3 * draw.normal(size=vectors.shape).astype(np.float32)
    like = draw.integers(num_old, size=count)
    vectors = np.concatenate([vectors, vectors[like] + 0.2 * draw.normal(size=(count, 64)).astype(np.float32)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = tokenizer.catalogue["text"].take(like).to_pylist()
    items = ItemTable([f"new{number}" for number in range(count)], texts, texts)
    start = time.perf_counter()
    with_items(tokenizer, items, vectors)
    return time.perf_counter() - start


def measure_search(trie: ItemTrie, rows_where: Callable, vocab_size: int) -> dict:
    """Seconds of a search among all items, at the first and at later uses of a condition, and of many conditions."""
    model = random_model(vocab_size)
    model.set_item_trie(trie)
    passages = torch.randint(3, vocab_size, (1, HISTORY, 2 * LABELLED), generator=torch.Generator().manual_seed(0))
    encoded, mask = (
        model.encode(input_ids=passages, attention_mask=torch.ones_like(passages)),
        torch.ones_like(passages),
    )

    def search(condition: str | None = None) -> None:
        allowed = None if condition is None else rows_where(condition)
        options = {"num_beams": BEAMS, "num_return_sequences": 10, "allowed_items": allowed}
        model.generate(encoder_outputs=encoded, attention_mask=mask, **options)

    search()
    first = {}
    for share in SHARES:
        start = time.perf_counter()
        search(f"price<{share}")
        first[share] = time.perf_counter() - start
    later = medians({0: search, **{share: lambda of=share: search(f"price<{of}") for share in SHARES}}, REPEATS)
    held, start = resident_gb(), time.perf_counter()
    for number in range(CONDITIONS):
        search(f"brand=b{number}")
    seconds = time.perf_counter() - start
    search_seconds = {"first_seconds": first, "later_seconds": {share: later[share] for share in SHARES}}
    return {"all_seconds": later[0], **search_seconds, "many_seconds": seconds, "many_gb": resident_gb() - held}


def measure_cache(num_items: int, tokens: int, folder: Path) -> dict:
    """Gigabytes of int8 encodings, and seconds to look up some users' histories, from the disk and from memory."""
    path, count, width = folder / "states.bin", num_items * tokens, SHAPE["d_model"]
    draw = np.random.default_rng(0)
    with path.open("wb") as file:
        for first in range(0, count, 1 << 20):
            file.write(draw.bytes(min(1 << 20, count - first) * width))
        file.flush()
        os.fsync(file.fileno())
    try:
        states = torch.from_numpy(np.memmap(path, dtype=np.int8, mode="r+", shape=(count, width)))
        lengths = np.full(num_items, tokens)
        cache = ItemCache(num_items, "int8", [Block(np.arange(num_items), lengths, states, torch.ones(count))])
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what was written is not in memory any more
        seconds = []
        for _ in range(REPEATS):
            rows = draw.integers(num_items, size=USERS * HISTORY)
            for _ in range(2):
                start = time.perf_counter()
                cache.gather(rows)
                seconds.append(time.perf_counter() - start)
    finally:
        path.unlink()
    cold, warm = np.median(seconds[::2]), np.median(seconds[1::2])
    return {"tokens": tokens, "cache_gb": count * (width + 4) / GB, "cold_seconds": cold, "warm_seconds": warm}


def measure_cost(folder: Path) -> None:
    """How many items are encoded, and users searched for, in a second; left in `cost.json`."""
    table, words = catalogue_of(ENCODED)
    tokenizer = GramTokenizer.from_catalogue(words, table)
    model = random_model(len(tokenizer))
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    histories = np.random.default_rng(0).choice(tokenizer.item_ids, size=(USERS, HISTORY)).tolist()
    cache = ItemCache.in_memory(model, tokenizer)

    def search() -> None:
        inputs = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
        model.generate(**inputs, item_cache=cache, num_beams=BEAMS, num_return_sequences=10)

    seconds = medians({"items": lambda: ItemCache.in_memory(model, tokenizer), "users": search}, 5)
    lengths = [len(prompt) for prompt in tokenizer.item_prompts]
    found = {"items_a_second": ENCODED / seconds["items"], "users_a_second": USERS / seconds["users"]}
    found |= {"tokens_of_an_item": float(np.mean(lengths)), "threads": torch.get_num_threads()}
    (folder / "cost.json").write_text(json.dumps(found), encoding="utf-8")


def as_table(sizes: Sequence[dict]) -> str:
    """Markdown: a row per size."""
    head = ["items", "trie s", "trie GB", "tokenizer s", "tokenizer GB", "search ms", "first use of a condition, ms"]
    head += ["later uses, times", f"{CONDITIONS:,} conditions s", "GB", "encodings GB", "look-up ms, disk", "memory"]
    rows = []
    for of in sizes:
        tokenizer = [f"{of[name]:.1f}" if name in of else "-" for name in ("tokenizer_seconds", "tokenizer_gb")]
        row = [f"{of['items']:,}", f"{of['trie_seconds']:.1f}", f"{of['trie_gb']:.2f}", *tokenizer]
        row += [f"{1e3 * of['all_seconds']:.0f}", f"{1e3 * max(of['first_seconds'].values()):.0f}"]
        row += [f"{max(of['later_seconds'].values()) / of['all_seconds']:.2f}", f"{of['many_seconds']:.0f}"]
        row += [f"{of['many_gb']:.2f}", f"{of['cache_gb']:.1f}"]
        rows.append([*row, f"{1e3 * of['cold_seconds']:.1f}", f"{1e3 * of['warm_seconds']:.1f}"])
    return markdown(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", required=True, help="sizes of catalogues")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for scale.json")
    parser.add_argument("--tokens", type=int, default=40, help="of each item's encoding on the disk (%(default)s)")
    what = "share of new items that are added to each catalogue (%(default)s: none)"
    parser.add_argument("--additions", type=float, default=0.0, help=what)
    parser.add_argument("--without-tokenizer", action="store_true", help="measure all but the tokenizer")
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    files = [given.output_dir / "cost.json", *(given.output_dir / f"items-{size}.json" for size in given.items)]
    in_fresh_process(measure_cost, given.output_dir)
    for size in given.items:
        how = (not given.without_tokenizer, given.tokens, given.additions)
        in_fresh_process(measure, size, *how, given.output_dir)
    cost, *sizes = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    print(f"{cost['items_a_second']:.0f} items and {cost['users_a_second']:.1f} users a second\n\n{as_table(sizes)}")
    for of in sizes:
        if "added" in of:
            print(f"\n{of['added']:,} items were added to {of['items']:,} in {of['add_seconds']:.0f} s")
    write_json({"cost": cost, "sizes": sizes}, given.output_dir / "scale.json")
    for file in files:
        file.unlink()


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.scale"))

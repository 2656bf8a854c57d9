"""The item trie from thousands to millions of items: its build, and one step of beam search over it.

`python -m benchmarks.trie --items 10000 100000 1000000 10000000 --output-dir DIR`. Each size is built in a fresh
process. A step is beam search's own: look up the children of every beam, add their log-probabilities, and prune; the
decoder is replaced by random numbers that are there beforehand. It stands against the plain form, a dictionary of
prefixes behind transformers' `prefix_allowed_tokens_fn`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gram import ItemTrie
from gram.generation_gram import beam_search

from .catalogues import LENGTH, prefix_table, random_ids
from .measuring import (
    GB,
    forget_peak,
    in_fresh_process,
    markdown,
    medians,
    peak_gb,
    write_json,
)

VOCABULARY = 32_128  # T5's
BEAMS = 50


def measure_build(num_items: int, plain: bool, folder: Path) -> None:
    """Build the trie of so many items, leave it in `trie-N.safetensors` and what it took in `items-N.json`."""
    ids = random_ids(num_items, VOCABULARY, seed=0)
    own_peaks = forget_peak()
    held = peak_gb()
    start = time.perf_counter()
    trie = ItemTrie.from_sequences(ids)
    result = {
        "items": num_items,
        "nodes": trie.num_nodes,
        "trie_gb": sum(buffer.nbytes for buffer in trie.buffers()) / GB,
        "ids_gb": ids.nbytes / GB,
        "build_seconds": time.perf_counter() - start,
        "build_peak_gb": peak_gb(),  # the interpreter, torch, the IDs and the trie
        "gb_before_build": held,
        "peaks_of_each_stage": own_peaks,  # False: a peak is the highest so far
    }
    save_file(trie.state_dict(), folder / f"trie-{num_items}.safetensors")
    if plain:
        forget_peak()
        start = time.perf_counter()
        table = prefix_table(ids)
        result["plain_build_seconds"] = time.perf_counter() - start
        result["plain_build_peak_gb"] = peak_gb()
        runs = {"trie": search(trie, 1, BEAMS), "plain": plain_search(table, ids, BEAMS)}
        result |= {f"{name}_step_beside": seconds / trie.depth for name, seconds in medians(runs, 10).items()}
    (folder / f"items-{num_items}.json").write_text(json.dumps(result), encoding="utf-8")


def load(num_items: int, folder: Path) -> ItemTrie:
    state = load_file(folder / f"trie-{num_items}.safetensors")
    trie = ItemTrie(len(state["leaves"]), len(state["tokens"]), len(state["fan_out"]))
    trie.load_state_dict(state)
    return trie


def search(trie: ItemTrie, batch_size: int, num_beams: int) -> Callable:
    """Beam search whose decoder has nothing to compute."""
    draw = torch.Generator().manual_seed(0)
    numbers = -torch.rand(batch_size, num_beams, int(trie.fan_out.max()), generator=draw)

    def step(tokens, parents, candidates, legal):
        of_candidates = numbers[:, : candidates.shape[1], : candidates.shape[2]]
        return of_candidates.masked_fill(~legal, -torch.inf)

    return lambda: beam_search(step, trie, batch_size, num_beams, num_beams, 1.0, start_token_id=0)


def plain_search(table: dict[tuple[int, ...], list[int]], ids: np.ndarray, num_beams: int) -> Callable:
    """The same number of steps as stock beam search takes them: mask the vocabulary, add, and choose."""
    from transformers import PrefixConstrainedLogitsProcessor

    processor = PrefixConstrainedLogitsProcessor(lambda _, prefix: table[tuple(prefix[1:].tolist())], num_beams)
    scores = -torch.rand(num_beams, VOCABULARY, generator=torch.Generator().manual_seed(0))
    beams = torch.nn.functional.pad(torch.from_numpy(np.resize(ids, (num_beams, ids.shape[1]))).long(), (1, 0))
    sums = torch.zeros(num_beams, 1)

    def run() -> None:
        for level in range(LENGTH + 1):
            allowed = processor(beams[:, : level + 1], scores)
            (sums + allowed).flatten().topk(2 * num_beams)

    return run


def build_table(builds: Sequence[dict]) -> str:
    """A row per size: build and step, ours and the plain form's."""
    head = ["items", "nodes", "build s", "peak GB", "trie GB", "step ms", "against fewest items"]
    head += ["dictionary: build s", "peak GB", "step ms", "trie is faster by"]
    rows = []
    for build in builds:
        row = [f"{build['items']:,}", f"{build['nodes']:,}", f"{build['build_seconds']:.2f}"]
        row += [f"{build['build_peak_gb']:.2f}", f"{build['trie_gb']:.3f}", f"{build['step_seconds'] * 1e3:.3f}"]
        row += [f"{build['step_seconds'] / builds[0]['step_seconds']:.2f}"]
        if "plain_build_seconds" in build:
            faster = build["plain_step_beside"] / build["trie_step_beside"]
            row += [f"{build['plain_build_seconds']:.2f}", f"{build['plain_build_peak_gb']:.2f}"]
            row += [f"{build['plain_step_beside'] * 1e3:.2f}", f"{faster:.1f}"]
        else:
            row += ["-"] * 4
        rows.append(row)
    return markdown(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Build and measure every size, then print the table and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [10_000, 100_000, 1_000_000, 10_000_000]
    parser.add_argument("--items", type=int, nargs="+", default=sizes, help="catalogue sizes")
    parser.add_argument("--plain-items", type=int, default=1_000_000, help="largest dictionary (%(default)s items)")
    parser.add_argument("--repeats", type=int, default=30, help="searches of each; the median counts (%(default)s)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for trie.json")
    given = parser.parse_args(argv)
    for name in ("items", "repeats"):
        if np.min(getattr(given, name)) < 1:
            parser.error(f"--{name} must be at least 1")
    folder = given.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    builds, tries = [], {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        for size in sorted(set(given.items)):
            in_fresh_process(measure_build, size, size <= given.plain_items, scratch)
            builds.append(json.loads((scratch / f"items-{size}.json").read_text(encoding="utf-8")))
            tries[size] = load(size, scratch)
    runs = {size: search(trie, 1, BEAMS) for size, trie in tries.items()}  # in turns, so that noise meets all alike
    for build, seconds in zip(builds, medians(runs, given.repeats).values(), strict=True):
        build["step_seconds"] = seconds / tries[build["items"]].depth
    write_json({"builds": builds}, folder / "trie.json")
    print(f"{torch.get_num_threads()} threads\n\n{build_table(builds)}")


if __name__ == "__main__":
    main()

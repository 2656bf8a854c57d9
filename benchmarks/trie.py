"""The item trie from thousands to millions of items: its build, and one step of beam search over it.

`python -m benchmarks.trie --items 10000 100000 1000000 10000000 --output-dir DIR`. Each size is built in a fresh
process. A step is beam search's own: look up the children of every beam, add their log-probabilities, and prune; the
decoder is replaced by random numbers that are there beforehand. It stands against the plain form, a dictionary of
prefixes behind transformers' `prefix_allowed_tokens_fn`, and against a floor: the time in which this machine reads the
bytes that a step cannot do without.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gram import ItemTrie
from gram.generation_gram import beam_search

from .catalogues import LENGTH, prefix_table, random_ids
from .measuring import (
    GB,
    Machine,
    forget_peak,
    in_fresh_process,
    markdown,
    medians,
    peak_gb,
    pyplot,
    write_json,
)

VOCABULARY = 32_128  # T5's
BEAMS = 50
BYTES_PER_BEAM = 2 * 4  # where its children begin and end
BYTES_PER_CHILD = 4 * 4  # token, item and log-probability read, sum written

Shape = tuple[int, int]  # users, and beams of each


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


def floor(trie: ItemTrie, batch_size: int, num_beams: int, machine: Machine) -> float:
    """Seconds of a search's smallest traffic: every child of every beam once."""
    beams, total = 1, 0
    for fan_out in trie.fan_out.tolist():
        total += beams * (BYTES_PER_BEAM + fan_out * BYTES_PER_CHILD)
        beams = min(num_beams, beams * fan_out)
    return machine.floor(0, batch_size * total)


def measure_steps(tries: dict[int, ItemTrie], shapes: Iterable[Shape], repeats: int, machine: Machine) -> list[dict]:
    """Seconds of a mean step, median of many searches, for every size and shape.

    The sizes take turns, so that their ratio is not another program's doing.
    """
    found = []
    for batch_size, beams in shapes:
        runs = {size: search(trie, batch_size, beams) for size, trie in tries.items()}
        for size, seconds in medians(runs, repeats).items():
            depth = tries[size].depth
            shape = {"items": size, "batch_size": batch_size, "beams": beams}
            least = floor(tries[size], batch_size, beams, machine)
            found.append({**shape, "seconds": seconds / depth, "floor": least / depth})
    return found


def of_shape(steps: Sequence[dict], batch_size: int, beams: int) -> dict[int, dict]:
    """The steps of one shape by number of items."""
    return {one["items"]: one for one in steps if (one["batch_size"], one["beams"]) == (batch_size, beams)}


def build_table(builds: Sequence[dict], steps: Sequence[dict]) -> str:
    """A row per size: build and step, ours and the plain form's."""
    head = ["items", "nodes", "build s", "peak GB", "trie GB", "step ms", "against fewest items", "floor ms"]
    head += ["dictionary: build s", "peak GB", "step ms", "trie is faster by"]
    middle, rows = of_shape(steps, 1, BEAMS), []
    smallest = middle[min(middle)]["seconds"]
    for build in builds:
        step = middle[build["items"]]
        row = [f"{build['items']:,}", f"{build['nodes']:,}", f"{build['build_seconds']:.2f}"]
        row += [f"{build['build_peak_gb']:.2f}", f"{build['trie_gb']:.3f}", f"{step['seconds'] * 1e3:.3f}"]
        row += [f"{step['seconds'] / smallest:.2f}", f"{step['floor'] * 1e3:.4f}"]
        if "plain_build_seconds" in build:
            faster = build["plain_step_beside"] / build["trie_step_beside"]
            row += [f"{build['plain_build_seconds']:.2f}", f"{build['plain_build_peak_gb']:.2f}"]
            row += [f"{build['plain_step_beside'] * 1e3:.2f}", f"{faster:.1f}"]
        else:
            row += ["-"] * 4
        rows.append(row)
    return markdown(head, rows)


def curve_table(steps: Sequence[dict], sizes: Sequence[int]) -> str:
    """A row per batch size and number of beams: milliseconds of a step per catalogue size, and the floor's."""
    head = ["batch size x beams", *(f"{size:,} items: ms" for size in sizes), "floor of the last, ms", "last / first"]
    rows = []
    for batch_size, beams in dict.fromkeys((one["batch_size"], one["beams"]) for one in steps):
        found = of_shape(steps, batch_size, beams)
        cells = [f"{found[size]['seconds'] * 1e3:.3f}" for size in sizes]
        last = found[sizes[-1]]
        ratio = last["seconds"] / found[sizes[0]]["seconds"]
        rows.append([f"{batch_size} x {beams}", *cells, f"{last['floor'] * 1e3:.4f}", f"{ratio:.2f}"])
    return markdown(head, rows)


def plot(builds: Sequence[dict], steps: Sequence[dict], path: Path) -> None:
    """A step over items, beams and batch size, each with its floor, dashed."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    middle = of_shape(steps, 1, BEAMS)
    _curve(panels[0], [*middle.values()], "items", "trie")
    plain = [build for build in builds if "plain_step_beside" in build]
    seconds = [build["plain_step_beside"] * 1e3 for build in plain]
    panels[0].plot([build["items"] for build in plain], seconds, "s-", label="dictionary of prefixes")
    for size in middle:
        of_size = [one for one in steps if one["items"] == size]
        _curve(panels[1], [one for one in of_size if one["batch_size"] == 1], "beams", f"{size:,} items")
        _curve(panels[2], [one for one in of_size if one["beams"] == BEAMS], "batch_size", f"{size:,} items")
    labels = f"items (1 user, {BEAMS} beams)", "beams (1 user)", f"users ({BEAMS} beams)"
    for panel, label in zip(panels, labels, strict=True):
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel="milliseconds a step")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curve(panel, steps: Sequence[dict], key: str, label: str) -> None:
    steps = sorted(steps, key=lambda one: one[key])
    (line,) = panel.plot([one[key] for one in steps], [one["seconds"] * 1e3 for one in steps], "o-", label=label)
    panel.plot([one[key] for one in steps], [one["floor"] * 1e3 for one in steps], "--", color=line.get_color())


def main(argv: Sequence[str] | None = None) -> None:
    """Build and measure every size, then print the tables and leave JSON and plot in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [10_000, 100_000, 1_000_000, 10_000_000]
    parser.add_argument("--items", type=int, nargs="+", default=sizes, help="catalogue sizes")
    parser.add_argument("--plain-items", type=int, default=1_000_000, help="largest dictionary (%(default)s items)")
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20, 50, 100, 200, 500], help="for one user")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64, 256], help=f"of {BEAMS} beams each"
    )
    parser.add_argument("--repeats", type=int, default=30, help="searches of each; the median counts (%(default)s)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for trie.json and trie.png")
    given = parser.parse_args(argv)
    try:
        pyplot()
    except ValueError as error:
        parser.error(str(error))
    for name in ("items", "beams", "batch_sizes", "repeats"):
        if np.min(getattr(given, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    folder = given.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    builds, tries = [], {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        for size in sorted(set(given.items)):
            in_fresh_process(measure_build, size, size <= given.plain_items, scratch)
            builds.append(json.loads((scratch / f"items-{size}.json").read_text(encoding="utf-8")))
            tries[size] = load(size, scratch)
    machine = Machine.measured()
    shapes = {(1, BEAMS), *((1, beams) for beams in given.beams), *((size, BEAMS) for size in given.batch_sizes)}
    steps = measure_steps(tries, sorted(shapes), given.repeats, machine)
    report = {"machine": {"bytes_per_second": machine.bytes}, "builds": builds, "steps": steps}
    write_json(report, folder / "trie.json")
    plot(builds, steps, folder / "trie.png")
    print(f"{torch.get_num_threads()} threads; {machine.bytes / GB:.1f} GB/s read\n")
    print(build_table(builds, steps), curve_table(steps, list(tries)), sep="\n\n")


if __name__ == "__main__":
    main()

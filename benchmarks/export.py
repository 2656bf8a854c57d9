"""What a client of exported graphs gets, beside the model in torch: the same items, the same scores, time and memory.

`python -m benchmarks.export MODEL --data DIR --output-dir DIR [--users 200]`, for a trained model. Each side is a fresh
process on one core, and answers one user after the other by 50 beams, with what was seen left out; the client is
`examples/recommend_with_onnx.py`, whose process never imports torch.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .measuring import in_fresh_process, markdown, peak_gb, write_json

TOP = 10
CLIENT = Path(__file__).parents[1] / "examples" / "recommend_with_onnx.py"


def by_torch(model: str, data: Path, folder: Path, count: int) -> None:
    """Draw users, write the catalogue rows of their histories, and recommend by the model itself."""
    from gram.data import drawn_users, evaluation_histories, read_folder
    from gram.serving.recommendation import Recommender

    source = read_folder(data)
    histories, _ = evaluation_histories(source, "test")
    start = time.perf_counter()
    recommender = Recommender.from_pretrained(model)
    loading = time.perf_counter() - start
    row_of, ids = recommender.tokenizer.item_rows, source.items.item_ids
    users = [[row_of[ids[row]] for row in histories[user]] for user in drawn_users(len(histories), count, seed=0)]
    (folder / "users.json").write_text(json.dumps(users))

    def answer(history: list[int]) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = recommender.recommend_rows([history], None, top_k=TOP)
        return rows[0], scores[0]

    _measure("torch", answer, users, loading, folder)


def by_onnx(folder: Path) -> None:
    """Recommend to the same users by the graphs."""
    client, users = runpy.run_path(str(CLIENT)), json.loads((folder / "users.json").read_text())
    start = time.perf_counter()
    loaded = client["load"](folder / "onnx")
    loading = time.perf_counter() - start
    _measure("onnx", lambda rows: zip(*client["recommend"](loaded, rows, TOP), strict=True), users, loading, folder)
    if "torch" in sys.modules or "transformers" in sys.modules:
        raise RuntimeError("the client has imported torch or transformers")


def _measure(name: str, answer: Callable, users: list[list[int]], loading: float, folder: Path) -> None:
    answer(users[0])
    found, seconds, cpu = [], [], time.process_time()
    for history in users:
        start = time.perf_counter()
        found.append(tuple(answer(history)))
        seconds.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    rows, scores = (np.array(values) for values in zip(*found, strict=True))
    np.savez(folder / f"{name}.npz", rows=rows, scores=scores)
    figures = {"ms_per_user": 1000 * float(np.median(seconds)), "cpu_ms_per_user": 1000 * cpu / len(users)}
    figures |= {"loading_s": loading, "peak_gb": peak_gb()}
    (folder / f"{name}.json").write_text(json.dumps(figures))


def measure(model: str, data: Path, folder: Path, count: int) -> dict:
    """Export the model, and measure both sides; what they leave in the folder stays there."""
    from gram.serving.export import export_onnx
    from gram.serving.loading import load_model

    shutil.rmtree(folder / "onnx", ignore_errors=True)
    start = time.perf_counter()
    files = export_onnx(*load_model(model), folder / "onnx")
    report = {"model": model, "users": count, "export_s": time.perf_counter() - start}
    report["bytes"] = {path.name: path.stat().st_size for path in files}
    if hasattr(os, "sched_setaffinity"):  # what is started from here on has one core
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    in_fresh_process(by_torch, model, data, folder, count)
    in_fresh_process(by_onnx, folder)
    sides = {name: np.load(folder / f"{name}.npz") for name in ("torch", "onnx")}
    (rows, others), (scores, found) = ([side[name] for side in sides.values()] for name in ("rows", "scores"))
    report["equal_top_10"] = float((rows == others).all(axis=1).mean())
    report["equal_items"] = float(
        np.mean([set(a) == set(b) for a, b in zip(rows.tolist(), others.tolist(), strict=True)])
    )
    report["largest_difference_of_scores"] = float(np.abs(scores - found).max())
    return {**report, **{name: json.loads((folder / f"{name}.json").read_text()) for name in sides}}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for export.json, and for the graphs")
    parser.add_argument("--users", type=int, default=200, help="random users (%(default)s)")
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    report = measure(given.model, given.data, given.output_dir, given.users)
    head = ["", "ms per user, median", "of the processor, mean", "s to load", "peak memory, GB"]
    rows = [
        [
            name,
            f"{of['ms_per_user']:.1f}",
            f"{of['cpu_ms_per_user']:.1f}",
            f"{of['loading_s']:.2f}",
            f"{of['peak_gb']:.2f}",
        ]
        for name, of in ((name, report[name]) for name in ("torch", "onnx"))
    ]
    equal, off = report["equal_top_10"], report["largest_difference_of_scores"]
    print(
        f"{given.users} users, equal top 10: {equal:.1%}, scores differ by at most {off:.1e}\n\n{markdown(head, rows)}"
    )
    write_json(report, given.output_dir / "export.json")


if __name__ == "__main__":
    main()

"""What runs leave: a file for each, all of them joined, and the card of the row GRAM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..common.files import json_text, new_files, write_json
from ..common.provenance import changes, hash_of_file, hash_of_weights
from ..data import evaluation_histories
from ..evaluation.full_ranking import CUTOFFS, PROTOCOLS, ranking_metrics, ranks_table
from ..evaluation.rankings import Z_95, estimate, ndcg, recall
from ..hub import refresh_model_card
from ..hub.card_data import ABLATIONS_FILE, EVALUATION_FILE
from ..hub.model_card import CARD
from ..serving.loading import load_model
from .plan import GRAM, ROWS, Run
from .runs import NUM_BEAMS, SPLIT, WEIGHTS_FILE, Facts, Ranks, Workspace

RESULTS_FOLDER, JOINED_FILE = "results", "results.json"
METRICS = {f"{name}@{k}": (gain, k) for k in CUTOFFS for name, gain in (("recall", recall), ("ndcg", ndcg))}
COMPARED = "ndcg@10"


def result_file(folder: Path, run: Run) -> Path:
    """Where the result of a run is."""
    return folder / RESULTS_FOLDER / f"{run.name}.json"


def save_result(run: Run, ranks: Ranks, facts: Facts, common: Mapping[str, Any], work: Workspace) -> dict[str, Any]:
    """Write `results/NAME.parquet`, every user's rank, and then `results/NAME.json`, which says that all is there.

    `ranks` and `facts` are what the run's kind gave, `common` is what all results of a reproduction share. Returns what
    the JSON file says.
    """
    path = result_file(work.folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    histories, targets = evaluation_histories(work.data, SPLIT)
    item_ids = [work.data.items.item_ids[row] for row in targets]
    digest = hashlib.sha256()
    for protocol in sorted(ranks):
        digest.update(protocol.encode() + ranks[protocol].astype("<i8").tobytes())
    named = {"row": run.row.name, "title": run.row.title, "seed": run.seed}
    measured = {
        "hashes": {**common["hashes"], **facts["hashes"], "ranks": digest.hexdigest()},
        "split": SPLIT,
        "users": len(targets),
        "num_beams": NUM_BEAMS,
        "metrics": {protocol: ranking_metrics(of) for protocol, of in ranks.items()},
    }
    with new_files(path.with_suffix(".parquet"), path) as (table, part):
        pq.write_table(ranks_table(histories.user_ids, item_ids, {run.row.name: ranks}), table)
        part.write_text(json_text({**named, **common, **facts, **measured}), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def is_done(folder: Path, run: Run, data_hash: str) -> bool:
    """Whether the result of exactly this run is there.

    Raises:
        ValueError: a result of other settings or data is there.
    """
    path = result_file(folder, run)
    if not (path.is_file() and path.with_suffix(".parquet").is_file()):
        return False
    wanted = {"settings": run.settings, "seed": run.seed, "hashes": {"data": data_hash}}
    if changed := changes(json.loads(path.read_text(encoding="utf-8")), wanted):
        remedy = f"remove it and {folder / 'runs' / run.name}, or give another --output-dir"
        raise ValueError(f"{path}: made with {changed[0]}; {remedy}")
    return True


def join_results(folder: Path) -> dict[str, Any]:
    """Join the results that there are so far, and write `results.json` into the reproduction's folder.

    Returns:
        What is in the file: `reproduction`, `data`, `users` and `split`, which all results share; `rows`, for each row
        `title`, `seeds`, of the first seed `parameters`, `settings` and `environment`, means over seeds of
        `validation` and `seconds`, and `metrics` `{protocol: {metric: {"mean", "low", "high", "spread"}}}`;
        `differences`, see [`difference`], of every two rows; `files`, the SHA-256 of the results.
        Of several seeds, a user's value is the mean over seeds, the interval is that over users, and `spread` is the
        standard deviation over seeds of the mean over users; None for one seed.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: results of other data or another budget are among them.
    """
    paths = sorted((folder / RESULTS_FOLDER).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder / RESULTS_FOLDER}: no results; give the folder that `gram reproduce` wrote")
    results = [_read_result(path) for path in paths]
    first, *others = results
    for path, result in zip(paths[1:], others, strict=True):
        for name in ("data_hash", "reproduction", "user_ids"):
            if result[name] != first[name]:
                what = {"data_hash": "data", "user_ids": "users"}.get(name, name)
                raise ValueError(f"{path}: has other {what} than {paths[0].name}; keep them apart")
    gains, rows = {}, {}
    for name in dict.fromkeys([*ROWS, *(result["row"] for result in results)]):
        several = sorted((one for one in results if one["row"] == name), key=lambda result: result["seed"])
        if several:
            gains[name], rows[name] = _row(several)
    joined = {
        **{name: first[name] for name in ("reproduction", "data", "users", "split", "data_hash")},
        "rows": rows,
        "differences": [
            {"row": row, "other": other, "protocol": protocol, "metric": COMPARED}
            | difference(gains[row][protocol], gains[other][protocol])
            for protocol in PROTOCOLS
            for row, other in combinations(rows, 2)
        ],
        "files": {path.name: hash_of_file(path) for path in paths},
    }
    write_json(folder / JOINED_FILE, joined)
    return joined


def difference(values: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Mean of the users' differences (U,) of two rows, with its 95 % interval.

    Users are paired, so that the interval is much narrower than those of the rows: where it does not hold 0, the rows
    differ at the level of 5 %, of one comparison. It tells how far the mean would move with other users.

    Example:
        >>> difference(np.array([0.5, 1.0]), np.array([0.0, 0.5]))
        {'mean': 0.5, 'low': 0.5, 'high': 0.5}
    """
    apart = values - others
    margin = Z_95 * float(apart.std(ddof=1)) / len(apart) ** 0.5 if len(apart) > 1 else 1.0
    mean = float(apart.mean())
    return {"mean": mean, "low": mean - margin, "high": mean + margin}


def _read_result(path: Path) -> dict[str, Any]:
    """A result, with `data_hash`, `user_ids`, and `ranks` for each protocol, (U,), 0 beyond the last that is kept."""
    result, table = json.loads(path.read_text(encoding="utf-8")), pq.read_table(path.with_suffix(".parquet"))
    of = {protocol: table.filter(pc.equal(table["protocol"], protocol)) for protocol in PROTOCOLS}
    ranks = {protocol: pc.fill_null(rows["rank"], 0).to_numpy() for protocol, rows in of.items()}
    return {**result, "data_hash": result["hashes"]["data"], "user_ids": table["user_id"].to_pylist(), "ranks": ranks}


def _row(results: list[dict[str, Any]]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """For each protocol the users' values (U,) of what rows are compared by; and what the joined results say."""
    first, gains, metrics = results[0], {}, {}
    for protocol in PROTOCOLS:
        ranks = [result["ranks"][protocol] for result in results]
        values = {metric: np.stack([gain(of, k) for of in ranks]) for metric, (gain, k) in METRICS.items()}
        gains[protocol] = values[COMPARED].mean(axis=0)
        metrics[protocol] = {
            metric: {**estimate(of.mean(axis=0)), "spread": float(of.mean(axis=1).std(ddof=1)) if len(of) > 1 else None}
            for metric, of in values.items()
        }
    validation = first.get("validation")  # fusions and baselines have none
    if validation:
        validation = {**validation, COMPARED: float(np.mean([result["validation"][COMPARED] for result in results]))}
    parts = sorted({part for result in results for part in result["seconds"]})
    return gains, {
        "title": first["title"],
        "seeds": [result["seed"] for result in results],
        "parameters": first.get("parameters"),
        "settings": first["settings"],
        "environment": first["environment"],
        "validation": validation,
        "seconds": {part: float(np.mean([result["seconds"].get(part, 0.0) for result in results])) for part in parts},
        "metrics": metrics,
    }


def refresh_card(folder: Path, seed: int) -> None:
    """Write `evaluation.json`, `ablations.json` and the card into the folder of the row GRAM, unless they are there.

    Nothing is done where there is no row GRAM with this seed.

    Raises:
        ValueError: the row GRAM has other weights now than when it was measured.
    """
    paths = {name: result_file(folder, Run(row, seed)) for name, row in ROWS.items()}
    results = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    if GRAM not in results:
        return
    gram, model = results[GRAM], folder / "runs" / f"{GRAM}-seed{seed}"
    if hash_of_file(model / WEIGHTS_FILE) != gram["hashes"]["model"]:
        raise ValueError(f"{model / WEIGHTS_FILE}: other weights than those measured; remove {model} and the result")
    others = [result for name, result in results.items() if not ROWS[name].is_ablation]
    evaluation = {  # what `gram evaluate` would write of GRAM, its fusions and the baselines
        "weights": hash_of_weights(load_model(model)[0]),
        "model": gram["title"],
        **{name: gram[name] for name in ("split", "users", "num_beams", "data")},
        "item_encodings": "float32",
        "models": {result["title"]: result["metrics"] for result in others},
        "seconds": {result["title"]: round(sum(result["seconds"].values()), 2) for result in others},
    }
    ablations = [
        {"name": result["title"], "metrics": result["metrics"]}
        for name, result in results.items()
        if ROWS[name].is_ablation
    ]
    contents = {model / EVALUATION_FILE: evaluation, model / ABLATIONS_FILE: ablations}
    written = [json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None for path in contents]
    if written != list(contents.values()) or not (model / CARD).is_file():
        for path, content in contents.items():
            write_json(path, content)
        refresh_model_card(model)

"""All results of a reproduction joined: seeds averaged, rows compared user by user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..common.files import write_json
from ..common.provenance import hash_of_file
from ..evaluation.full_ranking import CUTOFFS, PROTOCOLS
from ..evaluation.rankings import Z_95, estimate, ndcg, recall
from .rows import ROWS
from .run_files import RESULTS_FOLDER

JOINED_FILE = "results.json"
METRICS = {f"{name}@{k}": (gain, k) for k in CUTOFFS for name, gain in (("recall", recall), ("ndcg", ndcg))}
COMPARED = "ndcg@10"


def join_results(folder: Path) -> dict[str, Any]:
    """Join the results that there are so far, and write `results.json` into the reproduction's folder.

    Args:
        folder: of the reproduction.

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
    by_row: dict[str, list[dict[str, Any]]] = {}
    paths = sorted((folder / RESULTS_FOLDER).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder / RESULTS_FOLDER}: no results; give the folder that `gram reproduce` wrote")
    for path in paths:
        by_row.setdefault(json.loads(path.read_text(encoding="utf-8"))["row"], []).append(_read(path))
    order = list(ROWS)
    rows = {name: by_row[name] for name in sorted(by_row, key=lambda name: [*order, name].index(name))}
    results = [result for several in rows.values() for result in several]
    _check_alike(results)
    gains = {name: _mean_gains(several) for name, several in rows.items()}
    first = results[0]
    joined = {
        **{name: first[name] for name in ("reproduction", "data", "users", "split")},
        "data_hash": first["hashes"]["data"],
        "rows": {name: _row(several, gains[name]) for name, several in rows.items()},
        "differences": [
            {"row": row, "other": other, "protocol": protocol, "metric": COMPARED}
            | difference(gains[row][protocol][COMPARED], gains[other][protocol][COMPARED])
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


def _read(path: Path) -> dict[str, Any]:
    """A result, and under `ranks` for each protocol the users' ranks (U,), 0 beyond the last that is kept."""
    result = json.loads(path.read_text(encoding="utf-8"))
    table = pq.read_table(path.with_suffix(".parquet"))
    result["path"], result["ranks"] = path, {}
    for protocol in PROTOCOLS:
        rows = table.filter(pc.equal(table["protocol"], protocol))
        result["ranks"][protocol] = pc.fill_null(rows["rank"], 0).to_numpy()
        result["user_ids"] = rows["user_id"].to_pylist()
    return result


def _check_alike(results: list[dict[str, Any]]) -> None:
    first = results[0]
    for result in results[1:]:
        for name, value, expected in (
            ("data", result["hashes"]["data"], first["hashes"]["data"]),
            ("reproduction", result["reproduction"], first["reproduction"]),
            ("users", result["user_ids"], first["user_ids"]),
        ):
            if value != expected:
                raise ValueError(f"{result['path']}: has other {name} than {first['path'].name}; keep them apart")


def _mean_gains(results: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """For each protocol and metric the users' values (U,), means over seeds."""
    return {
        protocol: {
            metric: np.mean([gain(result["ranks"][protocol], k) for result in results], axis=0)
            for metric, (gain, k) in METRICS.items()
        }
        for protocol in PROTOCOLS
    }


def _row(results: list[dict[str, Any]], gains: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    results = sorted(results, key=lambda result: result["seed"])
    metrics: dict[str, dict[str, Any]] = {}
    for protocol, by_metric in gains.items():
        metrics[protocol] = {}
        for metric, values in by_metric.items():
            means = [result["metrics"][protocol][metric]["mean"] for result in results]
            spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
            metrics[protocol][metric] = {**estimate(values), "spread": spread}
    parts = {part for result in results for part in result["seconds"]}
    return {
        "title": results[0]["title"],
        "seeds": [result["seed"] for result in results],
        "parameters": results[0].get("parameters"),
        "settings": results[0]["settings"],
        "environment": results[0]["environment"],
        "validation": _mean_validation(results),
        "seconds": {part: float(np.mean([r["seconds"].get(part, 0.0) for r in results])) for part in sorted(parts)},
        "metrics": metrics,
    }


def _mean_validation(results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """That of the best epochs; None for a row that is not validated."""
    first = results[0].get("validation")
    return first and {**first, COMPARED: float(np.mean([result["validation"][COMPARED] for result in results]))}

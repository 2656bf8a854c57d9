"""The results of a reproduction joined in `results.json`, and their table in Markdown, put between marks of a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..common.files import new_file, write_json
from ..common.provenance import hash_of_file
from ..common.text import duration, markdown_table
from ..evaluation.rankings import METRICS, PROTOCOLS, estimate, estimate_text, gains, interval, served_table
from .plan import RECIPE_SIZE, RESULTS_FOLDER, ROWS

JOINED_FILE, COMPARED = "results.json", "ndcg@10"
END = "<!-- end of gram table -->"


def join_results(folder: Path) -> dict[str, Any]:
    """Join the results that there are so far, and write `results.json` into the reproduction's folder.

    Returns:
        What is in the file: `reproduction`, `data`, `users` and `split`, which all results share; `rows`, for each row
        `title`, `seeds`, of the first seed `parameters`, `settings` and `environment`, means over seeds of
        `validation` and `seconds`, and `metrics` `{protocol: {metric: {"mean", "low", "high", "spread"}}}`, with
        means over seeds of what else `gram.evaluation.rankings.row_metrics` tells;
        `differences` in NDCG@10 of every two rows, users paired, see `gram.evaluation.rankings.interval`; `files`, the
        SHA-256 of the results. Of several seeds, a user's value is the mean over seeds, the interval is that over
        users, and `spread` is the standard deviation over seeds of the mean over users; None for one seed.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: results of other data or another budget are among them.
    """
    paths = sorted((folder / RESULTS_FOLDER).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder / RESULTS_FOLDER}: no results; give the folder that `gram reproduce` wrote")
    results = [_read_result(path) for path in paths]
    first = results[0]
    for path, result in zip(paths, results, strict=True):
        for name, what in (("data_hash", "data"), ("reproduction", "reproduction"), ("user_ids", "users")):
            if result[name] != first[name]:
                raise ValueError(f"{path}: has other {what} than {paths[0].name}; keep them apart")
    values, rows = {}, {}
    for name in dict.fromkeys([*ROWS, *(result["row"] for result in results)]):
        several = sorted((one for one in results if one["row"] == name), key=lambda result: result["seed"])
        if several:
            values[name], rows[name] = _row(several)
    joined = {
        **{name: first[name] for name in ("reproduction", "data", "users", "split", "data_hash")},
        "rows": rows,
        "differences": [
            {"row": row, "other": other, "protocol": protocol, "metric": COMPARED}
            | interval(values[row][protocol] - values[other][protocol])
            for protocol in PROTOCOLS
            for row, other in combinations(rows, 2)
        ],
        "files": {path.name: hash_of_file(path) for path in paths},
    }
    write_json(folder / JOINED_FILE, joined)
    return joined


def _read_result(path: Path) -> dict[str, Any]:
    """A result, with `data_hash`, `user_ids`, and `ranks` for each protocol, (U,), 0 beyond the last that is kept."""
    result, table = json.loads(path.read_text(encoding="utf-8")), pq.read_table(path.with_suffix(".parquet"))
    of = {protocol: table.filter(pc.equal(table["protocol"], protocol)) for protocol in PROTOCOLS}
    ranks = {protocol: pc.fill_null(rows["rank"], 0).to_numpy() for protocol, rows in of.items()}
    return {**result, "data_hash": result["hashes"]["data"], "user_ids": table["user_id"].to_pylist(), "ranks": ranks}


def _row(results: list[dict[str, Any]]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """For each protocol the users' values (U,) of what rows are compared by; and what the joined results say."""
    first, compared, metrics = results[0], {}, {}
    for protocol in PROTOCOLS:
        of_seeds = [gains(result["ranks"][protocol]) for result in results]
        values = {metric: np.stack([of[metric] for of in of_seeds]) for metric in of_seeds[0]}  # (S, U)
        compared[protocol] = values[COMPARED].mean(axis=0)
        metrics[protocol] = {
            metric: {**estimate(of.mean(axis=0)), "spread": float(of.mean(axis=1).std(ddof=1)) if len(of) > 1 else None}
            for metric, of in values.items()
        }
        of_seeds = [result["metrics"][protocol] for result in results]
        others = [name for name in of_seeds[0] if name not in values]
        metrics[protocol] |= {name: _mean([of[name] for of in of_seeds]) for name in others}
    validation = first.get("validation")  # fusions and baselines have none
    if validation:
        validation = {**validation, COMPARED: float(np.mean([result["validation"][COMPARED] for result in results]))}
    parts = sorted({part for result in results for part in result["seconds"]})
    return compared, {
        "title": first["title"],
        "seeds": [result["seed"] for result in results],
        "parameters": first.get("parameters"),
        "settings": first["settings"],
        "environment": first["environment"],
        "validation": validation,
        "seconds": {part: float(np.mean([result["seconds"].get(part, 0.0) for result in results])) for part in parts},
        "metrics": metrics,
    }


def _mean(trees: list[Any]) -> Any:
    """The means of the numbers of like trees, as such a tree."""
    if isinstance(trees[0], dict):
        return {name: _mean([tree[name] for tree in trees]) for name in trees[0]}
    return float(np.mean(trees))


def read_results(folder: str | Path) -> dict[str, Any]:
    """The joined results of a reproduction."""
    path = Path(folder) / JOINED_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a folder that `gram reproduce` wrote")
    return json.loads(path.read_text(encoding="utf-8"))


def results_table(results: Mapping[str, Any]) -> str:
    """Joined results in Markdown: what was done, and for each protocol a row per row and a column per metric.

    Where no row ranks anything of a history, the protocols are one, and there is one table.
    """
    by_title, tables = {row["title"]: row["metrics"] for row in results["rows"].values()}, {}
    for protocol, meaning in PROTOCOLS.items():
        table = "\n".join([*_table(results, protocol), *served_table(by_title, protocol)])
        tables.setdefault(table, []).append(meaning)
    heads = [", or ".join(of) + (", which is the same here" if len(of) > 1 else "") for of in tables.values()]
    parts = [f"{head[0].upper()}{head[1:]}:\n\n{table}" for head, table in zip(heads, tables, strict=True)]
    return "\n\n".join([_caption(results), *parts])


def _caption(results: Mapping[str, Any]) -> str:
    facts, rows = results["reproduction"], results["rows"].values()
    users = f"all {results['users']:,} test users"
    if facts["fraction"] < 1:
        users = f"**a rehearsal on {facts['fraction']:.2g} of the users** ({results['users']:,} test users)"
    data = results["data"]
    text = f"`{facts['dataset']}` on `{Path(data['folder']).name}`, {users}, full ranking of {data['items']:,} items, "
    text += "means with their 95 % intervals over users in brackets; R is recall, N is NDCG."
    trained = [row for row in rows if row["validation"]]
    if trained:
        text += f" Every generative row: {_budget(facts, trained)}."
    return text + (" ± is the standard deviation over seeds." if any(len(row["seeds"]) > 1 for row in rows) else "")


def _budget(facts: Mapping[str, Any], trained: Sequence[Mapping[str, Any]]) -> str:
    """What the trained rows have in common."""
    layers = f"{facts['num_layers']} + {facts['num_decoder_layers'] or facts['num_layers']} layers"
    start, epochs = trained[0]["settings"]["training"]["backbone"], facts["epochs"]
    text = f"size {facts['size']}, " if facts["size"] != RECIPE_SIZE else ""
    text += f"{layers} of width {facts['d_model']}, " if start is None else f"from {Path(start).name}, "
    text += f"{_range([row['parameters'] for row in trained], _millions)} parameters, "
    text += f"{epochs:,} epoch{'s' if epochs != 1 else ''} of batches of {facts['batch_size']}, "
    devices = sorted({_device(row["environment"]) for row in trained})
    return f"{text}{_range([row['seconds']['training'] for row in trained], duration)} on {', '.join(devices)}"


def _device(environment: Mapping[str, Any]) -> str:
    """With how many threads, where it is a CPU."""
    name, threads = environment["device"], environment["threads"]
    return f"{threads} thread{'s' if threads != 1 else ''} of {name}" if re.search(r", \d+ cores?$", name) else name


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"


def _range(numbers: Sequence[float], text: Callable[[float], str]) -> str:
    """The least and the most; one where they read the same."""
    return " to ".join(dict.fromkeys((text(min(numbers)), text(max(numbers)))))


def _table(results: Mapping[str, Any], protocol: str) -> list[str]:
    rows = results["rows"]
    first = next(iter(rows))
    apart = {of["other"]: of for of in results["differences"] if (of["row"], of["protocol"]) == (first, protocol)}
    head = ["", "seeds", *(f"{name[0].upper()}{name[name.index('@') :]}" for name in METRICS)]
    head += [f"N@10 less that of {rows[first]['title']}"] if len(rows) > 1 else []
    lines = [head]
    best = {metric: max(row["metrics"][protocol][metric]["mean"] for row in rows.values()) for metric in METRICS}
    for name, row in rows.items():
        cells = [estimate_text(row["metrics"][protocol][metric], best[metric]) for metric in METRICS]
        cells += [_less(apart[name]) if name in apart else ""] if len(rows) > 1 else []
        lines.append([row["title"], str(len(row["seeds"])), *cells])
    return markdown_table(lines)


def _less(entry: Mapping[str, float]) -> str:
    # The file has the first row less the other one. Adding 0 takes the sign off -0.
    mean, low, high = (round(-entry[part], 4) + 0.0 for part in ("mean", "high", "low"))
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def write_table(folder: str | Path, page: str | Path) -> None:
    """Put the table of a reproduction into a page, between `<!-- gram table NAME -->` and `<!-- end of gram table -->`.

    NAME is that of the folder. What stands between the marks is replaced; a page that does not exist is made.

    Raises:
        FileNotFoundError: the folder has no results.
        ValueError: the page's name does not end in `.md`, or it has not exactly one pair of such marks.
    """
    results, page = read_results(folder), Path(page)
    if page.suffix != ".md":
        raise ValueError(f"{page}: the table is Markdown; give a file name that ends in .md")
    begin = f"<!-- gram table {Path(folder).resolve().name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else f"{begin}\n{END}\n"
    marks = re.compile(re.escape(begin) + r".*?" + re.escape(END), flags=re.DOTALL)
    if len(marks.findall(text)) != 1 or text.count(begin) != 1:
        raise ValueError(f"{page}: needs one pair of lines to write between, `{begin}` and `{END}`")
    block = f"{begin}\n\n{results_table(results)}\n\n{END}"
    with new_file(page) as part:
        part.write_text(marks.sub(lambda _: block, text), encoding="utf-8", newline="\n")

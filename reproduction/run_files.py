"""The files that a run leaves: its result as JSON, and every user's rank as Parquet beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..common.files import json_text, new_files
from ..data import evaluation_histories
from ..evaluation.full_ranking import ranking_metrics, ranks_table
from .comparing import hash_of_ranks, settings_differ
from .rows import ROWS
from .runs import NUM_BEAMS, SPLIT, Outcome, Place, Run

RESULTS_FOLDER = "results"


def save_result(run: Run, outcome: Outcome, common: Mapping[str, Any], place: Place) -> Path:
    """Write `results/NAME.parquet`, every user's rank, and then `results/NAME.json`, which says that all is there.

    Args:
        run: the row and seed.
        outcome: of it.
        common: entries that all results of a reproduction share.
        place: where it was made.
    """
    path = result_file(place.folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    histories, targets = evaluation_histories(place.data, SPLIT)
    item_ids = [place.data.items.item_ids[row] for row in targets]
    table = ranks_table(histories.user_ids, item_ids, {run.row: outcome.ranks})
    result = {
        "row": run.row,
        "title": ROWS[run.row].title,
        "seed": run.seed,
        **common,
        "settings": outcome.settings,
        "hashes": {**common["hashes"], **outcome.hashes, "ranks": hash_of_ranks(outcome.ranks)},
        **outcome.facts,
        "split": SPLIT,
        "users": len(targets),
        "num_beams": NUM_BEAMS,
        "metrics": {protocol: ranking_metrics(ranks) for protocol, ranks in outcome.ranks.items()},
        "seconds": outcome.seconds,
    }
    with new_files(path.with_suffix(".parquet"), path) as (table_part, part):
        pq.write_table(table, table_part)
        part.write_text(json_text(result), encoding="utf-8")
    return path


def result_file(folder: Path, run: Run) -> Path:
    """Where the result of a run is."""
    return folder / RESULTS_FOLDER / f"{run.name}.json"


def is_done(folder: Path, run: Run, data_hash: str) -> bool:
    """Whether the result of exactly this run is there.

    Raises:
        ValueError: a result of other settings or data is there.
    """
    path = result_file(folder, run)
    if not (path.is_file() and path.with_suffix(".parquet").is_file()):
        return False
    written = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"settings": dict(run.settings), "seed": run.seed, "hashes": {"data": data_hash}}
    difference = settings_differ(written, wanted)
    if difference:
        raise ValueError(
            f"{path}: made with {difference}; remove it and {folder / 'runs' / run.name}, or give another --output-dir"
        )
    return True

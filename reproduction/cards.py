"""The model card of the row GRAM: its metrics, baselines and ablations are those of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..common.files import write_json
from ..common.provenance import hash_of_file, hash_of_weights
from ..hub import refresh_model_card
from ..hub.card_data import ABLATIONS_FILE, EVALUATION_FILE
from ..hub.model_card import CARD
from ..serving.loading import load_model
from .rows import ABLATION, GRAM, ROWS
from .run_files import RESULTS_FOLDER
from .runs import WEIGHTS_FILE


def refresh_card(folder: Path, seed: int) -> None:
    """Write `evaluation.json`, `ablations.json` and the card into the folder of the row GRAM, unless they are there.

    Args:
        folder: of the reproduction; nothing is done where it has no row GRAM with this seed.
        seed: of the GRAM that gets the card, and of the rows that it is compared with.

    Raises:
        ValueError: the row GRAM has other weights now than when it was measured.
    """
    results = {}
    for row in ROWS.values():
        path = folder / RESULTS_FOLDER / f"{row.name}-seed{seed}.json"
        if path.is_file():
            results[row.name] = json.loads(path.read_text(encoding="utf-8"))
    if GRAM not in results:
        return
    model = folder / "runs" / f"{GRAM}-seed{seed}"
    ablations = [
        {"name": result["title"], "metrics": result["metrics"]}
        for name, result in results.items()
        if ROWS[name].group == ABLATION
    ]
    if hash_of_file(model / WEIGHTS_FILE) != results[GRAM]["hashes"]["model"]:
        raise ValueError(f"{model / WEIGHTS_FILE}: other weights than those measured; remove {model} and the result")
    weights = hash_of_weights(load_model(model)[0])
    contents = {EVALUATION_FILE: {"weights": weights, **_evaluation(results)}, ABLATIONS_FILE: ablations}
    if (model / CARD).is_file() and all(_holds(model / name, content) for name, content in contents.items()):
        return
    for name, content in contents.items():
        write_json(model / name, content)
    refresh_model_card(model)


def _evaluation(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `gram evaluate` would write: of GRAM, its fusions and the baselines."""
    shown = {result["title"]: result for name, result in results.items() if not ROWS[name].group}
    gram = results[GRAM]
    return {
        "model": gram["title"],
        "split": gram["split"],
        "users": gram["users"],
        "num_beams": gram["num_beams"],
        "item_encodings": "float32",
        "data": gram["data"],
        "models": {title: result["metrics"] for title, result in shown.items()},
        "seconds": {title: round(sum(result["seconds"].values()), 2) for title, result in shown.items()},
    }


def _holds(path: Path, content: Any) -> bool:
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == content

"""From a data folder to a table, stage by stage; what runs leave in `results/`; and one row again from its result."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from ..collaborative.sasrec import SASRecSettings
from ..common.files import check_outputs, holds_json, json_text, locked, new_file, new_files, write_json
from ..common.processes import Accelerator, make_accelerator, precision
from ..common.provenance import changes, flat, hash_of_data, hash_of_file, hash_of_weights
from ..common.text import duration
from ..data import evaluation_histories, read_folder, training_part
from ..data.splits import sample_users
from ..evaluation.full_ranking import ranks_table
from ..evaluation.rankings import row_metrics
from ..evaluation.tuning import COUNTED_SETTINGS
from ..hub.card_data import ABLATIONS_FILE, EVALUATION_FILE
from ..hub.model_card import CARD, refresh_model_card
from ..serving.loading import load_model
from ..training.facts import data_facts, environment
from ..training.settings import TrainingSettings
from ..translation import TranslationSettings
from .plan import GRAM, IDENTITY_FILE, RESULTS_FOLDER, ROWS, Plan, Run
from .runs import KINDS, NUM_BEAMS, SPLIT, WEIGHTS_FILE, Facts, Rankings, Workspace, folders_of, make_translation
from .tables import join_results, results_table

TABLE_FILE = "results.md"
SAME = ("settings", "hashes", "users", "validation", "metrics")  # what a rerun is to give again
SETTINGS = {
    "training": TrainingSettings,
    "translation": TranslationSettings,
    "sasrec": SASRecSettings,
    **{name.lower().replace("-", "_"): of for name, (of, _) in COUNTED_SETTINGS.items()},
}


def reproduce(plan: Plan, say: Callable[[str], None] = print, progress: bool = True) -> dict[str, Any]:
    """Make every row of a plan, and join their results; what is done already is not done again.

    The output folder gets `translations/`, `runs/` with a folder for each row and seed, `results/` with their figures,
    `results.json`, which joins them, and `results.md`, their table. The last two are written after every row. Several
    processes may do the same reproduction: each takes what no other one is at.

    `say` takes each line for the user. Returns the joined results, see `gram.reproduction.tables.join_results`.

    Raises:
        FileNotFoundError: the data folder or a file of it is missing.
        ValueError: the data are not those that were named, the output folder is another reproduction's, or this runs
            in several processes.
    """
    work = Workspace(plan.read_data(), plan.output_dir, _accelerator(plan.training.mixed_precision), progress)
    common, runs = _common(plan.facts, work), plan.runs()
    todo = [run for run in runs if not is_done(work.folder, run, common["hashes"]["data"])]
    translations = {run.translation: run for run in runs if run.translation is not None}
    number, total = count(1), len(translations) + len(runs) + 2

    def begin(title: str, needed: bool = True) -> bool:
        say(f"{next(number)}/{total}  {title}{'' if needed else ': done already'}")
        return needed

    for folder, run in translations.items():
        if begin(f"translation {folder.name}", any(other.translation == folder for other in todo)):
            say(f"     {make_translation(run, work)['statistics']}")
    left = []
    for run in runs:
        if begin(run.title, run in todo):
            if any(_is_busy(work.folder / "runs" / name) for name in folders_of(run)):
                say("     another process is at it: left for the end")
                left.append(run)
            else:
                say(_in_short(_make(run, work, common)))
                _write_table(work.folder)
    for run in left:
        say(f"{run.title}, if it is not done:")
        say(_in_short(_make(run, work, common)))
        _write_table(work.folder)
    begin("results table")
    joined = _write_table(work.folder)
    begin("model card")
    refresh_card(work.folder, plan.training.seed)
    return joined


def rerun(
    source: str | Path, output_dir: str | Path, data: str | Path | None = None, say: Callable[[str], None] = print
) -> list[str]:
    """Make one row again from its result, in a folder of its own, and compare.

    On the same machine, with the same versions and as many threads, a CPU gives the same figures bit for bit.

    Args:
        source: a result, `results/ROW-seedN.json`.
        output_dir: of the rerun; it goes on there where it was interrupted.
        data: the data folder, where it is not where it was.
        say: takes each line for the user.

    Returns:
        The entries that differ, such as `hashes.model`; empty where all is the same.

    Raises:
        FileNotFoundError: the result or the data are missing.
        ValueError: it is no result, its data are others now, or the folder is a reproduction's.
    """
    source, output_dir = Path(source), Path(output_dir)
    result = read_result(source)
    if (output_dir / IDENTITY_FILE).is_file():
        raise ValueError(f"{output_dir}: is a reproduction's folder; give another --output-dir for the rerun")
    facts, training = result["reproduction"], result["settings"].get("training", {})
    folder = Path(data or result["data"]["folder"])
    users = sample_users(read_folder(folder), facts["fraction"], facts["seed"])
    work = Workspace(users, output_dir, _accelerator(training.get("mixed_precision", "auto")))
    common = _common(facts, work)
    if common["hashes"]["data"] != result["hashes"]["data"]:
        raise ValueError(f"{folder}: not the data that {source.name} was made from; give --data")
    translation = output_dir / "translations" / result["row"] if training else None
    run = Run(ROWS[result["row"]], result["seed"], result["settings"], translation)
    check_outputs({result_file(output_dir, run): lambda path: holds_json(path, "row", "seed", "hashes")}, [source])
    say(f"{run.title}, again")
    again = _make(run, work, common)
    say(_in_short(again))
    before, now = (flat({name: one.get(name) for name in SAME}) for one in (result, again))
    return [name for name in before if before[name] != now.get(name)]  # a later version may tell more


def read_result(path: Path) -> dict[str, Any]:
    """A result; errors as of [`rerun`]."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file of a reproduction's folder results/")
    try:
        result = _read(path)
        is_known = result["row"] in ROWS and {"seed", "settings", "reproduction", "hashes"} <= result.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        is_known = False
    if not is_known:
        raise ValueError(f"{path}: not a result of this version of `gram reproduce`; give results/ROW-seedN.json")
    for kind, settings_class in SETTINGS.items():
        if unknown := result["settings"].get(kind, {}).keys() - {entry.name for entry in fields(settings_class)}:
            raise ValueError(f"{path}: has the {kind} setting {min(unknown)}, which this version does not have")
    return result


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
    wanted = {"settings": run.settings, "seed": run.seed, "hashes": {"data": data_hash}}
    before = {"training": TrainingSettings.defaults(), "translation": TranslationSettings.defaults()}
    if changed := changes(_read(path), wanted, {"settings": before}):
        remedy = f"remove it and {folder / 'runs' / run.name}, or give another --output-dir"
        raise ValueError(f"{path}: made with {changed[0]}; {remedy}")
    return True


def save_result(run: Run, found: Rankings, facts: Facts, common: Mapping[str, Any], work: Workspace) -> dict[str, Any]:
    """Write `results/NAME.parquet`, every user's rank, and then `results/NAME.json`, which says that all is there.

    `found` and `facts` are what the run's kind gave, `common` is what all results of a reproduction share. Returns what
    the JSON file says.
    """
    path = result_file(work.folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    histories, targets = evaluation_histories(work.data, SPLIT)
    item_ids = [work.data.items.item_ids[row] for row in targets]
    counts = np.bincount(training_part(work.data).items, minlength=len(work.data.items))
    digest = hashlib.sha256()
    for protocol in sorted(found):
        digest.update(protocol.encode() + found[protocol].ranks.astype("<i8").tobytes())
    result = {
        **{"row": run.row.name, "title": run.row.title, "seed": run.seed},
        **common,
        **facts,
        "hashes": {**common["hashes"], **facts["hashes"], "ranks": digest.hexdigest()},
        **{"split": SPLIT, "users": len(targets), "num_beams": NUM_BEAMS},
        "metrics": {key: row_metrics(of, targets, counts) for key, of in found.items()},
    }
    with new_files(path.with_suffix(".parquet"), path) as (table, part):
        pq.write_table(ranks_table(histories.user_ids, item_ids, {run.row.name: found}), table)
        part.write_text(json_text(result), encoding="utf-8")
    return _read(path)


def refresh_card(folder: Path, seed: int) -> None:
    """Write `evaluation.json`, `ablations.json` and the card into the folder of the row GRAM, unless they are there.

    Nothing is done where there is no row GRAM with this seed.

    Raises:
        ValueError: the row GRAM has other weights now than when it was measured.
    """
    paths = {name: result_file(folder, Run(row, seed)) for name, row in ROWS.items()}
    results = {name: _read(path) for name, path in paths.items() if path.is_file()}
    if GRAM not in results:
        return
    gram, model = results[GRAM], folder / "runs" / f"{GRAM}-seed{seed}"
    if hash_of_file(model / WEIGHTS_FILE) != gram["hashes"]["model"]:
        raise ValueError(f"{model / WEIGHTS_FILE}: other weights than those measured; remove {model} and the result")
    others = [result for name, result in results.items() if not ROWS[name].is_ablation]
    ablations = [result for name, result in results.items() if ROWS[name].is_ablation]
    evaluation = {  # what `gram evaluate` would write of GRAM, its fusions and the baselines
        "weights": hash_of_weights(load_model(model)[0]),
        "model": gram["title"],
        **{name: gram[name] for name in ("split", "users", "num_beams", "data")},
        "item_encodings": "float32",
        "models": {result["title"]: result["metrics"] for result in others},
        "seconds": {result["title"]: round(sum(result["seconds"].values()), 2) for result in others},
    }
    contents = {
        model / EVALUATION_FILE: evaluation,
        model / ABLATIONS_FILE: [{"name": result["title"], "metrics": result["metrics"]} for result in ablations],
    }
    if not (model / CARD).is_file() or any(not path.is_file() or _read(path) != of for path, of in contents.items()):
        for path, content in contents.items():
            write_json(path, content)
        refresh_model_card(model)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _accelerator(mixed_precision: str) -> Accelerator:
    """The accelerator of all stages: its state is the process's, and cannot be made anew with another precision."""
    accelerator = make_accelerator(mixed_precision=precision(mixed_precision))
    if accelerator.num_processes > 1:
        raise ValueError("a reproduction runs in one process; start one for each GPU on the same folder")
    return accelerator


def _common(facts: dict[str, Any], work: Workspace) -> dict[str, Any]:
    return {
        "reproduction": facts,
        "data": {"folder": str(work.data.folder), **data_facts(work.data)},
        "environment": {**environment(work.accelerator), "threads": torch.get_num_threads()},
        "hashes": {"data": hash_of_data(work.data)},
    }


def _is_busy(path: Path) -> bool:
    try:
        with locked(path):
            return False
    except ValueError:
        return True


def _make(run: Run, work: Workspace, common: dict[str, Any]) -> dict[str, Any]:
    with locked(work.folder / "runs" / run.name, wait=True):
        if is_done(work.folder, run, common["hashes"]["data"]):  # by another process, just now
            return _read(result_file(work.folder, run))
        result = save_result(run, *KINDS[run.row.kind](run, work), common, work)
    gc.collect()  # a model and its optimizer refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


def _in_short(result: dict[str, Any]) -> str:
    values = {protocol: metrics["ndcg@10"]["mean"] for protocol, metrics in result["metrics"].items()}
    seconds = ", ".join(f"{part} {duration(taken)}" for part, taken in result["seconds"].items())
    return f"     NDCG@10 {values['all_items']:.4f}, unseen items {values['unseen_items']:.4f}; {seconds}"


def _write_table(folder: Path) -> dict[str, Any]:
    with locked(folder, inside=True, wait=True), new_file(folder / TABLE_FILE) as part:
        joined = join_results(folder)
        part.write_text(f"{results_table(joined)}\n", encoding="utf-8")
    return joined

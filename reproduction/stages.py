"""From a data folder to a table, stage by stage; and one row again from its result."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..common.files import check_outputs, holds_json, locked, new_file
from ..common.processes import make_accelerator, precision
from ..common.text import duration
from ..data import read_folder
from ..data.splits import sample_users
from ..training.facts import data_facts, environment
from ..training.settings import TrainingSettings
from ..translation import TranslationSettings
from .cards import refresh_card
from .comparing import hash_of_data
from .plan import IDENTITY_FILE, Plan
from .results import join_results
from .rows import ROWS
from .run_files import is_done, result_file, save_result
from .runners import RUNNERS
from .runs import Place, Run
from .tables import results_table
from .translations import make_translation

TABLE_FILE = "results.md"
SAME = ("settings", "hashes", "users", "validation", "metrics")  # what a rerun is to give again


def reproduce(plan: Plan, say: Callable[[str], None] = print, progress: bool = True) -> dict[str, Any]:
    """Make every row of a plan, and join their results; what is done already is not done again.

    The output folder gets `translations/`, `runs/` with a folder for each row and seed, `results/` with their figures,
    `results.json`, which joins them, and `results.md`, their table. The last two are written after every row.

    Args:
        plan: what to do.
        say: takes each line for the user.
        progress: show bars.

    Returns:
        The joined results, as `gram.reproduction.results.join_results` has them.

    Raises:
        FileNotFoundError: the data folder or a file of it is missing.
        ValueError: the data are not those that were named, the output folder is another reproduction's, or this runs
            in several processes.
    """
    place = open_place(plan, progress)
    common = _common(plan.facts, place)
    runs = plan.runs()
    translations = {run.translation: run for run in runs if run.translation is not None}
    todo = [run for run in runs if not is_done(plan.output_dir, run, common["hashes"]["data"])]
    stages = _Stages(len(translations) + len(runs) + 2, say)
    for folder, run in translations.items():
        needed = any(other.translation == folder for other in todo)
        stages.begin(f"translation {folder.name}", needed)
        if needed:
            say(f"     {make_translation(folder, run.settings, place.data, progress)['statistics']}")
    for run in runs:
        stages.begin(run.title, run in todo)
        if run in todo:
            start = time.monotonic()
            say(_in_short(_make(run, place, common)))
            _write_table(plan.output_dir)
            todo.remove(run)
            stages.say_left(run, time.monotonic() - start, todo)
    stages.begin("results table")
    joined = _write_table(plan.output_dir)
    stages.begin("model card")
    refresh_card(plan.output_dir, plan.seeds[0])
    return joined


def open_place(plan: Plan, progress: bool = True) -> Place:
    """Read a plan's data, and make its folder this reproduction's; errors as of [`reproduce`]."""
    place = Place(plan.read_data(), plan.output_dir, _accelerator(plan.training.mixed_precision), progress)
    plan.claim(place.data)
    return place


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
    result = _read_result(source)
    if (output_dir / IDENTITY_FILE).is_file():
        raise ValueError(f"{output_dir}: is a reproduction's folder; give another --output-dir for the rerun")
    facts = result["reproduction"]
    training = result["settings"].get("training", {})
    folder = Path(data or result["data"]["folder"])
    place = Place(
        sample_users(read_folder(folder), facts["fraction"], facts["seed"]),
        output_dir,
        _accelerator(training.get("mixed_precision", "auto")),
    )
    if hash_of_data(place.data) != result["hashes"]["data"]:
        raise ValueError(f"{folder}: not the data that {source.name} was made from; give --data")
    translation = output_dir / "translations" / result["row"] if training else None
    run = Run(result["row"], result["seed"], result["settings"], translation)
    check_outputs({result_file(output_dir, run): lambda path: holds_json(path, "row", "seed", "hashes")}, [source])
    say(f"{run.title}, again")
    again = _make(run, place, _common(facts, place))
    say(_in_short(again))
    return [difference for name in SAME for difference in _differences(name, result.get(name), again.get(name))]


def _read_result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file of a reproduction's folder results/")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        known = result["row"] in ROWS and {"seed", "settings", "reproduction", "hashes"} <= result.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise ValueError(f"{path}: not a result of this version of `gram reproduce`; give results/ROW-seedN.json")
    for name, of in (("training", TrainingSettings), ("translation", TranslationSettings)):
        unknown = result["settings"].get(name, {}).keys() - {entry.name for entry in fields(of)}
        if unknown:
            raise ValueError(f"{path}: has the {name} setting {min(unknown)}, which this version does not have")
    return result


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(key for key in now if key not in before)]
        return [line for key in names for line in _differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [] if before == now else [name]


def _accelerator(mixed_precision: str) -> Accelerator:
    """The accelerator of all stages: its state is the process's, and cannot be made anew with another precision."""
    accelerator = make_accelerator(mixed_precision=precision(mixed_precision))
    if accelerator.num_processes > 1:
        raise ValueError("a reproduction runs in one process; give each GPU some of the --rows of the same folder")
    return accelerator


def _common(facts: dict[str, Any], place: Place) -> dict[str, Any]:
    return {
        "reproduction": facts,
        "data": {"folder": str(place.data.folder), **data_facts(place.data)},
        "environment": {**environment(place.accelerator), "threads": torch.get_num_threads()},
        "hashes": {"data": hash_of_data(place.data)},
    }


def _make(run: Run, place: Place, common: dict[str, Any]) -> dict[str, Any]:
    with locked(place.folder / "runs" / run.name, wait=True):
        save_result(run, RUNNERS[ROWS[run.row].kind](run, place), common, place)
    gc.collect()  # a model and its optimizer refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return json.loads(result_file(place.folder, run).read_text(encoding="utf-8"))


def _in_short(result: dict[str, Any]) -> str:
    values = {protocol: metrics["ndcg@10"]["mean"] for protocol, metrics in result["metrics"].items()}
    seconds = ", ".join(f"{part} {duration(taken)}" for part, taken in result["seconds"].items())
    return f"     NDCG@10 {values['all_items']:.4f}, unseen items {values['unseen_items']:.4f}; {seconds}"


def _write_table(folder: Path) -> dict[str, Any]:
    with locked(folder, inside=True, wait=True), new_file(folder / TABLE_FILE) as part:
        joined = join_results(folder)
        part.write_text(f"{results_table(joined)}\n", encoding="utf-8")
    return joined


class _Stages:
    """Tells the user which stage of how many this is, and how long those that are left may take."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self.total, self.say, self.number = total, say, 0
        self.seconds: dict[str, list[float]] = {}  # that each kind of row has taken

    def begin(self, title: str, needed: bool = True) -> None:
        self.number += 1
        self.say(f"{self.number}/{self.total}  {title}{'' if needed else ': done already'}")

    def say_left(self, run: Run, seconds: float, todo: list[Run]) -> None:
        self.seconds.setdefault(ROWS[run.row].kind, []).append(seconds)
        taken = [self.seconds[ROWS[other.row].kind] for other in todo if ROWS[other.row].kind in self.seconds]
        if taken:
            left = sum(sum(several) / len(several) for several in taken)
            of_which = "" if len(taken) == len(todo) else f" for {len(taken)} of {len(todo)} rows"
            self.say(f"     about {duration(left)} left{of_which}")

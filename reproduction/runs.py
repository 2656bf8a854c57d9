"""How the rows are made, a function for each kind: GRAMs, baselines, and fusions of both.

A kind takes a run and gives its ranks, for each protocol (U,) of the test users' targets, 0 where not found, and the
facts for its result: `settings`, `hashes` of what was made, `seconds` of its parts, and what else there is to tell.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..collaborative.baselines import Recommender, counted_baselines
from ..collaborative.fitting import fit_or_load
from ..collaborative.sasrec import SASRecSettings
from ..common.files import json_in, locked, new_file, new_folder, write_json
from ..common.processes import Accelerator
from ..common.provenance import changes, hash_of_data, hash_of_file
from ..data import RecommendationData, evaluation_histories, training_part, without_test
from ..evaluation.candidates import Ranking, gram_candidates
from ..evaluation.full_ranking import CUTOFFS, dense_rankings
from ..evaluation.reranking import choose_reranking, put_forward
from ..evaluation.tuning import COUNTED_SETTINGS, tune_counted, tune_sasrec
from ..serving.loading import load_model
from ..tokenization_gram import CATALOGUE_FILE
from ..train_accelerate import FINISHED_FILE, train
from ..training.settings import TrainingSettings
from ..training.start import tokenizer_of
from ..translation import SASREC_FILE, TranslationSettings
from ..translation.embedding import embed_texts
from ..translation.tokenizer_folder import make_tokenizer_folder
from .plan import COUNTED, FUSION, GRAM, ROWS, SASREC, Run

SPLIT, NUM_BEAMS = "test", max(CUTOFFS)
WEIGHTS_FILE = "model.safetensors"
CHOOSING_USERS = 5000  # on whose validation items a fusion's weights are chosen
Rankings = dict[str, Ranking]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Workspace:
    """Where runs are made, and from what."""

    data: RecommendationData  # users and items
    folder: Path  # of the reproduction; a run's own is `runs/NAME` in it
    accelerator: Accelerator  # where to train and to search
    progress: bool = True  # show bars


def make_translation(run: Run, work: Workspace) -> Facts:
    """Translate for a GRAM, unless that is done: one translation serves all rows that translate alike.

    Returns:
        What `FOLDER.json` says: `settings`, `hashes`, `seconds`, `statistics`.

    Raises:
        ValueError: the folder was made with other settings or data.
    """
    folder, training = run.translation, run.settings["training"]
    record = folder.with_name(f"{folder.name}.json")
    limits = {name: training[name] for name in ("max_history", "max_passage_length")}
    words = training["tokenizer"] or training["backbone"]
    wanted = {**run.settings["translation"], **limits, "tokenizer": words, "data": hash_of_data(work.data)}
    with locked(folder, wait=True):
        if not record.is_file():
            start = time.perf_counter()
            others = sorted(path.parent for path in folder.parent.glob(f"*/{CATALOGUE_FILE}"))
            if others and not folder.exists():  # its vectors, its SASRec; each file says what it is of
                with new_folder(folder) as made:
                    hidden = shutil.ignore_patterns(CATALOGUE_FILE, ".*")
                    shutil.copytree(others[0], made, ignore=hidden, dirs_exist_ok=True)
            settings = TranslationSettings(**run.settings["translation"])
            statistics = make_tokenizer_folder(work.data, folder, settings, words, progress=work.progress, **limits)
            hashes = {name: hash_of_file(folder / name) for name in (CATALOGUE_FILE, "tokenizer.json")}
            facts = {"hashes": hashes, "seconds": _since(start), "statistics": str(statistics)}
            write_json(record, {"settings": wanted, **facts})
        written = json.loads(record.read_text(encoding="utf-8"))
    if changed := changes(written["settings"], wanted, TranslationSettings.defaults()):
        raise ValueError(f"{record}: made with {changed[0]}; remove it and {folder}, or give another --output-dir")
    return written


def train_gram(run: Run, work: Workspace) -> tuple[Path, Facts]:
    """Translate and train, as far as that is not done; returns the model folder."""
    translation, folder = make_translation(run, work), work.folder / "runs" / run.name
    places = {"data": str(work.data.folder), "output_dir": str(folder), "translation": str(run.translation)}
    settings = TrainingSettings(seed=run.seed, **places, **run.settings["training"])
    with locked(folder, wait=True):
        tokenizer = tokenizer_of(settings, TranslationSettings(**run.settings["translation"]), work.data)
        train(settings, work.data, tokenizer)
    progress = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))["progress"]
    users = len(evaluation_histories(work.data, "validation")[1])
    return folder, {
        "settings": run.settings,
        "hashes": {"translation": translation["hashes"], "model": hash_of_file(folder / WEIGHTS_FILE)},
        "seconds": {"translation": translation["seconds"], "training": round(progress["seconds"], 2)},
        "validation": {
            "users": min(settings.validation_users or users, users),
            "num_beams": settings.validation_beams,
            "ndcg@10": progress["best_ndcg"],
        },
    }


def run_gram(run: Run, work: Workspace) -> tuple[Rankings, Facts]:
    """Train a GRAM, and search for every test user."""
    folder, facts = train_gram(run, work)
    start = time.perf_counter()
    model, tokenizer = load_model(folder)
    model = model.to(work.accelerator.device)
    histories, targets = evaluation_histories(work.data, SPLIT)
    found = gram_candidates(model, tokenizer, histories, num_beams=NUM_BEAMS, progress=work.progress)
    rankings = {key: Ranking.of(of.items, targets, len(work.data.items)) for key, of in found.items()}
    facts["seconds"]["evaluation"] = _since(start)
    return rankings, {**facts, "parameters": model.num_parameters()}


def fit_sasrec(run: Run, work: Workspace) -> tuple[Recommender, Facts]:
    """The SASRec of the run's seed, with the run's settings or those that are best on the validation items."""
    given = run.settings.get("sasrec")
    tuning, path = work.folder / "tuning" / SASREC, work.folder / "runs" / f"{SASREC}-seed{run.seed}" / SASREC_FILE
    settings = SASRecSettings(**given) if given else tune_sasrec(work.data, tuning, work.progress).best
    tuned = tuning / SASREC_FILE
    with locked(path.parent, wait=True):
        if tuned.is_file() and not path.is_file():  # the best of the search; of another seed it is trained anew
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as part:
                shutil.copyfile(tuned, part)
        training, vectors = training_part(work.data), embed_texts(work.data.items.texts) if settings.texts else None
        model = fit_or_load(path, training, len(work.data.items), settings, run.seed, work.progress, vectors)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    hashes = {"model": hash_of_file(path)}
    return model, {"settings": {"sasrec": asdict(settings)}, "hashes": hashes, "parameters": parameters}


def fit_counted(run: Run, work: Workspace) -> tuple[Recommender, Facts]:
    """A baseline that is counted, with the run's settings or those that are best on the validation items."""
    name, key = run.row.title, run.row.name.replace("-", "_")
    vectors, settings = embed_texts(work.data.items.texts), {}
    if name in COUNTED_SETTINGS:
        given, tuning = run.settings.get(key), work.folder / "tuning" / run.row.name
        settings_class, _ = COUNTED_SETTINGS[name]
        settings[key] = settings_class(**given) if given else tune_counted(name, work.data, tuning, work.progress).best
    model = counted_baselines(training_part(work.data), vectors)[name](*settings.values())
    return model, {"settings": {key: asdict(of) for key, of in settings.items()}, "hashes": {}}


BASELINES = {SASREC: fit_sasrec, COUNTED: fit_counted}


def run_baseline(run: Run, work: Workspace) -> tuple[Rankings, Facts]:
    """Fit a baseline, and let it score the catalogue for every test user."""
    start = time.perf_counter()
    model, facts = BASELINES[run.row.kind](run, work)
    seconds = {"training": _since(start)}  # with the search for settings, unless that was done before
    start = time.perf_counter()
    histories, targets = evaluation_histories(work.data, SPLIT)
    rankings = dense_rankings(model, list(histories), targets, len(work.data.items))
    return rankings, {**facts, "seconds": {**seconds, "evaluation": _since(start)}}


def run_fusion(run: Run, work: Workspace) -> tuple[Rankings, Facts]:
    """Train what the row fuses, choose its weights on validation items, and rank for every test user.

    Weights and rankings of all fusions are kept in `runs/fusion-of-gram-seedN`: the first row that needs them searches
    for all.
    """
    title, of = run.row.title, replace(run, row=ROWS[GRAM])
    gram_folder, facts = train_gram(of, work)
    rows = [row for row in ROWS.values() if row.kind in BASELINES]
    fitted = {row.title: BASELINES[row.kind](replace(run, row=row), work) for row in rows}
    scorers = {name: scorer for name, (scorer, _) in fitted.items()}
    model, tokenizer = load_model(gram_folder)
    model = model.to(work.accelerator.device)
    start = time.perf_counter()
    folder = work.folder / "runs" / f"fusion-of-{of.name}"
    search = {"num_beams": NUM_BEAMS, "progress": work.progress}
    with locked(folder, wait=True):
        known, options = without_test(work.data), {"max_users": CHOOSING_USERS, "accelerator": work.accelerator}
        fused = choose_reranking(folder / "weights.json", model, tokenizer, known, scorers, **options, **search)
        path, key = folder / "ranks.json", f"{fused.record['key']} {hash_of_data(work.data)}"
        kept = json_in(path)
        if kept.get("key") != key:
            seconds, start = {"choosing": _since(start)}, time.perf_counter()
            histories, targets = evaluation_histories(work.data, SPLIT)
            found = put_forward(model, tokenizer, list(histories), scorers, **search)
            rows = fused.rankings(found, targets, len(work.data.items)).items()
            lists = {row: {key: [of.ranks.tolist(), of.shown.tolist()] for key, of in by.items()} for row, by in rows}
            kept = {"key": key, "seconds": {**seconds, "evaluation": _since(start)}, "rankings": lists}
            write_json(path, kept)
    settings = {name: of for _, known in fitted.values() for name, of in known["settings"].items()}
    return {key: Ranking(*map(np.array, of)) for key, of in kept["rankings"][title].items()}, {
        "settings": {**run.settings, **settings, "weights": fused.weights[title]},
        "hashes": {**facts["hashes"], "sasrec": fitted["SASRec"][1]["hashes"]["model"]},
        "seconds": {**facts["seconds"], **kept["seconds"]},
        "parameters": model.num_parameters(),
        "fusion": fused.record["rows"][title],
    }


KINDS = {GRAM: run_gram, FUSION: run_fusion, **dict.fromkeys(BASELINES, run_baseline)}


def folders_of(run: Run) -> list[str]:
    """The folders in `runs/` that a run is made in, and from: what another process may be at."""
    if run.row.kind != FUSION:
        return [run.name]
    of = replace(run, row=ROWS[GRAM]).name
    return [run.name, of, f"fusion-of-{of}"]


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 2)

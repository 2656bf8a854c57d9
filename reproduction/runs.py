"""One row with one seed: how a GRAM and the baselines are trained, and how their test users are ranked."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from ..collaborative.baselines import ItemKNN, ItemKNNSettings, Popularity
from ..collaborative.fitting import fit_or_load
from ..collaborative.sasrec import SASRec, SASRecSettings
from ..common.files import locked, new_file
from ..common.provenance import hash_of_file
from ..data import RecommendationData, evaluation_histories, training_part
from ..evaluation.candidates import gram_candidates, target_ranks
from ..evaluation.full_ranking import CUTOFFS, dense_ranks_by_protocol
from ..evaluation.tuning import Tuning, tune_item_knn, tune_sasrec
from ..serving.loading import load_model
from ..train_accelerate import FINISHED_FILE, train
from ..training.settings import TrainingSettings
from ..training.start import tokenizer_of
from ..translation import SASREC_FILE, TranslationSettings
from .rows import ROWS
from .translations import make_translation

SPLIT, NUM_BEAMS = "test", max(CUTOFFS)
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A row with a seed.

    Attributes:
        row: its name.
        seed: of its training.
        settings: `training` and `translation` of a GRAM, without places and seed of the training; `sasrec`, `item_knn`
            of baselines, which are chosen where they are not given.
        translation: folder of its translation; None where it needs none.
    """

    row: str
    seed: int
    settings: Mapping[str, Any]
    translation: Path | None

    @property
    def name(self) -> str:
        """Of its folder and its files."""
        return f"{self.row}-seed{self.seed}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{ROWS[self.row].title}, seed {self.seed}" if ROWS[self.row].seeded else ROWS[self.row].title


@dataclass(frozen=True)
class Place:
    """Where a run is made, and from what.

    Attributes:
        data: users and items.
        folder: of the reproduction; the run's own is `runs/NAME` in it.
        accelerator: where to train and to search.
        progress: show bars.
    """

    data: RecommendationData
    folder: Path
    accelerator: Accelerator
    progress: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a runner found out.

    Attributes:
        ranks: for each protocol (U,) ranks of the test users' targets, 0 where not found.
        hashes: SHA-256 of what was made.
        seconds: what the parts took.
        settings: those that were taken.
        facts: what else there is to tell: the validation, the number of parameters.
    """

    ranks: dict[str, np.ndarray]
    hashes: dict[str, Any]
    seconds: dict[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedGram:
    """A GRAM that has been translated for and trained: its folder, and what an [`Outcome`] tells of that."""

    folder: Path
    hashes: dict[str, Any]
    seconds: dict[str, float]
    facts: dict[str, Any]


def train_gram(run: Run, place: Place) -> TrainedGram:
    """Translate and train in the run's folder, as far as that is not done."""
    translation = make_translation(run.translation, run.settings, place.data, place.progress)
    folder = place.folder / "runs" / run.name
    settings = TrainingSettings(
        data=str(place.data.folder),
        output_dir=str(folder),
        translation=str(run.translation),
        seed=run.seed,
        **run.settings["training"],
    )
    with locked(folder, wait=True):
        tokenizer = tokenizer_of(settings, TranslationSettings(**run.settings["translation"]), place.data)
        train(settings, place.data, tokenizer)
    progress = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))["progress"]
    users = len(evaluation_histories(place.data, "validation")[1])
    validation = {
        "users": min(settings.validation_users or users, users),
        "num_beams": settings.validation_beams,
        "ndcg@10": progress["best_ndcg"],
    }
    return TrainedGram(
        folder,
        {"translation": translation["hashes"], "model": hash_of_file(folder / WEIGHTS_FILE)},
        {"translation": translation["seconds"], "training": round(progress["seconds"], 2)},
        {"validation": validation},
    )


def run_gram(run: Run, place: Place) -> Outcome:
    """Train a GRAM, and search for every test user."""
    trained = train_gram(run, place)
    start = time.perf_counter()
    model, tokenizer = load_model(trained.folder)
    histories, targets = evaluation_histories(place.data, SPLIT)
    model = model.to(place.accelerator.device)
    found = gram_candidates(model, tokenizer, histories, num_beams=NUM_BEAMS, progress=place.progress)
    ranks = {protocol: target_ranks(of.items, targets) for protocol, of in found.items()}
    seconds = {**trained.seconds, "evaluation": round(time.perf_counter() - start, 2)}
    return Outcome(
        ranks, trained.hashes, seconds, run.settings, {"parameters": model.num_parameters(), **trained.facts}
    )


@dataclass(frozen=True)
class TrainedSASRec:
    """A SASRec with its settings, and its file."""

    model: SASRec
    settings: SASRecSettings
    path: Path


def train_sasrec(run: Run, place: Place) -> TrainedSASRec:
    """The SASRec of the run's seed, with the run's settings or those that are best on the validation items."""
    given = run.settings.get("sasrec")
    settings = SASRecSettings(**given) if given else _tuned(tune_sasrec, "sasrec", place)
    path = place.folder / "runs" / f"sasrec-seed{run.seed}" / SASREC_FILE
    tuned = place.folder / "tuning" / "sasrec" / SASREC_FILE
    training, num_items = training_part(place.data), len(place.data.items)
    with locked(path.parent, wait=True):
        if tuned.is_file() and not path.is_file():  # the best of the search; of another seed it is trained anew
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as part:
                shutil.copyfile(tuned, part)
        model = fit_or_load(path, training, num_items, settings, run.seed, place.progress)
    return TrainedSASRec(model, settings, path)


def run_sasrec(run: Run, place: Place) -> Outcome:
    """Train a SASRec, and let it score the catalogue for every test user."""
    start = time.perf_counter()
    trained = train_sasrec(run, place)
    seconds = {"training": round(time.perf_counter() - start, 2)}  # with the search, unless that was done before
    facts = {"parameters": sum(parameter.numel() for parameter in trained.model.parameters())}
    hashes, settings = {"model": hash_of_file(trained.path)}, {"sasrec": asdict(trained.settings)}
    return _scored(trained.model, place, hashes, seconds, settings, facts)


def item_knn(run: Run, place: Place) -> tuple[ItemKNN, ItemKNNSettings]:
    """With the run's settings, or those that are best on the validation items."""
    given = run.settings.get("item_knn")
    settings = ItemKNNSettings(**given) if given else _tuned(tune_item_knn, "item-knn", place)
    return ItemKNN(training_part(place.data), len(place.data.items), settings), settings


def run_item_knn(run: Run, place: Place) -> Outcome:
    """Count who bought what together, and score the catalogue for every test user."""
    start = time.perf_counter()
    recommender, settings = item_knn(run, place)
    seconds = {"training": round(time.perf_counter() - start, 2)}
    return _scored(recommender, place, {}, seconds, {"item_knn": asdict(settings)})


def _tuned(tune: Callable[..., Tuning], name: str, place: Place):
    folder = place.folder / "tuning" / name
    with locked(folder, wait=True):
        return tune(place.data, folder, place.progress).best


def popularity(place: Place) -> Popularity:
    """How often each item is in the training part."""
    return Popularity(training_part(place.data), len(place.data.items))


def run_popularity(run: Run, place: Place) -> Outcome:
    """Score the catalogue by popularity for every test user."""
    start = time.perf_counter()
    recommender = popularity(place)
    return _scored(recommender, place, {}, {"training": round(time.perf_counter() - start, 2)})


def _scored(recommender, place: Place, hashes, seconds, settings=None, facts=None) -> Outcome:
    start = time.perf_counter()
    histories, targets = evaluation_histories(place.data, SPLIT)
    ranks = dense_ranks_by_protocol(recommender, list(histories), targets)
    seconds = {**seconds, "evaluation": round(time.perf_counter() - start, 2)}
    return Outcome(ranks, hashes, seconds, settings or {}, facts or {})

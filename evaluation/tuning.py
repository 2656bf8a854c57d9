"""Baselines at full strength: their settings are chosen on the validation items, which a table may demand of them.

One setting after another is varied, from the first value of each, and the value of the best validation NDCG@10 stays
(all items, seen ones too). The test items are cut off before anything else is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..collaborative.baselines import ItemKNNSettings, Recommender, TransitionGraphSettings, counted_baselines
from ..collaborative.fitting import fit_or_load, fit_sasrec, sasrec_provenance
from ..collaborative.sasrec import SASRecSettings
from ..common.files import json_in, locked, write_json
from ..common.provenance import Provenance, hash_of_interactions, hash_of_texts
from ..data import RecommendationData, evaluation_histories, training_part, without_test
from ..translation import SASREC_FILE
from ..translation.embedding import embed_texts
from .full_ranking import dense_rankings
from .rankings import ranking_metrics

TUNING_FILE, TRIALS_FOLDER = "tuning.json", "trials"
JUDGE = ("all_items", "ndcg@10")
CUTOFFS = (5, 10)

Grid = Mapping[str, Sequence[Any]]
SASREC_GRID: Grid = {
    "texts": (False, True),
    "learning_rate": (3e-3, 1e-3),
    "num_layers": (2, 1, 3),
    "max_length": (50, 20, 10, 5),
    "dim": (64, 128),
    "dropout": (0.5, 0.3, 0.7),  # how much a shape bears is asked once it is chosen
    "weight_decay": (0.0, 0.1, 0.5),
    "epochs": (20, 40),  # what makes a trial slower comes last
    "negatives": (1024, 16_384),
}
ITEM_KNN_GRID: Grid = {
    "shrinkage": (0.0, 5.0, 20.0, 50.0, 100.0, 200.0),
    "recency": (1.0, 0.8, 0.6, 0.4, 0.25),
    "neighbours": (200, 50, 100, None),
}
TRANSITION_GRID: Grid = {
    "smoothing": (20.0, 1.0, 5.0, 10.0, 50.0),
    "reach": (0.8, 0.0, 0.5, 0.9),
    "recency": (0.7, 0.1, 0.5, 0.8),
    "neighbours": (20, 5, 10, 50),
}
COUNTED_SETTINGS: Mapping[str, tuple[type, Grid]] = {  # of those of `counted_baselines` that have settings
    "item-kNN": (ItemKNNSettings, ITEM_KNN_GRID),
    "transition-graph": (TransitionGraphSettings, TRANSITION_GRID),
}


@dataclass(frozen=True)
class Trial:
    """All fields of settings that were tried, and `{protocol: {metric: mean}}` over the validation users."""

    settings: dict[str, Any]
    metrics: dict[str, dict[str, float]]

    @property
    def gain(self) -> float:
        """What trials are judged by."""
        return self.metrics[JUDGE[0]][JUDGE[1]]


@dataclass(frozen=True)
class Tuning:
    """Settings of the best trial, of equal ones those of the first; and the trials as they were made."""

    best: Any
    trials: tuple[Trial, ...]


def tune_sasrec(
    data: RecommendationData, folder: str | Path, progress: bool = True, grid: Grid = SASREC_GRID, seed: int = 0
) -> Tuning:
    """Choose a SASRec's settings by the validation items; the test items are not looked at.

    Args:
        data: whole sequences.
        folder: keeps every trial in a file of its own, so that an interrupted search goes on where it was; at its end
            `sasrec.safetensors`, the best, trained on the training part alone, and `tuning.json`, all trials.
        progress: show bars with the time left.
        grid: for fields of `SASRecSettings` the values to try, the one to start from first.
        seed: of every trial.

    Returns:
        The choice; the same input gives the same one on the same machine with as many threads.

    Raises:
        ValueError: a value that cannot be, before anything is fitted.
    """
    path, training, num_items = Path(folder) / SASREC_FILE, training_part(data), len(data.items)
    vectors = embed_texts(data.items.texts)

    def fit(settings: SASRecSettings):
        return fit_sasrec(training, num_items, settings, seed, progress, vectors)

    def keep(model):
        model.save(path, sasrec_provenance(training, num_items, model.settings, seed, vectors))

    with locked(path.parent, inside=True, wait=True):
        tuning = _Search("SASRec", SASRecSettings, data, path.parent, fit, keep, seed).run(grid, progress)
        # The search has kept it, unless all trials were there already and the file is gone, or of another seed.
        fit_or_load(path, training, num_items, tuning.best, seed, progress, vectors)
    return tuning


def tune_counted(
    name: str, data: RecommendationData, folder: str | Path, progress: bool = True, grid: Grid | None = None
) -> Tuning:
    """Choose the settings of one of [`COUNTED_SETTINGS`] by the validation items; for all else see [`tune_sasrec`].

    Example:
        >>> tuning = tune_counted("item-kNN", data, "tuned-knn", progress=False, grid={"recency": (1.0, 0.5)})
        >>> len(tuning.trials), tuning.best.shrinkage
        (2, 0.0)
    """
    settings_class, own_grid = COUNTED_SETTINGS[name]
    fit = counted_baselines(training_part(data), embed_texts(data.items.texts))[name]
    with locked(folder, inside=True, wait=True):
        return _Search(name, settings_class, data, Path(folder), fit).run(grid or own_grid, progress)


@dataclass
class _Search:
    """The trials of one recommender; `fit` makes it of settings, `keep` saves one that is better than all before."""

    name: str
    settings_class: type
    data: RecommendationData
    folder: Path
    fit: Callable[[Any], Recommender]
    keep: Callable[[Any], None] = lambda model: None
    seed: int | None = None
    trials: dict[Any, Trial] = field(default_factory=dict)  # by settings

    def __post_init__(self):
        known = without_test(self.data)
        self.histories, self.targets = evaluation_histories(known, "validation")
        parts = {"training": training_part(known), "validation": known.interactions}
        self.inputs = {name: hash_of_interactions(part) for name, part in parts.items()}
        self.inputs["texts"] = hash_of_texts(self.data.items.texts)

    def run(self, grid: Grid, progress: bool) -> Tuning:
        """One field after another; before any time is spent all values are looked at."""
        chosen = {name: values[0] for name, values in grid.items()}
        for name, values in grid.items():
            for value in values:
                self.settings_class(**{**chosen, name: value})
        total = 1 + sum(len(values) - 1 for values in grid.values())
        with tqdm(total=total, desc=f"tuning {self.name}", unit="trial", disable=not progress) as bar:
            for name, values in grid.items():
                gains = {}
                for value in values:
                    gains[value] = self._trial(self.settings_class(**{**chosen, name: value})).gain
                    bar.update(len(self.trials) - bar.n)
                    bar.set_postfix({JUDGE[1]: f"{max(gains.values()):.4f}"})  # what was chosen before is among them
                chosen[name] = max(values, key=gains.get)  # the first of equal ones
        best, trials = self.settings_class(**chosen), tuple(self.trials.values())
        facts = {"recommender": self.name, "split": "validation", "judge": " ".join(JUDGE), "seed": self.seed}
        facts |= {"inputs": self.inputs, "grid": {name: list(values) for name, values in grid.items()}}
        facts |= {"best": asdict(best), "trials": [asdict(trial) for trial in trials]}
        write_json(self.folder / TUNING_FILE, facts)
        return Tuning(best, trials)

    def _trial(self, settings: Any) -> Trial:
        """The trial of these very settings before, or of its file; otherwise it is made now."""
        if settings in self.trials:
            return self.trials[settings]
        own = asdict(settings)
        facts = {"num_items": len(self.data.items), "seed": self.seed, **own}
        key = Provenance(f"trial of {self.name}", self.inputs, facts).key
        path = self.folder / TRIALS_FOLDER / f"{key[:16]}.json"
        trial = Trial(own, json_in(path).get("metrics"))
        if trial.metrics is None:
            start, model = time.perf_counter(), self.fit(settings)
            rankings = dense_rankings(model, list(self.histories), self.targets, len(self.data.items))
            found = {protocol: ranking_metrics(of.ranks, CUTOFFS).items() for protocol, of in rankings.items()}
            trial = Trial(
                own, {protocol: {name: value["mean"] for name, value in of} for protocol, of in found.items()}
            )
            if all(trial.gain > other.gain for other in self.trials.values()):
                self.keep(model)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**asdict(trial), "seconds": round(time.perf_counter() - start, 2)})
        self.trials[settings] = trial
        return trial


def format_trials(tuning: Tuning) -> str:
    """The trials as text, best first, with what differs between them."""
    first = tuning.trials[0].settings
    varied = [name for name in first if any(trial.settings[name] != first[name] for trial in tuning.trials)]
    rows = [[*varied, *(f"{metric}@{k}" for k in CUTOFFS for metric in "RN")]]
    for trial in sorted(tuning.trials, key=lambda trial: -trial.gain):
        values = [trial.metrics[JUDGE[0]][f"{metric}@{k}"] for k in CUTOFFS for metric in ("recall", "ndcg")]
        chosen = ("none" if trial.settings[name] is None else str(trial.settings[name]) for name in varied)
        rows.append([*chosen, *(f"{value:.4f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)

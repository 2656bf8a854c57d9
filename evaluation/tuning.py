"""Baselines at full strength: their settings are chosen on the validation items, which a table may demand of them.

One setting after another is varied, from the first value of each, and the value of the best validation NDCG@10 stays
(all items, seen ones too). The test items are cut off before anything else is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..collaborative.baselines import ItemKNN, ItemKNNSettings, Recommender
from ..collaborative.fitting import fit_or_load, fit_sasrec, sasrec_provenance
from ..collaborative.sasrec import SASRecSettings
from ..common.files import new_file, write_json
from ..common.provenance import Provenance, hash_of_interactions
from ..data import Interactions, RecommendationData, evaluation_histories, training_part, without_test
from ..translation import SASREC_FILE
from .full_ranking import PROTOCOLS, dense_ranks_by_protocol, ranking_metrics

TUNING_FILE, TRIALS_FOLDER = "tuning.json", "trials"
JUDGE = ("all_items", "ndcg@10")
CUTOFFS = (5, 10)

SASREC_GRID: Mapping[str, Sequence[Any]] = {
    "learning_rate": (3e-3, 1e-3),
    "dropout": (0.5, 0.3, 0.7),
    "num_layers": (2, 1, 3),
    "weight_decay": (0.0, 0.1, 0.5),
    "max_length": (50, 20),
    "dim": (64, 128),  # what makes a trial slower comes last
    "epochs": (20, 40),
}
ITEM_KNN_GRID: Mapping[str, Sequence[Any]] = {
    "shrinkage": (0.0, 5.0, 20.0, 50.0, 100.0, 200.0),
    "recency": (1.0, 0.8, 0.6, 0.4, 0.25),
    "neighbours": (None, 50, 100, 200),
}


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and what they gave on the validation items.

    Attributes:
        settings: all fields of the recommender's settings.
        metrics: `{protocol: {metric: mean over the users}}`.
    """

    settings: dict[str, Any]
    metrics: dict[str, dict[str, float]]

    @property
    def gain(self) -> float:
        """What trials are judged by."""
        protocol, metric = JUDGE
        return self.metrics[protocol][metric]


@dataclass(frozen=True)
class Tuning:
    """The outcome of a search.

    Attributes:
        best: settings of the best trial; of equal ones those of the first.
        trials: in the order in which they were made.
    """

    best: Any
    trials: tuple[Trial, ...]


def tuned_sasrec(
    data: RecommendationData,
    folder: str | Path,
    progress: bool = True,
    grid: Mapping[str, Sequence[Any]] = SASREC_GRID,
    seed: int = 0,
) -> Path:
    """The file of the best SASRec that the grid has for the data; see [`tune_sasrec`].

    It was trained on the training part only. `gram.evaluation.full_ranking.evaluate` takes it as `model_sasrec`.

    Example:
        >>> grid = {"epochs": (1, 2), "dim": (8,), "num_heads": (1,), "num_layers": (1,)}
        >>> tuned_sasrec(data, "tuned", progress=False, grid=grid).as_posix()
        'tuned/sasrec.safetensors'
    """
    tune_sasrec(data, folder, progress, grid, seed)
    return Path(folder) / SASREC_FILE


def tune_sasrec(
    data: RecommendationData,
    folder: str | Path,
    progress: bool = True,
    grid: Mapping[str, Sequence[Any]] = SASREC_GRID,
    seed: int = 0,
) -> Tuning:
    """Choose a SASRec's settings by the validation items.

    Args:
        data: whole sequences; their test items are not looked at.
        folder: keeps every trial in a file of its own, so that an interrupted search goes on where it was; at its end
            `sasrec.safetensors`, the best, and `tuning.json`, all trials.
        progress: show bars with the time left.
        grid: for fields of `SASRecSettings` the values to try, the one to start from first.
        seed: of every trial.

    Returns:
        The choice; the same input gives the same one on the same machine with as many threads.

    Raises:
        ValueError: an unknown field or one without values in the grid, or a value that cannot be.
    """
    folder = Path(folder)

    def fit(settings: SASRecSettings, training: Interactions, num_items: int):
        return fit_sasrec(training, num_items, settings, seed, progress)

    def keep(model, settings: SASRecSettings, training: Interactions):
        model.save(folder / SASREC_FILE, sasrec_provenance(training, model.num_items, settings, seed))

    search = _Search("SASRec", SASRecSettings, data, folder, fit, keep, seed)
    tuning = search.run(grid, progress)
    # The search has kept it, unless all trials were there already and the file is gone, or of another seed.
    fit_or_load(folder / SASREC_FILE, search.training, search.num_items, tuning.best, seed, progress)
    return tuning


def tune_item_knn(
    data: RecommendationData,
    folder: str | Path,
    progress: bool = True,
    grid: Mapping[str, Sequence[Any]] = ITEM_KNN_GRID,
) -> Tuning:
    """Choose an item-kNN's settings by the validation items; for all else see [`tune_sasrec`].

    Example:
        >>> tuning = tune_item_knn(data, "tuned-knn", progress=False, grid={"recency": (1.0, 0.5)})
        >>> len(tuning.trials), tuning.best.shrinkage
        (2, 0.0)
    """

    def fit(settings: ItemKNNSettings, training: Interactions, num_items: int):
        return ItemKNN(training, num_items, settings)

    return _Search("item-kNN", ItemKNNSettings, data, Path(folder), fit).run(grid, progress)


class _Search:
    """The trials of one recommender on one data set.

    Args:
        name: of the recommender.
        settings_class: of its settings.
        data: whole sequences.
        folder: of the trials and of the outcome.
        fit: makes the recommender of settings, training part and size of the catalogue.
        keep: saves a recommender that is better than all before it; it gets its settings and the training part too.
        seed: that `fit` uses, if it does.
    """

    def __init__(
        self,
        name: str,
        settings_class: type,
        data: RecommendationData,
        folder: Path,
        fit: Callable[[Any, Interactions, int], Recommender],
        keep: Callable[[Any, Any, Interactions], None] = lambda *_: None,
        seed: int | None = None,
    ):
        data = without_test(data)
        self.name, self.settings_class, self.folder, self.seed = name, settings_class, folder, seed
        self.fit, self.keep = fit, keep
        self.training, self.num_items = training_part(data), len(data.items)
        self.histories, self.targets = evaluation_histories(data, "validation")
        with_targets = [np.append(past, target) for past, target in zip(self.histories, self.targets, strict=True)]
        known = Interactions.from_sequences(self.histories.user_ids, with_targets)
        self.inputs = {"training": hash_of_interactions(self.training), "validation": hash_of_interactions(known)}
        self.trials: dict[str, Trial] = {}

    def run(self, grid: Mapping[str, Sequence[Any]], progress: bool) -> Tuning:
        """One field after another."""
        self._check(grid)
        chosen = {name: values[0] for name, values in grid.items()}
        total = 1 + sum(len(values) - 1 for values in grid.values())
        with tqdm(total=total, desc=f"tuning {self.name}", unit="trial", disable=not progress) as bar:
            for name, values in grid.items():
                gains = {}
                for value in values:
                    trial = self._trial(self.settings_class(**{**chosen, name: value}))
                    gains[value] = trial.gain
                    bar.update(len(self.trials) - bar.n)
                    bar.set_postfix({JUDGE[1]: f"{self._best().gain:.4f}"})
                chosen[name] = max(values, key=gains.get)  # the first of equal ones
        best = self._best()
        facts = {
            "recommender": self.name,
            "split": "validation",
            "judge": " ".join(JUDGE),
            "seed": self.seed,
            "inputs": self.inputs,
            "grid": {name: list(values) for name, values in grid.items()},
            "best": best.settings,
            "trials": [asdict(trial) for trial in self.trials.values()],
        }
        write_json(self.folder / TUNING_FILE, facts)
        return Tuning(self.settings_class(**best.settings), tuple(self.trials.values()))

    def _check(self, grid: Mapping[str, Sequence[Any]]) -> None:
        known = [field.name for field in fields(self.settings_class)]
        for name, values in grid.items():
            if name not in known:
                raise ValueError(f"grid: {self.name} has no setting {name!r}; it has {', '.join(known)}")
            if not values:
                raise ValueError(f"grid: {name} has no values; give at least one")
        start = {name: values[0] for name, values in grid.items()}
        for name, values in grid.items():  # before any time is spent
            for value in values:
                self.settings_class(**{**start, name: value})

    def _best(self) -> Trial:
        return max(self.trials.values(), key=lambda trial: trial.gain)

    def _trial(self, settings: Any) -> Trial:
        facts = {"num_items": self.num_items, "seed": self.seed, **asdict(settings)}
        key = Provenance(f"trial of {self.name}", self.inputs, facts).key
        if key in self.trials:
            return self.trials[key]
        path = self.folder / TRIALS_FOLDER / f"{key[:16]}.json"
        trial = _read(path, asdict(settings))
        if trial is None:
            start = time.perf_counter()
            model = self.fit(settings, self.training, self.num_items)
            ranks = dense_ranks_by_protocol(model, list(self.histories), self.targets)
            trial = Trial(asdict(settings), {protocol: _means(ranks[protocol]) for protocol in PROTOCOLS})
            if not self.trials or trial.gain > self._best().gain:
                self.keep(model, settings, self.training)
            _write(path, {**asdict(trial), "seconds": round(time.perf_counter() - start, 2)})
        self.trials[key] = trial
        return trial


def _means(ranks: np.ndarray) -> dict[str, float]:
    return {name: value["mean"] for name, value in ranking_metrics(ranks, CUTOFFS).items()}


def _read(path: Path, settings: dict[str, Any]) -> Trial | None:
    """The trial in the file; None where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Trial(settings, {protocol: dict(found["metrics"][protocol]) for protocol in PROTOCOLS})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, facts: dict[str, Any]) -> None:
    """One line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        part.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def format_trials(tuning: Tuning) -> str:
    """The trials as text, best first, with what differs between them.

    Example:
        >>> metrics = {"recall@5": 0.04, "ndcg@5": 0.03, "recall@10": 0.06, "ndcg@10": 0.04}
        >>> trial = Trial({"recency": 0.5}, {"all_items": metrics})
        >>> print(format_trials(Tuning(None, (trial,))))
           R@5    N@5   R@10   N@10
        0.0400 0.0300 0.0600 0.0400
    """
    first = tuning.trials[0].settings
    varied = [name for name in first if any(trial.settings[name] != first[name] for trial in tuning.trials)]
    rows = [[*(name for name in varied), *(f"{metric}@{k}" for k in CUTOFFS for metric in "RN")]]
    for trial in sorted(tuning.trials, key=lambda trial: -trial.gain):
        values = [trial.metrics[JUDGE[0]][f"{metric}@{k}"] for k in CUTOFFS for metric in ("recall", "ndcg")]
        chosen = ("none" if trial.settings[name] is None else str(trial.settings[name]) for name in varied)
        rows.append([*chosen, *(f"{value:.4f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


__all__ = [
    "ITEM_KNN_GRID",
    "SASREC_GRID",
    "Trial",
    "Tuning",
    "format_trials",
    "tune_item_knn",
    "tune_sasrec",
    "tuned_sasrec",
]

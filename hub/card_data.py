"""What there is to say of a model, gathered from the files of its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..common.files import json_in
from ..common.provenance import hash_of_weights
from ..evaluation.rankings import METRICS, PROTOCOLS
from ..loading_gram import read_object
from ..pipeline_gram import TASK
from ..serving.catalogue_changes import CHANGES_FILE
from ..serving.loading import load_model
from ..serving.recommendation import Recommender
from ..tokenization_gram import GramTokenizer
from ..translation.report import TreeStatistics
from .card_settings import CardSettings, words

CARD, PLOT_FILE = "README.md", "training.svg"
TRAINING_FILE, EVALUATION_FILE, ABLATIONS_FILE = "training.json", "evaluation.json", "ablations.json"
TAGS = ["recommendation", "sequential-recommendation", TASK, "generative-retrieval", "gram"]
ABLATIONS_FORM = 'is not of the form [{"name", "metrics": {protocol: {metric: {"mean", "low", "high"}}}}, ...]'
NOTED_SETTINGS = {"data", "backbone", "epochs", "validation_users", "validation_beams"}
NOTED_PROGRESS = {"epoch", "updates", "samples", "seconds", "stopped_early", "validations"}
HISTORY_LENGTH, NUM_SHOWN = 3, 5  # of the example


class GramCardData:
    """What a model card is made from. The model is loaded, and recommends for one history.

    Args:
        folder: holds a trained model and `training.json`; `evaluation.json` and `ablations.json` if there are any.
        settings: what is said by hand; by default what the folder's `card.yaml` says.

    Attributes:
        folder_name, settings: of the folder, and what is said by hand.
        config, training: `config.json` and `training.json`.
        evaluation: `evaluation.json`; None where the model has not been evaluated.
        ablations: of `ablations.json`, by name of what was changed, metrics as in `evaluation.json`; the model's own
            come first, if it has been evaluated. Empty where there is no such file.
        num_parameters: of the model, weights that are shared counted once.
        tokenizer: with the catalogue.
        tree: of the lexical IDs of the items that it may recommend.
        changes: how many items were `added` and `removed` after training; empty where nothing was changed.
        has_plot: whether the folder holds a picture of the training run.
        history: rows of the catalogue, oldest first: the example's, which is no user's.
        recommended: what the model recommends for it, best first.

    Raises:
        FileNotFoundError: the folder or a file of it is missing; the message names it.
        ValueError: a file is damaged, or not of its form; the evaluation is of other weights.
    """

    def __init__(self, folder: str | Path, settings: CardSettings | None = None):
        folder = Path(folder)
        self.training = _read(folder / TRAINING_FILE, "not what `train_accelerate.py` wrote; train again", _is_training)
        if self.training is None:
            raise FileNotFoundError(
                f"{folder / TRAINING_FILE}: no such file; give the folder that `train_accelerate.py` wrote"
            )
        model, self.tokenizer = load_model(folder)
        form = "not what `gram evaluate` wrote; evaluate again, or remove the file"
        self.evaluation = _read(folder / EVALUATION_FILE, form, _is_evaluation)
        measured = (self.evaluation or {}).get("weights")
        if measured is not None and measured != hash_of_weights(model):
            raise ValueError(
                f"{folder / EVALUATION_FILE}: was measured with other weights than the folder has; evaluate them "
                "(`gram evaluate`), or remove the file"
            )
        ablations = _read(folder / ABLATIONS_FILE, ABLATIONS_FORM, _are_ablations) or []
        own = {"GRAM": self.evaluation["models"]["GRAM"]} if ablations and self.evaluation else {}
        self.ablations = own | {ablation["name"]: ablation["metrics"] for ablation in ablations}
        self.folder_name = folder.resolve().name.encode("utf-8", "replace").decode()
        self.settings = CardSettings.of(folder) if settings is None else settings
        self.config = read_object(folder / "config.json")
        self.num_parameters = model.num_parameters()
        lexical_ids, leaves = self.tokenizer.catalogue["lexical_id"].to_pylist(), model.item_trie.leaves.tolist()
        self.tree = TreeStatistics.of([one for one, leaf in zip(lexical_ids, leaves, strict=False) if leaf >= 0])
        changes = json_in(folder / CHANGES_FILE).get("changes", [])
        self.changes = {what: sum(change[what] for change in changes) for what in ("added", "removed") if changes}
        self.has_plot = (folder / PLOT_FILE).is_file()
        self.history = example_history(self.tokenizer)
        (self.recommended,) = Recommender(model, self.tokenizer).recommend([self.history_ids], top_k=NUM_SHOWN)

    @property
    def history_ids(self) -> list[str]:
        """The example's items."""
        return [self.tokenizer.item_ids[row] for row in self.history]

    @property
    def name(self) -> str:
        """What `from_pretrained` is to be given: the name on the Hub, or the folder's."""
        return self.settings.repo_id or self.folder_name

    @property
    def base(self) -> str:
        """What the weights began with."""
        settings = self.training["settings"]
        start = settings.get("init_from") or settings["backbone"]
        return "random weights" if start is None else self.training.get("base_model") or Path(start).name

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The data sets on the Hub that `gram prepare` read, as arguments of `load_dataset`, each once."""
        prepared = (self.training.get("data") or {}).get("prepared") or {}
        origins = [origin for origin in (prepared.get("origin") or {}).values() if origin.get("revision")]
        return [origin for place, origin in enumerate(origins) if origin not in origins[:place]]

    @property
    def datasets(self) -> list[str]:
        """Names on the Hub of what the model was trained on."""
        return words(self.settings.datasets) or list(dict.fromkeys(origin["path"] for origin in self.sources))

    @property
    def data_name(self) -> str:
        """What the data set is called."""
        folder = Path(self.training["settings"]["data"]).name
        return self.settings.data_name or next(iter(self.datasets), folder) or "data set"

    def metadata(self) -> ModelCardData:
        """The YAML at the top of the card. The Hub knows no task that fits, so there is no `pipeline_tag`."""
        settings, base_model = self.settings, self.training.get("base_model")
        return ModelCardData(
            language=words(settings.language) or None,
            license=settings.licence,
            license_name=settings.licence_name,
            license_link=settings.licence_link,
            library_name="transformers",
            tags=TAGS,
            base_model=base_model,
            base_model_relation="finetune" if base_model else None,
            datasets=self.datasets or None,
            metrics=list(METRICS) if self.evaluation else None,
            model_name=self.name.rsplit("/", 1)[-1],
            eval_results=self._eval_results() if self.evaluation else None,
        )

    def _eval_results(self) -> list[EvalResult]:
        evaluation = self.evaluation
        dataset = next(iter(self.datasets), None) or re.sub(r"[^\w.-]+", "-", self.data_name.lower(), flags=re.ASCII)
        return [
            EvalResult(
                task_type=TASK,
                task_name="Generative recommendation",
                dataset_type=dataset,
                dataset_name=self.data_name,
                dataset_split=evaluation["split"],
                metric_type=metric,
                metric_name=f"{metric}, {meaning}",
                metric_value=round(by_metric[metric]["mean"], 4),
                metric_args={
                    "protocol": protocol,
                    "num_beams": evaluation["num_beams"],
                    "users": evaluation["users"],
                    "interval_95": [round(by_metric[metric][end], 4) for end in ("low", "high")],
                },
            )
            for protocol, meaning in PROTOCOLS.items()
            for by_metric in [evaluation["models"]["GRAM"][protocol]]
            for metric in METRICS
        ]

    def better_baselines(self, protocol: str) -> list[str]:
        """Baselines that were measured to have a higher NDCG@10 than GRAM."""
        models = self.evaluation["models"]
        means = {name: by_protocol[protocol]["ndcg@10"]["mean"] for name, by_protocol in models.items()}
        return [name for name, mean in means.items() if mean > means["GRAM"]]


def example_history(tokenizer: GramTokenizer) -> list[int]:
    """Rows of the items most similar to the catalogue's first, and of that: so nobody's own history is published."""
    similar = tokenizer.catalogue["similar_items"][0].as_py()[: HISTORY_LENGTH - 1]
    return [*(tokenizer.item_rows[item] for item in reversed(similar)), 0]


def _read(path: Path, form: str, is_sound: Callable[[Any], bool]) -> Any:
    """What a JSON file holds, None if there is none; ValueError where what a card shows is not in it."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sound = is_sound(content)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"{path}: {form}")
    return content


def _is_training(training: Any) -> bool:
    return NOTED_SETTINGS <= training["settings"].keys() and NOTED_PROGRESS <= training["progress"].keys()


def _is_evaluation(evaluation: Any) -> bool:
    models = evaluation["models"]
    return {"split", "users", "num_beams"} <= evaluation.keys() and "GRAM" in models and _are_figures(*models.values())


def _are_ablations(ablations: Any) -> bool:
    named = isinstance(ablations, list) and all(isinstance(ablation["name"], str) for ablation in ablations)
    return named and _are_figures(*(ablation["metrics"] for ablation in ablations))


def _are_figures(*models: dict[str, Any]) -> bool:
    estimates = [model[protocol][metric] for model in models for protocol in PROTOCOLS for metric in METRICS]
    return all(isinstance(estimate[part], float) for estimate in estimates for part in ("mean", "low", "high"))

"""What a reproduction is to do: its rows, its data, and the one budget of all that is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common.files import LOCK_FILE, locked, write_json
from ..common.provenance import changes, hash_of_data
from ..common.settings import settings_from, settings_of_file
from ..data import RecommendationData, read_folder
from ..data.splits import sample_users
from ..training.settings import PLACES, TrainingSettings
from ..translation import TranslationSettings

GRAM, FUSION, SASREC, COUNTED = "gram", "fusion", "sasrec", "counted"
IDENTITY_FILE, RESULTS_FOLDER = "reproduction.json", "results"
RECIPE_SIZE = "recipe"

# Shapes from random weights: those of T5-efficient-tiny and T5-efficient-mini (arXiv 2109.10686), and of T5-small.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 4, "num_decoder_layers": 4, "d_model": 256, "d_ff": 1024, "d_kv": 32, "num_heads": 4},
    "mini": {"num_layers": 4, "num_decoder_layers": 4, "d_model": 384, "d_ff": 1536, "d_kv": 32, "num_heads": 8},
    "small": {"num_layers": 6, "num_decoder_layers": 6, "d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8},
}
# What every trained row has in common, so that no row is trained longer than another.
BUDGET = ("epochs", "batch_size", "patience", *SIZES["small"])
# All rows take as many steps; and validation, which only chooses the best epoch, need not cost as much as the test.
DEFAULTS = {"patience": 0, "validation_users": 2000, "validation_beams": 20}

# Users, items and interactions of the data sets as the paper has them (its table 1).
DATASETS = {
    "beauty": (22_363, 12_101, 198_502),
    "toys": (19_412, 11_924, 167_597),
    "sports": (35_598, 18_357, 296_337),
    "yelp": (30_431, 20_033, 316_354),
}


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str  # on the command line and in the names of files
    # in tables; that of a fusion is a key of `gram.evaluation.reranking.FUSIONS`, of what is counted one of
    # `gram.collaborative.baselines.counted_baselines`
    title: str
    # fields of `TranslationSettings` and `TrainingSettings` in which it differs from GRAM
    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: str = GRAM  # how it is made, a key of `gram.reproduction.runs.KINDS`
    is_ablation: bool = False  # whether the model card lists it as one

    @property
    def is_seeded(self) -> bool:
        """Whether another seed gives another result."""
        return self.kind != COUNTED


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(GRAM, "GRAM"),
        Row("without-hierarchy", "without hierarchy", {"hierarchy": False}, is_ablation=True),
        Row("without-similar-items", "without similar items", {"num_similar": 0}, is_ablation=True),
        Row("without-user-prompt", "without user prompt", {"user_prompt": False}, is_ablation=True),
        Row("without-item-prompts", "without item prompts", {"item_prompts": False}, is_ablation=True),
        Row("without-item-id", "without the ID in the item prompt", {"id_in_item_prompt": False}, is_ablation=True),
        Row("without-passage-position", "without passage position", {"passage_position": False}, is_ablation=True),
        Row("reranked", "GRAM, re-ranked", kind=FUSION),
        Row("with-sasrec", "GRAM + SASRec", kind=FUSION),
        Row("with-sasrec-and-knn", "GRAM + SASRec + kNN", kind=FUSION),
        Row("with-all", "GRAM + all", kind=FUSION),
        Row("sasrec-and-knn", "SASRec + kNN", kind=FUSION),
        Row("all-but-gram", "all but GRAM", kind=FUSION),
        Row("tiger", "TIGER-like", {"id_tokens": "codes", "item_prompts": False, "num_similar": 0}),
        Row(SASREC, "SASRec", kind=SASREC),
        Row("item-knn", "item-kNN", kind=COUNTED),
        Row("transition-graph", "transition-graph", kind=COUNTED),
        Row("popularity", "popularity", kind=COUNTED),
    )
}


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    row: Row  # which
    seed: int  # of its training
    # `training` and `translation` of a GRAM, without places and seed of the training; those of a baseline by its
    # name, such as `item_knn`, which are chosen where they are not given
    settings: Mapping[str, Any] = field(default_factory=dict)
    translation: Path | None = None  # folder of its translation; None where it needs none

    @property
    def name(self) -> str:
        """Of its folder and its files."""
        return f"{self.row.name}-seed{self.seed}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.row.title}, seed {self.seed}" if self.row.is_seeded else self.row.title


@dataclass
class Plan:
    """A reproduction.

    Attributes:
        dataset: a recipe, `beauty`, `toys`, `sports` or `yelp`; a YAML file of settings for other data.
        data: data folder.
        output_dir: folder of the reproduction.
        rows: names of [`ROWS`]; all by default.
        seeds: how many; rows that have none are run with the first.
        fraction: of the users, above 0 and at most 1, for a rehearsal.
        size: a key of [`SIZES`], or `recipe` for the shape or backbone that the recipe says.
        settings: fields of `TrainingSettings` and `TranslationSettings`, over those of the size, over those of the
            recipe; `seed` is the first seed.
        training, translation: settings of the row GRAM, of all that.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: a row that is unknown, or a setting that cannot be; the message names it.
    """

    dataset: str
    data: str | Path
    output_dir: str | Path
    rows: Sequence[str] | None = None
    seeds: int = 1
    fraction: float = 1.0
    size: str = "small"
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingSettings = field(init=False)
    translation: TranslationSettings = field(init=False)

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must be above 0 and at most 1")
        for name in self.rows or ():
            if name not in ROWS:
                raise ValueError(f"rows: there is no row {name!r}; the rows are {', '.join(ROWS)}")
        for name in ("translation", "init_from", "lora", "lexical_ids", "first_round"):
            if self.settings.get(name) is not None:
                how = "translated and trained from its own settings, in one round"
                raise ValueError(f"{name} cannot be given: every row is {how}")
        of_file = settings_of_file(self.dataset, TrainingSettings, TranslationSettings, given=self.settings)
        shape = {} if self.size == RECIPE_SIZE else {"backbone": None, **SIZES[self.size]}
        own = {"data": str(self.data), "output_dir": str(self.output_dir), "first_round": None}
        values = {**DEFAULTS, **of_file, **shape, **self.settings, **own}
        self.training, self.translation = settings_from(values, TrainingSettings, TranslationSettings)
        if self.training.budget is not None:
            raise ValueError("budget: rows take the same number of steps on any machine; give epochs in its place")
        self.output_dir = Path(self.output_dir)

    @property
    def facts(self) -> dict[str, Any]:
        """What all rows have in common, for their results."""
        facts = {"dataset": Path(self.dataset).stem, "fraction": self.fraction, "seed": self.training.seed}
        return {**facts, "size": self.size, **{name: getattr(self.training, name) for name in BUDGET}}

    def runs(self) -> list[Run]:
        """Every row with every seed; all rows with the first seed come before any with the second."""
        first, rows = self.training.seed, [row for row in ROWS.values() if self.rows is None or row.name in self.rows]
        seeds = range(first, first + self.seeds)
        return [self._run(row, seed) for seed in seeds for row in rows if row.is_seeded or seed == first]

    def _run(self, row: Row, seed: int) -> Run:
        if row.kind not in (GRAM, FUSION):
            return Run(row, seed)
        translation = asdict(self.translation)
        retranslated = {name: row.changes[name] for name in sorted(row.changes) if name in translation}
        others = {name: value for name, value in row.changes.items() if name not in translation}
        training = asdict(replace(self.training, **others))
        settings = {
            "training": {name: value for name, value in training.items() if name not in {*PLACES, "seed"}},
            "translation": {**translation, **retranslated},
        }
        folder = "-".join(f"{name}={value}" for name, value in retranslated.items()) or GRAM
        return Run(row, seed, settings, self.output_dir / "translations" / folder)

    def read_data(self) -> RecommendationData:
        """The data, or the fraction of them, for which the output folder is this reproduction's from now on.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: they are not the data set that was named, or damaged; the output folder is another
                reproduction's, with the first difference, or holds something else.
        """
        data = read_folder(self.data)
        found = (len(data.interactions), len(data.items), len(data.interactions.items))
        expected = DATASETS.get(self.dataset, found)
        if found != expected:
            form = "{:,} users, {:,} items, {:,} interactions"
            raise ValueError(
                f"{self.data}: has {form.format(*found)}, but {self.dataset} has {form.format(*expected)}; "
                f"give the folder of {self.dataset}, or for other data a YAML file of settings in place of the name"
            )
        data, path = sample_users(data, self.fraction, self.training.seed), self.output_dir / IDENTITY_FILE
        training = {name: value for name, value in asdict(self.training).items() if name not in PLACES}
        identity = {**self.facts, **training, "translation": asdict(self.translation), "data": hash_of_data(data)}
        with locked(self.output_dir, inside=True, wait=True):
            if path.is_file():
                before = {**TrainingSettings.defaults(), "translation": TranslationSettings.defaults()}
                if changed := changes(json.loads(path.read_text(encoding="utf-8")), identity, before):
                    remedy = "take the same settings to go on, or another --output-dir"
                    raise ValueError(f"{self.output_dir}: holds a reproduction with {changed[0]}; {remedy}")
            elif any(other.name != LOCK_FILE for other in self.output_dir.iterdir()):
                remedy = "give another --output-dir"
                raise ValueError(f"{self.output_dir}: exists already and holds no reproduction; {remedy}")
            else:
                write_json(path, identity)
        return data

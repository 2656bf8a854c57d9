"""What a reproduction is to do: its data, its rows, the one budget of all that is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..common.files import LOCK_FILE, locked, write_json
from ..common.settings import settings_from, settings_of_file
from ..data import RecommendationData, read_folder
from ..data.splits import sample_users
from ..training.settings import PLACES, TrainingSettings
from ..translation import TranslationSettings
from .comparing import hash_of_data, settings_differ
from .rows import BUDGET, FUSION, GRAM, ROWS, Row, chosen_rows
from .runners import RUNNERS
from .runs import Run

IDENTITY_FILE = "reproduction.json"
RECIPE_SIZE = "recipe"

# Shapes from random weights: those of T5-efficient-tiny and T5-efficient-mini (arXiv 2109.10686), and of T5-small.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 4, "num_decoder_layers": 4, "d_model": 256, "d_ff": 1024, "d_kv": 32, "num_heads": 4},
    "mini": {"num_layers": 4, "num_decoder_layers": 4, "d_model": 384, "d_ff": 1536, "d_kv": 32, "num_heads": 8},
    "small": {"num_layers": 6, "num_decoder_layers": 6, "d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8},
}
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
class Plan:
    """A reproduction; make it with [`Plan.of`].

    Attributes:
        dataset: name of the recipe, or the path of a YAML file of settings.
        data: data folder.
        output_dir: folder of the reproduction.
        rows: in the order of the table.
        seeds: of the training; rows that have none are run with the first.
        fraction: of the users, for a rehearsal.
        size: a key of [`SIZES`], or `recipe` for the shape or backbone that the recipe says.
        translation: settings of the row GRAM.
        training: settings of the row GRAM.
        translations: folder of the translations, which several reproductions may share.
    """

    dataset: str
    data: Path
    output_dir: Path
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    fraction: float
    size: str
    translation: TranslationSettings
    training: TrainingSettings
    translations: Path

    @classmethod
    def of(
        cls,
        dataset: str,
        data: str | Path,
        output_dir: str | Path,
        rows: Sequence[str] | None = None,
        seeds: int = 1,
        fraction: float = 1.0,
        size: str = "small",
        translations: str | Path | None = None,
        **settings: Any,
    ) -> Plan:
        """Put the settings together: the recipe's, over those the size's, over those `settings`.

        Args:
            dataset: a recipe, `beauty`, `toys`, `sports` or `yelp`; a YAML file of settings for other data.
            data: data folder.
            output_dir: folder of the reproduction.
            rows: names of [`ROWS`]; all by default.
            seeds: how many.
            fraction: of the users, above 0 and at most 1.
            size: of the model, `tiny`, `mini` or `small`; `recipe` takes what the recipe says.
            translations: folder of the translations; `output_dir/translations` by default.
            settings: fields of `TrainingSettings` and `TranslationSettings`; `seed` is the first seed.

        Raises:
            FileNotFoundError: there is no such recipe.
            ValueError: a row that is unknown or cannot be run, or a setting that cannot be; the message names it.

        Example:
            >>> plan = Plan.of("beauty", "data/beauty", "runs/beauty", rows=["gram"], size="tiny", epochs=2)
            >>> plan.training.d_model, plan.training.backbone, plan.translation.num_clusters
            (256, None, 128)
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be above 0 and at most 1")
        if seeds < 1:
            raise ValueError(f"seeds is {seeds}; it must be at least 1")
        if size not in (*SIZES, RECIPE_SIZE):
            raise ValueError(f"size is {size!r}; it must be {', '.join(SIZES)} or {RECIPE_SIZE}")
        for name in ("translation", "init_from", "lora", "lexical_ids"):
            if settings.get(name) is not None:
                raise ValueError(f"{name} cannot be given: every row is translated and trained from its own settings")
        chosen = chosen_rows(rows, list(RUNNERS))
        of_file = settings_of_file(dataset, TrainingSettings, TranslationSettings)
        shape = {} if size == RECIPE_SIZE else {"backbone": None, **SIZES[size]}
        places = {"data": str(data), "output_dir": str(output_dir)}
        values = {**DEFAULTS, **of_file, **shape, **settings, **places}
        training, translation = settings_from(values, TrainingSettings, TranslationSettings)
        output_dir = Path(output_dir)
        return cls(
            dataset=str(dataset),
            data=Path(data),
            output_dir=output_dir,
            rows=chosen,
            seeds=tuple(range(training.seed, training.seed + seeds)),
            fraction=fraction,
            size=size,
            translation=translation,
            training=training,
            translations=Path(translations or output_dir / "translations"),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What all rows have in common, for their results."""
        budget = {name: getattr(self.training, name) for name in BUDGET}
        seed = self.training.seed
        return {
            "dataset": Path(self.dataset).stem,
            "fraction": self.fraction,
            "seed": seed,
            "size": self.size,
            **budget,
        }

    def runs(self) -> list[Run]:
        """Every row with every seed; all rows with the first seed come before any with the second."""
        return [self._run(row, seed) for seed in self.seeds for row in self.rows if row.seeded or seed == self.seeds[0]]

    def _run(self, row: Row, seed: int) -> Run:
        if row.kind == FUSION:
            return replace(self._run(ROWS[row.of], seed), row=row.name)
        if row.kind != GRAM:
            return Run(row.name, seed, {}, None)
        changes = row.changes_of(TranslationSettings)
        name = "-".join(f"{name}={value}" for name, value in sorted(changes.items())) or GRAM
        training = asdict(replace(self.training, **row.changes_of(TrainingSettings)))
        training = {name: value for name, value in training.items() if name not in {*PLACES, "seed"}}
        settings = {"training": training, "translation": asdict(replace(self.translation, **changes))}
        return Run(row.name, seed, settings, self.translations / name)

    def read_data(self) -> RecommendationData:
        """The data, or the fraction of them.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: they are not the data set that was named, or damaged.
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
        return sample_users(data, self.fraction, self.training.seed)

    def claim(self, data: RecommendationData) -> None:
        """Make the folder this reproduction's, or see that it is.

        Raises:
            ValueError: it is another's, with the first difference, or holds something else.
        """
        with locked(self.output_dir, inside=True, wait=True):
            self._claim(data)

    def _claim(self, data: RecommendationData) -> None:
        path = self.output_dir / IDENTITY_FILE
        training = {name: value for name, value in asdict(self.training).items() if name not in PLACES}
        identity = {**self.facts, **training, "translation": asdict(self.translation), "data": hash_of_data(data)}
        if path.is_file():
            difference = settings_differ(json.loads(path.read_text(encoding="utf-8")), identity)
            if difference:
                raise ValueError(
                    f"{self.output_dir}: holds a reproduction with {difference}; "
                    "take the same settings to go on, or another --output-dir"
                )
            return
        if any(path.name != LOCK_FILE for path in self.output_dir.iterdir()):
            raise ValueError(f"{self.output_dir}: exists already and holds no reproduction; give another --output-dir")
        write_json(path, identity)

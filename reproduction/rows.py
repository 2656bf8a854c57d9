"""The rows of a table of results, as data: what each one changes of GRAM's settings, or what it is instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..training.settings import TrainingSettings
from ..translation import TranslationSettings

GRAM = "gram"
FUSION = "fusion"
ABLATION, OPTION = "ablation", "option"
# What every trained row has in common, so that no row is trained longer than another.
BUDGET = (
    "epochs",
    "batch_size",
    "patience",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: on the command line and in the names of files.
        title: in tables.
        changes: fields of `TranslationSettings` and `TrainingSettings` in which it differs from GRAM.
        kind: which runner of `gram.reproduction` it takes.
        group: `"ablation"` for what the model card lists as one, `"option"` for GRAM with one of its options.
        seeded: whether another seed gives another result.
        of: the row whose model a fusion takes; its title is a key of `gram.evaluation.reranking.FUSIONS`.
    """

    name: str
    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: str = GRAM
    group: str = ""
    seeded: bool = True
    of: str = ""

    def changes_of(self, settings_class: type) -> dict[str, Any]:
        """Those of the changes that are fields of a settings class."""
        known = {entry.name for entry in fields(settings_class)}
        return {name: value for name, value in self.changes.items() if name in known}

    @property
    def unknown(self) -> list[str]:
        """Changes that no settings of this version know."""
        known = {entry.name for of in (TranslationSettings, TrainingSettings) for entry in fields(of)}
        return [name for name in self.changes if name not in known]


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(GRAM, "GRAM"),
        Row("without-hierarchy", "without hierarchy", {"hierarchy": False}, group=ABLATION),
        Row("without-similar-items", "without similar items", {"num_similar": 0}, group=ABLATION),
        Row("without-user-prompt", "without user prompt", {"user_prompt": False}, group=ABLATION),
        Row("without-item-prompts", "without item prompts", {"item_prompts": False}, group=ABLATION),
        Row("without-item-id", "without the ID in the item prompt", {"id_in_item_prompt": False}, group=ABLATION),
        Row("without-passage-position", "without passage position", {"passage_position": False}, group=ABLATION),
        Row("reranked", "GRAM, re-ranked", kind=FUSION, of=GRAM),
        Row("with-sasrec", "GRAM + SASRec", kind=FUSION, of=GRAM),
        Row("with-sasrec-and-knn", "GRAM + SASRec + kNN", kind=FUSION, of=GRAM),
        Row("sasrec-and-knn", "SASRec + kNN", kind=FUSION, of=GRAM),
        Row("tiger", "TIGER-like", {"id_tokens": "codes", "item_prompts": False, "num_similar": 0}),
        Row("sasrec", "SASRec", kind="sasrec"),
        Row("item-knn", "item-kNN", kind="item-knn", seeded=False),
        Row("popularity", "popularity", kind="popularity", seeded=False),
    )
}


def chosen_rows(names: Sequence[str] | None, kinds: Sequence[str]) -> tuple[Row, ...]:
    """The rows of these names, in the order of the table; all without names.

    Args:
        names: of [`ROWS`].
        kinds: those that there is a runner for.

    Raises:
        ValueError: a row is unknown, or needs what this version does not have.

    Example:
        >>> [row.title for row in chosen_rows(["popularity", "gram"], kinds=["gram", "popularity"])]
        ['GRAM', 'popularity']
    """
    names = list(ROWS) if names is None else names
    for name in names:
        if name not in ROWS:
            raise ValueError(f"rows: there is no row {name!r}; the rows are {', '.join(ROWS)}")
        missing = [*ROWS[name].unknown, *([] if ROWS[name].kind in kinds else [ROWS[name].kind])]
        if missing:
            able = [row.name for row in ROWS.values() if not row.unknown and row.kind in kinds]
            raise ValueError(
                f"rows: {name} needs {', '.join(missing)}, which this version does not have; "
                f"give --rows without it: {' '.join(able)}"
            )
    return tuple(row for row in ROWS.values() if row.name in names)

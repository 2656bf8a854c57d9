"""What a format's module gives to the pipeline, and how it finds its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..prepare_settings import PrepareSettings
from .lines import existing, whole_characters

Batches = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Source:
    """A data set in some format, not read yet.

    Attributes:
        places: files or data sets of the interactions and of the items.
        interactions: gives raw batches of `line`, `user`, `item`, `time` and, if the settings ask for it, `rating`.
        items: gives raw batches of `line`, `item_id` and the text fields in their order.
        files: all that is read; None: the places.
        facts: what else there is to say of the origin.
        time_unit: what a time given as a number counts, unless the settings say.
        has_times: False where only the order is known.
    """

    places: tuple[str | Path, str | Path]
    interactions: Batches
    items: Batches
    files: tuple[Path, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    time_unit: str = "s"
    has_times: bool = True

    def __post_init__(self):
        for file in self.inputs:
            existing(file)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return self.places if self.files is None else self.files


def input_folder(settings: PrepareSettings) -> Path:
    """The folder that the settings name.

    Raises:
        ValueError: they name none.
        FileNotFoundError: there is none.
    """
    if settings.input is None:
        raise ValueError(f"--input is required for format {settings.format}; give the folder of its files")
    folder = Path(settings.input)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the one with the {settings.format} files")
    return folder


def find(settings: PrepareSettings, kind: str, *patterns: str, without: str = "") -> Path:
    """The file that the setting `interactions` or `items` names, or else the one in the input folder that matches.

    Names that start with `without` are passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: several files match.
    """
    given = getattr(settings, kind)
    if given is not None:
        return existing(given)
    folder = input_folder(settings)
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    found = sorted(path for path in found if not (without and path.name.startswith(without)))
    if not found:
        raise FileNotFoundError(f"{folder}: no file {' or '.join(patterns)}; add it, or name one with --{kind}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:3])
        raise ValueError(f"{folder}: several files hold {kind}: {names}; name one with --{kind}")
    return found[0]


def required(settings: PrepareSettings, *names: str) -> None:
    """Make sure that settings without which the format cannot be read are there.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        if getattr(settings, name) is None:
            raise ValueError(f"--{name.replace('_', '-')} is required for format {settings.format}")


def interaction_columns(settings: PrepareSettings) -> dict[str, str]:
    """Column of the source to column of the schema."""
    columns = {settings.user_column: "user", settings.item_column: "item", settings.time_column: "time"}
    if settings.min_rating is not None:
        columns[settings.rating_column] = "rating"
    if len(columns) < 3 + (settings.min_rating is not None):
        raise ValueError(
            "two of user_column, item_column, time_column and rating_column are the same; make them differ"
        )
    return columns


def item_columns(settings: PrepareSettings) -> dict[str, str]:
    """Column of the source to `item_id` or a text field, from `text_columns`: `name` or `name=field`, by commas.

    Raises:
        ValueError: no text column, or two of one name.
    """
    required(settings, "text_columns")
    pairs = [name.strip().partition("=") for name in settings.text_columns.split(",")]
    columns = {name.strip(): (renamed or name).strip() for name, _, renamed in pairs}
    fields = set(columns.values())
    is_whole = whole_characters(settings.text_columns) == settings.text_columns
    if not is_whole or "" in columns or "" in fields or len(fields) < len(pairs) or fields & {"item_id", "line"}:
        raise ValueError(
            f"text_columns is {settings.text_columns!r}; it must be column names by commas, each once, title first, "
            "renamed by COLUMN=FIELD where needed"
        )
    if settings.item_id_column in columns:
        raise ValueError(f"text_columns holds the item id column {settings.item_id_column}; leave it out")
    return {settings.item_id_column: "item_id", **columns}

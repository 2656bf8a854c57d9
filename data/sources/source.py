"""The settings of `gram prepare`, documented here once; what a format gives to it, and how it finds its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...common.settings import Settings, within
from .lines import existing, whole_characters

FORMATS = ("folder", "recbole", "table", "hub", "amazon2014", "amazon2023", "yelp", "movielens")
Batches = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class PrepareSettings(Settings):
    """What is read, what is kept of it, and how it is split.

    Attributes:
        format: of the raw data: folder, recbole, table, hub, amazon2014, amazon2023, yelp or movielens.
        input: folder with the files of the format; not for table and hub.
        interactions: file of the interactions, where it is not found in the input folder by its name; for hub a data
            set, `NAME[:CONFIG[:SPLIT]]`.
        items: the same of the items.
        user_column: column of the user ids (recbole, table, hub), as are the next three.
        item_column: column of the item ids in the interactions.
        time_column: column of the times: numbers, dates or dates with times.
        rating_column: column of the ratings; read only if min_rating is set.
        time_unit: s or ms, what a time given as a number since 1970 counts; by default s, and ms for amazon2023.
        item_id_column: column of the item ids in the items (recbole, table, hub).
        text_columns: columns of the items' texts by commas, title first; `COLUMN=FIELD` renames one.
        ties: order of a user's interactions of one time: file (that of their lines) or hash (by a seeded hash of user
            and item, for logs whose lines of one time are sorted by something that a model could learn).
        ties_seed: of that hash.
        min_rating: drop interactions with a lower rating.
        since: drop interactions before this day, YYYY-MM-DD, UTC.
        until: drop interactions after this day.
        user_core: users with fewer interactions are dropped, again and again with the items; 0 or 1 is off.
        item_core: items with fewer interactions are dropped, in the same way.
        min_length: fewest interactions of a user even where user_core is off; at least 3.
        split: leave-one-out (a user's last item is for testing, the one before for validation) or global-time (the
            same two moments divide all users' interactions).
        validation_part: part of all interactions between the two moments of global-time.
        test_part: part of all interactions after the second moment of global-time.
        skip_bad_lines: skip and count lines that cannot be read, instead of stopping at the first.
    """

    format: str = within(one_of=FORMATS)
    input: str | None = None
    interactions: str | None = None
    items: str | None = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str = "timestamp"
    rating_column: str = "rating"
    time_unit: str | None = within(None, one_of=("s", "ms"))
    item_id_column: str = "item_id"
    text_columns: str | None = None
    ties: str = within("file", one_of=("file", "hash"))
    ties_seed: int = within(0, least=0)
    min_rating: float | None = None
    since: str | None = None
    until: str | None = None
    user_core: int = within(5, least=0)
    item_core: int = within(5, least=0)
    min_length: int = within(3, least=3)  # one to learn from, one to validate, one to test
    split: str = within("leave-one-out", one_of=("leave-one-out", "global-time"))
    validation_part: float = within(0.1, above=0)
    test_part: float = within(0.1, above=0)
    skip_bad_lines: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("since", "until"):
            day_start(name, getattr(self, name))
        if self.validation_part + self.test_part >= 1:
            parts = f"{self.validation_part} and {self.test_part}"
            raise ValueError(f"validation_part and test_part are {parts}; they must be together below 1")


def day_start(name: str, value: str | None) -> float | None:
    """Seconds since 1970 at the start of a day."""
    try:
        return value and datetime.combine(date.fromisoformat(value), time(), timezone.utc).timestamp()
    except ValueError:
        raise ValueError(f"{name} is {value!r}; it must be a day, YYYY-MM-DD") from None


@dataclass(frozen=True)
class Source:
    """A data set in some format, not read yet."""

    places: tuple[str | Path, str | Path]  # files or data sets of the interactions and of the items
    # gives raw batches of `line`, `user`, `item`, `time` and, if the settings ask for it, `rating`
    interactions: Batches
    items: Batches  # gives raw batches of `line`, `item_id` and the text fields in their order
    files: tuple[Path, ...] | None = None  # all that is read; None: the places
    facts: dict[str, Any] = field(default_factory=dict)  # what else there is to say of the origin
    time_unit: str = "s"  # what a time given as a number counts, unless the settings say
    has_times: bool = True  # False where only the order is known

    def __post_init__(self):
        for file in self.inputs:
            existing(file)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return self.places if self.files is None else self.files


def input_folder(settings: PrepareSettings) -> Path:
    """The folder that the settings name, which must be there."""
    required(settings, "input")
    folder = Path(settings.input)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the one with the {settings.format} files")
    return folder


def find(settings: PrepareSettings, kind: str, pattern: str = "") -> Path:
    """The file that the setting `interactions` or `items` names, or else the one in the input folder that matches.

    It may be packed, `.gz`. No file, or several, are refused; `meta_...` holds no interactions in any format.
    """
    if getattr(settings, kind) is not None:
        return existing(getattr(settings, kind))
    folder = input_folder(settings)
    found = sorted((*folder.glob(pattern), *folder.glob(f"{pattern}.gz")))
    found = [path for path in found if kind == "items" or not path.name.startswith("meta_")]
    if not found:
        raise FileNotFoundError(f"{folder}: no file {pattern} or {pattern}.gz; add it, or name one with --{kind}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:3])
        raise ValueError(f"{folder}: several files hold {kind}: {names}; name one with --{kind}")
    return found[0]


def required(settings: PrepareSettings, *names: str) -> None:
    """Make sure that settings without which the format cannot be read are there."""
    for name in names:
        if getattr(settings, name) is None:
            raise ValueError(f"--{name.replace('_', '-')} is required for format {settings.format}; give it")


def interaction_columns(settings: PrepareSettings) -> dict[str, str]:
    """Column of the source to column of the schema; ratings are read only where they decide something."""
    names = ("user", "item", "time", *(() if settings.min_rating is None else ("rating",)))
    columns = {getattr(settings, f"{name}_column"): name for name in names}
    if len(columns) < len(names):
        raise ValueError(
            "two of user_column, item_column, time_column and rating_column are the same; make them differ"
        )
    return columns


def item_columns(settings: PrepareSettings) -> dict[str, str]:
    """Column of the source to `item_id` or a text field, from `text_columns`: `name` or `name=field`, by commas."""
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

"""The settings of `gram prepare`, documented here once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timezone

from ..common.settings import Settings, within

# The keys of the tables in `sources`, which take heavy imports.
FORMATS = ("folder", "recbole", "table", "hub", "amazon2014", "amazon2023", "yelp", "movielens")


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

"""GRAM's own data folders: the Parquet form, and the text form, in which the GRAM authors published theirs.

The text form, in UTF-8:
- `user_sequence.txt`: one user per line, `USER ITEM ITEM ...`, oldest item first;
- `item_text.tsv`: a header `asin` (or `item_id`), then any text fields, `title` among them if there is one; or else
  `item_plain_text.txt`, the authors' form: `ITEM title: ...; brand: ...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from .lines import BadLineError, Reading, batches, filled_lines, records
from .source import PrepareSettings, Source, input_folder
from .tables import delimited, parquet_table

INTERACTIONS_FILE, ITEMS_FILE = "interactions.parquet", "items.parquet"
SEQUENCES, TABLE, PLAIN_TEXT = "user_sequence.txt", "item_text.tsv", "item_plain_text.txt"
FIELDS = ("title", "brand", "categories", "description")  # of the authors' texts
_ID_COLUMNS = ("asin", "item_id")
_FIELD = re.compile(rf"(?:^|; )({'|'.join(FIELDS)}): ?")


def open_folder(settings: PrepareSettings, reading: Reading) -> Source:
    """A data folder in either form; in the text form only the order of a user's items is known."""
    if settings.min_rating is not None:
        raise ValueError("min_rating is set, but data folders hold no ratings; unset it")
    log, texts = folder_files(input_folder(settings))
    return Source(
        (log, texts),
        interactions=lambda: log_batches(log, reading),
        items=lambda: item_batches(texts, reading),
        has_times=log.name == INTERACTIONS_FILE,
    )


def folder_files(folder: Path) -> tuple[Path, Path]:
    """The files of the interactions and of the items, in the form that is there."""
    if (folder / INTERACTIONS_FILE).is_file() or (folder / ITEMS_FILE).is_file():
        return folder / INTERACTIONS_FILE, folder / ITEMS_FILE
    is_plain = (folder / PLAIN_TEXT).is_file() and not (folder / TABLE).is_file()
    return folder / SEQUENCES, folder / (PLAIN_TEXT if is_plain else TABLE)


def log_batches(path: Path, reading: Reading, with_splits: bool = False) -> Iterator[pa.RecordBatch]:
    """Batches of `line`, `user`, `item` and `time`, in the text form the place in the sequence; and `split` if any."""
    if path.name == INTERACTIONS_FILE:
        columns = {"user_id": "user", "item_id": "item", "time": "time"}
        return parquet_table(path, reading, columns, others=("split",) if with_splits else ())
    return batches(_places_as_times(path, reading), ("user", "item", "time"))


def _places_as_times(path: Path, reading: Reading) -> Iterator[tuple[int, str, str, str]]:
    users: set[str] = set()
    for number, line in filled_lines(path, reading):
        user, *items = line.split()
        if user in users:
            reading.refuse(path, number, f"user {user} has a line already", "join the two")
        elif not items:
            reading.refuse(path, number, f"user {user} has no items", "the form is 'USER ITEM ITEM ...'")
        else:
            yield from ((number, user, item, str(place)) for place, item in enumerate(items))
        users.add(user)


def item_batches(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of `line`, `item_id` and the text fields."""
    if path.suffix == ".parquet":
        return parquet_table(path, reading, {"item_id": "item_id"}, others=None)
    return (_plain_texts if path.suffix == ".txt" else _text_table)(path, reading)


def _text_table(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    number, header = next(filled_lines(path), (1, ""))
    id_column, *fields = [name.strip() for name in header.split("\t")]
    if id_column not in _ID_COLUMNS:
        raise ValueError(
            f"{path}:{number}: column {' or '.join(_ID_COLUMNS)} is missing; it must be the header's first"
        )
    if not fields or not all(fields) or len(set(fields)) < len(fields):
        raise ValueError(f"{path}:{number}: the header has no text columns, or two of one name; name them, title first")
    return delimited(path, reading, {id_column: "item_id", **{name: name for name in fields}}, "\t", quoted=False)


def fields_of(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first of the authors' fields in a plain text, and the fields."""
    start, *parts = _FIELD.split(text.rstrip("; "))
    found, last = {}, ""
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        if name in found:  # words of the field before it that look like a name
            found[last] += f"; {name}: {value}"
        else:
            found[name], last = value, name
    return start.strip(), found


def _plain_texts(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    def parse(line: str) -> list[str]:
        item, _, words = line.strip().partition(" ")
        start, found = fields_of(words.strip())
        if start:
            raise BadLineError(
                f"item {item}: the text starts with none of {', '.join(FIELDS)}", "begin it with 'title: '"
            )
        return [item, *(found.get(name, "") for name in FIELDS)]

    return records(path, reading, ("item_id", *FIELDS), parse)

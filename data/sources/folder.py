"""GRAM's own data folders, in the text form (ours and the authors') and in the Parquet form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from .lines import BadLineError, Reading, batches, existing, lines, records
from .source import Source, input_folder
from .tables import delimited, read_table

if TYPE_CHECKING:
    from ..prepare_settings import PrepareSettings

FIELDS = ("title", "brand", "categories", "description")  # of the authors' texts
_ID_COLUMNS = ("item_id", "asin")
_FIELD = re.compile(rf"(?:^|; )({'|'.join(FIELDS)}): ?")


def open_folder(settings: PrepareSettings, reading: Reading) -> Source:
    """`interactions.parquet` and `items.parquet`, or `user_sequence.txt` and the items' texts."""
    folder = input_folder(settings)
    if settings.min_rating is not None:
        raise ValueError("min_rating is set, but data folders hold no ratings; unset it")
    if (folder / "interactions.parquet").is_file():
        places = folder / "interactions.parquet", existing(folder / "items.parquet")
        columns = {"user_id": "user", "item_id": "item", "time": "time"}
        return Source(
            interactions=lambda: read_table(places[0], reading, columns),
            items=lambda: read_table(places[1], reading, {name: name for name in _fields_of_parquet(places[1])}),
            interactions_name=places[0],
            items_name=places[1],
            files=places,
        )
    table, plain = folder / "item_text.tsv", folder / "item_plain_text.txt"
    places = (
        existing(folder / "user_sequence.txt"),
        existing(plain if plain.is_file() and not table.is_file() else table),
    )
    return Source(
        interactions=lambda: _sequences(places[0], reading),
        items=lambda: _item_table(table, reading) if places[1] == table else _plain_texts(plain, reading),
        interactions_name=places[0],
        items_name=places[1],
        files=places,
        has_times=False,
    )


def _fields_of_parquet(path: Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a sound Parquet file ({' '.join(str(error).split())}); get it again") from None


def _sequences(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """The place in the sequence, from 0, serves as time."""

    def rows() -> Iterator[tuple]:
        users: set[str] = set()
        for number, line in lines(path, reading):
            if not line.isspace():
                user, *sequence = line.split()
                if user in users:
                    reading.refuse(path, number, f"user {user} has a line already", "join the two")
                    continue
                users.add(user)
                if not sequence:
                    reading.refuse(path, number, f"user {user} has no items", "the form is 'USER ITEM ITEM ...'")
                yield from ((number, user, item, str(place)) for place, item in enumerate(sequence))

    return batches(rows(), ("user", "item", "time"))


def _item_table(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    _, header = next(lines(path, Reading(skip_bad_lines=True)), (1, ""))
    id_column, *fields = [name.strip() for name in header.split("\t")]
    if id_column not in _ID_COLUMNS or not fields:
        raise ValueError(f"{path}:1: the header must be {' or '.join(_ID_COLUMNS)}, then text columns; correct it")
    return delimited(path, reading, {id_column: "item_id", **{name: name for name in fields}}, "\t", quoted=False)


def _plain_texts(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    def parse(line: str) -> list[str]:
        item, _, words = line.strip().partition(" ")
        start, *parts = _FIELD.split(words.strip().rstrip("; "))
        found, last = {}, ""
        for name, value in zip(parts[::2], parts[1::2], strict=True):
            if name in found:  # words of the field before it that look like a name
                found[last] += f"; {name}: {value}"
            else:
                found[name], last = value, name
        if start.strip():
            raise BadLineError(
                f"item {item}: the text starts with none of {', '.join(FIELDS)}", "begin it with 'title: '"
            )
        return [item, *(found.get(name, "") for name in FIELDS)]

    return records(path, reading, ("item_id", *FIELDS), parse)

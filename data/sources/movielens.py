"""MovieLens in its three forms: 100K, 1M and 10M, and 20M and later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from .lines import BadLineError, Reading, batches, records
from .source import PrepareSettings, Source, input_folder
from .tables import delimited

ITEMS_OF = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
ITEM_COLUMNS = ("item_id", "title", "year", "genres")
# What the 19 flags at the end of a line of u.item mean.
GENRES_100K = (
    *("", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_TITLE = re.compile(r"(.*\S)\s*\((\d{4})\)")


def open_movielens(settings: PrepareSettings, reading: Reading) -> Source:
    """The form is known by the files in the folder."""
    folder = input_folder(settings)
    log = next((folder / name for name in ITEMS_OF if (folder / name).is_file()), None)
    if log is None:
        raise FileNotFoundError(f"{folder}: no u.data, ratings.dat or ratings.csv; give an unpacked MovieLens folder")
    films = folder / ITEMS_OF[log.name]
    if log.suffix == ".csv":
        columns = {"userId": "user", "movieId": "item", "rating": "rating", "timestamp": "time"}
        return Source(
            (log, films),
            interactions=lambda: delimited(log, reading, columns, ",", quoted=True),
            items=lambda: _items_20m(films, reading),
        )
    separator, item = ("\t", _item_100k) if log.suffix == ".data" else ("::", _item_1m)
    return Source(
        (log, films),
        interactions=lambda: records(log, reading, ("user", "item", "rating", "time"), _split(separator, 4)),
        items=lambda: records(films, reading, ITEM_COLUMNS, item, _encoding(films)),
    )


def _encoding(path: Path) -> str:
    """100K and 1M are Latin-1, 10M is UTF-8, which no title with a Latin-1 accent is by chance."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _split(separator: str, count: int) -> Callable[[str], list[str]]:
    def parse(line: str) -> list[str]:
        values = line.split(separator)
        if len(values) != count:
            raise BadLineError(f"{len(values)} columns by {separator!r}, not {count}")
        return values

    return parse


def _film(item: str, title: str, genres: str) -> list[str]:
    """The year, in brackets behind the title, becomes a field of its own."""
    match = _TITLE.fullmatch(title.strip())
    named = "" if genres == "(no genres listed)" else genres.replace("|", ", ")
    return [item, *(match.groups() if match else (title, "")), named]


def _item_100k(line: str) -> list[str]:
    item, title, _, _, _, *flags = _split("|", 5 + len(GENRES_100K))(line)
    return _film(
        item, title, "|".join(name for name, flag in zip(GENRES_100K, flags, strict=True) if flag == "1" and name)
    )


def _item_1m(line: str) -> list[str]:
    return _film(*_split("::", 3)(line))


def _items_20m(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    columns = {"movieId": "item_id", "title": "title", "genres": "genres"}
    films = delimited(path, reading, columns, ",", quoted=True)
    rows = (row for batch in films for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return batches(((number, *_film(*film)) for number, *film in rows), ITEM_COLUMNS)

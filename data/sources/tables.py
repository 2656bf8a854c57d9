"""Tables: CSV, TSV, JSON lines and Parquet, with any column names. The text ones may be packed with gzip."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .lines import BATCH_ROWS, Reading, batches, existing, lines, records
from .source import Source, find, interaction_columns, item_columns, required
from .values import json_record, scalar, text

if TYPE_CHECKING:
    from ..prepare_settings import PrepareSettings

TIME_UNITS = {"s": 1.0, "ms": 1e-3}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def open_table(settings: PrepareSettings, reading: Reading) -> Source:
    """Two tables, of interactions and of items."""
    required(settings, "interactions", "items")
    places = find(settings, "interactions"), find(settings, "items")
    return Source(
        interactions=lambda: read_table(places[0], reading, interaction_columns(settings), scalars=True),
        items=lambda: read_table(places[1], reading, item_columns(settings)),
        interactions_name=places[0],
        items_name=places[1],
        files=places,
        time_unit=TIME_UNITS[settings.time_unit],
    )


def read_table(
    path: Path, reading: Reading, columns: Mapping[str, str], scalars: bool = False
) -> Iterator[pa.RecordBatch]:
    """The chosen columns of a table, renamed, and `line`, the line or (Parquet) row number.

    Args:
        path: its suffix tells the kind of table.
        reading: decides on malformed lines.
        columns: name in the table to name in the batches.
        scalars: every value must be there, a text or a number.

    Raises:
        ValueError: another kind of table, or a column is missing.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES or path.suffixes[-2:] == [".parquet", ".gz"]:
        raise ValueError(f"{path}: no table that can be read; its name must end in {', '.join(SUFFIXES)} (or .gz)")
    if suffix == ".parquet":
        return _parquet(path, reading, columns)
    if suffix in (".jsonl", ".json"):
        return _json_lines(path, reading, columns, scalars)
    return delimited(path, reading, columns, "\t" if suffix == ".tsv" else ",", quoted=suffix == ".csv")


def delimited(
    path: Path, reading: Reading, columns: Mapping[str, str], delimiter: str, quoted: bool
) -> Iterator[pa.RecordBatch]:
    """The chosen columns of a table with a header; names in the header may carry a type, `name:type`."""
    options = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, "strict": True}
    numbered = lines(path, reading)
    number = 0

    def content() -> Iterator[str]:
        nonlocal number
        for number, line in numbered:  # noqa: B007 - read by `rows`
            yield line

    def rows() -> Iterator[tuple]:
        table = csv.reader(content(), **options)
        header = _next(table, path, reading, lambda: number)
        names = [name.strip() if name.strip() in columns else name.split(":")[0].strip() for name in header or []]
        places = [_place(names, name, path) for name in columns]
        while (row := _next(table, path, reading, lambda: number)) is not None:
            if len(row) == len(names):
                yield number, *(row[place] for place in places)
            elif row:
                reading.refuse(path, number, f"{len(row)} columns, the header has {len(names)}")

    return batches(rows(), list(columns.values()))


def _next(table: Iterator[list[str]], path: Path, reading: Reading, number) -> list[str] | None:
    while True:
        try:
            return next(table, None)
        except csv.Error as error:
            reading.refuse(path, number(), f"not a row of the table ({error})")


def _place(names: list[str], name: str, path: Path) -> int:
    if name not in names:
        raise ValueError(
            f"{path}:1: column {name} is missing; name one of {', '.join(names) or 'a header'} in its place"
        )
    return names.index(name)


def _json_lines(path: Path, reading: Reading, columns: Mapping[str, str], scalars: bool) -> Iterator[pa.RecordBatch]:
    unseen = set(columns)
    seen_any = False

    def parse(line: str) -> list[str]:
        nonlocal seen_any
        record, seen_any = json_record(line), True
        unseen.difference_update(record)
        return [
            scalar(record, name) if scalars or field == "item_id" else text(record.get(name))
            for name, field in columns.items()
        ]

    yield from records(path, reading, list(columns.values()), parse)
    if unseen and seen_any:
        raise ValueError(f"{path}:1: column {min(unseen)} is missing, in all lines; name another in its place")


def _parquet(path: Path, reading: Reading, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    try:
        file = pq.ParquetFile(existing(path))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a sound Parquet file ({' '.join(str(error).split())}); get it again") from None
    for name in columns:
        _place(file.schema_arrow.names, name, path)
    with file, reading.bar(path) as bar:
        yield from numbered_rows(_with_bar(file, columns, bar), columns)


def _with_bar(file: pq.ParquetFile, columns: Mapping[str, str], bar) -> Iterator[pa.RecordBatch]:
    for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
        yield batch
        bar.update(bar.total * batch.num_rows // max(file.metadata.num_rows, 1))


def numbered_rows(raw: Iterator[pa.RecordBatch], columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """The chosen columns of Arrow batches, renamed, and `line`, the row number from 1."""
    start = 1
    for batch in raw:
        numbers = pa.array(np.arange(start, start + batch.num_rows))
        start += batch.num_rows
        yield pa.RecordBatch.from_pydict(
            {"line": numbers, **{new: batch.column(name) for name, new in columns.items()}}
        )

"""Tables: CSV, TSV, JSON lines and Parquet, with any column names, packed with gzip or not; and RecBole's."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .lines import BATCH_ROWS, Reading, batches, existing, id_fault, lines, record, records, scalar, text
from .source import PrepareSettings, Source, find, interaction_columns, item_columns, required

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_ID_FIELDS = ("user", "item", "item_id")
_TYPES_OF_TEXT = ("string", "large_string", "binary", "large_binary", "fixed_size_binary")  # and views of them
_SENTENCES = ("title", "description")  # fields in which the words of RecBole's `token_seq` are no list
_MOST_LINES = 100_000  # of one row; a quote that is still open then was not meant as one
_OPEN_QUOTE = "a quote opens here that is not closed where a field ends, or swallows the rows after it"


def open_table(settings: PrepareSettings, reading: Reading) -> Source:
    """Two tables, of interactions and of items."""
    required(settings, "interactions", "items")
    places = find(settings, "interactions"), find(settings, "items")
    return Source(
        places,
        interactions=lambda: read_table(places[0], reading, interaction_columns(settings), scalars=True),
        items=lambda: read_table(places[1], reading, item_columns(settings)),
    )


def open_recbole(settings: PrepareSettings, reading: Reading) -> Source:
    """RecBole's atomic files, `NAME.inter` and `NAME.item`: tab-separated, with `name:type` in the header."""
    interactions, items = find(settings, "interactions", "*.inter"), find(settings, "items", "*.item")
    names = ("user_column", "item_column", "time_column", "rating_column", "item_id_column")
    settings = replace(settings, **{name: _untyped(getattr(settings, name)) for name in names})
    columns = {_untyped(name): _untyped(field) for name, field in item_columns(settings).items()}
    return Source(
        (interactions, items),
        interactions=lambda: delimited(interactions, reading, interaction_columns(settings), "\t", quoted=False),
        items=lambda: _recbole_items(items, reading, columns),
    )


def _untyped(name: str) -> str:
    return name.partition(":")[0]


def _recbole_items(path: Path, reading: Reading, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """A `token_seq` is a list, whose parts are joined by commas, unless it is the first text or a description."""
    _, header = next(lines(path, Reading(skip_bad_lines=True)), (1, ""))
    kinds = dict(name.strip().partition(":")[::2] for name in header.split("\t"))
    sentences = {*_SENTENCES, *list(columns.values())[1:2]}
    lists = {field for name, field in columns.items() if kinds.get(name) == "token_seq" and field not in sentences}
    for batch in delimited(path, reading, columns, "\t", quoted=False):
        for field in lists:
            joined = pc.replace_substring_regex(pc.utf8_trim(batch[field], " "), " +", ", ")
            batch = batch.set_column(batch.schema.get_field_index(field), field, joined)
        yield batch


def read_table(
    path: Path, reading: Reading, columns: Mapping[str, str], scalars: bool = False
) -> Iterator[pa.RecordBatch]:
    """The chosen columns of a table, renamed, and `line`, the line or (Parquet) row number.

    The path's suffix tells the kind of table. With `scalars` every value must be there, a text or a number.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES or path.suffixes[-2:] == [".parquet", ".gz"]:
        raise ValueError(f"{path}: no table that can be read; its name must end in {', '.join(SUFFIXES)} (or .gz)")
    if suffix == ".parquet":
        return parquet_table(path, reading, columns)
    if suffix in (".jsonl", ".json"):
        return _json_lines(path, reading, columns, scalars)
    return delimited(path, reading, columns, "\t" if suffix == ".tsv" else ",", quoted=suffix == ".csv")


def delimited(
    path: Path, reading: Reading, columns: Mapping[str, str], delimiter: str, quoted: bool
) -> Iterator[pa.RecordBatch]:
    """The chosen columns of a table with a header; names in the header may carry a type, `name:type`."""
    options = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, "strict": True}
    csv.field_size_limit(2**31 - 1)

    def rows() -> Iterator[tuple]:
        table = _Rows(lines(path, reading, has_header=True), options)
        number, header = table.header(path)
        names = [name.strip() if name.strip() in columns else name.split(":")[0].strip() for name in header]
        places = [_place(names, name, f"{path}:{number}") for name in columns]
        fields = zip(places, columns.values(), strict=True)
        short = {place: field in _ID_FIELDS for place, field in fields if field in (*_ID_FIELDS, "time", "rating")}
        for number, row, fault in table.read(len(names), short):
            if not fault and (len(row) < len(names) or any(row[len(names) :])):
                fault = f"{len(row)} columns, the header has {len(names)}"
            if fault:
                reading.refuse(
                    path, number, fault, "remove or double it" if fault == _OPEN_QUOTE else "correct the line"
                )
            else:
                yield number, *(row[place] for place in places)

    return batches(rows(), list(columns.values()))


class _Rows:
    """Rows of a delimited table. A quote that swallows rows costs the line where it opens, and no other."""

    def __init__(self, numbered: Iterator[tuple[int, str]], options: Mapping[str, Any]):
        self.numbered, self.options = numbered, options
        self.ahead: deque[tuple[int, str]] = deque()  # lines to be read again
        self.taken: list[tuple[int, str]] = []  # lines of the row at hand

    def header(self, path: Path) -> tuple[int, list[str]]:
        for number, row, fault in self.read(0, {}):
            if fault:
                raise ValueError(f"{path}:{number}: {fault}; correct the header")
            return number, row
        raise ValueError(f"{path}: empty; give a table with a header")

    def read(self, width: int, short: Mapping[int, bool]) -> Iterator[tuple[int, list[str], str]]:
        """The number of its first line, the cells, and what is wrong with it, of every row that is not blank.

        `width` is 0 where it is not known yet; `short` has the columns that hold no text, and whether they hold ids.
        """
        table = csv.reader(self._lines(), **self.options)
        while True:
            self.taken.clear()
            try:
                row, fault = next(table, None), ""
            except csv.Error as error:
                is_open = len(self.taken) > 1 or "end of data" in str(error)
                row, fault = [], _OPEN_QUOTE if is_open else f"not a row of the table ({error})"
            if row is None:
                return
            if not (row or fault):
                continue
            number = self.taken[0][0]
            if len(self.taken) > 1 and (fault or self._swallows(row, width, short)):
                fault = _OPEN_QUOTE
                self.ahead.extendleft(reversed(self.taken[1:]))
            yield number, row, fault
            if fault:
                table = csv.reader(self._lines(), **self.options)

    def _lines(self) -> Iterator[str]:
        while len(self.taken) < _MOST_LINES:
            line = self.ahead.popleft() if self.ahead else next(self.numbered, None)
            if line is None:
                return
            self.taken.append(line)
            yield line[1]

    def _swallows(self, row: list[str], width: int, short: Mapping[int, bool]) -> bool:
        """Whether the lines of a row are rows themselves, but for the quotes, and not the text of a field.

        Text with as many commas as the table has is told from a row by the space behind a comma, or doubled quotes.
        """
        if not width:
            return False
        if len(row) != width or any("\n" in row[place] for place in short):
            return True
        ids = [place for place, is_id in short.items() if is_id]
        cells = [line.split(self.options["delimiter"]) for _, line in self.taken]
        alike = [
            len(each) == width and not any(cell[:1] == " " for cell in each) and not any(id_fault(each[i]) for i in ids)
            for each in cells
        ]
        is_written_so = any('""' in line for _, line in self.taken)
        return alike[0] and 2 * sum(alike[1:]) > len(alike[1:]) and not is_written_so


def _place(names: list[str], name: str, source: str | Path) -> int:
    if name not in names:
        raise ValueError(f"{source}: column {name} is missing; name one of {', '.join(names)} in its place")
    if names.count(name) > 1:
        raise ValueError(f"{source}: two columns are named {name}; rename one of them")
    return names.index(name)


def _json_lines(path: Path, reading: Reading, columns: Mapping[str, str], scalars: bool) -> Iterator[pa.RecordBatch]:
    unseen = set(columns)
    seen_any = False

    def parse(line: str) -> list[str]:
        nonlocal seen_any
        found, seen_any = record(line), True
        unseen.difference_update(found)
        return [
            scalar(found, name) if scalars or field == "item_id" else text(found.get(name))
            for name, field in columns.items()
        ]

    yield from records(path, reading, list(columns.values()), parse)
    if unseen and seen_any:
        raise ValueError(f"{path}:1: column {min(unseen)} is missing, in all lines; name another in its place")


def parquet_table(
    path: Path, reading: Reading, columns: Mapping[str, str], others: Collection[str] | None = ()
) -> Iterator[pa.RecordBatch]:
    """The columns of a Parquet file, renamed, those of the `others` that are there (None: all), and `line`, the row."""
    path = existing(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a sound Parquet file ({' '.join(str(error).split())}); get it again") from None
    names = file.schema_arrow.names
    columns = {**{name: name for name in names if others is None or name in others}, **columns}
    for name in columns:
        _place(names, name, f"{path}:1")
    with file, reading.bar(path) as bar:
        yield from numbered_rows(path, _with_bar(file, columns, bar), columns)


def _with_bar(file: pq.ParquetFile, columns: Mapping[str, str], bar) -> Iterator[pa.RecordBatch]:
    for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
        yield batch
        bar.update(bar.total * batch.num_rows // max(file.metadata.num_rows, 1))


def numbered_rows(
    source: str | Path, raw: Iterator[pa.RecordBatch], columns: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """The chosen columns of Arrow batches, renamed and plain, and `line`, the row number from 1."""
    start = 1
    try:
        for batch in raw:
            numbers = pa.array(np.arange(start, start + batch.num_rows))
            start += batch.num_rows
            places = [_place(batch.schema.names, name, source) for name in columns]
            plain = [_plain(batch.column(place), source, name) for place, name in zip(places, columns, strict=True)]
            yield pa.RecordBatch.from_arrays([numbers, *plain], names=["line", *columns.values()])
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{source}: cannot be read after row {start - 1} ({reason}); get it again") from None


def _plain(values: pa.Array, source: str | Path, name: str) -> pa.Array:
    """The same without a dictionary, and one type for all texts."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        if str(values.type).startswith(_TYPES_OF_TEXT):
            values = values.cast(pa.string())
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source}: column {name} is not UTF-8 ({error}); save it as UTF-8") from None
    return values

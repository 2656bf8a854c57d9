"""A data folder: tables in Parquet, or else the text form (see `sources.folder`).

- `interactions.parquet`: `user_id`, `item_id` (strings), `time` (int64 or float64, seconds since 1970 or any other
  count), and `split` (`train`, `validation` or `test`); a user's rows are together, in order of time. Without a column
  `split` leave-one-out is taken.
- `items.parquet`: `item_id` and fields, `title` first if there is one: texts, lists of texts, numbers, truth values or
  dates, all of which models read as text.
- `prepare.json`: how `gram prepare` made the two; it writes this file last, and its tables are not read without it.

Errors name the file and the row, from 1.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..common.files import new_file
from .interactions import SPLIT_NAMES, Interactions, ItemTable, RecommendationData
from .sources import folder as forms
from .sources.checks import id_faults, ids_of, items_in, refuse, seconds
from .sources.lines import Reading, filled_lines, id_fault

REPORT_FILE = "prepare.json"
PROVENANCE = b"gram.provenance"
SHOWN_CHARACTERS = 80  # of the text, where an item has no title


def write_parquet_folder(
    folder: Path,
    items: pa.Table,
    interactions: Interactions,
    times: np.ndarray,
    splits: np.ndarray,
    facts: dict[str, Any],
) -> None:
    """Write the two tables, and the facts beside them and in their schemas.

    The folder is there, and empty; `times` (total,) are int64 or float64, `splits` (total,) int8.
    """
    metadata = {PROVENANCE: json.dumps(facts, sort_keys=True)}
    pq.write_table(items.combine_chunks().replace_schema_metadata(metadata), folder / forms.ITEMS_FILE)
    users = pa.array(np.repeat(np.arange(len(interactions)), interactions.lengths))
    columns = {
        "user_id": pa.DictionaryArray.from_arrays(users, pa.array(interactions.user_ids, pa.string())),
        "item_id": pa.DictionaryArray.from_arrays(interactions.items, items["item_id"].combine_chunks()),
        "time": pa.array(times),
        "split": pa.DictionaryArray.from_arrays(splits, pa.array(SPLIT_NAMES)),
    }
    table = pa.table(columns)
    # Without Arrow's schema ids are read as what they are, strings, and not as codes.
    with pq.ParquetWriter(folder / forms.INTERACTIONS_FILE, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    with new_file(folder / REPORT_FILE) as part:  # the last of the three: with it the folder is whole
        part.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _items_of(path: Path, rows: Iterable[tuple[int, str, str, str]]) -> ItemTable:
    """The table of rows of line or row number, item id, title and text."""
    table, lines = ItemTable([], [], []), {}
    for number, item, title, text in rows:
        if fault := id_fault(item):
            raise ValueError(f"{path}:{number}: item id {fault}; correct the line")
        if item in lines:
            raise ValueError(f"{path}:{number}: item {item} stands on line {lines[item]} already; keep one")
        if not text:
            raise ValueError(f"{path}:{number}: item {item} has an empty text; fill a field or drop the item")
        lines[item] = number
        table.item_ids.append(item)
        table.titles.append(title or textwrap.shorten(text, SHOWN_CHARACTERS, placeholder=" ..."))
        table.texts.append(text)
    if not lines:
        raise ValueError(f"{path}: no items; add a line for each item")
    return table


def _rows_of_fields(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, str, str, str]]:
    for batch in batches:
        lines, ids, fields = items_in(batch, path)
        columns = [lines, ids, *(_strings(values, name, path) for name, values in fields.items())]
        for number, item, *values in zip(*(column.to_pylist() for column in columns), strict=True):
            texts = {name: " ".join((value or "").split()) for name, value in zip(fields, values, strict=True)}
            text = "; ".join(f"{name}: {value}" for name, value in texts.items() if value)
            yield number, item, texts.get("title", ""), text


def _rows_of_plain_texts(path: Path) -> Iterator[tuple[int, str, str, str]]:
    for number, line in filled_lines(path):
        item, *words = line.split()
        start, fields = forms.fields_of(" ".join(words))
        yield number, item, fields.get("title", ""), " ".join(words) if start or any(fields.values()) else ""


def _strings(values: pa.Array | pa.ChunkedArray, name: str, path: Path) -> pa.Array | pa.ChunkedArray:
    try:
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            parts = values.cast(pa.list_(pa.string())).to_pylist()
            return pa.array([", ".join(part for part in of if part is not None) for of in (of or () for of in parts)])
        return values.cast(pa.string())
    except pa.ArrowException:
        raise ValueError(f"{path}: column {name} is of type {values.type}; make it text") from None


def _interactions_of(
    path: Path, batches: Iterable[pa.RecordBatch], items: ItemTable, texts: Path
) -> tuple[Interactions, np.ndarray | None]:
    """Whole sequences, and (total,) int8 splits where the batches have them."""
    batches, reading = list(batches), Reading(may_skip=False)
    if not batches:
        raise ValueError(f"{path}: no interactions; give a file that has some")
    table = pa.Table.from_batches(batches)
    users, names = (ids_of(table[name], name, path).dictionary_encode().combine_chunks() for name in ("user", "item"))
    catalogue = pa.array(items.item_ids, pa.string())
    rows = pc.fill_null(pc.index_in(names.dictionary_decode(), value_set=catalogue), -1).to_numpy().astype(np.int32)
    has_no_text = rows < 0, lambda row: (f"item {names[row]} has no text", f"add it to {texts.name} or remove it here")
    refuse(table["line"], [id_faults(users, "user"), id_faults(names, "item"), has_no_text], path, reading)

    numbers = users.indices.to_numpy()  # in order of first appearance, so they rise where users are together
    goes_on = np.diff(numbers, prepend=-1) == 0
    times, sort = seconds(table["time"], "s", path), "sort by user_id and time"
    faults = [
        (np.diff(numbers, prepend=0) < 0, lambda row: (f"user {users[row]} has rows further up", sort)),
        (np.isnan(times), lambda row: ("time is missing, or neither a number nor a date", "fill it or drop the row")),
        (goes_on & (np.diff(times, prepend=0) < 0), lambda row: (f"user {users[row]}: time runs backwards", sort)),
    ]
    splits, lengths = None, np.bincount(numbers)
    if "split" in table.column_names:
        found = pc.index_in(_strings(table["split"], "split", path), value_set=pa.array(SPLIT_NAMES))
        splits = pc.fill_null(found, -1).to_numpy().astype(np.int8)
        faults += [
            (splits < 0, lambda row: (f"split is none of {', '.join(SPLIT_NAMES)}", "correct it")),
            (goes_on & (np.diff(splits, prepend=0) < 0), lambda row: _wrong_order(*splits[row - 1 : row + 1])),
        ]
    refuse(table["line"], faults, path, reading)
    if splits is None:
        is_short = lengths[numbers] < 3, lambda row: _too_short(users[row], lengths[numbers[row]])
        refuse(table["line"], [is_short], path, reading)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Interactions(users.dictionary.to_pylist(), rows, offsets), splits


def _wrong_order(before: int, split: int) -> tuple[str, str]:
    why = f"{SPLIT_NAMES[split]} stands after {SPLIT_NAMES[before]} of the same user"
    return why, "a user's sequence must be train, then validation, then test"


def _too_short(user: pa.Scalar, length: int) -> tuple[str, str]:
    return f"user {user} has {length} items, leave-one-out needs at least 3", "drop the user"


def read_folder(path: str | Path) -> RecommendationData:
    r"""Read a data folder.

    Args:
        path: the folder, see the heads of this module and of `sources.folder`.

    Returns:
        Items in the order of their file, users in the order of theirs. Items that no user has are kept.

    Raises:
        FileNotFoundError: the folder or one of its files is missing, also `prepare.json` of tables that `gram prepare`
            wrote.
        ValueError: a malformed line, invalid UTF-8, a missing column, a duplicate item or user, an item of empty
            text, an item in a sequence that has no text, rows out of order, or, without splits, a user with fewer than
            3 items.

    Example:
        >>> text = "asin\ttitle\tbrand\tcategories\na\tRed shoe\t\t\nb\tBlue shoe\t\t\nc\tHat\tAcme\tClothing\n"
        >>> _ = Path("item_text.tsv").write_text(text)
        >>> _ = Path("user_sequence.txt").write_text("user1 a b c\nuser2 c a b a\n")
        >>> data = read_folder(".")
        >>> data.items.texts[2]
        'title: Hat; brand: Acme; categories: Clothing'
        >>> data.interactions[1]
        array([2, 0, 1, 0], dtype=int32)
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give one that `gram prepare` made, or a text form")
    (log, texts), reading, report = forms.folder_files(folder), Reading(may_skip=False), folder / REPORT_FILE
    items = read_items(texts)
    interactions, splits = _interactions_of(log, forms.log_batches(log, reading, with_splits=True), items, texts)
    is_prepared = log.name == forms.INTERACTIONS_FILE and PROVENANCE in (pq.read_schema(log).metadata or {})
    if is_prepared and not report.is_file():
        raise FileNotFoundError(f"{report}: no such file, so `gram prepare` was stopped before its end; run it again")
    return RecommendationData(items, interactions, folder, splits)


def read_items(path: str | Path) -> ItemTable:
    r"""Read a file of items alone: in the form of `items.parquet`, or by its ending a text form's `.tsv` or `.txt`.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is malformed, holds an item twice, or one of empty text.

    Example:
        >>> _ = Path("new.tsv").write_text("item_id\ttitle\nd\tGreen shoe\n")
        >>> read_items("new.tsv").texts
        ['title: Green shoe']
    """
    path = Path(path)
    if path.suffix == ".txt":
        return _items_of(path, _rows_of_plain_texts(path))
    batches = list(forms.item_batches(path, Reading(may_skip=False)))
    items = _items_of(path, _rows_of_fields(path, batches))
    return replace(items, fields=pa.concat_tables([pa.table(items_in(batch, path)[2]) for batch in batches]))

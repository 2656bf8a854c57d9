"""A data folder: tables in Parquet, or else the text form (see `sources.folder`).

- `interactions.parquet`: `user_id`, `item_id` (strings), `time` (int64 or float64, seconds since 1970 or any other
  count), and `split` (`train`, `validation` or `test`); a user's rows are together, in order of time. Without a column
  `split` leave-one-out is taken.
- `items.parquet`: `item_id` and text fields (strings), `title` first if there is one.
- `prepare.json`: how `gram prepare` made the two; it writes this file last, and its tables are not read without it.

Errors name the file and the row, from 1.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..common.files import new_file
from .interactions import SPLIT_NAMES, Interactions, ItemTable, RecommendationData, leave_one_out
from .sources.folder import SEQUENCES, TABLE, item_table, sequences, texts_file
from .sources.lines import Reading, filled_lines, id_fault

INTERACTIONS_FILE, ITEMS_FILE, REPORT_FILE = "interactions.parquet", "items.parquet", "prepare.json"
PROVENANCE = b"gram.provenance"
MIN_ITEMS = 3  # one to learn from, one to validate, one to test
SHOWN_CHARACTERS = 80  # of the text, where an item has no title
_ROWS_WRITTEN_TOGETHER = 1 << 20
_PLAIN_TITLE = re.compile(r"(?:^|; )title: (.*?)(?=; \w+: |;?$)")
_PLAIN_EMPTY = re.compile(r"(?:\w+:|;|\s)*")


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
    pq.write_table(items.combine_chunks().replace_schema_metadata(metadata), folder / ITEMS_FILE)
    kinds = {"user_id": pa.string(), "item_id": pa.string(), "time": pa.from_numpy_dtype(times.dtype)}
    schema = pa.schema([*kinds.items(), ("split", pa.dictionary(pa.int8(), pa.string()))], metadata=metadata)
    user_ids, item_ids = pa.array(interactions.user_ids, pa.string()), items["item_id"].combine_chunks()
    users = np.repeat(np.arange(len(interactions)), interactions.lengths)
    with pq.ParquetWriter(folder / INTERACTIONS_FILE, schema) as writer:
        for start in range(0, len(users), _ROWS_WRITTEN_TOGETHER):
            part = slice(start, start + _ROWS_WRITTEN_TOGETHER)
            columns = [
                user_ids.take(pa.array(users[part])),
                item_ids.take(pa.array(interactions.items[part])),
                pa.array(times[part]),
                pa.DictionaryArray.from_arrays(pa.array(splits[part]), pa.array(SPLIT_NAMES)),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    with new_file(folder / REPORT_FILE) as part:  # the last of the three: with it the folder is whole
        part.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_parquet_folder(folder: Path) -> RecommendationData:
    """Read what `write_parquet_folder` wrote, or anybody else in the same form.

    Raises:
        FileNotFoundError: one of the two files is missing, or `prepare.json` of tables that `gram prepare` wrote.
        ValueError: a missing column, a wrong value, an item without text, or rows out of order.
    """
    items, report = _read_items(folder / ITEMS_FILE), folder / REPORT_FILE
    interactions, splits = _read_interactions(folder / INTERACTIONS_FILE, items)
    if PROVENANCE in (pq.read_schema(folder / INTERACTIONS_FILE).metadata or {}) and not report.is_file():
        raise FileNotFoundError(f"{report}: no such file, so `gram prepare` was stopped before its end; run it again")
    return RecommendationData(items, interactions, folder, splits)


def _read_items(path: Path) -> ItemTable:
    table = _table(path, "item_id")
    fields = [name for name in table.column_names if name != "item_id"]
    if not fields:
        raise ValueError(f"{path}: no text columns; add some, title first")
    columns = [_strings(path, table, name).to_pylist() for name in ("item_id", *fields)]
    rows = enumerate(zip(*columns, strict=True), start=1)
    return _items_of(
        path, (_row_of_fields(number, item or "", zip(fields, values, strict=True)) for number, (item, *values) in rows)
    )


def _read_interactions(path: Path, items: ItemTable) -> tuple[Interactions, np.ndarray]:
    table = _table(path, "user_id", "item_id", "time")
    if not len(table):
        raise ValueError(f"{path}: no interactions; prepare the data again")
    users, names = _strings(path, table, "user_id"), _strings(path, table, "item_id")
    for column in ("user_id", "item_id", "time"):
        missing = table[column].is_null().to_numpy()
        _refuse(path, missing, lambda row, column=column: f"{column} is missing; fill it or drop the row")
    rows = pc.index_in(names, value_set=pa.array(items.item_ids, pa.string()))
    rows = pc.fill_null(rows, -1).to_numpy().astype(np.int32)
    _refuse(path, rows < 0, lambda row: f"item {names[row]} has no text; add it to {ITEMS_FILE} or remove it here")
    codes = users.dictionary_encode()
    faults = [id_fault(user) for user in codes.dictionary.to_pylist()]
    wrong = np.array(list(map(bool, faults)))[codes.indices.to_numpy()]
    _refuse(path, wrong, lambda row: f"user id {id_fault(users[row].as_py())}; correct it")
    numbers = codes.indices.to_numpy()  # in order of first appearance, so they rise where users are together
    together = np.diff(numbers, prepend=0)
    _refuse(path, together < 0, lambda row: f"user {users[row]} has rows further up; sort by user_id and time")
    try:
        times = table["time"].to_numpy().astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: time is of type {table['time'].type}; make it a number") from None
    backwards = (np.diff(times, prepend=times[0]) < 0) & (together == 0)
    _refuse(path, backwards, lambda row: f"user {users[row]}: time runs backwards; sort by user_id and time")
    lengths = np.bincount(numbers)
    interactions = Interactions(codes.dictionary.to_pylist(), rows, np.concatenate([[0], np.cumsum(lengths)]))
    return interactions, _read_splits(path, table, interactions, numbers)


def _read_splits(path: Path, table: pa.Table, interactions: Interactions, users: np.ndarray) -> np.ndarray:
    if "split" not in table.column_names:
        try:
            return leave_one_out(interactions)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    found = pc.index_in(_strings(path, table, "split"), value_set=pa.array(SPLIT_NAMES))
    splits = pc.fill_null(found, -1).to_numpy().astype(np.int8)
    _refuse(path, splits < 0, lambda row: f"split is none of {', '.join(SPLIT_NAMES)}; correct it")
    earlier = (np.diff(splits, prepend=0) < 0) & (np.diff(users, prepend=0) == 0)
    _refuse(
        path,
        earlier,
        lambda row: (
            f"{SPLIT_NAMES[splits[row]]} stands after {SPLIT_NAMES[splits[row - 1]]} of the "
            f"same user; a user's sequence must be train, then validation, then test"
        ),
    )
    return splits


def _table(path: Path, *columns: str) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; add it to the data folder")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a sound Parquet file ({reason}); prepare the data again") from None
    for name in columns:
        if name not in table.column_names:
            raise ValueError(f"{path}: column {name} is missing; prepare the data again")
    return table


def _strings(path: Path, table: pa.Table, name: str) -> pa.Array:
    try:
        column = table[name].cast(pa.string()).combine_chunks()
        column.validate(full=True)  # Parquet itself lets pass what is no UTF-8
        return column
    except pa.ArrowException:
        raise ValueError(f"{path}: column {name} is of type {table[name].type}, or no UTF-8; make it text") from None


def _refuse(path: Path, wrong: np.ndarray, why) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{path}:{row + 1}: {why(row)}")


def _items_of(path: Path, rows: Iterable[tuple[int, str, str, str]]) -> ItemTable:
    """The table of rows of line or row number, item id, title and text.

    Raises:
        ValueError: there is none, an id cannot be one or was there before, or a text is empty.
    """
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


def _row_of_fields(number: int, item: str, fields: Iterable[tuple[str, str]]) -> tuple[int, str, str, str]:
    filled = {name: value for name, value in fields if value}
    return number, item, filled.get("title", ""), "; ".join(f"{name}: {value}" for name, value in filled.items())


def read_text_folder(folder: Path) -> RecommendationData:
    """Read a folder of the text form; raises as [`read_folder`] does."""
    texts = texts_file(folder)
    items = _items_of(texts, (_rows_of_table if texts.name == TABLE else _rows_of_plain_texts)(texts))
    return RecommendationData(items, _read_sequences(folder / SEQUENCES, items, texts.name), folder)


def _read_sequences(path: Path, items: ItemTable, text_file: str) -> Interactions:
    rows = {item: row for row, item in enumerate(items.item_ids)}
    found: dict[str, list[int]] = {}
    for number, user, sequence in sequences(path, Reading(may_skip=False)):
        if fault := id_fault(user):
            raise ValueError(f"{path}:{number}: user id {fault}; correct the line")
        for item in sequence:
            if item not in rows:
                raise ValueError(
                    f"{path}:{number}: user {user}: item {item} has no text; add it to {text_file} or remove it here"
                )
        if len(sequence) < MIN_ITEMS:
            raise ValueError(
                f"{path}:{number}: user {user} has {len(sequence)} of the {MIN_ITEMS} items that are needed "
                "(training, validation, test); drop the user"
            )
        found[user] = [rows[item] for item in sequence]
    if not found:
        raise ValueError(f"{path}: no users; the form is 'USER ITEM ITEM ...', one user per line")
    return Interactions.from_sequences(list(found), found.values())


def _rows_of_table(path: Path) -> Iterator[tuple[int, str, str, str]]:
    for batch in item_table(path, Reading(may_skip=False)):
        for number, *values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            item, *values = [" ".join(value.split()) for value in values]
            yield _row_of_fields(number, item, zip(batch.schema.names[2:], values, strict=True))


def _rows_of_plain_texts(path: Path) -> Iterator[tuple[int, str, str, str]]:
    for number, line in filled_lines(path):
        item, *words = line.split()
        text = " ".join(words)
        title = _PLAIN_TITLE.search(text)
        yield number, item, title[1] if title else "", "" if _PLAIN_EMPTY.fullmatch(text) else text


def read_folder(path: str | Path) -> RecommendationData:
    r"""Read a data folder.

    Args:
        path: the folder, see the heads of this module and of `sources.folder`.

    Returns:
        Items in the order of their file, users in the order of theirs. Items that no user has are kept.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a malformed line, invalid UTF-8, a missing column, a duplicate item or user, an item of empty
            text, an item in a sequence that has no text, or a user with fewer than 3 items.

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
    if (folder / INTERACTIONS_FILE).is_file() or (folder / ITEMS_FILE).is_file():
        return read_parquet_folder(folder)
    return read_text_folder(folder)

"""The text form of a data folder, as the GRAM authors published theirs, in UTF-8.

- `user_sequence.txt`: one user per line, `USER ITEM ITEM ...`, oldest item first;
- `item_text.tsv`: a header `asin` (or `item_id`), then any text fields, `title` among them if there is one; or else
  `item_plain_text.txt`, the authors' form: `ITEM title: ...; brand: ...`.

Every error is one line that names the file, the line (from 1) and the remedy.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from .interactions import Interactions, ItemTable, RecommendationData
from .strings import id_fault

MIN_ITEMS = 3  # one to learn from, one to validate, one to test
SHOWN_CHARACTERS = 80  # of the text, where an item has no title
_GIVEN = "give one that is there, by a path from the working directory or from the root"
_ID_COLUMNS = ("asin", "item_id")
_PLAIN_TITLE = re.compile(r"(?:^|; )title: (.*?)(?=; \w+: |;?$)")
_PLAIN_EMPTY = re.compile(r"(?:\w+:|;|\s)*")


class ItemTableBuilder:
    """Collects items and refuses those that nothing can be said of."""

    def __init__(self, path: Path):
        self.path = path
        self.table = ItemTable([], [], [])
        self.lines: dict[str, int] = {}

    def add_fields(self, number: int, item: str, fields: Iterable[tuple[str, str]]) -> None:
        """Add an item by its text fields; empty ones are left out of its text."""
        filled = {name: value for name, value in fields if value}
        text = "; ".join(f"{name}: {value}" for name, value in filled.items())
        self.add(number, item, filled.get("title", ""), text)

    def add(self, number: int, item: str, title: str, text: str) -> None:
        """Add the item of a line.

        Raises:
            ValueError: its id cannot be one or was there before, or the text is empty.
        """
        if fault := id_fault(item):
            raise ValueError(f"{self.path}:{number}: item id {fault}; correct the line")
        if item in self.lines:
            raise ValueError(f"{self.path}:{number}: item {item} stands on line {self.lines[item]} already; keep one")
        if not text:
            raise ValueError(f"{self.path}:{number}: item {item} has an empty text; fill a field or drop the item")
        self.lines[item] = number
        self.table.item_ids.append(item)
        self.table.titles.append(title or textwrap.shorten(text, SHOWN_CHARACTERS, placeholder=" ..."))
        self.table.texts.append(text)

    def finish(self) -> ItemTable:
        """The table.

        Raises:
            ValueError: it is empty.
        """
        if not len(self.table):
            raise ValueError(f"{self.path}: no items; add a line for each item")
        return self.table


def read_text_folder(folder: Path) -> RecommendationData:
    """Read a folder of the text form; raises as [`read_folder`] does."""
    table, plain = folder / "item_text.tsv", folder / "item_plain_text.txt"
    if table.is_file():
        source, items = table, _read_item_table(table)
    elif plain.is_file():
        source, items = plain, _read_plain_text(plain)
    else:
        raise FileNotFoundError(f"{table}: no such file, and no {plain.name} either; add one of them")
    return RecommendationData(items, _read_sequences(folder / "user_sequence.txt", items, source.name), folder)


def _read_sequences(path: Path, items: ItemTable, text_file: str) -> Interactions:
    rows = {item: row for row, item in enumerate(items.item_ids)}
    sequences: dict[str, list[int]] = {}
    for number, line in filled_lines(path, "add it to the data folder"):
        user, *sequence = line.split()
        if not sequence:
            raise ValueError(f"{path}:{number}: user {user} has no items; the form is 'USER ITEM ITEM ...'")
        if fault := id_fault(user):
            raise ValueError(f"{path}:{number}: user id {fault}; correct the line")
        if user in sequences:
            raise ValueError(f"{path}:{number}: user {user} has a line already; join the two")
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
        sequences[user] = [rows[item] for item in sequence]
    if not sequences:
        raise ValueError(f"{path}: no users; the form is 'USER ITEM ITEM ...', one user per line")
    return Interactions.from_sequences(list(sequences), sequences.values())


def _read_item_table(path: Path) -> ItemTable:
    lines = filled_lines(path)
    number, header = next(lines, (1, ""))
    id_column, *fields = [name.strip() for name in header.split("\t")]
    if id_column not in _ID_COLUMNS:
        raise ValueError(
            f"{path}:{number}: column {' or '.join(_ID_COLUMNS)} is missing; it must be the header's first"
        )
    if not fields or not all(fields) or len(set(fields)) < len(fields):
        raise ValueError(f"{path}:{number}: the header has no text columns, or two of one name; name them, title first")
    builder = ItemTableBuilder(path)
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(fields) + 1:
            raise ValueError(
                f"{path}:{number}: {len(values)} columns, the header has {len(fields) + 1}; correct the line"
            )
        item, *values = [" ".join(value.split()) for value in values]
        builder.add_fields(number, item, zip(fields, values, strict=True))
    return builder.finish()


def _read_plain_text(path: Path) -> ItemTable:
    builder = ItemTableBuilder(path)
    for number, line in filled_lines(path):
        item, *words = line.split()
        text = " ".join(words)
        title = _PLAIN_TITLE.search(text)
        builder.add(number, item, title.group(1) if title else "", "" if _PLAIN_EMPTY.fullmatch(text) else text)
    return builder.finish()


def filled_lines(path: Path, remedy: str = _GIVEN) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number, without its end."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{raw[error.start]:02x} at place {error.start + 1}"
                raise ValueError(f"{path}:{number}: not UTF-8 ({byte}); save the file as UTF-8") from None
            if line.strip():
                yield number, line


def known_row(rows: dict[str, int], item: str, path: Path, number: int) -> int:
    """The row of a line's item; ValueError where the catalogue does not have it."""
    if item not in rows:
        raise ValueError(f"{path}:{number}: item {item} is not in the catalogue; give it a text or remove it here")
    return rows[item]

"""Readers of a data folder and of the files that the GRAM authors published beside theirs.

A data folder holds `interactions.parquet` and `items.parquet` (see `parquet_folder`), or else, in UTF-8:

- `user_sequence.txt`: one user per line, `USER ITEM ITEM ...`, oldest item first;
- `item_text.tsv`: a header `asin` (or `item_id`), then any text fields, `title` among them if there is one; or else
  `item_plain_text.txt`, the authors' form: `ITEM title: ...; brand: ...`;
- optionally `lexical_ids.txt` (`ITEM |token|token...`) and `similar_items.txt` (a header, then `ITEM ITEM ITEM ...`,
  nearest first).

Every error is one line that names the file, the line (from 1) and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .interactions import Interactions, ItemTable, RecommendationData
from .item_table import ItemTableBuilder
from .parquet_folder import INTERACTIONS_FILE, ITEMS_FILE, read_parquet_folder
from .strings import id_fault

MIN_ITEMS = 3  # one to learn from, one to validate, one to test

_GIVEN = "give one that is there, by a path from the working directory or from the root"
_ID_COLUMNS = ("asin", "item_id")
_PLAIN_TITLE = re.compile(r"(?:^|; )title: (.*?)(?=; \w+: |;?$)")
_PLAIN_EMPTY = re.compile(r"(?:\w+:|;|\s)*")


def read_folder(path: str | Path) -> RecommendationData:
    r"""Read a data folder.

    Args:
        path: the folder, see the head of this module.

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
    table, plain = folder / "item_text.tsv", folder / "item_plain_text.txt"
    if table.is_file():
        source, items = table, _read_item_table(table)
    elif plain.is_file():
        source, items = plain, _read_plain_text(plain)
    else:
        raise FileNotFoundError(f"{table}: no such file, and no {plain.name} either; add one of them")
    return RecommendationData(items, _read_sequences(folder / "user_sequence.txt", items, source.name), folder)


def read_lexical_ids(path: str | Path, item_ids: Sequence[str]) -> list[list[str]]:
    """Read given lexical IDs, `ITEM |token|token...` per line, in any order.

    Args:
        path: the file.
        item_ids: the catalogue.

    Returns:
        The tokens of every item, in catalogue order.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a malformed line, an unknown or repeated item, two items with the same ID, or an item left without
            one.
    """
    path = Path(path)
    rows = {item: row for row, item in enumerate(item_ids)}
    tokens_of: dict[int, list[str]] = {}
    owner: dict[tuple[str, ...], str] = {}
    for number, line in _lines(path):
        item, bar, rest = line.strip().partition(" |")
        tokens = rest.split("|")
        if not bar or not item or not all(tokens) or any(character.isspace() for character in item + rest):
            raise ValueError(f"{path}:{number}: not of the form 'ITEM |token|token...'; correct the line")
        row = _known(rows, item, path, number)
        if row in tokens_of:
            raise ValueError(f"{path}:{number}: item {item} has a lexical ID already; keep one of the lines")
        other = owner.setdefault(tuple(tokens), item)
        if other != item:
            raise ValueError(f"{path}:{number}: items {other} and {item} have the same lexical ID; make them differ")
        tokens_of[row] = tokens
    for row, item in enumerate(item_ids):
        if row not in tokens_of:
            raise ValueError(f"{path}: item {item} has no lexical ID; add a line for it")
    return [tokens_of[row] for row in range(len(item_ids))]


def read_similar_items(path: str | Path, item_ids: Sequence[str]) -> np.ndarray:
    """Read given similar items: a header that starts with `anchor`, then `ITEM ITEM ITEM ...` per line, nearest first.

    Args:
        path: the file.
        item_ids: the catalogue.

    Returns:
        (N, k) int32 rows of the catalogue, nearest first; -1 where an item has fewer than the longest line has, or
        none.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: no header, an unknown item, an item with two lines, or one that is its own neighbour or has one
            twice.
    """
    path = Path(path)
    rows = {item: row for row, item in enumerate(item_ids)}
    lines = _lines(path)
    number, header = next(lines, (1, ""))
    if header.split()[:1] != ["anchor"]:
        raise ValueError(f"{path}:{number}: no header; the first line must be 'anchor top1 top2 ...'")
    neighbours: dict[int, list[int]] = {}
    for number, line in lines:
        anchor, *similar = [_known(rows, item, path, number) for item in line.split()]
        if anchor in neighbours:
            raise ValueError(f"{path}:{number}: item {item_ids[anchor]} has a line already; keep one of them")
        if len({anchor, *similar}) <= len(similar):
            raise ValueError(f"{path}:{number}: an item stands twice on the line of {item_ids[anchor]}; remove one")
        neighbours[anchor] = similar
    width = max(map(len, neighbours.values()), default=0)
    table = np.full((len(item_ids), width), -1, dtype=np.int32)
    for anchor, similar in neighbours.items():
        table[anchor, : len(similar)] = similar
    return table


def _lines(path: Path, remedy: str = _GIVEN) -> Iterator[tuple[int, str]]:
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


def _known(rows: dict[str, int], item: str, path: Path, number: int) -> int:
    if item not in rows:
        raise ValueError(f"{path}:{number}: item {item} is not in the catalogue; give it a text or remove it here")
    return rows[item]


def _read_sequences(path: Path, items: ItemTable, text_file: str) -> Interactions:
    rows = {item: row for row, item in enumerate(items.item_ids)}
    sequences: dict[str, list[int]] = {}
    for number, line in _lines(path, "add it to the data folder"):
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
    lines = _lines(path)
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
    for number, line in _lines(path):
        item, *words = line.split()
        text = " ".join(words)
        title = _PLAIN_TITLE.search(text)
        builder.add(number, item, title.group(1) if title else "", "" if _PLAIN_EMPTY.fullmatch(text) else text)
    return builder.finish()

"""Items collected into the one table, whatever file they come from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from .interactions import ItemTable
from .strings import id_fault

SHOWN_CHARACTERS = 80  # of the text, where an item has no title


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

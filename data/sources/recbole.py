"""RecBole's atomic files: tab-separated, with `name:type` in the header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from .lines import Reading, lines
from .source import Source, find, interaction_columns, item_columns
from .tables import delimited

if TYPE_CHECKING:
    from ..prepare_settings import PrepareSettings

SENTENCES = ("title", "description")  # fields in which the words of a `token_seq` are no list


def open_recbole(settings: PrepareSettings, reading: Reading) -> Source:
    """`NAME.inter` and `NAME.item`."""
    interactions, items = find(settings, "interactions", "*.inter"), find(settings, "items", "*.item")
    names = ("user_column", "item_column", "time_column", "rating_column", "item_id_column")
    settings = replace(settings, **{name: _untyped(getattr(settings, name)) for name in names})
    columns = {_untyped(name): _untyped(field) for name, field in item_columns(settings).items()}
    return Source(
        interactions=lambda: delimited(interactions, reading, interaction_columns(settings), "\t", quoted=False),
        items=lambda: _items(items, reading, columns),
        interactions_name=interactions,
        items_name=items,
        files=(interactions, items),
    )


def _untyped(name: str) -> str:
    return name.partition(":")[0]


def _items(path: Path, reading: Reading, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """A `token_seq` is a list, whose parts are joined by commas, unless it is the first text or a description."""
    _, header = next(lines(path, Reading(skip_bad_lines=True)), (1, ""))
    kinds = dict(name.strip().partition(":")[::2] for name in header.split("\t"))
    sentences = {*SENTENCES, *list(columns.values())[1:2]}
    lists = {field for name, field in columns.items() if kinds.get(name) == "token_seq" and field not in sentences}
    for batch in delimited(path, reading, columns, "\t", quoted=False):
        for field in lists:
            joined = pc.replace_substring_regex(pc.utf8_trim(batch[field], " "), " +", ", ")
            batch = batch.set_column(batch.schema.get_field_index(field), field, joined)
        yield batch

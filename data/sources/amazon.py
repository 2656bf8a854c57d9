"""Amazon reviews, as published in 2014 (JSON and Python literals) and in 2023 (JSON)."""

from __future__ import annotations

import ast
import warnings
from typing import TYPE_CHECKING, Any

from .lines import BadLineError, Reading, records
from .source import Source, find
from .values import json_record, scalar, unescaped

if TYPE_CHECKING:
    from ..prepare_settings import PrepareSettings

INTERACTION_COLUMNS = ("user", "item", "time", "rating")
ITEM_COLUMNS_2014 = ("item_id", "title", "brand", "categories", "description")
ITEM_COLUMNS_2023 = (*ITEM_COLUMNS_2014, "features")


def open_2014(settings: PrepareSettings, reading: Reading) -> Source:
    """`reviews_*.json.gz` and `meta_*.json.gz`."""
    reviews = find(settings, "interactions", "reviews_*.json", "reviews_*.json.gz")
    meta = find(settings, "items", "meta_*.json", "meta_*.json.gz")
    return Source(
        interactions=lambda: records(reviews, reading, _columns(settings), _reviews_2014(settings)),
        items=lambda: records(meta, reading, ITEM_COLUMNS_2014, _item_2014),
        interactions_name=reviews,
        items_name=meta,
        files=(reviews, meta),
    )


def open_2023(settings: PrepareSettings, reading: Reading) -> Source:
    """`CATEGORY.jsonl.gz` and `meta_CATEGORY.jsonl.gz`; times are in milliseconds."""
    reviews = find(settings, "interactions", "*.jsonl", "*.jsonl.gz", without="meta_")
    meta = find(settings, "items", "meta_*.jsonl", "meta_*.jsonl.gz")
    keys = ("user_id", "parent_asin", "timestamp", "rating")
    return Source(
        interactions=lambda: records(reviews, reading, _columns(settings), _taking(keys, settings)),
        items=lambda: records(meta, reading, ITEM_COLUMNS_2023, _item_2023),
        interactions_name=reviews,
        items_name=meta,
        files=(reviews, meta),
        time_unit=1e-3,
    )


def _columns(settings: PrepareSettings) -> tuple[str, ...]:
    return INTERACTION_COLUMNS[: 3 if settings.min_rating is None else 4]


def _reviews_2014(settings: PrepareSettings):
    return _taking(("reviewerID", "asin", "unixReviewTime", "overall"), settings)


def _taking(keys: tuple[str, ...], settings: PrepareSettings):
    keys = keys[: len(_columns(settings))]

    def parse(line: str) -> list[str]:
        record = json_record(line)
        return [scalar(record, key) for key in keys]

    return parse


def _item_2014(line: str) -> list[str]:
    record = _literal(line)
    paths = record.get("categories") or []
    if not isinstance(paths, list):
        raise BadLineError("categories is no list")
    categories = " | ".join(filter(None, (unescaped(path, " > ") for path in paths)))
    texts = (unescaped(record.get(key)) for key in ("title", "brand"))
    return [scalar(record, "asin"), *texts, categories, unescaped(record.get("description"), " ")]


def _literal(line: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in descriptions
            record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise BadLineError(f"not a Python literal ({type(error).__name__})") from None
    if not isinstance(record, dict):
        raise BadLineError("not a Python dictionary")
    return record


def _item_2023(line: str) -> list[str]:
    record = json_record(line)
    texts = (unescaped(record.get(key)) for key in ("title", "store"))
    lists = ((record.get("categories"), " > "), (record.get("description"), " "), (record.get("features"), " "))
    return [scalar(record, "parent_asin"), *texts, *(unescaped(value, separator) for value, separator in lists)]

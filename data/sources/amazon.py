"""Amazon reviews, as published in 2014 (JSON and Python literals), 2018 (the same but for a few names) and 2023."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .lines import Reading, record, records, scalar, text
from .source import Source, find

if TYPE_CHECKING:
    from ..prepare_settings import PrepareSettings

INTERACTION_COLUMNS = ("user", "item", "time", "rating")
ITEM_COLUMNS = ("item_id", "title", "brand", "categories", "description", "features")


def open_2014(settings: PrepareSettings, reading: Reading) -> Source:
    """`reviews_*.json.gz` and `meta_*.json.gz`."""
    reviews = find(settings, "interactions", "reviews_*.json", "reviews_*.json.gz")
    meta = find(settings, "items", "meta_*.json", "meta_*.json.gz")
    return _source(settings, reading, reviews, meta, ("reviewerID", "asin", "unixReviewTime", "overall"), "asin")


def open_2023(settings: PrepareSettings, reading: Reading) -> Source:
    """`CATEGORY.jsonl.gz` and `meta_CATEGORY.jsonl.gz`; times are in milliseconds."""
    reviews = find(settings, "interactions", "*.jsonl", "*.jsonl.gz", without="meta_")
    meta = find(settings, "items", "meta_*.jsonl", "meta_*.jsonl.gz")
    keys = ("user_id", "parent_asin", "timestamp", "rating")
    return _source(settings, reading, reviews, meta, keys, "parent_asin", "ms")


def _source(settings, reading, reviews, meta, keys: tuple[str, ...], item_key: str, time_unit: str = "s") -> Source:
    columns = INTERACTION_COLUMNS[: 3 if settings.min_rating is None else 4]

    def review(line: str) -> list[str]:
        found = record(line)
        return [scalar(found, key) for key in keys[: len(columns)]]

    def item(line: str) -> list[str]:
        found = record(line)
        return [scalar(found, item_key), *_texts(found)]

    return Source(
        interactions=lambda: records(reviews, reading, columns, review),
        items=lambda: records(meta, reading, ITEM_COLUMNS, item),
        interactions_name=reviews,
        items_name=meta,
        files=(reviews, meta),
        time_unit=time_unit,
    )


def _texts(found: dict[str, Any]) -> list[str]:
    """In the order of `ITEM_COLUMNS`, by whatever name the year has for them."""
    paths = found.get("categories") or found.get("category") or []
    if isinstance(paths, list) and all(isinstance(path, list) for path in paths):  # 2014 has several paths
        categories = " | ".join(filter(None, (text(path, " > ") for path in paths)))
    else:
        categories = text(paths, " > ")
    return [
        text(found.get("title")),
        text(found.get("brand", found.get("store"))),
        categories,
        text(found.get("description"), " "),
        text(found.get("features", found.get("feature")), " "),
    ]

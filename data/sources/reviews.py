"""Reviews and what they are of, as lines of JSON: Amazon as published in 2014, 2018 and 2023, and Yelp.

Amazon's files of 2014 hold Python literals too; those of 2018 are the same but for a few names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .lines import Reading, record, records, scalar, text
from .source import PrepareSettings, Source, find, interaction_columns

REVIEWS, BUSINESSES = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"
ITEMS_OF_YELP = {"name": "title", "categories": "categories", "city": "city", "state": "state"}
ITEMS_OF_AMAZON = ("title", "brand", "categories", "description", "features")


def open_2014(settings: PrepareSettings, reading: Reading) -> Source:
    """`reviews_*.json.gz` and `meta_*.json.gz`."""
    reviews = find(settings, "interactions", "reviews_*.json")
    meta = find(settings, "items", "meta_*.json")
    keys = ("reviewerID", "asin", "unixReviewTime", "overall")
    return _source(settings, reading, (reviews, meta), keys, ITEMS_OF_AMAZON, _texts_of_amazon)


def open_2023(settings: PrepareSettings, reading: Reading) -> Source:
    """`CATEGORY.jsonl.gz` and `meta_CATEGORY.jsonl.gz`; times are in milliseconds."""
    reviews = find(settings, "interactions", "*.jsonl")
    meta = find(settings, "items", "meta_*.jsonl")
    keys = ("user_id", "parent_asin", "timestamp", "rating")
    return _source(settings, reading, (reviews, meta), keys, ITEMS_OF_AMAZON, _texts_of_amazon, time_unit="ms")


def open_yelp(settings: PrepareSettings, reading: Reading) -> Source:
    """Reviews and businesses of the Yelp Open Dataset."""
    reviews = find(settings, "interactions", REVIEWS)
    businesses = find(settings, "items", BUSINESSES)
    keys = ("user_id", "business_id", "date", "stars")
    return _source(settings, reading, (reviews, businesses), keys, tuple(ITEMS_OF_YELP.values()), _texts_of_yelp)


def _source(
    settings: PrepareSettings,
    reading: Reading,
    places: tuple[Path, Path],
    keys: tuple[str, ...],
    fields: tuple[str, ...],
    texts: Callable[[dict[str, Any]], list[str]],
    **facts: Any,
) -> Source:
    """Of reviews and items; `keys` are those of user, item, time and rating, `texts` gives an item's fields."""
    columns = list(interaction_columns(settings).values())

    def review(line: str) -> list[str]:
        found = record(line)
        return [scalar(found, key) for key in keys[: len(columns)]]

    def item(line: str) -> list[str]:
        found = record(line)
        return [scalar(found, keys[1]), *texts(found)]

    return Source(
        places,
        interactions=lambda: records(places[0], reading, columns, review),
        items=lambda: records(places[1], reading, ("item_id", *fields), item),
        **facts,
    )


def _texts_of_amazon(found: dict[str, Any]) -> list[str]:
    """By whatever name the year has for them."""
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


def _texts_of_yelp(found: dict[str, Any]) -> list[str]:
    return [text(found.get(key)) for key in ITEMS_OF_YELP]

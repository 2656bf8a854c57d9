"""The Yelp Open Dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lines import Reading, record, records, scalar, text
from .source import Source, find

if TYPE_CHECKING:
    from ..prepare_settings import PrepareSettings

REVIEWS, BUSINESSES = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"
ITEM_COLUMNS = {"name": "title", "categories": "categories", "city": "city", "state": "state"}


def open_yelp(settings: PrepareSettings, reading: Reading) -> Source:
    """Reviews and businesses."""
    reviews = find(settings, "interactions", REVIEWS, f"{REVIEWS}.gz")
    businesses = find(settings, "items", BUSINESSES, f"{BUSINESSES}.gz")
    keys = {"user_id": "user", "business_id": "item", "date": "time"}
    if settings.min_rating is not None:
        keys["stars"] = "rating"

    def review(line: str) -> list[str]:
        found = record(line)
        return [scalar(found, key) for key in keys]

    return Source(
        interactions=lambda: records(reviews, reading, list(keys.values()), review),
        items=lambda: records(businesses, reading, ["item_id", *ITEM_COLUMNS.values()], _business),
        interactions_name=reviews,
        items_name=businesses,
        files=(reviews, businesses),
    )


def _business(line: str) -> list[str]:
    found = record(line)
    return [scalar(found, "business_id"), *(text(found.get(key)) for key in ITEM_COLUMNS)]

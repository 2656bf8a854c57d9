"""Readers of raw data, one module per format, all into the same two streams of Arrow batches."""

from __future__ import annotations

from collections.abc import Callable

from .folder import open_folder
from .hub import open_hub
from .lines import Reading
from .movielens import open_movielens
from .reviews import open_2014, open_2023, open_yelp
from .source import PrepareSettings, Source
from .tables import open_recbole, open_table

FORMATS: dict[str, Callable[[PrepareSettings, Reading], Source]] = {
    "folder": open_folder,
    "recbole": open_recbole,
    "table": open_table,
    "hub": open_hub,
    "amazon2014": open_2014,
    "amazon2023": open_2023,
    "yelp": open_yelp,
    "movielens": open_movielens,
}

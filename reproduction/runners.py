"""Which runner each kind of row takes."""

from __future__ import annotations

from collections.abc import Callable

from .fusing import run_fusion
from .rows import FUSION, GRAM
from .runs import Outcome, Place, Run, run_gram, run_item_knn, run_popularity, run_sasrec

RUNNERS: dict[str, Callable[[Run, Place], Outcome]] = {
    GRAM: run_gram,
    FUSION: run_fusion,
    "sasrec": run_sasrec,
    "item-knn": run_item_knn,
    "popularity": run_popularity,
}

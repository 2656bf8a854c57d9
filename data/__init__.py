"""Readers into one schema, and the leave-one-out split."""

from .interactions import Interactions, ItemTable, RecommendationData
from .readers import read_folder, read_lexical_ids, read_similar_items
from .splits import evaluation_histories, training_part

__all__ = [
    "Interactions",
    "ItemTable",
    "RecommendationData",
    "evaluation_histories",
    "read_folder",
    "read_lexical_ids",
    "read_similar_items",
    "training_part",
]

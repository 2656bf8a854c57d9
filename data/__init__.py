"""Readers into one schema, and the splits."""

from .folder import read_folder
from .interactions import TEST, TRAIN, VALIDATION, Interactions, ItemTable, RecommendationData, leave_one_out
from .samples import samples_of
from .splits import drawn_users, evaluation_histories, training_part, without_test

__all__ = [
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Interactions",
    "ItemTable",
    "RecommendationData",
    "drawn_users",
    "evaluation_histories",
    "leave_one_out",
    "read_folder",
    "samples_of",
    "training_part",
    "without_test",
]

"""What a trained model needs to be published: its card, and its handler for Inference Endpoints."""

from .card_data import GramCardData
from .card_settings import CardSettings
from .endpoint import add_handler
from .metadata_rules import check_metadata, metadata_problems
from .model_card import is_handmade, refresh_model_card, write_model_card

__all__ = [
    "CardSettings",
    "GramCardData",
    "add_handler",
    "check_metadata",
    "is_handmade",
    "metadata_problems",
    "refresh_model_card",
    "write_model_card",
]

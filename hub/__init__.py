"""What a trained model needs to be published: its card, and its handler for Inference Endpoints."""

from .card_data import GramCardData
from .card_settings import CardSettings
from .endpoint import add_handler
from .model_card import is_handmade, refresh_model_card, write_model_card

__all__ = [
    "CardSettings",
    "GramCardData",
    "add_handler",
    "is_handmade",
    "refresh_model_card",
    "write_model_card",
]

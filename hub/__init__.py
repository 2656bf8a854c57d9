"""Publishing a trained model: its card, its files, its demo."""

from .card_data import GramCardData
from .card_settings import CardSettings
from .model_card import is_handmade, refresh_model_card, write_model_card

__all__ = ["CardSettings", "GramCardData", "is_handmade", "refresh_model_card", "write_model_card"]

"""Publishing a trained model: its card, its files, its demo."""

from ..common.lazy import lazy

_HOMES = {
    "CardSettings": ".card_settings",
    "GramCardData": ".card_data",
    "is_handmade": ".model_card",
    "refresh_model_card": ".model_card",
    "write_model_card": ".model_card",
}

__all__ = sorted(_HOMES)

__getattr__ = lazy(__name__, _HOMES)

"""What a trained model needs to be published: its card."""

from .model_card import write_model_card

__all__ = ["write_model_card"]

"""What a trained model needs to be published: its card, and its handler for Inference Endpoints."""

from .endpoint import add_handler
from .model_card import write_model_card

__all__ = ["add_handler", "write_model_card"]

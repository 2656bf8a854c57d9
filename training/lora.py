"""LoRA by PEFT: low-rank adapters beside frozen weights, saved as an adapter and, merged, as a whole model."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from ..modeling_gram import GramForConditionalGeneration
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"  # inside a model folder


def add_lora(model: GramForConditionalGeneration, settings: TrainingSettings) -> PeftModel:
    """Put adapters into a model, in place, and freeze all its weights but the passage position embedding.

    Where the model has no passage position, that is frozen too.

    Embeddings and head are one weight in T5, so neither can have an adapter: saved apart, they would be two.

    Args:
        model: becomes trainable in its adapters and its passage position embedding alone.
        settings: `lora` is the rank; `lora_alpha`, `lora_dropout`, `lora_targets`.

    Returns:
        PEFT's view of the same modules, which can save and merge the adapters.

    Raises:
        ValueError: the model has no linear layers of a name in `lora_targets`.
    """
    targets = settings.lora_targets.replace(",", " ").split()
    head = model.get_output_embeddings()
    linear = {
        name.split(".")[-1] for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer != head
    }
    for target in targets:
        if target not in linear:
            raise ValueError(f"lora_targets: no layer {target!r} can have an adapter; choose of {sorted(linear)}")
    config = LoraConfig(
        r=settings.lora,
        lora_alpha=settings.lora_alpha or 2 * settings.lora,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        modules_to_save=["position_embedding"] if model.config.passage_position else None,
    )
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path = settings.init_from or settings.backbone
    trained, total = adapted.get_nb_trainable_parameters()
    logger.info("LoRA of rank %d trains %s of %s weights", settings.lora, f"{trained:,}", f"{total:,}")
    return adapted


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, to be read by `PeftModel.from_pretrained`."""
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card


def merged(adapted: PeftModel) -> GramForConditionalGeneration:
    """A copy of the model in which the adapters have become part of the weights; the adapted one stays as it is."""
    return copy.deepcopy(adapted).merge_and_unload()


__all__ = ["ADAPTER_FOLDER", "add_lora", "merged", "save_adapter"]

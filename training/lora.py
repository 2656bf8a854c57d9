"""LoRA by PEFT: low-rank adapters beside frozen weights."""

from __future__ import annotations

import logging

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from ..modeling_gram import GramForConditionalGeneration
from .settings import TrainingSettings

logger = logging.getLogger(__name__)


def add_lora(model: GramForConditionalGeneration, settings: TrainingSettings) -> PeftModel:
    """Put adapters into a model, in place, and freeze all its weights but its passage position embedding, if any.

    Embeddings and head are one weight in T5, so neither can have an adapter: saved apart, they would be two.

    Returns:
        PEFT's view of the same modules, which can save and merge the adapters.

    Raises:
        ValueError: the model has no linear layers of a name in `lora_targets`, which PEFT would leave out.
    """
    targets, head = settings.lora_targets.replace(",", " ").split(), model.get_output_embeddings()
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    linear = {name.split(".")[-1] for name, layer in layers if layer is not head}
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

"""Runs whose weights or optimizer state are shared out over processes: FSDP2 and DeepSpeed."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from ..modeling_gram import GramForConditionalGeneration
from ..training_settings import TrainingSettings


def prepare_for(accelerator: Accelerator, settings: TrainingSettings) -> None:
    """Tell the launched way of training what it cannot know, before anything is prepared.

    Raises:
        ValueError: it cannot do what the settings ask for.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP1 is not supported; set `fsdp_version: 2`, see examples/accelerate_configs/fsdp2.yaml")
    if settings.lora is not None and kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError("lora: LoRA trains too few weights to share them out; launch it with ddp.yaml")
    if kind == DistributedType.FSDP and accelerator.state.fsdp_plugin.auto_wrap_policy is not None:
        raise ValueError(
            "FSDP2 must wrap the model as a whole, because GRAM calls the layers of its blocks one by one; "
            "set `fsdp_auto_wrap_policy: NO_WRAP`, see examples/accelerate_configs/fsdp2.yaml"
        )
    if kind == DistributedType.DEEPSPEED:
        # Batches are made here, not by a loader that DeepSpeed sees; it wants the figure for its own reports.
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = max(settings.batch_size // accelerator.num_processes, 1)
        config["gradient_clipping"] = settings.max_grad_norm


def whole_model(accelerator: Accelerator, prepared: torch.nn.Module) -> GramForConditionalGeneration:
    """The model itself; where its weights are sharded, a copy with whole ones. All processes must call this."""
    model = accelerator.unwrap_model(prepared)
    state = model.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return model
    whole = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}
    with torch.device(accelerator.device):
        copy = GramForConditionalGeneration(model.config)
    copy.load_state_dict(whole)
    copy.generation_config = model.generation_config
    return copy


__all__ = ["prepare_for", "whole_model"]

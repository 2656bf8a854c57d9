"""Runs whose weights or optimizer state are shared out over processes: FSDP2 and DeepSpeed."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ..common.extras import needs
from ..modeling_gram import GramForConditionalGeneration
from .settings import MUON, TrainingSettings

with needs("train"):
    from accelerate import Accelerator
    from accelerate.utils import DistributedType


def check_launch(accelerator: Accelerator, settings: TrainingSettings) -> None:
    """Compare the launched way of training with the settings, and tell DeepSpeed what it cannot know.

    Raises:
        ValueError: it cannot do what the settings ask for, or is configured as GRAM cannot run.
    """
    kind = accelerator.distributed_type
    if settings.optimizer == MUON and exchanges_always(accelerator):
        raise ValueError("optimizer: muon takes whole weights, which here are shared out; give --optimizer adamw")
    if settings.lora is not None and exchanges_always(accelerator):
        raise ValueError("lora: LoRA trains too few weights to share them out; launch it with ddp.yaml")
    if kind == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        faults = {
            "FSDP1 is not supported; set `fsdp_version: 2`": not accelerator.is_fsdp2,
            "GRAM calls the layers of its blocks one by one, so that FSDP2 cannot wrap blocks; "
            "set `fsdp_auto_wrap_policy: NO_WRAP`": plugin.auto_wrap_policy is not None,
            "every process loads the weights; set `fsdp_cpu_ram_efficient_loading: false` and "
            "`fsdp_sync_module_states: false`": plugin.cpu_ram_efficient_loading,
        }
        for fault, is_there in faults.items():
            if is_there:
                raise ValueError(f"{fault}, see examples/accelerate_configs/fsdp2.yaml")
    if kind == DistributedType.DEEPSPEED:
        # Batches are made here, not by a loader that DeepSpeed sees.
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = max(settings.batch_size // accelerator.num_processes, 1)
        config["gradient_clipping"] = settings.max_grad_norm


def exchanges_always(accelerator: Accelerator) -> bool:
    """Whether processes exchange weights or gradients in every micro-batch, so that all must have as many of them."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def shard(accelerator: Accelerator, model: GramForConditionalGeneration) -> None:
    """With FSDP2, share out the weights in place, as one group; to be called before the optimizer is made.

    Accelerate would put embedding and head into a group of their own, but T5 ties both stacks' embeddings to them, and
    a weight can be in one group alone.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        precision = plugin.mixed_precision_policy or MixedPrecisionPolicy()
        fully_shard(model, mesh=mesh, mp_policy=precision, offload_policy=plugin.cpu_offload)


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

"""The learning rate over a run."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR


def linear_schedule(optimizer: torch.optim.Optimizer, warmup_ratio: float, *phases: int) -> LambdaLR:
    """Let the learning rate rise from 0 and fall to 0 again, both linearly, once in every phase.

    Args:
        optimizer: its learning rates are the highest ones.
        warmup_ratio: share of a phase's updates in which it rises.
        phases: updates of each.
    """

    def factor(update: int) -> float:
        *earlier, total = phases
        for length in earlier:
            if update < length:
                total = length
                break
            update -= length
        warmup = round(warmup_ratio * total)
        if update < warmup:
            return update / warmup
        return max(0.0, (total - update) / max(1, total - warmup))

    return LambdaLR(optimizer, factor)


__all__ = ["linear_schedule"]

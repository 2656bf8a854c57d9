"""On which device a process works. Everything that needs one asks here."""

from __future__ import annotations

import os
import sys

import torch

YES = ("1", "on", "t", "true", "y", "yes")  # as Accelerate reads its variables


def choose_device(asked: str | torch.device | None = None) -> torch.device:
    """The device of this process: what Accelerate has chosen, or what is asked for, or the accelerator that is there.

    Where Accelerate is at work, its device it is. Otherwise, unless one is asked for, its variables count,
    `ACCELERATE_TORCH_DEVICE` and `ACCELERATE_USE_CPU`; then the accelerator that torch finds: CUDA, XPU, MPS or
    another, that of the number `LOCAL_RANK` where several processes were launched together; then the CPU.

    Args:
        asked: such as `"cpu"`, `"cuda"`, `"cuda:1"`, `"xpu"` or `"mps"`.

    Raises:
        ValueError: this machine has no such device, or fewer accelerators than processes; or Accelerate works on
            another kind of device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    state = _accelerates_state()
    if state is not None:
        if asked is not None and _read(asked).type != state.device.type:
            raise ValueError(
                f"device {asked!r}: these processes were launched on {state.device.type}; ask for none, or launch them "
                "otherwise (ACCELERATE_USE_CPU=true puts them on the CPU)"
            )
        return state.device
    if asked is not None:
        return _read(asked)
    if named := os.environ.get("ACCELERATE_TORCH_DEVICE"):
        return torch.device(named)
    return torch.device("cpu") if is_on_cpu() else _own(_accelerator())


def is_on_cpu() -> bool:
    """Whether a process works on the CPU unless told otherwise: its environment says so, or there is nothing else."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in YES or _accelerator() is None


def _accelerates_state():
    """Accelerate's `PartialState`, if a program has made one; asking must not make it."""
    module = sys.modules.get("accelerate.state")
    return module.PartialState() if module is not None and module.PartialState._shared_state else None


def _accelerator() -> str | None:
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else None


def _own(kind: str) -> torch.device:
    """The accelerator of this process's number; without one, that which is current."""
    rank, count = os.environ.get("LOCAL_RANK"), torch.accelerator.device_count()
    if rank is None or kind == "mps":  # of which there is one
        return torch.device(kind)
    if int(rank) >= count:
        raise ValueError(
            f"process {rank} has no {kind} device of its own, there are {count}; launch fewer processes, or set "
            "ACCELERATE_USE_CPU=true"
        )
    return torch.device(kind, int(rank))


def _read(asked: str | torch.device) -> torch.device:
    asked, kind = str(asked).replace("cpu:0", "cpu"), _accelerator()
    numbered = [] if kind is None else [f"{kind}:{number}" for number in range(torch.accelerator.device_count())]
    if kind is not None and asked == kind:
        return _own(kind)
    if asked not in ("cpu", *numbered):
        raise ValueError(f"device {asked!r} is not on this machine; there are {', '.join(('cpu', *numbered))}")
    return torch.device(asked)

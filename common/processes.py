"""How the processes of one command run: with what memory, and which users are whose."""

from __future__ import annotations

import ctypes
import logging
import sys
from datetime import timedelta

import numpy as np
import torch

from .devices import is_on_cpu
from .extras import needs

with needs("train"):
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=7)  # of processes that wait while one of them translates, or trains a SASRec

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def this_process() -> PartialState:
    """This process among those that were launched together, with the device that is its own.

    The first call lets the processes find each other, so that all of them must come here. From then on
    `choose_device` of `devices` gives Accelerate's device.
    """
    # Accelerate must be told of the CPU. Otherwise several processes on a machine without accelerator each take
    # themselves for the only one.
    return PartialState(cpu=is_on_cpu(), timeout=PATIENCE)


def make_accelerator(**options) -> Accelerator:
    """An `Accelerator` with these options, on the device of [`this_process`]."""
    this_process()  # what Accelerate would make of it itself waits for ten minutes at most
    wanted = options.get("mixed_precision")
    if wanted and AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()  # a process has one alone, and here a run comes after another's, or a Trainer's
    return Accelerator(cpu=is_on_cpu(), **options)


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system; for training on a CPU.

    By default glibc maps every large tensor anew, and the system clears its pages at the first touch: element-wise
    operations then take up to three times as long. Does nothing where the C library is another.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)
            mallopt(_M_TOP_PAD, 1 << 26)  # the heap grows in few steps


def own_share(num_users: int, accelerator: Accelerator) -> np.ndarray:
    """Rows of the users that this process looks after: every user belongs to exactly one process."""
    return np.arange(accelerator.process_index, num_users, accelerator.num_processes)


def gather_users(values: np.ndarray, num_users: int, accelerator: Accelerator) -> np.ndarray:
    """Join the values (own share, ...) of all processes to (U, ...), the same in each of them."""
    everybody = np.zeros((num_users, *values.shape[1:]), dtype=values.dtype)
    everybody[own_share(num_users, accelerator)] = values
    # Shares do not overlap, so the sum holds every user's value once, however many processes there are.
    return accelerator.reduce(torch.from_numpy(everybody).to(accelerator.device), reduction="sum").cpu().numpy()


def precision(choice: str) -> str:
    """What `mixed_precision` of the settings means on this machine: `bf16` or `no`.

    `auto` is bf16 where products in it are faster: on GPUs and processors that have them. A processor without emulates
    them, which takes some 50 times as long as float32.
    """
    is_fast = _multiplies_bf16()
    if choice == "bf16" and not is_fast:
        logger.warning(
            "this processor emulates bf16, tens of times slower than float32: --mixed-precision no is faster"
        )
    return ("bf16" if is_fast else "no") if choice == "auto" else choice


def _multiplies_bf16() -> bool:
    kind = this_process().device.type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # an older torch does not tell
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))

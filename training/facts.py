"""What a training run leaves of itself besides its settings: software, hardware, data, the model it began with."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import __version__
from ..common.files import json_in
from ..common.provenance import versions
from ..data import RecommendationData
from ..data.folder import REPORT_FILE
from ..data.interactions import SPLIT_NAMES

if TYPE_CHECKING:
    from accelerate import Accelerator


def run_facts(start: str | None, data: RecommendationData, accelerator: Accelerator) -> dict[str, Any]:
    """All that a model card can only tell if training has noted it, as JSON values.

    These are `environment`, `data` (see [`data_facts`]), and `base_model`, the name on the Hub of `start`, with which
    the weights began, None where there is none or it was a folder.
    """
    return {
        "environment": environment(accelerator),
        "data": data_facts(data),
        "base_model": None if start is None or Path(start).exists() else start,
    }


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions of what decides the outcome, the device of a process, and how many processes there are."""
    return {
        "python": platform.python_version(),
        "gram-recommender": __version__,
        **versions(("torch", "transformers", "accelerate")),
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
    }


def device_name(device: torch.device) -> str:
    """The name that the maker gave a GPU or CPU; with a CPU, how many cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8", errors="replace") if listed.is_file() else ""
    named = re.search(r"^model name\s*:(.*)$", text, flags=re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine()
    return f"{name}, {cores} core{'s' if cores != 1 else ''}"


def data_facts(data: RecommendationData) -> dict[str, Any]:
    """Sizes and split of a data set, and how `gram prepare` made it, where it did.

    These are `users`, `items`, `interactions`, `leave_one_out`, `split` (interactions of each part), `prepared`
    (settings, stages, input files with their SHA-256, and the origin on the Hub; None without `prepare.json`).
    """
    counts = np.bincount(data.splits, minlength=len(SPLIT_NAMES)).tolist()
    report = {} if data.folder is None else json_in(data.folder / REPORT_FILE)
    prepared = {name: report[name] for name in ("settings", "inputs", "origin", "stages") if name in report} or None
    return {
        "users": len(data.interactions),
        "items": len(data.items),
        "interactions": len(data.interactions.items),
        "leave_one_out": data.is_leave_one_out,
        "split": dict(zip(SPLIT_NAMES, counts, strict=True)),
        "prepared": prepared,
    }

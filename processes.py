"""Which device the processes of one command run on."""

import torch
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Whether to run on the CPU: where it is asked for, or where there is nothing else.

    Accelerate must be told. Otherwise several processes on a machine without accelerator each take themselves for the
    only one.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()

"""What the benchmarks share: medians, peak memory, the machine's floor, fresh processes, tables and JSON."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

GB = 1e9


def wait_for(device) -> None:
    """Until a device has done all that it was given; a CPU has."""
    import torch

    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def medians(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median seconds of each run, after one that does not count; runs take turns, so that noise meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(taken) for name, taken in seconds.items()}


@dataclass(frozen=True)
class Machine:
    """The best that a device was seen to do: a CPU with float32 and the threads that torch has now.

    Attributes:
        flops: floating point operations a second, of one large matrix product.
        bytes: bytes a second, read, of a sum over an array far larger than the caches.
    """

    flops: float
    bytes: float

    @classmethod
    def measured(cls, device="cpu", dtype=None, size: int = 2048, length: int = 1 << 27) -> Machine:
        """Take the best of several runs of each: a product (size, size), and a sum over `length` numbers of float32."""
        import torch

        left, right = torch.rand(2, size, size, device=device).to(dtype or torch.float32)
        long = torch.ones(length, device=device)
        product = min(_seconds(lambda: left @ right, device) for _ in range(7))
        reading = min(_seconds(long.sum, device) for _ in range(7))
        return cls(2 * size**3 / product, 4 * length / reading)

    def floor(self, flops: float, bytes: float) -> float:
        """Seconds below which work of so many operations on so many bytes cannot be done."""
        return max(flops / self.flops, bytes / self.bytes)


def _seconds(run: Callable, device) -> float:
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def forget_peak() -> bool:
    """Give freed memory back and let the peak memory of this process start anew; False where that is not Linux."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def peak_gb(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory that this process, or the largest of its children, has held."""
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.is_file():  # `getrusage` counts in what the parent held at the start
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / GB
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * bytes_per_unit / GB


def resident_gb() -> float:
    """The memory that this process holds now; NaN where that is not Linux."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() / GB if status.is_file() else float("nan")


def in_fresh_process(function: Callable, *arguments) -> None:
    """Run the function in a process that shares no memory with this one.

    Raises:
        RuntimeError: it failed, or was killed.
    """
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        killed = "; killed, perhaps for its memory" if process.exitcode == -9 else ""
        raise RuntimeError(f"{function.__name__} ended with code {process.exitcode}{killed}")


def environment() -> dict:
    """What the figures depend on beside the code."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(report: dict, path: Path) -> None:
    """The report and the environment that it was made in."""
    text = json.dumps({"environment": environment(), **report}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")

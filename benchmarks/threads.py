"""What other programs on the same cores cost: training steps and searches a second, alone and beside busy loops.

`python -m benchmarks.threads MODEL --data DIR --output-dir DIR`. Threads of OpenMP that wait for each other can spin,
and where another program holds a core the rest burn theirs until it is their turn; or sleep, and are slow to wake; or
spin for some microseconds and then sleep, as the command line has it. Each figure is of a fresh process with a thread
for every core; *fair* is what is left to it when every program gets the same share of the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gram.common.openmp import WAITING

from .measuring import markdown, write_json

POLICIES = {
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"},
    "sleeping soon": WAITING,
}


def training_rate(model_folder: str, data: str, seconds: float) -> float:
    """Optimizer steps a second of some 128 samples."""
    import torch

    from gram import GramForConditionalGeneration, GramTokenizer
    from gram.common.processes import keep_freed_memory

    from .training import draw_step, fast

    keep_freed_memory()
    tokenizer = GramTokenizer.from_pretrained(model_folder)
    model = GramForConditionalGeneration.from_pretrained(model_folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    step = draw_step(Path(data), tokenizer, 128, 16_384, seed=0)

    def update() -> None:
        fast(model, step.micro_batches, step.num_tokens)
        optimizer.step()
        optimizer.zero_grad()

    return _rate(update, seconds)


def search_rate(model_folder: str, data: str, seconds: float) -> float:
    """Users a second, one after the other, 50 beams."""
    from gram.serving.recommendation import Recommender

    recommender = Recommender.from_pretrained(model_folder)
    history = recommender.tokenizer.item_ids[:5]
    return _rate(lambda: recommender.recommend([history]), seconds)


TASKS = {"training": training_rate, "recommending": search_rate}


def _rate(run, seconds: float) -> float:
    for _ in range(2):
        run()
    start, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds:
        run()
        count += 1
    return count / taken


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many other programs that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rate(task: str, policy: str, given: argparse.Namespace) -> float:
    """The task's rate in a fresh process whose threads wait as `policy` says."""
    inherited = {name: value for name, value in os.environ.items() if name not in WAITING}
    environment = {**inherited, **POLICIES[policy], "OMP_NUM_THREADS": str(given.threads)}
    command = [sys.executable, "-m", "benchmarks.threads", given.model, "--data", str(given.data), "--task", task]
    command += ["--seconds", str(given.seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a trained model folder")
    parser.add_argument("--data", type=Path, required=True, help="its data folder")
    parser.add_argument("--output-dir", type=Path, help="for threads.json")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the measured program (%(default)s)")
    parser.add_argument("--others", type=int, nargs="*", default=[0, 1, 2], help="busy loops beside it (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (%(default)s)")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.task:  # in the fresh process
        print(TASKS[given.task](given.model, str(given.data), given.seconds))
        return
    if given.output_dir is None:
        parser.error("--output-dir is required")
    rates: dict[str, dict[str, dict[int, float]]] = {task: {policy: {} for policy in POLICIES} for task in TASKS}
    for others in given.others:
        for task in TASKS:
            for policy in POLICIES:
                with busy_loops(others):
                    rates[task][policy][others] = rate(task, policy, given)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    write_json({"threads": given.threads, "a second": rates}, given.output_dir / "threads.json")
    rows = []
    for task, of_task in rates.items():
        for others in given.others:
            found = [of_task[policy][others] for policy in POLICIES]
            ours, fair = of_task["sleeping soon"], min(1.0, os.cpu_count() / (given.threads + others))
            ratios = [ours[others] / of_task["spinning"][others], ours[others] / ours[given.others[0]], fair]
            rows.append([f"{task}, {others} busy", *(f"{value:.2f}" for value in found + ratios)])
    print(markdown(["", *POLICIES, "times spinning", "times alone", "fair"], rows))


if __name__ == "__main__":
    main()

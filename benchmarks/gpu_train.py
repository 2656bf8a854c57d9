"""Train for a while, on what a machine that is lent for minutes leaves behind: `gpu_train.sh` says how to call it.

The run is the training script's own, with the recipe `cpu`, which distils a SASRec, for the epochs that the flags say.
Every minute its folder is packed into one file, OUT/run.tar. When the time is over it stops at a step where it can go
on; called again with the same OUT, it does, and when it has done all epochs the file holds the trained model.
"""

from __future__ import annotations

import json
import sys
import tarfile
import time
from pathlib import Path

from gram import train_accelerate
from gram.common.command_line import exit_code_of
from gram.common.files import new_file

EVERY = 60  # seconds
RECIPE = ("--config", "cpu", "--budget", "none", "--epochs", "60", "--first-round", "none", "--validate-every", "2")
SAVE_POINTS = ("--save-every", "20")  # steps after which it looks at the clock


class TimeIsOverError(Exception):
    """The run has been saved, and is not done."""


def pack(folder: Path, file: Path) -> None:
    """Put a folder into a tar file, whole or not at all."""
    with new_file(file) as part, tarfile.open(part, "w") as archive:
        archive.add(folder, ".")


def timed(seconds: float, out: Path) -> type:
    """A training run that is saved by the clock, and ends by it."""

    class Run(train_accelerate._Run):
        end, last = time.monotonic() + seconds, time.monotonic()

        def _save(self) -> None:
            now, progress = time.monotonic(), self.progress
            is_over = now >= self.end
            if not is_over and progress.step and now < self.last + EVERY:
                return
            super()._save()
            pack(self.output_dir, out / "run.tar")
            self.last = now
            line = {"name": "optimizer steps", "value": progress.updates, "unit": "1", "of": self.total}
            line |= {"seconds": progress.seconds, "best ndcg@10": max(progress.best_ndcg, 0.0)}
            with (out / "progress.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "device": str(self.accelerator.device)}) + "\n")
            if is_over and progress.updates < self.total:
                raise TimeIsOverError(f"step {progress.updates:,} of {self.total:,}")

    return Run


def main(argv: list[str] | None = None) -> None:
    """Unpack what is there, train, pack."""
    folder, out, seconds, data, translation, *flags = sys.argv[1:] if argv is None else argv
    folder, out = Path(folder), Path(out)
    if (out / "run.tar").is_file():
        with tarfile.open(out / "run.tar") as archive:
            archive.extractall(folder, filter="data")
    train_accelerate._Run = timed(float(seconds), out)
    places = ["--data", data, "--translation", translation, "--output-dir", str(folder)]
    try:
        train_accelerate.main([*RECIPE, *SAVE_POINTS, *flags, *places])
    except TimeIsOverError as over:
        print(f"the time is over at {over}; run this again with the same OUT to go on")
        return
    pack(folder, out / "run.tar")
    print(f"trained; the model's folder is in {out / 'run.tar'}")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.gpu_train"))

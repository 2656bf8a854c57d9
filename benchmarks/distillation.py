"""What distillation costs: a training step's time and memory, with a teacher and without, in one run.

`python -m benchmarks.distillation --config NAME --data DIR --translation DIR --output-dir DIR`, NAME a recipe or a YAML
file of settings, the translation one with its SASRec. The same optimizer steps, spread over an epoch, run with and
without soft targets in turns, batches made beforehand. The SASRec reads all histories once, at the start of a run: that
is timed apart. The peak is that of a fresh process each.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gram import GramTokenizer
from gram.common.processes import keep_freed_memory
from gram.common.settings import add_flags, settings_from
from gram.data import read_folder, training_part
from gram.training.distillation import distillation_of
from gram.training.settings import TrainingSettings
from gram.training.start import build_model
from gram.training.steps import SIZES, TrainingSteps
from gram.translation import TranslationSettings

from .measuring import in_fresh_process, markdown, medians, peak_gb, write_json

FORMS = ("without", "with")


class Work:
    """A model, a teacher, and some steps of an epoch."""

    def __init__(self, settings: TrainingSettings, count: int):
        self.data, tokenizer = read_folder(settings.data), GramTokenizer.from_pretrained(settings.translation)
        training = training_part(self.data)
        torch.manual_seed(settings.seed)
        self.model = build_model(settings, tokenizer).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate)
        sizes = {name: getattr(settings, name) for name in SIZES}
        steps = TrainingSteps(training, tokenizer, epoch=0, with_samples=True, **sizes)
        places = np.unique(np.linspace(0, len(steps) - 1, count).astype(int)).tolist()
        self.steps = [steps[place] for place in places]
        self.samples = sum(map(steps.num_samples, places))
        start = time.perf_counter()
        self.distillation = distillation_of(settings, self.data, self.model.item_trie)
        self.seconds_to_start = time.perf_counter() - start

    def run(self, form: str) -> None:
        """All steps, with the teacher or without."""
        for micro_batches, num_tokens in self.steps:
            for micro_batch in micro_batches:
                inputs = {name: values for name, values in micro_batch.items() if name != "samples"}
                if form == "with":
                    inputs |= self.distillation(micro_batch["samples"], inputs["labels"])
                self.model(**inputs, num_items_in_batch=num_tokens).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def peak_of(form: str, settings: TrainingSettings, count: int, threads: int, path: Path) -> None:
    """Run the steps in this process, and leave its peak memory in a file."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    Work(settings if form == "with" else replace(settings, distillation=None), count).run(form)
    path.write_text(str(peak_gb()))


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, leave JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps that are timed (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (%(default)s)")
    add_flags(parser, TrainingSettings, TranslationSettings, config=True)
    given = parser.parse_args(argv)
    settings, _ = settings_from({"distillation": "sasrec", **vars(given)}, TrainingSettings, TranslationSettings)
    output = Path(settings.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    peaks = {}
    for form in FORMS:
        path = output / f"{form}.peak"
        in_fresh_process(peak_of, form, settings, given.steps, given.threads, path)
        peaks[form] = float(path.read_text())
        path.unlink()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    work = Work(settings, given.steps)
    taken = medians({form: partial(work.run, form) for form in FORMS}, given.repeats)
    seconds = {form: of / len(work.steps) for form, of in taken.items()}
    report = {
        "items": len(work.data.items),
        "samples a step": work.samples / len(work.steps),
        "threads": given.threads,
        "seconds a step": seconds,
        "times without": seconds["with"] / seconds["without"],
        "peak_gb": peaks,
        "seconds to start": work.seconds_to_start,
    }
    write_json(report, output / "distillation.json")
    rows = [[f"{form} a teacher", f"{seconds[form]:.3f}", f"{peaks[form]:.2f}"] for form in FORMS]
    print(markdown(["training", "seconds a step", "peak GB"], rows))
    print(f"\n{report['times without']:.3f} times the seconds; {work.seconds_to_start:.1f} s before the first step")


if __name__ == "__main__":
    main()

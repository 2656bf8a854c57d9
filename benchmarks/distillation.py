"""What distillation costs: a training step's time and memory, with a teacher and without, in one run.

`python -m benchmarks.distillation --config NAME --data DIR --translation DIR --output-dir DIR`, NAME a recipe or a YAML
file of settings, the translation one with its SASRec. The same optimizer steps, spread over an epoch, run without a
teacher, with its soft targets, and with the items drawn from these too, in turns, batches made beforehand. The SASRec
reads all histories once, at the start of a run: that is timed apart. The peak is that of a fresh process each.
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
from gram.common.command_line import exit_code_of
from gram.common.processes import keep_freed_memory
from gram.common.settings import add_flags, settings_from
from gram.data import read_folder, training_part
from gram.training.distillation import distillation_of
from gram.training.settings import TrainingSettings
from gram.training.start import build_model, optimizer_of
from gram.training.steps import SIZES, TrainingSteps
from gram.translation import TranslationSettings

from .measuring import in_fresh_process, markdown, medians, peak_gb, write_json

WITHOUT, SOFT, DRAWN = "without a teacher", "its soft targets", "and its draws"


class Work:
    """A model, some steps of an epoch, and what each form learns from beside the targets."""

    def __init__(self, forms: dict[str, TrainingSettings], count: int):
        settings = next(iter(forms.values()))
        self.data, tokenizer = read_folder(settings.data), GramTokenizer.from_pretrained(settings.translation)
        training = training_part(self.data)
        torch.manual_seed(settings.seed)
        self.model = build_model(settings, tokenizer).train()
        self.optimizer = optimizer_of(self.model, settings)
        sizes = {name: getattr(settings, name) for name in SIZES}
        steps = TrainingSteps(training, tokenizer, epoch=0, with_samples=True, **sizes)
        places = np.unique(np.linspace(0, len(steps) - 1, count).astype(int)).tolist()
        self.steps = [steps[place] for place in places]
        self.samples = sum(map(steps.num_samples, places))
        self.distillations, self.seconds_to_start = {}, 0.0
        for form, own in forms.items():
            start = time.perf_counter()
            self.distillations[form] = distillation_of(own, self.data, self.model.item_trie)
            self.seconds_to_start = max(self.seconds_to_start, time.perf_counter() - start)

    def run(self, form: str) -> None:
        """All steps in one of the forms."""
        distillation = self.distillations[form]
        for micro_batches, num_tokens in self.steps:
            for micro_batch in micro_batches:
                inputs = {name: values for name, values in micro_batch.items() if name != "samples"}
                if distillation is not None:
                    inputs |= distillation(micro_batch["samples"], inputs["labels"])
                self.model(**inputs, num_items_in_batch=num_tokens).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def forms_of(settings: TrainingSettings) -> dict[str, TrainingSettings]:
    """What is compared."""
    forms = {WITHOUT: replace(settings, distillation=None), SOFT: replace(settings, distillation_draws=0)}
    return forms | ({DRAWN: settings} if settings.distillation_draws else {})


def peak_of(form: str, settings: TrainingSettings, count: int, threads: int, path: Path) -> None:
    """Run the steps in this process, and leave its peak memory in a file."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    Work({form: settings}, count).run(form)
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

    peaks, forms = {}, forms_of(settings)
    for form, own in forms.items():
        path = output / "peak.txt"
        in_fresh_process(peak_of, form, own, given.steps, given.threads, path)
        peaks[form] = float(path.read_text())
        path.unlink()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    work = Work(forms, given.steps)
    taken = medians({form: partial(work.run, form) for form in forms}, given.repeats)
    rows = [
        {
            "form": form,
            "seconds a step": seconds / len(work.steps),
            "times": seconds / taken[WITHOUT],
            "peak_gb": peaks[form],
        }
        for form, seconds in taken.items()
    ]
    sizes = {"items": len(work.data.items), "samples a step": work.samples / len(work.steps)}
    start = {"threads": given.threads, "seconds to start": work.seconds_to_start}
    write_json({**sizes, **start, "rows": rows}, output / "distillation.json")
    columns = ["training", "seconds a step", "times", "peak GB"]
    cells = [
        [row["form"], f"{row['seconds a step']:.3f}", f"{row['times']:.2f}", f"{row['peak_gb']:.2f}"] for row in rows
    ]
    print(f"{markdown(columns, cells)}\n\n{work.seconds_to_start:.1f} s before the first step")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.distillation"))

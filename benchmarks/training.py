"""Training samples a second and peak memory: the grouped, packed form against passages padded for every sample.

`python -m benchmarks.training --data DIR --tokenizer DIR --output-dir DIR`; the tokenizer is a folder that `gram
translate` made. An optimizer step holds whole users, drawn at random until there are enough samples. Of the same
samples and weights, in turns in one process:

- *fast*: all micro-batches of the step as training runs them, gradients accumulated;
- *padded*: every slot of every sample through T5's own encoder, up to the longest history and prompt of the step. It
  needs too much memory to run the step at once, so evenly spaced micro-batches are timed and scaled to all samples.

The optimizer, the same for both, is timed apart and added. The peak is that of a fresh process each, with at most eight
samples in a micro-batch of either form. Both forms keep freed memory, as training does.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers.modeling_outputs import BaseModelOutput

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer
from gram.common.processes import keep_freed_memory
from gram.data import Interactions, read_folder, training_part
from gram.training.steps import TrainingSteps

from .measuring import Machine, in_fresh_process, markdown, medians, peak_gb, write_json

PREFIXES_PER_GROUP = 16
PEAK_SAMPLES = 8  # of a micro-batch, where peak memory is compared


class Step:
    """One optimizer step of whole users, as the fast form and as padded samples.

    Args:
        tokenizer: writes the prompts.
        interactions: the users of the step.
        micro_batch_tokens, prefixes_per_group, micro_batch_size: of the fast form; see [`TrainingSteps`].
    """

    def __init__(
        self,
        tokenizer: GramTokenizer,
        interactions: Interactions,
        micro_batch_tokens: int,
        prefixes_per_group: int = PREFIXES_PER_GROUP,
        micro_batch_size: int | None = None,
    ):
        self.tokenizer = tokenizer
        everything = int(interactions.lengths.sum())
        steps = TrainingSteps(
            interactions,
            tokenizer,
            everything,
            micro_batch_size or everything,
            prefixes_per_group,
            seed=0,
            epoch=0,
            micro_batch_tokens=micro_batch_tokens,
        )
        ((self.micro_batches, self.num_tokens),) = [steps[index] for index in range(len(steps))]
        self.num_users = len(interactions)
        sequences = [interactions[user] for user in range(self.num_users)]
        self.samples = [
            (sequence[:place], sequence[place]) for sequence in sequences for place in range(1, len(sequence))
        ]

    def padded(self, size: int, count: int) -> list[dict[str, torch.Tensor]]:
        """Evenly spaced micro-batches of `size` samples, padded as the batch of all samples is."""
        slots = 1 + min(max(len(past) for past, _ in self.samples), self.tokenizer.max_history)
        length = max(batch["history"]["input_ids"].shape[1] for batch in self.micro_batches)
        length = max(length, *(batch["input_ids"].shape[1] for batch in self.micro_batches))
        places = np.linspace(0, len(self.samples) - 1, size * count).astype(int).reshape(count, size, order="F")
        return [self._pad([self.samples[place] for place in row], slots, length) for row in places]

    def _pad(self, samples, slots: int, length: int) -> dict[str, torch.Tensor]:
        histories = [[self.tokenizer.item_ids[row] for row in past] for past, _ in samples]
        given = self.tokenizer(histories=histories, return_tensors="pt")
        shape = (len(samples), slots, length)
        inputs = {
            "input_ids": torch.full(shape, self.tokenizer.pad_token_id),
            "attention_mask": torch.zeros(shape).long(),
        }
        for name, values in inputs.items():
            values[:, : given[name].shape[1], : given[name].shape[2]] = given[name]
        targets = [torch.tensor(self.tokenizer.sequences[target]) for _, target in samples]
        return {**inputs, "labels": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)}


def draw_step(
    data: Path, tokenizer: GramTokenizer, samples: int, micro_batch_tokens: int, seed: int, **options
) -> Step:
    """Whole users, drawn at random from the training part until they have `samples` samples."""
    training = training_part(read_folder(data))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(training.lengths > 1))
    count = int(np.searchsorted((training.lengths[order] - 1).cumsum(), samples)) + 1
    return Step(tokenizer, users(training, order[:count]), micro_batch_tokens, **options)


def users(interactions: Interactions, rows: np.ndarray) -> Interactions:
    return Interactions.from_sequences([str(row) for row in rows], [interactions[row].tolist() for row in rows])


def fast(model: GramForConditionalGeneration, micro_batches: list[dict], num_tokens: int, bf16: bool = False) -> None:
    for micro_batch in send_to_device(micro_batches, model.device):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss = model(**micro_batch, num_items_in_batch=num_tokens).loss
        loss.backward()


def padded(model: GramForConditionalGeneration, micro_batches: list[dict], num_tokens: int, bf16: bool = False) -> None:
    """As a batch of padded passages is trained without any of this package's savings."""
    for batch in send_to_device(micro_batches, model.device):
        mask = batch["attention_mask"]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            passages = batch["input_ids"].flatten(0, 1), mask.flatten(0, 1)
            states = model.encoder(input_ids=passages[0], attention_mask=passages[1]).last_hidden_state
            states = states.unflatten(0, mask.shape[:2]) + model.position_embedding.weight[: mask.shape[1], None]
            encoded = BaseModelOutput(states.flatten(1, 2))
            inputs = {"attention_mask": mask, "labels": batch["labels"], "num_items_in_batch": num_tokens}
            loss = model(encoder_outputs=encoded, **inputs).loss
        loss.backward()


def new_model(dropout: float) -> GramForConditionalGeneration:
    torch.manual_seed(0)
    return GramForConditionalGeneration(GramConfig(dropout_rate=dropout)).train()


def work(model: GramForConditionalGeneration, micro_batches: list[dict], num_tokens: int) -> tuple[float, float]:
    """Operations of the fast form's products with weights, and bytes of the optimizer's reads and writes."""
    prompts = sum(int(b["attention_mask"].sum() + b["history"]["attention_mask"].sum()) for b in micro_batches)
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if "block" in name and weight.dim() == 2}
    keys = sum(
        size for name, size in sizes.items() if name.endswith(("EncDecAttention.k.weight", "EncDecAttention.v.weight"))
    )
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder"))
    decoder = sum(sizes.values()) - encoder - keys + model.lm_head.weight.numel()
    weights = sum(weight.numel() for weight in model.parameters())
    # A product forward and two backward, two operations each; AdamW reads four arrays and writes three.
    return 6 * (prompts * (encoder + keys) + num_tokens * decoder), 7 * 4 * weights


def peak_of(form: str, tokenizer: str, data: str, given: argparse.Namespace, path: str) -> None:
    """Run one step of a form, and leave this process's peak memory in a file."""
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    in_flight = {"prefixes_per_group": PEAK_SAMPLES, "micro_batch_size": PEAK_SAMPLES}
    tokenizer = GramTokenizer.from_pretrained(tokenizer)
    step = draw_step(Path(data), tokenizer, given.samples, given.micro_batch_tokens, given.seed, **in_flight)
    model = new_model(given.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if form == "fast":
        fast(model, step.micro_batches, step.num_tokens)
    else:
        padded(model, step.padded(PEAK_SAMPLES, 1), step.num_tokens)
    optimizer.step()
    Path(path).write_text(str(peak_gb()))


def measure(given: argparse.Namespace) -> dict:
    tokenizer = GramTokenizer.from_pretrained(given.tokenizer)
    step = draw_step(given.data, tokenizer, given.samples, given.micro_batch_tokens, given.seed)
    model, few = new_model(given.dropout), step.padded(given.padded_size, given.padded_count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scale = len(step.samples) / (given.padded_size * given.padded_count)
    runs = {"fast": partial(fast, model, step.micro_batches, step.num_tokens), "optimizer": optimizer.step}
    runs["padded"] = partial(padded, model, few, step.num_tokens)
    if given.bf16:
        runs["fast, bf16"] = partial(fast, model, step.micro_batches, step.num_tokens, bf16=True)
        runs["padded, bf16"] = partial(padded, model, few, step.num_tokens, bf16=True)
    seconds = medians(runs, given.repeats)
    seconds = {name: taken * scale if name.startswith("padded") else taken for name, taken in seconds.items()}
    optimizing = seconds.pop("optimizer")
    return {
        "samples": len(step.samples),
        "users": step.num_users,
        "slots": few[0]["input_ids"].shape[1],
        "seconds": {name: taken + optimizing for name, taken in seconds.items()},
        "floor": Machine.measured().floor(*work(model, step.micro_batches, step.num_tokens)),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, leave JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--tokenizer", required=True, help="folder that `gram translate` made of it")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for training.json")
    parser.add_argument("--samples", type=int, default=128, help="samples of an optimizer step (%(default)s)")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096, help="of the fast form (%(default)s)")
    parser.add_argument("--padded-size", type=int, default=2, help="samples of a padded micro-batch (%(default)s)")
    parser.add_argument("--padded-count", type=int, default=3, help="padded micro-batches that are timed (%(default)s)")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (%(default)s)")
    parser.add_argument("--bf16", action="store_true", help="both forms under bf16 autocast too")
    parser.add_argument("--seed", type=int, default=0, help="of the users and the weights (%(default)s)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    given.output_dir.mkdir(parents=True, exist_ok=True)

    peaks = {}
    for form in ("fast", "padded"):
        path = given.output_dir / f"{form}.peak"
        in_fresh_process(peak_of, form, given.tokenizer, str(given.data), given, str(path))
        peaks[form] = float(path.read_text())
        path.unlink()
    report = {
        "settings": {**vars(given), "data": given.data.name, "output_dir": None},
        "peak_gb": peaks,
        **measure(given),
    }
    del report["settings"]["output_dir"], report["settings"]["tokenizer"]
    write_json(report, given.output_dir / "training.json")

    print(f"{report['samples']} samples of {report['users']} users; padded: {report['slots']} passages a sample\n")
    rows = []
    for name, taken in report["seconds"].items():
        peak = f"{peaks[name]:.2f}" if name in peaks else "-"
        against = report["seconds"][name.replace("fast", "padded")] / taken
        rows.append([name, f"{report['samples'] / taken:.2f}", f"{against:.1f}", peak])
    rows.append(["floor", f"{report['samples'] / report['floor']:.2f}", "", ""])
    print(markdown(["form", "samples a second", "times padded", "peak GB"], rows))


if __name__ == "__main__":
    main()

"""Seconds and peak memory per user of `generate` against stock beam search with `prefix_allowed_tokens_fn`.

`python -m benchmarks.generation --data DIR --tokenizer DIR --output-dir DIR`. Both search the same catalogue for the
same users with the same weights, T5-small's shape, drawn at random, and must return the same items and scores. Stock
search encodes all passages of a padded batch; ours encodes the user prompts and looks the items up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie
from gram.data import evaluation_histories, read_folder
from gram.item_cache_gram import ItemCache

from .catalogues import prefix_table
from .measuring import GB, Machine, forget_peak, in_fresh_process, markdown, medians, peak_gb, write_json

BEAMS, NUM_ITEMS = 50, 10


class Bench:
    """A model of random weights for a real catalogue, and real histories to recommend for."""

    def __init__(self, data: Path, tokenizer: Path, seed: int = 0, **shape):
        self.tokenizer = GramTokenizer.from_pretrained(tokenizer)
        torch.manual_seed(seed)
        self.model = GramForConditionalGeneration(GramConfig(max_history=self.tokenizer.max_history, **shape)).eval()
        self.model.set_item_trie(ItemTrie.from_sequences(self.tokenizer.sequences))
        self.histories, _ = evaluation_histories(read_folder(data), "test")
        self.cache = None

    def users(self, count: int, length: int | None = None, seed: int = 0) -> list[list[str]]:
        """Item ids of random users' histories, of this length where one is given (longer ones are cut)."""
        lengths = self.histories.lengths
        fit = np.flatnonzero(lengths >= (length or 1))
        exact = np.flatnonzero(lengths == length)
        chosen = np.random.default_rng(seed).permutation(exact if len(exact) >= count else fit)[:count]
        ids = self.tokenizer.item_ids
        return [[ids[row] for row in self.histories[user][-(length or 20) :]] for user in np.resize(chosen, count)]

    def encode_items(self, histories: Sequence[Sequence[str]]) -> None:
        """Look-ups of these histories' items need no encoder any more."""
        rows = {self.tokenizer.item_rows[item] for history in histories for item in history}
        self.cache = ItemCache.in_memory(self.model, self.tokenizer, sorted(rows))

    def ours(self, histories: Sequence[Sequence[str]], beams: int = BEAMS, **options) -> Callable:
        """A call of `generate`, from item ids to items."""

        def run():
            inputs = self.tokenizer(histories=histories, item_prompts=False, return_tensors="pt").to(self.model.device)
            number = {"num_beams": beams, "num_return_sequences": min(beams, NUM_ITEMS)}
            return self.model.generate(
                **inputs, item_cache=self.cache, return_dict_in_generate=True, **number, **options
            )

        return run

    def stock(self, histories: Sequence[Sequence[str]]) -> Callable:
        """Stock beam search of a T5 with the same weights, from item ids to items."""
        fields = {name: getattr(self.model.config, name) for name in T5Config().to_dict() if name in _SHAPE}
        t5 = T5ForConditionalGeneration(T5Config(**fields, decoder_start_token_id=0)).eval()
        t5.load_state_dict(self.model.state_dict(), strict=False)
        choices = prefix_table(self.tokenizer.sequences)
        end = self.tokenizer.eos_token_id

        def run():
            inputs = self.tokenizer(histories=histories, return_tensors="pt")
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            with torch.no_grad():
                states = t5.encoder(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
                places = self.model.position_embedding.weight[: ids.shape[1], None]
                states = (states.unflatten(0, ids.shape[:2]) + places).flatten(1, 2)
            return t5.generate(
                encoder_outputs=BaseModelOutput(states),
                attention_mask=mask.flatten(1),
                prefix_allowed_tokens_fn=lambda _, prefix: choices.get(tuple(prefix[1:].tolist()), [end]),
                num_beams=BEAMS,
                num_return_sequences=NUM_ITEMS,
                max_new_tokens=self.model.item_trie.depth,
                return_dict_in_generate=True,
                output_scores=True,
            )

        return run

    def work(self, histories: Sequence[Sequence[str]], beams: int = BEAMS) -> tuple[float, float]:
        """Operations and bytes that cannot be avoided for these users, with the items' encodings given."""
        config, tokenizer = self.model.config, self.tokenizer
        inner = config.num_heads * config.d_kv
        encoder_layer = 4 * config.d_model * inner + 2 * config.d_model * config.d_ff
        decoder_layer = encoder_layer + 2 * config.d_model * inner
        layers, head = config.num_decoder_layers, config.d_model * config.vocab_size
        mean_length = float(np.mean([len(sequence) for sequence in tokenizer.sequences]))
        appended = 1 + beams * (mean_length - 1)
        flops = passage_bytes = 0.0
        for history in histories:
            rows = tokenizer.history_rows(history)[: -tokenizer.max_history - 1 : -1]
            prompt = len(tokenizer.user_prompt(rows))
            attended = prompt + sum(len(tokenizer.item_prompts[row]) for row in rows)
            flops += 2 * prompt * encoder_layer * config.num_layers  # user prompt
            flops += 2 * attended * 2 * config.d_model * inner * layers  # keys and values
            flops += 2 * appended * (decoder_layer * layers + head + 2 * attended * inner * layers)
            passage_bytes += 4 * attended * (config.d_model + 2 * inner * layers * mean_length)
        weights = 4 * (decoder_layer * layers + head) * mean_length + 4 * encoder_layer * config.num_layers
        return flops, weights + passage_bytes


_SHAPE = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")


def against_stock(bench: Bench, machine: Machine, batch: int, length: int, repeats: int) -> dict:
    """Seconds per user of each form for one batch of users with so many history items."""
    histories = bench.users(batch, length)
    bench.encode_items(histories)
    runs = {"stock": bench.stock(histories), "ours": bench.ours(histories)}
    runs["ours, trie scores"] = bench.ours(histories, score_mode="trie")
    seconds = {name: taken / batch for name, taken in medians(runs, repeats).items()}
    return {
        "batch": batch,
        "history": length,
        "seconds": seconds,
        "floor": machine.floor(*bench.work(histories)) / batch,
        "times_faster": {name: seconds["stock"] / taken for name, taken in seconds.items() if name != "stock"},
        **agreement(runs["stock"](), runs["ours"]()),
    }


def agreement(stock, ours) -> dict:
    """Whether two outputs hold the same items for every user, and how far their scores are apart."""
    length = max(stock.sequences.shape[1], ours.sequences.shape[1])
    left, right = (
        torch.nn.functional.pad(output.sequences, (0, length - output.sequences.shape[1])).tolist()
        for output in (stock, ours)
    )
    ids = [[[token for token in row if token > 1] for row in rows] for rows in (left, right)]
    return {
        "same_items": ids[0] == ids[1],
        "score_difference": (stock.sequences_scores - ours.sequences_scores).abs().max().item(),
    }


@torch.no_grad()
def plain_scores(bench: Bench, history: Sequence[str], rows: torch.Tensor) -> torch.Tensor:
    """Scores (K,) of catalogue rows (K,) for one user, by the plain `forward` on padded passages."""
    inputs = bench.tokenizer(histories=[history], return_tensors="pt").to(bench.model.device)
    states = bench.model.encode(**inputs).last_hidden_state.expand(len(rows), -1, -1)
    mask = inputs["attention_mask"].expand(len(rows), -1, -1)
    targets = [torch.tensor(bench.tokenizer.sequences[row]) for row in rows.tolist()]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100).to(states.device)
    encoded = BaseModelOutput(states)
    logits = bench.model(encoder_outputs=encoded, attention_mask=mask, labels=labels).logits.float()
    picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels < 0, 0)
    return picked.sum(dim=1) / (labels >= 0).sum(dim=1)


def measure_memory(data: Path, tokenizer: Path, form: str, batch: int, length: int, output: Path) -> None:
    """Peak memory of one call over what was held before it, left in a file."""
    bench = Bench(data, tokenizer)
    histories = bench.users(batch, length)
    bench.encode_items(histories)
    run = getattr(bench, form)(histories)
    forget_peak()
    before = peak_gb()
    run()
    output.write_text(json.dumps(peak_gb() - before), encoding="utf-8")


def memory(data: Path, tokenizer: Path, batch: int, length: int) -> dict[str, float]:
    """Peak gigabytes per user of each form, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file, found = Path(folder) / "peak.json", {}
        for form in ("stock", "ours"):
            in_fresh_process(measure_memory, data, tokenizer, form, batch, length, file)
            found[form] = json.loads(file.read_text(encoding="utf-8")) / batch
    return found


def as_table(rows: Sequence[dict]) -> str:
    """Markdown: a row per batch size."""
    head = ["batch", "history", "stock s/user", "ours s/user", "times faster", "trie scores s/user", "times faster"]
    head += ["floor s/user", "stock GB/user", "ours GB/user", "times less", "same items", "scores differ by"]
    lines = []
    for row in rows:
        seconds, faster, peak = row["seconds"], row["times_faster"], row.get("peak_gb")
        lines.append(
            [
                *(str(row["batch"]), str(row["history"]), f"{seconds['stock']:.2f}", f"{seconds['ours']:.3f}"),
                *(f"{faster['ours']:.1f}", f"{seconds['ours, trie scores']:.3f}", f"{faster['ours, trie scores']:.1f}"),
                f"{row['floor']:.3f}",
                *(
                    [f"{peak['stock']:.2f}", f"{peak['ours']:.3f}", f"{peak['stock'] / peak['ours']:.0f}"]
                    if peak
                    else "---"
                ),
                *("yes" if row["same_items"] else "no", f"{row['score_difference']:.1e}"),
            ]
        )
    return markdown(head, lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder that `gram translate` made of these data")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for generation.json")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8], help="users in one search (1 8)")
    parser.add_argument("--history", type=int, default=8, help="items in each history (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts (%(default)s)")
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)

    machine, bench = Machine.measured(), Bench(given.data, given.tokenizer)
    rows = []
    for batch in given.batches:
        rows.append(against_stock(bench, machine, batch, given.history, given.repeats))
        rows[-1]["peak_gb"] = memory(given.data, given.tokenizer, batch, given.history)
    report = {"threads": torch.get_num_threads(), "machine": vars(machine), "against_stock": rows}
    print(f"{len(bench.tokenizer.item_ids):,} items, {BEAMS} beams, {torch.get_num_threads()} threads, ", end="")
    print(f"{machine.flops / GB:.0f} GFLOP/s, {machine.bytes / GB:.0f} GB/s\n\n{as_table(rows)}")
    write_json(report, given.output_dir / "generation.json")


if __name__ == "__main__":
    main()

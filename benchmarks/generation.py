"""Time per user of `generate` against stock beam search with `prefix_allowed_tokens_fn`, in one process.

Both search the same random lexical IDs from the same encoder states, with the same random T5-small-shaped weights, and
must return the same items with the same scores: `python -m benchmarks.generation`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from gram import GramConfig, GramForConditionalGeneration, ItemTrie

from .catalogues import LENGTH, prefix_table, random_ids


def stock(model: GramForConditionalGeneration, ids: np.ndarray) -> Callable:
    """Stock beam search of a T5 with the same weights."""
    fields = {name: getattr(model.config, name) for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers")}
    t5 = T5ForConditionalGeneration(
        T5Config(**fields, num_heads=model.config.num_heads, decoder_start_token_id=0)
    ).eval()
    t5.load_state_dict(model.state_dict(), strict=False)
    choices = prefix_table(ids)

    def search(states, mask, num_beams):
        return t5.generate(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=mask.flatten(1),
            prefix_allowed_tokens_fn=lambda _, prefix: choices.get(tuple(prefix[1:].tolist()), [1]),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=LENGTH + 1,
            return_dict_in_generate=True,
            output_scores=True,
        )

    return search


def timed(run: Callable, repeats: int) -> float:
    """Median seconds of `run`, after one that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def main() -> None:
    """Measure, compare and print a row per history length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000, help="items of the catalogue (%(default)s)")
    parser.add_argument("--beams", type=int, default=50, help="beams (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts (%(default)s)")
    parser.add_argument("--histories", type=int, nargs="+", default=[1, 5, 20], help="history lengths (1 5 20)")
    given = parser.parse_args()

    torch.manual_seed(0)
    model = GramForConditionalGeneration(GramConfig()).eval()
    ids = random_ids(given.items, model.config.vocab_size, seed=0)
    model.set_item_trie(ItemTrie.from_sequences(ids))
    search = stock(model, ids)
    print(f"{given.items:,} items, {given.beams} beams, {torch.get_num_threads()} threads, encoder states given")
    print(f"{'history':>8}  {'stock s':>8}  {'GRAM s':>8}  {'ratio':>6}  same items and scores")
    for history in given.histories:
        input_ids = torch.randint(3, model.config.vocab_size, (1, 1 + history, 128))
        mask = torch.ones_like(input_ids)
        with torch.no_grad():
            encoded = model.encode(input_ids, mask)

        def ours(encoded=encoded, mask=mask):
            options = {"num_beams": given.beams, "num_return_sequences": given.beams, "return_dict_in_generate": True}
            return model.generate(encoder_outputs=encoded, attention_mask=mask, **options)

        def theirs(encoded=encoded, mask=mask):
            return search(encoded.last_hidden_state, mask, given.beams)

        seconds = timed(theirs, given.repeats), timed(ours, given.repeats)
        difference = (theirs().sequences_scores - ours().sequences_scores).abs().max().item()
        same = "yes" if difference < 1e-4 else f"no, scores differ by up to {difference:.2g}"
        print(f"{history:>8}  {seconds[0]:>8.3f}  {seconds[1]:>8.3f}  {seconds[0] / seconds[1]:>6.1f}  {same}")


if __name__ == "__main__":
    main()

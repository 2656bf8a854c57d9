"""How far results move with the order of what happened in the same second: the quickstart, over seeds of that order.

`python -m benchmarks.ties --output-dir DIR --seeds 3`: each seed mixes the ties of MovieLens-100k another way, so it
has training, validation and test items of its own, and every model is fitted anew. Run again, finished seeds are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gram.commands.command import at_least_one, quiet
from gram.common.command_line import exit_code_of
from gram.reproduction import quickstart

from .measuring import markdown, write_json

METRIC = "ndcg@10"


def measure(output_dir: Path, num_seeds: int, recipe: Path) -> dict[str, dict[str, list[float]]]:
    """NDCG@10 of every model and protocol, one value per seed."""
    values: dict[str, dict[str, list[float]]] = {}
    for seed in range(num_seeds):
        folder = output_dir / f"ties-{seed}"
        print(f"\nties of seed {seed}", flush=True)
        quickstart.run(folder, say=print, recipe=recipe, ties_seed=seed)
        results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        for model, protocols in results["models"].items():
            for protocol, metrics in protocols.items():
                values.setdefault(model, {}).setdefault(protocol, []).append(metrics[METRIC]["mean"])
    return values


def as_table(values: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row per model; the mean over seeds, and their standard deviation where there are several."""
    protocols = list(next(iter(values.values())))
    head = ["NDCG@10", *(protocol.replace("_", " ") for protocol in protocols)]
    return markdown(head, [[model, *(_spread(found[name]) for name in protocols)] for model, found in values.items()])


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the quickstart for every seed, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the models and ties.json")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="of the order among ties (%(default)s)")
    what = "YAML file with the settings of translation and training (the quickstart's)"
    parser.add_argument("--config", type=Path, default=quickstart.RECIPE, metavar="FILE", help=what)
    given = parser.parse_args(argv)
    quiet()
    values = measure(given.output_dir, given.seeds, given.config)
    print(f"\n{as_table(values)}")
    write_json({METRIC: values}, given.output_dir / "ties.json")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.ties"))

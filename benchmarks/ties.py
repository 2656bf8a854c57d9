"""How far results move with the order of what happened in the same second: the quickstart, over seeds of that order.

`python -m benchmarks.ties --output-dir DIR --seeds 3`: each seed mixes the ties of MovieLens-100k another way, so it
has training, validation and test items of its own, and every model is fitted anew. Run again, finished seeds are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gram.commands.command import at_least_one, quiet
from gram.common.command_line import exit_code_of
from gram.evaluation.rankings import interval, ndcg
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


def leads_of_gram(output_dir: Path, num_seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """By model and protocol, how far GRAM is above in NDCG@10: the interval over users, each with the mean of seeds."""
    gains: dict[str, dict[str, list[np.ndarray]]] = {}
    for seed in range(num_seeds):
        ranks = pq.read_table(output_dir / f"ties-{seed}" / "evaluation.parquet").sort_by("user_id")
        for model, protocol in product(*(ranks[name].unique().to_pylist() for name in ("model", "protocol"))):
            of = ranks.filter((pc.field("model") == model) & (pc.field("protocol") == protocol))["rank"]
            gains.setdefault(model, {}).setdefault(protocol, []).append(ndcg(of.fill_null(0).to_numpy(), 10))
    own = gains.pop("GRAM")
    return {
        model: {name: interval(np.mean(own[name], axis=0) - np.mean(found, axis=0)) for name, found in of.items()}
        for model, of in gains.items()
    }


def as_table(values: dict[str, dict[str, list[float]]], leads: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row per model, of each protocol the mean and standard deviation over seeds, and GRAM's lead."""
    protocols, rows = list(next(iter(values.values()))), []
    for model, of in values.items():
        rows.append([model])
        for name in protocols:
            lead = leads.get(model, {}).get(name)
            rows[-1] += [_spread(of[name]), "{mean:+.4f} ({low:+.4f} to {high:+.4f})".format_map(lead) if lead else ""]
    head = ["NDCG@10", *(part for name in protocols for part in (name.replace("_", " "), "GRAM's lead"))]
    return markdown(head, rows)


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
    leads = leads_of_gram(given.output_dir, given.seeds)
    print(f"\n{as_table(values, leads)}")
    write_json({METRIC: values, "leads": leads}, given.output_dir / "ties.json")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.ties"))

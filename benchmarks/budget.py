"""What a larger model or a longer training is worth: quality against epochs and size, to choose from.

`python -m benchmarks.budget NAME --data DIR --output-dir DIR --sizes tiny mini --epochs 1 2 5`, NAME a recipe or a
YAML file of settings. Every point is a training of its own, for the learning rate falls to zero over its epochs: it is
that of the row GRAM of `gram reproduce`, in the folder SIZE-EPOCHS, and goes on where it was when it is run again.
Quality is NDCG@10 on the training's validation users, at the best epoch; no test item is looked at. The plot shows each
training's curve too.
"""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gram.commands.command import at_least_one, quiet
from gram.common.command_line import exit_code_of
from gram.common.settings import add_flags
from gram.reproduction import SIZES, Plan
from gram.reproduction.plan import GRAM, RECIPE_SIZE
from gram.reproduction.runs import train_gram
from gram.reproduction.stages import open_workspace
from gram.serving.loading import load_model
from gram.train_accelerate import FINISHED_FILE
from gram.training.facts import environment
from gram.training.settings import TrainingSettings
from gram.translation import TranslationSettings

from .measuring import markdown, pyplot, write_json

OWN = ("sizes", "epochs", "dataset", "data", "output_dir", "seeds", "fraction")


def measure(given: Namespace) -> list[dict]:
    """A row for each size and number of epochs; small and short ones first."""
    settings = {name: value for name, value in vars(given).items() if name not in OWN}
    rows = []
    for size, epochs in [(size, epochs) for size in given.sizes for epochs in given.epochs]:
        plan = Plan(
            given.dataset,
            given.data,
            given.output_dir / f"{size}-{epochs}",
            rows=[GRAM],
            seeds=given.seeds,
            fraction=given.fraction,
            size=size,
            translations=given.output_dir / "translations",
            settings={**settings, "epochs": epochs},
        )
        print(f"\n{size}, {epochs} epochs", flush=True)
        work = open_workspace(plan)
        folders, facts = zip(*(train_gram(run, work) for run in plan.runs()), strict=True)
        model, _ = load_model(folders[0])
        rows.append(
            {
                "size": size,
                "epochs": epochs,
                "parameters": model.num_parameters(),
                "training_seconds": float(np.mean([one["seconds"]["training"] for one in facts])),
                "curves": [_curve(folder) for folder in folders],
                "validation": [one["validation"] for one in facts],
                "ndcg@10": float(np.mean([one["validation"]["ndcg@10"] for one in facts])),
                "device": environment(work.accelerator)["device"],
            }
        )
    return rows


def _curve(folder: Path) -> list[tuple[int, float]]:
    """Epoch and NDCG@10 of each validation."""
    progress = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))["progress"]
    return [(point["epoch"], point["ndcg@10"]) for point in progress["validations"]]


def as_table(rows: Sequence[dict]) -> str:
    """Markdown: a row per point."""
    head = ["size", "epochs", "parameters", "training, hours", "validation NDCG@10"]
    lines = [
        [
            *(row["size"], str(row["epochs"]), f"{row['parameters']:,}", f"{row['training_seconds'] / 3600:.2f}"),
            f"{row['ndcg@10']:.4f}",
        ]
        for row in rows
    ]
    return markdown(head, lines)


def plot(rows: Sequence[dict], path: Path) -> None:
    """Validation NDCG@10 of each size, against epochs, with the curves of the trainings, and against hours."""
    figure, axes = pyplot().subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for size in dict.fromkeys(row["size"] for row in rows):
        points = sorted((row for row in rows if row["size"] == size), key=lambda row: row["epochs"])
        quality = [row["ndcg@10"] for row in points]
        (line,) = axes[0].plot([row["epochs"] for row in points], quality, marker="o", markersize=4, label=size)
        axes[1].plot([row["training_seconds"] / 3600 for row in points], quality, marker="o", markersize=4, label=size)
        for curve in (curve for row in points for curve in row["curves"]):
            axes[0].plot(*zip(*curve, strict=True), color=line.get_color(), linewidth=0.8, alpha=0.6)
    axes[0].set(xlabel="epochs", ylabel="validation NDCG@10", xscale="log", ylim=(0, None))
    axes[0].set_xticks(sorted({row["epochs"] for row in rows}))
    axes[0].minorticks_off()
    axes[1].set(xlabel=f"hours of training, {rows[0]['device']}", xscale="log")
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.xaxis.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Train every point, print the table, and leave JSON and the plot in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "dataset", nargs="?", default="beauty", metavar="NAME", help="recipe or YAML file (%(default)s)"
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder for the runs, budget.json and budget.svg"
    )
    parser.add_argument("--sizes", nargs="+", choices=(*SIZES, RECIPE_SIZE), default=list(SIZES))
    parser.add_argument("--epochs", nargs="+", type=at_least_one, default=[1, 2, 5], help="(1 2 5)")
    parser.add_argument("--seeds", type=at_least_one, default=1, help="of every point (%(default)s)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the users (%(default)s)")
    add_flags(parser, TrainingSettings, TranslationSettings)
    given = parser.parse_args(argv)
    quiet()
    pyplot()  # to say now, not after hours, that it is missing
    rows = measure(given)
    print(f"\n{as_table(rows)}")
    write_json({"rows": rows}, given.output_dir / "budget.json")
    plot(rows, given.output_dir / "budget.svg")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "benchmarks.budget"))

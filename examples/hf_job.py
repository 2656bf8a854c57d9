# /// script
# requires-python = ">=3.10"
# dependencies = ["gram-recommender[data,plots]>=0.1"]  # not released: "gram-recommender[data,plots] @ git+https://..."
# ///
"""Train on data of the Hub and push the model, on one of its machines: `python examples/hf_job.py --help`.

hf jobs uv run --flavor a10g-small --timeout 6h --secrets HF_TOKEN examples/hf_job.py \
    --interactions NAME/log --items NAME/goods --text-columns title,brand --repo-id NAME/model --recipe cpu --budget 2h
"""

import argparse

from gram import cli
from gram.common.command_line import exit_code_of
from gram.train_accelerate import main as train


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="All other flags go to the training.", allow_abbrev=False
    )
    parser.add_argument("--interactions", required=True, metavar="NAME", help="a data set, NAME[:CONFIG[:SPLIT]]")
    parser.add_argument("--items", required=True, metavar="NAME", help="another one, or another part of it")
    parser.add_argument("--time-column", default="timestamp")
    parser.add_argument("--text-columns", default="title", help="of the items, title first, with commas")
    parser.add_argument("--recipe", default="cpu", help="name of a recipe, or a YAML file")
    parser.add_argument("--repo-id", required=True, help="[NAMESPACE/]NAME of the model on the Hub")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--folder", default="runs/job", help="of data and model, on the machine that trains")
    arguments, training = parser.parse_known_args()

    data, model = f"{arguments.folder}/data", f"{arguments.folder}/model"
    columns = ["--time-column", arguments.time_column, "--text-columns", arguments.text_columns]
    places = ["--interactions", arguments.interactions, "--items", arguments.items, "--output", data]
    private = ["--private"] if arguments.private else []

    gram("prepare", "--config", "prepare-hub", *places, *columns)
    train(["--config", arguments.recipe, "--data", data, "--output-dir", model, *training])
    gram("evaluate", model, "--data", data, "--output", f"{model}/evaluation.json")
    gram("card", model, "--repo-id", arguments.repo_id)
    gram("push", model, "--repo-id", arguments.repo_id, *private)


def gram(*arguments: str) -> None:
    if code := cli.main([*arguments]):
        raise SystemExit(code)


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main, "hf_job.py"))

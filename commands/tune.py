"""Choose the settings of item-kNN and SASRec on the validation items.

gram tune --data runs/quickstart/data --output runs/tuned
"""

import argparse
from pathlib import Path

from .command import add_data, quiet, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    what = "gets the folders item-knn and sasrec, each with tuning.json; run again, the command goes on where it was"
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help=what)
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="of the SASRecs (0)")


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..common.files import check_outputs, holds_json, locked
    from ..common.provenance import read_provenance
    from ..data import read_folder
    from ..evaluation.tuning import TUNING_FILE, format_trials, tune_item_knn, tune_sasrec
    from ..translation import SASREC_FILE

    data, output = read_folder(arguments.data), arguments.output
    best = output / "sasrec" / SASREC_FILE
    tables = [output / name / TUNING_FILE for name in ("item-knn", "sasrec")]
    own = dict.fromkeys(tables, lambda path: holds_json(path, "recommender", "trials"))
    check_outputs({**own, best: lambda path: read_provenance(path).get("artefact") == "sasrec"})
    with locked(output, inside=True):
        print("item-kNN, validation items\n" + format_trials(tune_item_knn(data, output / "item-knn")))
        print("SASRec, validation items\n" + format_trials(tune_sasrec(data, output / "sasrec", seed=arguments.seed)))
    print(f"the best SASRec: {best}")

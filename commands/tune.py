"""Choose the settings of item-kNN, the transition graph and SASRec on the validation items.

gram tune --data runs/quickstart/data --output runs/tuned
"""

import argparse
from pathlib import Path

from .command import add_data, quiet, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    what = "gets a folder for each, with tuning.json; run again, the command goes on where it was"
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help=what)
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="of the SASRecs (0)")


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..common.files import check_outputs, holds_json, locked
    from ..common.provenance import read_provenance
    from ..data import read_folder
    from ..evaluation.tuning import COUNTED_SETTINGS, TUNING_FILE, format_trials, tune_counted, tune_sasrec
    from ..translation import SASREC_FILE

    data, output = read_folder(arguments.data), arguments.output
    folders = {name: output / name.lower() for name in (*COUNTED_SETTINGS, "SASRec")}
    tables = [folder / TUNING_FILE for folder in folders.values()]
    best = folders["SASRec"] / SASREC_FILE
    own = dict.fromkeys(tables, lambda path: holds_json(path, "recommender", "trials"))
    check_outputs({**own, best: lambda path: read_provenance(path).get("artefact") == "sasrec"})
    with locked(output, inside=True):
        for name, folder in folders.items():
            is_sasrec = name == "SASRec"
            tuning = tune_sasrec(data, folder, seed=arguments.seed) if is_sasrec else tune_counted(name, data, folder)
            print(f"{name}, validation items\n{format_trials(tuning)}")
    print(f"the best SASRec: {best}")

"""Make a whole table of results: GRAM, its ablations, the baselines, each figure from a file.

gram reproduce beauty --data DIR --output-dir runs/beauty --seeds 3
gram reproduce beauty --data DIR --output-dir runs/quick --fraction 0.02 --size tiny --epochs 1 --rows gram sasrec
gram reproduce --from runs/beauty/results/gram-seed0.json --output-dir runs/again
"""

import argparse
from functools import partial
from pathlib import Path

from ..common.settings import add_flags
from .command import add_data, at_least_one, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..reproduction.plan import RECIPE_SIZE, ROWS, SIZES
    from ..training.settings import TrainingSettings
    from ..translation import TranslationSettings

    what = "beauty, toys, sports or yelp; for other data a YAML file of settings, such as a recipe"
    parser.add_argument("dataset", nargs="?", metavar="NAME", help=what)
    add_data(parser, required=False)
    what = "folder for runs and results; run again on it, finished stages are skipped"
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help=what)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"some of {', '.join(ROWS)} (all)")
    parser.add_argument("--seeds", type=at_least_one, default=1, metavar="N", help="seeds of every trained row (1)")
    what = "of the users, for a rehearsal, above 0 (1)"
    parser.add_argument("--fraction", type=float, default=1.0, metavar="F", help=what)
    what = f"of the model, from random weights: T5-efficient's tiny or mini, T5's small; {RECIPE_SIZE}: the shape or "
    what += "backbone that the recipe says (small)"
    parser.add_argument("--size", choices=(*SIZES, RECIPE_SIZE), default="small", help=what)
    what = "make one row again, from its settings in results/ROW-seedN.json, and compare; nothing else may be given"
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help=what + " but --data")
    add_flags(parser, TrainingSettings, TranslationSettings)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..reproduction.plan import Plan
    from ..reproduction.stages import reproduce, rerun
    from ..reproduction.tables import results_table

    say = partial(print, flush=True)
    settings = {name: value for name, value in vars(arguments).items() if name != "source"}
    if arguments.source is not None:
        if arguments.dataset is not None:
            raise ValueError("--from has all settings in its file; give no data set's name beside it")
        differences = rerun(arguments.source, arguments.output_dir, arguments.data, say=say)
        if differences:
            raise ValueError(f"{arguments.source}: this time other {', '.join(differences)}")
        print(f"the same as {arguments.source}, bit for bit")
        return
    for name, value in (("NAME, such as beauty,", arguments.dataset), ("--data", arguments.data)):
        if value is None:
            raise ValueError(f"{name} is required; see `gram reproduce --help`")
    own = {name: settings.pop(name) for name in ("dataset", "data", "output_dir", "rows", "seeds", "fraction", "size")}
    joined = reproduce(Plan(**own, settings=settings), say=say)
    print(f"\n{results_table(joined)}\n\nsaved to {arguments.output_dir}")

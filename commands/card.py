"""Write the model card, README.md, anew from the files of a model folder.

gram card runs/quickstart
gram card runs/beauty --data-name 'Amazon Beauty (2014)' --licence cc-by-nc-4.0 --language en
gram card runs/beauty --notes none   # flags are kept in MODEL/card.yaml; none takes one back
"""

import argparse
from pathlib import Path

from ..common.settings import add_flags
from .command import quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..hub.card_settings import CardSettings

    what = "model folder, with training.json, and evaluation.json and ablations.json if there are any"
    parser.add_argument("model", type=Path, metavar="MODEL", help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace a README.md written or changed by hand")
    add_flags(parser, CardSettings)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..hub.card_settings import CardSettings
    from ..hub.model_card import write_model_card

    settings = CardSettings.of(arguments.model, **vars(arguments))
    print(f"saved to {write_model_card(arguments.model, settings, arguments.overwrite)}")

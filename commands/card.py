"""`gram card`: writing the model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from .command import Command, quiet


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..common.settings import add_flags
    from ..hub import CardSettings

    what = "model folder, with training.json, and evaluation.json and ablations.json if there are any"
    parser.add_argument("model", type=Path, metavar="MODEL", help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace a README.md written or changed by hand")
    add_flags(parser, CardSettings)


def _run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..hub import CardSettings, write_model_card

    settings = CardSettings.of(arguments.model, **vars(arguments))
    print(f"saved to {write_model_card(arguments.model, settings, arguments.overwrite)}")


COMMAND = Command(
    "write the model card, README.md, anew from the files of a model folder",
    "runs/quickstart\n"
    "runs/beauty --data-name 'Amazon Beauty (2014)' --licence cc-by-nc-4.0 --language en\n"
    "runs/beauty --notes none   # flags are kept in MODEL/card.yaml; none takes one back",
    _add_arguments,
    _run,
)

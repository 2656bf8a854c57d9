"""Write a model as ONNX graphs and plain files, for runtimes without torch.

gram export runs/quickstart --format onnx --output runs/onnx
"""

import argparse
from pathlib import Path

from .command import quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="of the graphs (onnx)")
    what = "a folder that is not there yet, or empty; docs/export.md says what is in it"
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help=what)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    import logging

    from ..serving.export import export_onnx
    from ..serving.loading import load_model

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    files = export_onnx(*load_model(arguments.model), arguments.output)
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {size / 1e6:,.1f} MB, saved to {arguments.output}")

"""Show a model in a demo Space: search, history, recommendations and why.

gram space runs/quickstart --run
gram space NAME/films --repo-id films-demo
gram space NAME/films --output space
"""

import argparse
from pathlib import Path

from .command import port, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name on the Hub; with --run a model folder, too")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, metavar="DIR", help="new folder for the Space, ready to push")
    what.add_argument("--repo-id", metavar="NAME", help="[NAMESPACE/]NAME on the Hub: push it there")
    what.add_argument("--run", action="store_true", help="run it here, until it is interrupted")
    parser.add_argument("--private", action="store_true", help="with --repo-id: make it a private Space")
    parser.add_argument("--port", type=port, metavar="N", help="with --run: where to listen (7860 or above)")


def run(arguments: argparse.Namespace) -> None:
    from ..hub.space_folder import push_space, run_space, write_space

    if arguments.run:
        run_space(arguments.model, arguments.port)
    if arguments.port:
        raise ValueError("--port belongs to --run")
    if arguments.private and not arguments.repo_id:
        raise ValueError("--private belongs to --repo-id")
    if Path(arguments.model).is_dir():
        raise ValueError(f"{arguments.model}: is a folder; a Space loads its model from the Hub: give its name there")
    if arguments.repo_id:
        quiet()
        print(push_space(arguments.model, arguments.repo_id, arguments.private))
        return
    folder = write_space(arguments.output, arguments.model)
    print(f"Space of {arguments.model} saved to {folder}")

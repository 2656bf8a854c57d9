"""Publish a model on the Hub: one commit, of what has changed.

gram push runs/quickstart --repo-id me/films --dry-run
gram push runs/quickstart --repo-id me/films --private --item-cache
"""

import argparse

from .command import quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="MODEL", help="model folder")
    what = "[NAMESPACE/]NAME on the Hub; made if it does not exist"
    parser.add_argument("--repo-id", required=True, metavar="NAME", help=what)
    parser.add_argument("--private", action="store_true", help="make it a private repository")
    what = "branch to push to, made from main if it does not exist (main)"
    parser.add_argument("--revision", metavar="BRANCH", help=what)
    what = "upload the encodings that `gram encode` left in MODEL/item_encodings too (no)"
    parser.add_argument("--item-cache", action=argparse.BooleanOptionalAction, default=False, help=what)
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded; change nothing")
    parser.add_argument("--message", default="Upload GRAM", metavar="TEXT", help="of the commit (Upload GRAM)")


def run(arguments: argparse.Namespace) -> None:
    quiet()
    import os

    from huggingface_hub.utils import enable_progress_bars

    from ..hub.push import push

    if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        enable_progress_bars()  # an upload may take long
    done = push(**vars(arguments))
    sent = [file for file in done.changes if file.state != "removed"]
    removed = len(done.changes) - len(sent)
    sizes = f"{len(sent)} of {len(done.files) - removed} files, {sum(file.size for file in sent):,} bytes"
    sizes += f"; {removed} removed" if removed else ""
    if arguments.dry_run:
        for file in done.files:
            print(f"{file.size:>15,}  {file.state:<9}  {file.path}")
        print(f"would upload {sizes}; nothing was changed on the Hub")
    elif done.commit_url is None:
        print("nothing has changed since the last push: no commit")
    else:
        print(f"uploaded {sizes}")
    print(done.url)

"""Print the table of a reproduction, or put it into a page.

gram table runs/beauty
gram table runs/beauty --output docs/benchmarks.md
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder that `gram reproduce` wrote")
    what = (
        "into a page, between the lines `<!-- gram table NAME -->`, NAME that of DIR, and `<!-- end of gram table -->`"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.md", help=what)


def run(arguments: argparse.Namespace) -> None:
    from ..reproduction.tables import read_results, results_table, write_table

    if arguments.output is None:
        print(results_table(read_results(arguments.folder)))
    else:
        write_table(arguments.folder, arguments.output)
        print(f"saved to {arguments.output}")

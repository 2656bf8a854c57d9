"""The console script `gram`.

Importing this module loads nothing heavy, so that `gram --help` answers at once: sub-commands import what they need.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from textwrap import indent

from .commands import COMMANDS
from .common.command_line import exit_code_of
from .common.openmp import wait_briefly

wait_briefly()  # nothing has loaded torch yet


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs):
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
        super().__init__(formatter_class=formatter, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """An id may begin with a dash: what follows a flag and is no flag is its value."""
        return super().parse_known_args(self._joined(args or []), namespace)

    def _joined(self, words: Sequence[str]) -> list[str]:
        joined: list[str] = []
        for word in words:
            action = self._option_string_actions.get(joined[-1]) if joined else None
            takes_value = action is not None and action.nargs is None
            if takes_value and re.match("-[^-]", word) and word not in self._option_string_actions:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def error(self, message: str):
        if message.endswith("expected one argument"):
            flag = message.split()[1].split("/")[0].rstrip(":")
            message += f" (one that begins with two dashes is written {flag}=--...)"
        raise ValueError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit code: 0, 2 after an error, 130 after an interrupt, 143 after a SIGTERM.

    What a user can put right, and an interrupt, is one line on the standard error output.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def run_command() -> None:
        arguments = _parser(argv).parse_args(argv)
        COMMANDS[argv[0]].run(arguments)

    return exit_code_of(run_command)


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gram",
        description="GRAM, a generative recommender: it spells out the next item, token by token.",
        epilog="`gram COMMAND --help` explains it. To train: `accelerate launch -m gram.train_accelerate --help`.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary, examples = command.__doc__.split("\n\n")
        in_list, epilog = summary[0].lower() + summary[1:].rstrip("."), "examples:\n" + indent(examples, "  ")
        sub = commands.add_parser(name, prog=f"gram {name}", help=in_list, description=summary, epilog=epilog)
        if argv[:1] == [name]:  # the flags of some commands take heavy imports to list
            command.add_arguments(sub)
    return parser


if __name__ == "__main__":  # for `accelerate launch -m gram.cli evaluate ...`
    sys.exit(main())

"""The console script `gram`.

Importing this module loads nothing heavy, so that `gram --help` answers at once: sub-commands import what they need.
"""

from __future__ import annotations

import argparse
import io
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .commands import COMMANDS

ERROR, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs):
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **kwargs)

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
        arguments.run(arguments)

    return exit_code_of(run_command)


def exit_code_of(program: Callable[[], None], name: str = "gram") -> int:
    """Run a program; what a user can put right, and an interrupt, becomes one line on the standard error output."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a title may hold what the terminal cannot show
    try:
        with _terminable():
            program()
            sys.stdout.flush()  # here a full disk is one line
    except KeyboardInterrupt as error:
        code = TERMINATED if isinstance(error, _Terminated) else INTERRUPTED
        return _fail(name, "interrupted; run the same command again to go on", code)
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError

        if not isinstance(error, (ValueError, OSError, MemoryError, StrictDataclassError)):
            raise
        return _fail(name, _in_one_line(error), ERROR)
    return 0


class _Terminated(KeyboardInterrupt):
    """A SIGTERM, which lets a program tidy up as an interrupt does."""


@contextmanager
def _terminable() -> Iterator[None]:
    def end(number, frame):
        raise _Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(name: str, message: str, code: int) -> int:
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
    print(f"{name}: error: {shown}", file=sys.stderr)
    return code


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gram",
        description="GRAM, a generative recommender: it spells out the next item, token by token.",
        epilog="`gram COMMAND --help` explains it. To train: `accelerate launch -m gram.train_accelerate --help`.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        prog = f"gram {name}"
        summary = command.summary[0].upper() + command.summary[1:] + "."
        epilog = "examples:\n" + "\n".join(f"  {prog} {example}" for example in command.examples.splitlines())
        sub = commands.add_parser(name, prog=prog, help=command.summary, description=summary, epilog=epilog)
        if argv[:1] == [name]:  # the flags of some commands take heavy imports to list
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":  # for `accelerate launch -m gram.cli evaluate ...`
    sys.exit(main())

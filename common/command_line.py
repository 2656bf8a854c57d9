"""How a program ends: errors that a user can put right, and interrupts, are one line and an exit code."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .extras import MissingPackageError

ERROR, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes


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

        if not isinstance(error, (ValueError, OSError, MemoryError, MissingPackageError, StrictDataclassError)):
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

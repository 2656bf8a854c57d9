"""Packages that only a part of GRAM needs, the extras of setup.cfg, and what is said where one of them is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingPackageError(ImportError):
    """A package is not installed; the message is one line that says how to install it."""


@contextmanager
def needs(extra: str, what: str = "this") -> Iterator[None]:
    """Whatever is imported inside belongs to an extra of setup.cfg.

    Args:
        extra: its name.
        what: the beginning of the message: what needs it.

    Raises:
        MissingPackageError: a package is not installed.

    Example:
        >>> with needs("train", "clustering"):
        ...     import a_package_that_nobody_has
        Traceback (most recent call last):
        gram.common.extras.MissingPackageError: clustering needs a_package_that_nobody_has, ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        command = f'pip install "gram-recommender[{extra}]"'
        raise MissingPackageError(f"{what} needs {package}, which is not installed: run {command}") from None

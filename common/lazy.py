"""Packages whose names are imported on first use, so that whoever wants one of them does not wait for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. `homes`: the module of each name, such as `".settings"`.

    Example:
        >>> __getattr__ = lazy("gram.common", {"duration": ".text"})
        >>> __getattr__("duration").__module__
        'gram.common.text'
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name], package), name)

    return get

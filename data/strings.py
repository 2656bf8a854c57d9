"""What may be an id in any file, what stands for a value that is missing, and characters that are whole."""

from __future__ import annotations

import re

MISSING = frozenset(
    ("", "nan", "NaN", "None", "null", "NULL", "<NA>", "NaT", r"\N")
)  # as pandas, JSON and SQL write it

_IN_NO_ID = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def id_fault(value: str | None) -> str:
    r"""Why this is no id, to be read behind "item id"; empty where it is one.

    Example:
        >>> id_fault("B00-1"), id_fault("nan"), id_fault("a\x1cb")
        ('', "'nan' stands for a missing value", "'a\\x1cb' holds a space or a control character")
    """
    if not value:
        return "is empty"
    if value in MISSING:
        return f"{value!r} stands for a missing value"
    return f"{value!r} holds a space or a control character" if _IN_NO_ID.search(value) else ""


def whole_characters(value: str) -> str:
    """The two halves of a character joined, and the replacement character for a half that stands alone."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value

"""Values of JSON and Python records as the strings of a batch."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from .lines import BadLineError


def json_record(line: str) -> dict[str, Any]:
    """A line of JSON.

    Raises:
        BadLineError: it is not, or not an object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise BadLineError("not a JSON object")
    return record


def scalar(record: Mapping[str, Any], key: str) -> str:
    """A value that must be there, a text or a number.

    Raises:
        BadLineError: it is missing, or neither.
    """
    value = record.get(key)
    if value is None:
        raise BadLineError(f"{key} is missing", "add it")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadLineError(f"{key} is {str(value)[:40]!r}, neither text nor a number")
    return value if isinstance(value, str) else repr(value)


def text(value: Any, separator: str = ", ") -> str:
    """A text, a number or a list of them as one text; nothing as an empty one.

    Raises:
        BadLineError: it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return separator.join(filter(None, (text(part, separator) for part in value)))
    raise BadLineError(f"{str(value)[:40]!r} is no text")


def unescaped(value: Any, separator: str = ", ") -> str:
    """The same, with HTML entities such as `&amp;` as the characters that they stand for."""
    return html.unescape(text(value, separator))

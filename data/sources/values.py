"""Values of JSON and Python records as the strings of a batch, and the one cleaning of texts."""

from __future__ import annotations

import ast
import html
import json
import re
import warnings
from collections.abc import Mapping
from numbers import Number
from typing import Any

from ..strings import MISSING, whole_characters
from .lines import BadLineError

_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_MOST_ESCAPES = 5  # `&amp;amp;` is common, more than three are not
_TAGS = (
    "a|abbr|article|aside|b|big|blockquote|body|br|button|caption|center|cite|code|col|dd|del|div|dl|dt|em|embed|"
    "figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|main|map|mark|meta|"
    "nav|noscript|object|ol|option|p|param|pre|s|section|select|small|span|strike|strong|sub|sup|table|tbody|td|"
    "textarea|tfoot|th|thead|title|tr|tt|u|ul|video|wbr"
)
_MARKUP = re.compile(
    rf"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)|</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_STRING = r"""u?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"[\[(](?:{_STRING}|None|null|nan|[ ,\[\]()])*[\])]")


def record(line: str) -> dict[str, Any]:
    """A line of JSON, or a Python dictionary written as one.

    Raises:
        BadLineError: it is neither, or has two values of one name.
    """
    try:
        found = json.loads(line, object_pairs_hook=_without_repeats)
    except BadLineError:
        raise
    except (ValueError, RecursionError) as error:
        found = _literal(line, error)
    if not isinstance(found, dict):
        raise BadLineError("not a JSON object")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise BadLineError(f"two values of the name {name}")
    return found


def _literal(line: str, no_json: Exception) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in descriptions
            return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        why = f"not JSON ({no_json}), and not a Python literal ({type(error).__name__})"
        raise BadLineError(why) from None


def scalar(record: Mapping[str, Any], key: str) -> str:
    """A value that must be there, a text or a number; a whole number without a fraction, however it is written.

    Raises:
        BadLineError: it is missing, neither, or a text with half an emoji.
    """
    value = record.get(key)
    if value is None:
        raise BadLineError(f"{key} is missing", "add it")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadLineError(f"{key} is {str(value)[:40]!r}, neither text nor a number")
    if isinstance(value, str):
        if whole_characters(value) != value:
            raise BadLineError(f"{key} is {value[:40]!r}, with half of a character of two")
        return value
    return _number(value)


def _number(value: Number) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def text(value: Any, separator: str = ", ") -> str:
    """A text, a number or a list of them as one clean text; nothing as an empty one.

    Raises:
        BadLineError: it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Number):
        return clean(_number(value))
    if isinstance(value, (list, tuple)):
        return separator.join(filter(None, (text(part, separator) for part in value)))
    raise BadLineError(f"{str(value)[:40]!r} is no text")


def clean(value: str) -> str:
    """The text that people would read: no mark-up, white space collapsed, empty where it stands for a missing value.

    HTML entities become their characters, a list that was written as a string its parts by commas, and half an emoji
    the replacement character.

    Example:
        >>> clean("<b>Salt &amp;amp; Pepper</b>"), clean("['A', 'B & C', None]"), clean("nan")
        ('Salt & Pepper', 'A, B & C', '')
    """
    value = _SPACE.sub(" ", whole_characters(value)).strip()
    parts = _parts(value)
    if parts is not None:
        return ", ".join(filter(None, map(clean, parts)))
    for _ in range(_MOST_ESCAPES if "&" in value else 0):
        value, before = _ENTITY.sub(lambda entity: html.unescape(entity[0]), value), value
        if value == before:
            break
    if "<" in value:
        value = _MARKUP.sub(" ", value)
    value = _SPACE.sub(" ", value).strip()
    return "" if value in MISSING else value


def _parts(value: str) -> list[str] | None:
    """The strings of a list as Python, JSON or numpy (without commas) writes it; None where the text is no list."""
    if value[:1] not in ("[", "(") or not _LIST.fullmatch(value):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [ast.literal_eval(part) for part in re.findall(_STRING, value)]
    except (ValueError, SyntaxError):
        return None

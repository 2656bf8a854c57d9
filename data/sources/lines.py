"""Text files read line by line into Arrow batches, what their values may be, and what to do with a wrong line."""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from numbers import Number
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

BATCH_ROWS = 65_536
NUM_SHOWN = 20  # bad lines that are listed
_LINES_PER_BAR_UPDATE = 4096
MISSING = frozenset(
    ("", "nan", "NaN", "None", "null", "NULL", "<NA>", "NaT", r"\N")
)  # as pandas, JSON and SQL write it
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
_IN_NO_ID = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class BadLineError(ValueError):
    """A line that cannot be read: why, and what to do about it."""

    def __init__(self, why: str, remedy: str = "correct the line"):
        super().__init__(why)
        self.remedy = remedy


@dataclass
class Reading:
    """How files are read, and which of their lines were not."""

    skip_bad_lines: bool = False  # go on after a bad line instead of raising
    progress: bool = False  # show a bar with the bytes read, on a terminal
    may_skip: bool = True  # whether the user can ask for it, and is told so
    num_bad: int = 0  # bad lines skipped
    shown: list[str] = field(default_factory=list)  # the first of them, `FILE:LINE: why`

    def refuse(self, source: str | Path, number: int, why: str, remedy: str = "correct the line") -> None:
        """Raise a `ValueError`, or, where bad lines are to be skipped, count the line and return."""
        if not self.skip_bad_lines:
            raise ValueError(
                f"{source}:{number}: {why}; {remedy}{', or pass --skip-bad-lines' if self.may_skip else ''}"
            )
        self.num_bad += 1
        if len(self.shown) < NUM_SHOWN:
            self.shown.append(whole_characters(f"{Path(source).name}:{number}: {why}"))

    def bar(self, path: Path) -> tqdm:
        """A bar over the bytes of a file, where there is a terminal to show it."""
        options = {"unit": "B", "unit_scale": True, "disable": None if self.progress else True}
        return tqdm(total=path.stat().st_size, desc=path.name, **options)


def existing(path: str | Path) -> Path:
    """The path of a file, which must be there."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give one that is there, by a path from the working directory or from the root"
        )
    return Path(path)


def filled_lines(
    path: str | Path, reading: Reading | None = None, encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number, without its end; by default none may be wrong."""
    for number, line in lines(path, reading or Reading(may_skip=False), encoding):
        if line.strip():
            yield number, line.rstrip("\r\n")


def lines(
    path: str | Path, reading: Reading, encoding: str = "utf-8", has_header: bool = False
) -> Iterator[tuple[int, str]]:
    """Every line with its number, from 1, and with its end; a file whose name ends in `.gz` is unpacked.

    Lines that cannot be read are refused, and where that skips them a header still raises.
    """
    path, number = existing(path), 0
    with path.open("rb") as packed, reading.bar(path) as bar:
        try:
            for number, raw in enumerate(gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed, start=1):
                if number % _LINES_PER_BAR_UPDATE == 0:
                    bar.update(packed.tell() - bar.n)
                try:
                    line = raw.decode("utf-8-sig" if (number, encoding) == (1, "utf-8") else encoding)
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{raw[error.start]:02x} at place {error.start + 1}"
                    if number == 1 and has_header:
                        raise ValueError(f"{path}:1: not UTF-8 ({byte}); save the file as UTF-8") from None
                    reading.refuse(path, number, f"not UTF-8 ({byte})", "save the file as UTF-8")
                    continue
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            why = "the gzip file ends early" if isinstance(error, EOFError) else f"not a sound gzip file ({error})"
            reading.refuse(path, number + 1, why, "get the file again")
        bar.update(path.stat().st_size - bar.n)


def records(
    path: str | Path,
    reading: Reading,
    columns: Sequence[str],
    parse: Callable[[str], Sequence[str | None]],
    encoding: str = "utf-8",
) -> Iterator[pa.RecordBatch]:
    """A row per line that is not blank: `line`, the number, and the columns, all strings, that `parse` takes from it.

    `parse` gets the line without its end, and may raise `BadLineError`.
    """

    def rows() -> Iterator[tuple]:
        for number, line in filled_lines(path, reading, encoding):
            try:
                yield number, *parse(line)
            except BadLineError as error:
                reading.refuse(path, number, str(error), error.remedy)
            except RecursionError:
                reading.refuse(path, number, "values lie too deep within others")

    return batches(rows(), columns)


def batches(rows: Iterable[tuple], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows `(number, value, ...)` as batches of the column `line` and string columns."""
    schema = pa.schema([("line", pa.int64()), *((name, pa.string()) for name in columns)])
    rows = iter(rows)
    while chunk := list(islice(rows, BATCH_ROWS)):
        arrays = [pa.array(values, kind) for values, kind in zip(zip(*chunk, strict=True), schema.types, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def record(line: str) -> dict[str, Any]:
    """A line of JSON, or a Python dictionary written as one; raises [`BadLineError`], as the readers of values do."""
    try:
        found = json.loads(line, object_pairs_hook=_without_repeats)
    except BadLineError:
        raise
    except (ValueError, RecursionError) as no_json:
        try:
            found = _literal(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise BadLineError(f"not JSON ({no_json}), and not a Python literal ({type(error).__name__})") from None
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


def _literal(written: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in descriptions
        return ast.literal_eval(written)


def scalar(record: Mapping[str, Any], key: str) -> str:
    """A value that must be there, a text or a number; a whole number without a fraction, however it is written."""
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
    """A text, a number or a list of them as one clean text; nothing as an empty one."""
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
        return [_literal(part) for part in re.findall(_STRING, value)]
    except (ValueError, SyntaxError):
        return None


def id_fault(value: str | None) -> str:
    r"""Why this is no id, to be read behind "item id"; empty where it is one."""
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

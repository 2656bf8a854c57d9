"""Text files read line by line into Arrow batches; what to do with a line that is wrong."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
from tqdm.auto import tqdm

from ..strings import whole_characters

BATCH_ROWS = 65_536
NUM_SHOWN = 20  # bad lines that are listed
_LINES_PER_BAR_UPDATE = 4096


class BadLineError(ValueError):
    """A line that cannot be read: why, and what to do about it."""

    def __init__(self, why: str, remedy: str = "correct the line"):
        super().__init__(why)
        self.remedy = remedy


@dataclass
class Reading:
    """How files are read, and which of their lines were not.

    Attributes:
        skip_bad_lines: go on after a bad line instead of raising.
        progress: show a bar with the bytes read, on a terminal.
        num_bad: bad lines skipped.
        shown: the first of them, `FILE:LINE: why`.
    """

    skip_bad_lines: bool = False
    progress: bool = False
    num_bad: int = 0
    shown: list[str] = field(default_factory=list)

    def refuse(self, source: str | Path, number: int, why: str, remedy: str = "correct the line") -> None:
        """Raise, or count the line and return.

        Raises:
            ValueError: bad lines are not to be skipped.
        """
        if not self.skip_bad_lines:
            raise ValueError(f"{source}:{number}: {why}; {remedy}, or pass --skip-bad-lines")
        self.num_bad += 1
        if len(self.shown) < NUM_SHOWN:
            self.shown.append(whole_characters(f"{Path(source).name}:{number}: {why}"))

    def bar(self, path: Path) -> tqdm:
        """A bar over the bytes of a file, where there is a terminal to show it."""
        options = {"unit": "B", "unit_scale": True, "disable": None if self.progress else True}
        return tqdm(total=path.stat().st_size, desc=path.name, **options)


def existing(path: str | Path) -> Path:
    """The path of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give one that is there")
    return Path(path)


def lines(
    path: str | Path, reading: Reading, encoding: str = "utf-8", has_header: bool = False
) -> Iterator[tuple[int, str]]:
    """Every line with its number, from 1, and with its end; a file whose name ends in `.gz` is unpacked.

    Raises:
        ValueError: a line cannot be read, and is not to be skipped, as the header never is.
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

    Args:
        path: the file.
        reading: decides on lines for which `parse` raises `BadLineError`.
        columns: names for what `parse` returns.
        parse: gets the line without its end.
        encoding: of the file.
    """

    def rows() -> Iterator[tuple]:
        for number, line in lines(path, reading, encoding):
            if not line.isspace():
                try:
                    yield number, *parse(line.rstrip("\r\n"))
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

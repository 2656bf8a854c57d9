"""Raw batches of any source become batches of the one schema; rows that cannot are named by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .lines import BadLineError, Reading, id_fault, text

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # how many make a second
_WORDS = {"s": "seconds", "ms": "milliseconds"}
_FIRST_YEAR, _LAST_YEAR = 1900, 2100
_EARLIEST, _LATEST = (datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() for year in (_FIRST_YEAR, _LAST_YEAR))
_LEAST_IN_SECONDS = 1e8  # of a number that can be taken for seconds: 1973; lower ones may count anything
_SECONDS_OF_A_YEAR = 31_556_952
_KINDS_OF_TEXT = (pa.float64(), *(pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")))
_ID_REMEDY = "give every id as text without spaces, or as a whole number"

Fault = tuple[np.ndarray, Callable[[int], tuple[str, str]]]  # (n,) bool; why and remedy of a row where it is True


def checked_interactions(
    raw: Iterator[pa.RecordBatch], source: str | Path, reading: Reading, unit: str = "s"
) -> Iterator[pa.RecordBatch]:
    """Rows of `user`, `item` (string), `time` (float64 seconds since 1970) and, where it is read, `rating` (float64).

    The raw batches have these columns, of any type, and `line`. `unit` is that of a time given as number, `s` or `ms`.
    """
    for batch in raw:
        columns = {name: ids_of(batch[name], name, source) for name in ("user", "item")}
        faults = [id_faults(ids.dictionary_encode(), name) for name, ids in columns.items()]
        times = seconds(batch["time"], unit, source)
        columns["time"] = pa.array(times)
        faults += _time_faults(batch["time"], times, unit)
        if "rating" in batch.schema.names:
            ratings = _numbers(batch["rating"])
            columns["rating"] = pa.array(ratings)
            faults.append((~np.isfinite(ratings), lambda row: ("rating is missing or no number", "unset min_rating")))
        sound = refuse(batch["line"], faults, source, reading)
        yield pa.RecordBatch.from_pydict(columns).filter(pa.array(sound))


def checked_items(raw: Iterator[pa.RecordBatch], source: str | Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Rows of `item_id` and text fields, all strings, the texts clean, nothing null.

    The raw batches have these columns, of any type, and `line`.
    """
    for batch in raw:
        lines, ids, fields = items_in(batch, source)
        columns = {"item_id": ids, **{name: _texts(values, name, source) for name, values in fields.items()}}
        sound = refuse(lines, [id_faults(ids.dictionary_encode(), "item")], source, reading)
        yield pa.RecordBatch.from_pydict(columns).filter(pa.array(sound))


def items_in(batch: pa.RecordBatch, source: str | Path) -> tuple[pa.Array, pa.Array, dict[str, pa.Array]]:
    """The lines of raw items, their ids as strings, and their fields, one of which may be called `line`, too."""
    lines, *columns = batch.columns
    fields = dict(zip(batch.schema.names[1:], columns, strict=True))
    return lines, ids_of(fields.pop("item_id"), "item", source), fields


def refuse(lines: pa.Array | pa.ChunkedArray, faults: list[Fault], source: str | Path, reading: Reading) -> np.ndarray:
    """(n,) bool: rows without a fault; of each other one the first of its faults is told, by its line."""
    wrong = np.logical_or.reduce([mask for mask, _ in faults])
    for row in np.flatnonzero(wrong).tolist():
        why, remedy = next(told(row) for mask, told in faults if mask[row])
        reading.refuse(source, lines[row].as_py(), why, remedy)
    return ~wrong


def ids_of(values: pa.Array | pa.ChunkedArray, name: str, source: str | Path) -> pa.Array | pa.ChunkedArray:
    """Ids as strings, null where there is none: a whole number is one, of whatever type."""
    kind = values.type
    try:
        if pa.types.is_floating(kind):  # whole numbers, some of them missing, as pandas keeps them
            exact = 2.0 ** (np.finfo(kind.to_pandas_dtype()).nmant + 1)
            values = values.cast(pa.float64())
            values = pc.if_else(pc.is_nan(values), None, values)
            if (pc.max(pc.abs(values)).as_py() or 0) >= exact:
                raise pa.ArrowInvalid("too long for it")
            values = values.cast(pa.int64())
        elif pa.types.is_decimal(kind):
            values = values.cast(pa.decimal256(76, 0))
        elif not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_null(kind)):
            raise pa.ArrowInvalid("no ids")
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        raise ValueError(f"{source}: the {name} ids are of type {kind}; {_ID_REMEDY}") from None


def id_faults(ids: pa.DictionaryArray, name: str) -> Fault:
    """Rows whose id cannot be one."""
    wrong = np.array([True, *(bool(id_fault(value)) for value in ids.dictionary.to_pylist())])
    codes = pc.fill_null(ids.indices, -1).to_numpy(zero_copy_only=False) + 1
    return wrong[codes], lambda row: (f"{name} id {id_fault(ids[row].as_py())}", _ID_REMEDY)


def _time_faults(values: pa.Array, times: np.ndarray, unit: str) -> list[Fault]:
    """No time, or one that, read from a number that counts `unit`, is of no year that a log is from.

    Numbers lower than any second of the last decades may count something else, and pass.
    """
    missing = "time is missing, or neither a number nor a date", "give YYYY-MM-DD or seconds"
    wrong = (times < _EARLIEST) | (times >= _LATEST)
    if unit == "ms":
        wrong |= (times * 1000 >= _LEAST_IN_SECONDS) & (times * 1000 < _LATEST)
    return [
        (~np.isfinite(times), lambda row: missing),
        (wrong, lambda row: _implausible(values[row].cast(pa.string()).as_py(), times[row], unit)),
    ]


def _implausible(value: str, time: float, unit: str) -> tuple[str, str]:
    year = f"in the year {1970 + time // _SECONDS_OF_A_YEAR:.0f}" if time >= _LATEST or time < _EARLIEST else "in 1970"
    remedy = f"give one from {_FIRST_YEAR} to {_LAST_YEAR - 1}"
    try:
        number = float(value)
    except ValueError:
        return f"time {value} is {year}", remedy
    other = "s" if unit == "ms" else "ms"
    if _LEAST_IN_SECONDS <= number / UNITS[other] < _LATEST:
        remedy = f"pass --time-unit {other} if all times count {_WORDS[other]}, or make them count the same"
    return f"time {value} is {year} if it counts {_WORDS[unit]}", remedy


def _numbers(values: pa.Array) -> np.ndarray:
    if pa.types.is_string(values.type):
        return _of_texts(values, "s", (pa.float64(),))
    try:
        return _floats(values)
    except pa.ArrowNotImplementedError:
        return np.full(len(values), np.nan)


def _texts(values: pa.Array, name: str, source: str | Path) -> pa.Array:
    try:
        return pa.array([text(value) for value in values.to_pylist()], pa.string())
    except BadLineError as error:
        raise ValueError(f"{source}: column {name}: {error}; name other text_columns") from None


def seconds(values: pa.Array | pa.ChunkedArray, unit: str, source: str | Path = "") -> np.ndarray:
    """(n,) float64, NaN where there is no time.

    The values are numbers that count `unit`, `s` or `ms`, dates, dates with times (UTC where they name no zone), or any
    of these as texts.
    """
    kind = values.type
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        return _floats(values.cast(pa.int64())) / UNITS[values.type.unit]
    if pa.types.is_string(kind):
        return _of_texts(values, unit, _KINDS_OF_TEXT)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)) and len(values):
        if values.null_count < len(values):
            raise ValueError(f"{source}: the times are of type {kind}; make them numbers or dates")
        return np.full(len(values), np.nan)
    numbers = _floats(values)
    if (pa.types.is_float16(kind) or pa.types.is_float32(kind)) and (np.abs(numbers) > 2**24).any():
        raise ValueError(
            f"{source}: the times are of type {kind}, which rounds them to minutes; make them double, or whole numbers"
        )
    return numbers / UNITS[unit]


def _of_texts(values: pa.Array | pa.ChunkedArray, unit: str, kinds: Sequence[pa.DataType]) -> np.ndarray:
    """Each text as the first of these kinds that it can be read as, NaN where it is none."""
    values = pc.utf8_trim_whitespace(values)
    for kind in kinds:
        try:
            return seconds(values.cast(kind), unit)
        except pa.ArrowInvalid:
            pass
    if len(values) < 2:
        return np.full(len(values), np.nan)
    half = len(values) // 2
    return np.concatenate([_of_texts(values[:half], unit, kinds), _of_texts(values[half:], unit, kinds)])


def _floats(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False)

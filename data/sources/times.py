"""Times of any kind as seconds since 1970, and whether they can be what they are said to be."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UNITS = {"s": 1, "ms": 1000}  # how many make a second
_WORDS = {"s": "seconds", "ms": "milliseconds"}
_FIRST_YEAR, _LAST_YEAR = 1900, 2100
_EARLIEST, _LATEST = (datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() for year in (_FIRST_YEAR, _LAST_YEAR))
_LEAST_IN_SECONDS = 1e8  # of a number that can be taken for seconds: 1973; lower ones may count anything
_SECONDS_OF_A_YEAR = 31_556_952
_PARTS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # of Arrow's timestamps
_KINDS_OF_TEXT = (pa.float64(), *(pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")))


def seconds(values: pa.Array, unit: str) -> np.ndarray:
    """(n,) float64, NaN where there is no time.

    Args:
        values: numbers that count `unit`, dates, dates with times (UTC where they name no zone), or any of these as
            texts.
        unit: of `UNITS`.

    Raises:
        TypeError: values of another type.
    """
    kind = values.type
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        return _floats(values.cast(pa.int64())) / _PARTS[values.type.unit]
    if pa.types.is_string(kind):
        return _of_texts(pc.utf8_trim_whitespace(values), unit)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)) and len(values):
        if values.null_count < len(values):
            raise TypeError(f"the times are of type {kind}; make them numbers or dates")
        return np.full(len(values), np.nan)
    numbers = _floats(values)
    if (pa.types.is_float16(kind) or pa.types.is_float32(kind)) and (np.abs(numbers) > 2**24).any():
        raise TypeError(
            f"the times are of type {kind}, which rounds them to minutes; make them double, or whole numbers"
        )
    return numbers / UNITS[unit]


def _of_texts(values: pa.Array, unit: str) -> np.ndarray:
    for kind in _KINDS_OF_TEXT:
        try:
            return seconds(values.cast(kind), unit)
        except pa.ArrowInvalid:
            pass
    if len(values) < 2:
        return np.full(len(values), np.nan)
    half = len(values) // 2
    return np.concatenate([_of_texts(values[:half], unit), _of_texts(values[half:], unit)])


def _floats(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False)


def is_implausible(times: np.ndarray, unit: str) -> np.ndarray:
    """(n,) bool: times (n,) in seconds that, read from numbers that count `unit`, are of no year that a log is from.

    Numbers lower than any second of the last decades may count something else, and pass.
    """
    wrong = (times < _EARLIEST) | (times >= _LATEST)
    if unit == "ms":
        wrong |= (times * 1000 >= _LEAST_IN_SECONDS) & (times * 1000 < _LATEST)
    return wrong


def implausible(value: str, time: float, unit: str) -> tuple[str, str]:
    """What is wrong with a value whose time, in seconds, is implausible, and what to do."""
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

"""Raw batches of any source become batches of the one schema; rows that cannot are named by line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .lines import BadLineError, Reading
from .values import text

_WHITESPACE = r"[\s\p{Z}\x{85}]"
_ID_REMEDY = "give every id as text without spaces, or as a whole number"


def checked_interactions(
    raw: Iterator[pa.RecordBatch],
    source: str | Path,
    reading: Reading,
    unit: float = 1.0,
) -> Iterator[pa.RecordBatch]:
    """Rows of `user`, `item` (string), `time` (float64 seconds since 1970) and, where it is read, `rating` (float64).

    Args:
        raw: batches of `line`, `user`, `item`, `time` and perhaps `rating`, of any type that can be understood.
        source: named in errors.
        reading: decides on bad rows.
        unit: seconds that 1 of a time given as number is worth.
    """
    for batch in raw:
        columns = {name: _ids(batch[name], name, source) for name in ("user", "item")}
        faults = [(f"{name} id is empty or holds a space", _ID_REMEDY, ~_is_id(ids)) for name, ids in columns.items()]
        columns["time"] = pa.array(_seconds(batch["time"], unit))
        wrong = ~np.isfinite(columns["time"])
        faults.append(("time is missing, or neither a number nor a date", "give YYYY-MM-DD or seconds", wrong))
        if "rating" in batch.schema.names:
            columns["rating"] = pa.array(_numbers(batch["rating"]))
            faults.append(("rating is missing or no number", "unset min_rating", ~np.isfinite(columns["rating"])))
        yield _without_faults(batch, columns, faults, source, reading)


def checked_items(raw: Iterator[pa.RecordBatch], source: str | Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Rows of `item_id` and text fields, all strings, white space collapsed, nothing null.

    Args:
        raw: batches of `line`, `item_id` and the fields.
        source: named in errors.
        reading: decides on bad rows.
    """
    for batch in raw:
        ids = _ids(batch["item_id"], "item", source)
        fields = [name for name in batch.schema.names if name not in ("line", "item_id")]
        columns = {"item_id": ids, **{name: _texts(batch[name], name, source) for name in fields}}
        yield _without_faults(
            batch, columns, [("item id is empty or holds a space", _ID_REMEDY, ~_is_id(ids))], source, reading
        )


def _without_faults(
    batch: pa.RecordBatch,
    columns: dict[str, pa.Array],
    faults: list[tuple[str, str, np.ndarray]],
    source: str | Path,
    reading: Reading,
) -> pa.RecordBatch:
    result = pa.RecordBatch.from_pydict(columns)
    wrong = np.logical_or.reduce([mask for _, _, mask in faults])
    if not wrong.any():
        return result
    numbers = batch["line"].to_numpy()
    for row in np.flatnonzero(wrong):
        why, remedy = next((why, remedy) for why, remedy, mask in faults if mask[row])
        reading.refuse(source, int(numbers[row]), why, remedy)
    return result.filter(pa.array(~wrong))


def _ids(values: pa.Array, name: str, source: str | Path) -> pa.Array:
    values = _decoded(values)
    if not (pa.types.is_integer(values.type) or _is_string(values.type) or pa.types.is_null(values.type)):
        raise ValueError(f"{source}: the {name} ids are of type {values.type}; {_ID_REMEDY}")
    return values.cast(pa.string())


def _is_id(ids: pa.Array) -> np.ndarray:
    empty = pc.equal(pc.binary_length(ids), 0)
    spaced = pc.match_substring_regex(ids, _WHITESPACE)
    return ~pc.fill_null(pc.or_(empty, spaced), True).to_numpy(zero_copy_only=False)


def _seconds(values: pa.Array, unit: float) -> np.ndarray:
    """(n,) float64, NaN where there is no time."""
    values = _decoded(values)
    if pa.types.is_temporal(values.type):
        return _of_timestamps(values)
    if _is_string(values.type):
        try:
            return _filled(values.cast(pa.float64())) * unit
        except pa.ArrowInvalid:
            pass
        try:
            return _of_timestamps(values)
        except pa.ArrowInvalid:
            return np.array([_time_of(value, unit) for value in values.to_pylist()], dtype=np.float64)
    return _numbers(values) * unit


def _of_timestamps(values: pa.Array) -> np.ndarray:
    zone = getattr(values.type, "tz", None)
    microseconds = values.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return _filled(microseconds.cast(pa.float64())) / 1e6


def _time_of(value: str | None, unit: float) -> float:
    try:
        return float(value or "") * unit
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat((value or "").strip().replace("Z", "+00:00"))
    except ValueError:
        return float("nan")
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def _numbers(values: pa.Array) -> np.ndarray:
    values = _decoded(values)
    try:
        return _filled(values.cast(pa.float64(), safe=False))
    except pa.ArrowNotImplementedError:
        return np.full(len(values), np.nan)
    except pa.ArrowInvalid:
        return np.array([_number_of(value) for value in values.to_pylist()], dtype=np.float64)


def _number_of(value: str | None) -> float:
    try:
        return float(value or "")
    except ValueError:
        return float("nan")


def _filled(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False)


def _texts(values: pa.Array, name: str, source: str | Path) -> pa.Array:
    values = _decoded(values)
    if not _is_string(values.type):
        try:
            values = pa.array([text(value) for value in values.to_pylist()], pa.string())
        except BadLineError as error:
            raise ValueError(f"{source}: column {name}: {error}; name other text_columns") from None
    values = pc.fill_null(values.cast(pa.string()), "")
    return pc.utf8_trim(pc.replace_substring_regex(values, _WHITESPACE + "+", " "), " ")


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)

"""Conditions on the fields of a catalogue, such as `genres=Comedy` and `price<=20`, which Arrow evaluates."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CONDITION = re.compile(r"\s*([^<>=!]*[^<>=!\s])\s*(<=|>=|!=|=|<|>)\s*(.*\S)\s*", re.DOTALL)
_COMPARE = {"<=": pc.less_equal, ">=": pc.greater_equal, "<": pc.less, ">": pc.greater}
_NUMBER = r"^\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"


def items_where(catalogue: pa.Table, condition: str) -> np.ndarray:
    """(N,) bool: which items of a catalogue meet a condition, `FIELD=VALUE`, or with `!=`, `<=`, `>=`, `<` or `>`.

    A field that is a list meets one if any of its parts does; a text also if one of its parts between commas equals the
    value. Texts that are numbers are compared as such by `<=` and its kin. An item without a value meets none but `!=`.

    Raises:
        ValueError: it is no condition, the catalogue has no such field, or the value is not of the field's type.

    Example:
        >>> films = pa.table({"genres": ["Action, Comedy", "Drama"], "year": [1995, 2001]})
        >>> items_where(films, "genres=Comedy"), items_where(films, "year>=2000")
        (array([ True, False]), array([False,  True]))
    """
    parts = _CONDITION.fullmatch(condition) if isinstance(condition, str) else None
    if parts is None:
        raise ValueError(f"{condition!r} is no condition; write FIELD=VALUE, or one of != <= >= < > in place of =")
    name, operator, value = parts.groups()
    if name not in catalogue.column_names:
        raise ValueError(f"{condition!r}: there is no field {name!r}; there are {', '.join(catalogue.column_names)}")
    column = catalogue[name].combine_chunks()
    kind, owner = column.type, None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        owner, column, kind = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column), kind.value_type
    met = _met(column, kind, operator, value, condition).to_numpy(zero_copy_only=False)
    if owner is not None:
        of_parts, met = met, np.zeros(len(catalogue), dtype=bool)
        met[owner[of_parts]] = True
    return ~met if operator == "!=" else met


def _met(column: pa.Array, kind: pa.DataType, operator: str, value: str, condition: str) -> pa.Array:
    """Which values meet the condition, and for `!=` which do not."""
    compare = _COMPARE.get(operator, pc.equal)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if compare is not pc.equal:
            is_number = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
            column = pc.if_else(is_number, pc.utf8_trim_whitespace(column), None).cast(pa.float64())
            return pc.fill_null(compare(column, _scalar(value, pa.float64(), condition)), False)
        part = rf"(^|,)\s*{re.escape(value)}\s*(,|$)"
        return pc.fill_null(pc.or_(pc.equal(column, value), pc.match_substring_regex(column, part)), False)
    return pc.fill_null(compare(column, _scalar(value, kind, condition)), False)


def _scalar(value: str, kind: pa.DataType, condition: str) -> pa.Scalar:
    is_whole = pa.types.is_integer(kind)
    try:
        return pa.scalar(value).cast(pa.float64() if is_whole else kind)
    except pa.ArrowException:
        what = "a number" if is_whole or pa.types.is_floating(kind) else f"of the field's type, {kind}"
        raise ValueError(f"{condition!r}: {value!r} is not {what}") from None

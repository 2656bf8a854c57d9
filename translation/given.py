"""Files that a user gives in place of a stage: lexical IDs, similar items, vectors, words that no ID may have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..data.sources.checks import ids_of
from ..data.sources.lines import existing, filled_lines
from .embedding import unit_length


def read_vectors(path: str | Path, item_ids: Sequence[str]) -> np.ndarray:
    """Given item vectors, (N, d) float32 in catalogue order, rows of length 1 (or 0).

    Args:
        path: `.npy` or `.safetensors` with one array (N, d) in catalogue order, or `.parquet` with the columns
            `item_id` and `vector` in any order.
        item_ids: the catalogue.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: another kind of file, a wrong shape, a number that is not finite, or an item without vector.
    """
    path = existing(path)
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: not a kind of file that vectors are read from; give {', '.join(readers)}")
    try:
        vectors = readers[path.suffix](path, item_ids)
    except (SafetensorError, pa.ArrowException, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())}); write it again") from None
    if vectors.ndim != 2 or len(vectors) != len(item_ids) or vectors.dtype.kind not in "iuf" or not vectors.size:
        shape = f"({len(item_ids)}, d)"
        raise ValueError(f"{path}: holds {vectors.dtype} of shape {vectors.shape}; it must be numbers, {shape}")
    vectors = vectors.astype(np.float64)
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise ValueError(f"{path}: the vector of item {item_ids[int(broken.argmax())]} is not finite; correct it")
    return unit_length(vectors)


def _read_npy(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")  # reads no archive, and no Python objects
    except ValueError as error:
        raise ValueError(f"{path}: not a .npy file of numbers ({error}); write it with numpy.save") from None


def _read_safetensors(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    tensors = load_file(path)
    if len(tensors) != 1:
        raise ValueError(f"{path}: holds {len(tensors)} arrays; it must hold one, the vectors")
    (vectors,) = tensors.values()
    is_short = vectors.is_floating_point() and vectors.dtype.itemsize < 4  # numpy has no bfloat16
    return (vectors.float() if is_short else vectors).numpy()


def _read_parquet(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    ids, column = _columns(path, "vector")
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ValueError(f"{path}: column vector holds {kind}; it must hold lists of numbers")
    rows = {item: row for row, item in enumerate(ids)}
    if len(rows) < len(ids):
        twice = next(item for row, item in enumerate(ids) if rows[item] != row)
        raise ValueError(f"{path}: item {twice} has two vectors; keep one")
    missing = next((item for item in item_ids if item not in rows), None)
    if missing is not None:
        raise ValueError(f"{path}: item {missing} has no vector; add a row for it")
    column = column.combine_chunks()
    lengths = pc.list_value_length(column)
    if column.null_count or pc.min(lengths).as_py() != pc.max(lengths).as_py():
        raise ValueError(f"{path}: the vectors are not all of one length; correct the file")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(ids), -1)[[rows[item] for item in item_ids]]


def _columns(path: Path, name: str) -> tuple[list[str], pa.ChunkedArray]:
    """The item ids of a Parquet file, and the one other column that counts."""
    table = pq.read_table(path)
    for needed in ("item_id", name):
        if table.column_names.count(needed) != 1:
            raise ValueError(f"{path}: needs one column {needed}; the columns must be item_id and {name}")
    return ids_of(table["item_id"], "item", path).to_pylist(), table[name]


def read_block_list(path: str) -> list[str]:
    """Words that lexical IDs may not show, one per line; blank lines and lines that start with `#` are left out."""
    words = [line.strip() for _, line in filled_lines(path)]
    return [word for word in words if not word.startswith("#")]


def read_lexical_ids(
    path: str | Path, item_ids: Sequence[str], vocabulary: Collection[str] | None = None
) -> list[list[str]]:
    """The tokens of every item, in catalogue order, of a file of `ITEM |token|token...` lines in any order.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a malformed line, an unknown or repeated item, a token that is not in the `vocabulary`, two items
            with the same ID, or an item left without one.
    """
    rows = {item: row for row, item in enumerate(item_ids)}
    tokens_of: dict[int, list[str]] = {}
    owner: dict[tuple[str, ...], str] = {}
    for number, line in filled_lines(path):
        item, bar, rest = line.strip().partition(" |")
        tokens = rest.split("|")
        if not bar or not item or not all(tokens) or any(character.isspace() for character in item + rest):
            raise ValueError(f"{path}:{number}: not of the form 'ITEM |token|token...'; correct the line")
        row = _known_row(rows, item, f"{path}:{number}")
        if row in tokens_of:
            raise ValueError(f"{path}:{number}: item {item} has a lexical ID already; keep one of the lines")
        for token in tokens if vocabulary is not None else ():
            if token not in vocabulary:
                why = "is not in the vocabulary; use the tokenizer that the IDs were made with"
                raise ValueError(f"{path}:{number}: item {item}: token {token!r} {why}")
        other = owner.setdefault(tuple(tokens), item)
        if other != item:
            raise ValueError(f"{path}:{number}: items {other} and {item} have the same lexical ID; make them differ")
        tokens_of[row] = tokens
    for row, item in enumerate(item_ids):
        if row not in tokens_of:
            raise ValueError(f"{path}: item {item} has no lexical ID; add a line for it")
    return [tokens_of[row] for row in range(len(item_ids))]


def read_similar_items(path: str | Path, item_ids: Sequence[str]) -> np.ndarray:
    """Given similar items, (N, k) int32 rows, nearest first; -1 where an item has fewer than the longest list, or none.

    Args:
        path: `.parquet` with the columns `item_id` and `similar_items`, a list; or else text, a header that starts
            with `anchor`, then `ITEM ITEM ITEM ...` per line.
        item_ids: the catalogue.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: no Parquet, a missing column or header, an unknown item, an item with two rows, or one that is its
            own neighbour or has one twice.
    """
    path = Path(path)
    rows = {item: row for row, item in enumerate(item_ids)}
    neighbours: dict[int, list[int]] = {}
    for where, kind, items in _parquet_lists(path) if path.suffix == ".parquet" else _text_lists(path):
        anchor, *similar = [_known_row(rows, item, where) for item in items]
        if anchor in neighbours:
            raise ValueError(f"{where}: item {items[0]} has a {kind} already; keep one of them")
        if len({anchor, *similar}) <= len(similar):
            raise ValueError(f"{where}: an item stands twice among {items[0]} and its neighbours; remove one")
        neighbours[anchor] = similar
    table = np.full((len(item_ids), max(map(len, neighbours.values()), default=0)), -1, dtype=np.int32)
    for anchor, similar in neighbours.items():
        table[anchor, : len(similar)] = similar
    return table


def _text_lists(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Where it stands, what that is called, and an item with those similar to it."""
    lines = filled_lines(path)
    number, header = next(lines, (1, ""))
    if header.split()[:1] != ["anchor"]:
        raise ValueError(f"{path}:{number}: no header; the first line must be 'anchor top1 top2 ...'")
    for number, line in lines:
        yield f"{path}:{number}", "line", line.split()


def _parquet_lists(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    try:
        ids, column = _columns(existing(path), "similar_items")
        lists = column.cast(pa.list_(pa.string())).to_pylist()
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: no Parquet file of ids and lists of ids ({reason}); write it again") from None
    for number, (item, similar) in enumerate(zip(ids, lists, strict=True), start=1):
        yield f"{path}: row {number}", "row", [item, *(similar or [])]


def _known_row(rows: dict[str, int], item: str, where: str) -> int:
    if item not in rows:
        raise ValueError(f"{where}: item {item} is not in the catalogue; give it a text or remove it here")
    return rows[item]

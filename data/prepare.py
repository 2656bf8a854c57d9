"""From raw data in any format to a data folder: filters, k-core, order, split, and an account of all of it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..common.files import new_folder
from ..common.provenance import hash_of_file, versions
from .folder import write_parquet_folder
from .interactions import SPLIT_NAMES, TEST, TRAIN, VALIDATION, Interactions, leave_one_out
from .sources import FORMATS
from .sources.checks import checked_interactions, checked_items
from .sources.lines import Reading, whole_characters
from .sources.source import PrepareSettings, Source, day_start
from .splits import split_targets


@dataclass(frozen=True)
class Stage:
    """What was left after a stage, and how many interactions it took away."""

    name: str
    users: int
    items: int
    interactions: int
    dropped: int


@dataclass(frozen=True)
class PrepareReport:
    """What was kept and dropped."""

    stages: list[Stage]  # in the order in which they were done
    facts: dict[str, Any]  # all that `prepare.json` holds

    def __str__(self) -> str:
        head = ("", "users", "items", "interactions", "dropped")
        rows = [[stage.name, *(f"{getattr(stage, name):,}" for name in head[1:])] for stage in self.stages]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}" + "".join(f"{value:>14}" for value in values) for name, *values in [head, *rows]]
        facts = self.facts
        parts = ", ".join(f"{count:,} {name}" for name, count in facts["split"]["interactions"].items())
        lines.append(f"{facts['settings']['split']}: {parts}")
        lines.append(
            "items: {read:,} rows, {without_text:,} without a text, {repeated:,} repeated, {bad:,} bad, "
            "{without_interactions:,} left without interactions".format(**facts["items"])
        )
        if tied := facts["ties"]["interactions"]:
            by = {"file": "of the lines that were read", "hash": "of a hash of user and item"}[
                facts["settings"]["ties"]
            ]
            share = tied / self.stages[-1].interactions
            lines.append(f"ties: {tied:,} interactions ({share:.0%}) share user and time with another; order {by}")
        if facts["bad_lines"]["count"]:
            lines.append(f"{facts['bad_lines']['count']:,} bad lines were skipped, the first of them:")
            lines += [f"  {line}" for line in facts["bad_lines"]["first"]]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Log:
    """Interactions by codes, which are rows of `user_ids` and `item_ids`."""

    user_ids: pa.Array
    item_ids: pa.Array
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray | None

    def of(self, rows: np.ndarray) -> _Log:
        ratings = None if self.ratings is None else self.ratings[rows]
        return replace(self, users=self.users[rows], items=self.items[rows], times=self.times[rows], ratings=ratings)

    def stage(self, name: str, before: int) -> Stage:
        kinds = [int(np.count_nonzero(np.bincount(codes))) for codes in (self.users, self.items)]
        return Stage(name, *kinds, len(self.users), before - len(self.users))


def prepare(settings: PrepareSettings, output: str | Path, progress: bool = False) -> PrepareReport:
    r"""Write a data folder in the Parquet form, and `prepare.json` with all that was done.

    The same input files give the same bytes.

    Args:
        settings: what is read and kept.
        output: the folder, new or empty.
        progress: show bars.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder is not empty, a line cannot be read, a column is missing, or nothing is left.

    Example:
        >>> from gram.data import read_folder
        >>> visits = [f"{user},{film},{film}" for user in "xy" for film in range(3)]
        >>> _ = Path("visits.csv").write_text("\n".join(["user_id,item_id,timestamp", *visits]))
        >>> _ = Path("films.csv").write_text("item_id,title\n0,Alien\n1,Brazil\n2,Fargo\n")
        >>> files = {"interactions": "visits.csv", "items": "films.csv", "text_columns": "title"}
        >>> settings = PrepareSettings("table", user_core=2, item_core=2, **files)
        >>> report = prepare(settings, "prepared")
        >>> read_folder("prepared").items.titles
        ['Alien', 'Brazil', 'Fargo']
    """
    reading = Reading(settings.skip_bad_lines, progress)
    source = FORMATS[settings.format](settings, reading)
    if not source.has_times and (settings.since or settings.until or settings.split == "global-time"):
        raise ValueError(f"{source.places[0]}: there are no times; unset since and until, split leave-one-out")
    packages = ("gram-recommender", "numpy", "pyarrow", *(["datasets"] if settings.format == "hub" else []))
    with new_folder(output) as folder:
        log = _read_interactions(source, settings, reading)
        num_bad = reading.num_bad
        texts, counts = _read_items(source, reading)
        with_text = texts["item_id"].combine_chunks()
        _check_ids(log, with_text, source)
        log, stages = _filtered(log, with_text, settings, num_bad)
        if not len(log.users):
            path = ", ".join(f"{stage.name}: {stage.interactions:,}" for stage in stages)
            raise ValueError(f"{source.places[0]}: nothing is left; loosen the filters (after {path})")
        log, user_ids, item_ids = _ordered(log, settings)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(log.users))])
        interactions = Interactions(user_ids.to_pylist(), log.items, offsets)
        splits, cuts = _splits(interactions, log.times, settings)
        counts["without_interactions"] = len(texts) - len(item_ids)
        in_splits = dict(zip(SPLIT_NAMES, np.bincount(splits, minlength=3).tolist(), strict=True))
        places = ("input", "interactions", "items")  # the folder does not depend on where its input lies
        facts = {
            "settings": {name: value for name, value in asdict(settings).items() if name not in places},
            "inputs": [{"file": whole_characters(file.name), "sha256": hash_of_file(file)} for file in source.inputs],
            **({"origin": source.facts} if source.facts else {}),
            "stages": [asdict(stage) for stage in stages],
            "items": counts,
            "split": {"interactions": in_splits, "cuts": cuts},
            "ties": {"interactions": _num_tied(log) if source.has_times else 0},
            "bad_lines": {"count": reading.num_bad, "first": reading.shown},
            "versions": {"python": platform.python_version(), **versions(packages)},
        }
        write_parquet_folder(folder, _chosen(texts, item_ids), interactions, _whole(log.times), splits, facts)
    return PrepareReport(stages, facts)


def _read_interactions(source: Source, settings: PrepareSettings, reading: Reading) -> _Log:
    batches, unit = [], settings.time_unit or source.time_unit
    for batch in checked_interactions(source.interactions(), source.places[0], reading, unit):
        columns = {name: batch[name] for name in batch.schema.names}
        encoded = {name: columns[name].dictionary_encode() for name in ("user", "item")}
        batches.append(pa.RecordBatch.from_pydict({**columns, **encoded}))
    if not sum(batch.num_rows for batch in batches):
        raise ValueError(f"{source.places[0]}: no interactions; {_remedy(reading.shown)}")
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    users, items = (table[name].chunk(0) for name in ("user", "item"))
    codes = users.indices.to_numpy(), items.indices.to_numpy()
    ratings = table["rating"].to_numpy() if "rating" in table.column_names else None
    return _Log(users.dictionary, items.dictionary, *codes, table["time"].to_numpy(), ratings)


def _read_items(source: Source, reading: Reading) -> tuple[pa.Table, dict[str, int]]:
    """Items with a text, each once, in its first row; and how many rows there were, and why some were left out."""
    num_bad, num_shown = reading.num_bad, len(reading.shown)
    batches = list(checked_items(source.items(), source.places[1], reading))
    if not sum(batch.num_rows for batch in batches):
        raise ValueError(f"{source.places[1]}: no items; {_remedy(reading.shown[num_shown:])}")
    table = pa.Table.from_batches(batches)
    filled = np.zeros(len(table), dtype=bool)
    for name in table.column_names[1:]:
        filled |= pc.not_equal(table[name], "").to_numpy()
    num_bad = reading.num_bad - num_bad
    counts = {"read": len(filled) + num_bad, "bad": num_bad, "without_text": int((~filled).sum())}
    table = table.filter(pa.array(filled))
    if not len(table):
        raise ValueError(f"{source.places[1]}: no item has a text; name other text columns")
    is_first = np.isin(np.arange(len(table)), first_of_each(table["item_id"]))
    return table.filter(pa.array(is_first)), {**counts, "repeated": int((~is_first).sum())}


def _remedy(skipped: list[str]) -> str:
    return f"all lines were skipped, the first of them {skipped[0]}" if skipped else "give a file that has some"


def _check_ids(log: _Log, with_text: pa.Array, source: Source) -> None:
    """Make sure that interactions and items share ids, and that none is written 1 in one place and 1.0 in another."""
    log_name, items_name = source.places
    users, items, described = (log.user_ids, log_name), (log.item_ids, log_name), (with_text, items_name)
    for (ids, here), (others, there) in ((users, users), (items, items), (items, described), (described, items)):
        ids = ids.filter(pc.match_substring_regex(ids, r"^[0-9]+\.0+$"))
        whole = pc.replace_substring_regex(ids, r"\.0+$", "")
        twins = pc.is_in(whole, value_set=others)
        if pc.any(twins).as_py():
            one, other = (column.filter(twins)[0] for column in (ids, whole))
            raise ValueError(f"{here}: id {one} is written {other} in {there}; write it alike everywhere, as text")
    if not pc.any(pc.is_in(log.item_ids, value_set=with_text)).as_py():
        raise ValueError(
            f"{log_name}: no item id of it, such as {log.item_ids[0]}, is one of an item with a text in {items_name}, "
            f"such as {with_text[0]}; name the columns that hold the same ids"
        )


def _filtered(log: _Log, with_text: pa.Array, settings: PrepareSettings, num_bad: int) -> tuple[_Log, list[Stage]]:
    stages = [log.stage("read", len(log.users) + num_bad)]

    def keep(name: str, rows: np.ndarray) -> None:
        nonlocal log
        before, log = len(log.users), log.of(rows)
        stages.append(log.stage(name, before))

    if settings.min_rating is not None:
        keep(f"rating from {settings.min_rating:g}", log.ratings >= settings.min_rating)
    since, until = day_start("since", settings.since), day_start("until", settings.until)
    if since is not None:
        keep(f"since {settings.since}", log.times >= since)
    if until is not None:
        keep(f"until {settings.until}", log.times < until + timedelta(days=1).total_seconds())
    has_text = pc.is_in(log.item_ids, value_set=with_text).to_numpy(zero_copy_only=False)
    keep("item has a text", has_text[log.items])
    keep("no duplicates", first_of_each(log.users, log.items, log.times))
    user_core = max(settings.user_core, settings.min_length)
    name = f"{user_core} or more per user, {settings.item_core} per item"
    keep(name, k_core(log.users, log.items, user_core, settings.item_core))
    return log, stages


def _ordered(log: _Log, settings: PrepareSettings) -> tuple[_Log, pa.Array, pa.Array]:
    """Sorted by user and time, ties as the settings say; codes now are rows of the two lists of ids that are left."""
    users, user_ids = recoded(log.users, log.user_ids)
    items, item_ids = recoded(log.items, log.item_ids)
    keys = log.times, users
    if settings.ties == "hash":
        seeded = f"{settings.ties_seed} user ", f"{settings.ties_seed} item "
        of_user, of_item = map(_hashes, (user_ids, item_ids), seeded)
        keys = _mixed(of_user[users] ^ of_item[items]), *keys
    return replace(log, users=users, items=items).of(np.lexsort(keys)), user_ids, item_ids


def _hashes(ids: pa.Array, salt: str) -> np.ndarray:
    """(n,) uint64, the same on every machine."""
    digests = [hashlib.blake2b(f"{salt}{name}".encode(), digest_size=8).digest() for name in ids.to_pylist()]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _mixed(values: np.ndarray) -> np.ndarray:
    """(n,) uint64 whose order tells nothing of that of the values: the last steps of SplitMix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _num_tied(log: _Log) -> int:
    """Interactions of the ordered log that have the time of another one of their user."""
    is_tied = (np.diff(log.users) == 0) & (np.diff(log.times) == 0)  # of each but the last, with the next
    return int(np.count_nonzero(np.append(is_tied, False) | np.append(False, is_tied)))


def _splits(interactions: Interactions, times: np.ndarray, settings: PrepareSettings) -> tuple[np.ndarray, list[float]]:
    """(n,) int8 splits, and the two moments that divide them under global-time."""
    if settings.split == "leave-one-out":
        return leave_one_out(interactions), []
    parts = [1 - settings.validation_part - settings.test_part, 1 - settings.test_part]
    cuts = np.quantile(times, parts)
    splits = np.digitize(times, cuts).astype(np.int8)
    if not (splits == TRAIN).any():
        raise ValueError("global-time leaves nothing to train on; choose lower validation and test parts")
    for split in (VALIDATION, TEST):
        if not len(split_targets(interactions, splits, split)[0]):
            name = SPLIT_NAMES[split]
            raise ValueError(f"global-time leaves nothing to predict in {name}; choose other validation and test parts")
    return splits, cuts.tolist()


def _chosen(texts: pa.Table, item_ids: pa.Array) -> pa.Table:
    """The items that are left, in catalogue order, the title first; fields that are empty for all of them go."""
    left = texts.filter(pc.is_in(texts["item_id"], value_set=item_ids))
    left = left.take(pc.index_in(item_ids, value_set=left["item_id"].combine_chunks()))
    fields = [name for name in left.column_names[1:] if pc.any(pc.not_equal(left[name], "")).as_py()]
    return left.select(["item_id", *sorted(fields, key=lambda name: name != "title")])


def _whole(times: np.ndarray) -> np.ndarray:
    return times.astype(np.int64) if (np.floor(times) == times).all() and np.abs(times).max() < 2**53 else times


def first_of_each(*columns: np.ndarray | pa.ChunkedArray) -> np.ndarray:
    """(m,) the first of the rows that are alike in all columns, in ascending order."""
    names = [str(number) for number in range(len(columns))]
    table = pa.table([*columns, np.arange(len(columns[0]))], names=[*names, "row"])
    return np.sort(table.group_by(names).aggregate([("row", "min")])["row_min"].to_numpy())


def k_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """Rows that are left when users and items with too few interactions are dropped again and again, ascending."""
    kept = np.arange(len(users))
    while True:
        enough = np.ones(len(kept), dtype=bool)
        for codes, core in ((users[kept], user_core), (items[kept], item_core)):
            enough &= np.bincount(codes)[codes] >= core
        if enough.all():
            return kept
        kept = kept[enough]


def recoded(codes: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Codes of the ids that are left, in order: by number if all are numbers, else as text."""
    left = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    ids = ids.take(pa.array(left))
    keys = {"text": ids}
    if pc.all(pc.match_substring_regex(ids, r"^[0-9]{1,18}$")).as_py():
        keys = {"number": ids.cast(pa.int64()), **keys}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    new = np.full(len(np.bincount(codes)), -1, dtype=np.int32)
    new[left[order]] = np.arange(len(left), dtype=np.int32)
    return new[codes], ids.take(pa.array(order))

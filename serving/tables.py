"""Many users in, what is recommended to each of them out: on this machine, or on many by Ray or Spark."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..common.files import check_outputs, holds_table, locked, new_file
from ..common.provenance import (
    COMPUTING,
    Provenance,
    hash_of_file,
    hash_of_json,
    hash_of_model,
    hash_of_table,
    hash_of_tokenizer,
    read_provenance,
    versions,
    write_artefact,
)
from ..data.sources.lines import existing, filled_lines
from ..item_cache_gram import ItemCache
from ..pipeline_gram import check_search
from ..tokenization_gram import COUNTS
from .engines import ENGINES, LOCAL, RAY, by_ray
from .recommendation import Recommender, search_users
from .user_batches import cache_of_users

logger = logging.getLogger(__name__)

USERS_SCHEMA = pa.schema({"user_id": pa.string(), "items": pa.list_(pa.string())})
RANKED_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "items": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "skipped": pa.list_(pa.string()),
        "fallback": pa.bool_(),
    }
)
CSV_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "rank": pa.int32(),
        "item_id": pa.string(),
        "title": pa.string(),
        "score": pa.float32(),
    }
)
_PARTS = "[0-9]" * 10 + ".parquet"
_SEARCH = {"top_k": 10, "exclude_seen": True, "num_beams": 50, "cold_share": 0.0, "cold_below": 1}
_CHOICE = {"exclude": (), "only": None, "where": ()}
_Histories = list[tuple[list[int], list[str]]]  # rows of the catalogue, and the items that are not in it


class TableRecommender:
    """Recommends to the users of an Arrow table, or of a file. Can be pickled: it loads its model where it works first.

    What `gram recommend` calls for every table, Ray Data's `map_batches` and Spark's `mapInArrow` can call too:

        users.map_batches(TableRecommender("runs/films"), batch_format="pyarrow")
        users.mapInArrow(TableRecommender("runs/films").of_batches, RANKED)

    Args:
        model, item_cache, revision, batch_size, device: as of [`Recommender.from_pretrained`]. With item encodings in
            the model folder, the processes of a machine share one copy of them, and encode nothing.
        search: `top_k`, `exclude_seen`, `num_beams`, `exclude`, `only`, `where`, `cold_share`, `cold_below`: as of
            [`Recommender.recommend`].

    Example:
        >>> users = pa.table({"user_id": ["anna", "ben"], "items": [["B0003", "B0007"], ["B0001", "gone"]]})
        >>> ranked = TableRecommender(model_folder, top_k=3)(users)
        >>> ranked.schema.names, ranked["skipped"].to_pylist()
        (['user_id', 'items', 'scores', 'skipped', 'fallback'], [[], ['gone']])
    """

    def __init__(
        self,
        model: str | Path,
        item_cache: str | Path | None = None,
        revision: str | None = None,
        batch_size: int = 16,
        device: str | None = None,
        **search: Any,
    ):
        self.users_per_part = 1024  # of a file: what an interruption may cost
        self.loading = (str(model), batch_size, item_cache and str(item_cache), revision, device)
        unknown = search.keys() - {*_SEARCH, *_CHOICE}
        if unknown:
            raise ValueError(
                f"{min(unknown)!r} is no argument of a search; there are {', '.join((*_SEARCH, *_CHOICE))}"
            )
        self.search = {**_SEARCH, **_CHOICE, **search}
        check_search(**{name: self.search[name] for name in _SEARCH})

    @cached_property
    def recommender(self) -> Recommender:
        """Loaded at the first call."""
        return Recommender.from_pretrained(*self.loading)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("recommender", "_allowed")}

    def __call__(self, users: pa.Table) -> pa.Table:
        """`RANKED_SCHEMA` for `USERS_SCHEMA`, users in their order; other columns are left out.

        Users of whom nothing is known get what is popular (`fallback`); items that the catalogue does not have are
        `skipped`.

        Raises:
            ValueError: a column is missing, or of another type, or a value is.
        """
        read = [self.recommender.tokenizer.known_rows(*of) for of in _histories(users)]
        return self._ranked(users["user_id"], read, self.recommender.item_cache, tqdm(disable=True))

    def of_batches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same of record batches, one by one."""
        for batch in batches:
            yield from self(pa.Table.from_batches([batch])).to_batches()

    def recommend_file(self, users: str | Path, output: str | Path, progress: bool = False) -> int:
        r"""Recommend to every user of a file, and write a table; gives the number of users.

        Finished parts are kept in the folder `OUTPUT.parts` until all are done: called again with the same model, users
        and settings, an interrupted run goes on where it was, and a table that is there is not made again. Where the
        recommender has no item cache, the items of all users are encoded once, in memory, or where they need too much
        of it, once for each part or less (see `gram.serving.user_batches`).

        Args:
            users: `.parquet` with the columns `USERS_SCHEMA`; or text, `USER ITEM ITEM ...` on each line, perhaps no
                item, UTF-8.
            output: `.parquet` with the columns `RANKED_SCHEMA`, a row for each user; or `.csv` with those of
                `CSV_SCHEMA`, a row for each item. Users are in the order of their file.
            progress: show a bar with the time left.

        Raises:
            FileNotFoundError: the users' file is missing.
            ValueError: it is no table of users, or a line is wrong, or has a user who stands on another one; the
                message names file, line and user. Or the output has another ending, is the users' file, is there and
                holds something else, or is being written by another process.

        Example:
            >>> _ = Path("users.txt").write_text("anna B0003 B0007\nben B0001\n")
            >>> TableRecommender(model_folder, top_k=3).recommend_file("users.txt", "recs.parquet")
            2
            >>> pq.read_table("recs.parquet")["user_id"].to_pylist()
            ['anna', 'ben']
        """
        users, output = Path(users), Path(output)
        if output.suffix not in (".parquet", ".csv") or output.is_dir():
            raise ValueError(f"{output}: give the name of a file that ends in .parquet or .csv")
        check_outputs({output: _holds_recommendations}, [existing(users)])
        with locked(output):
            inputs = {**self._provenance.inputs, "users": hash_of_file(users)}
            provenance = replace(self._provenance, inputs=inputs)
            if output.suffix == ".parquet" and read_provenance(output).get("key") == provenance.key:
                return pq.read_metadata(output).num_rows
            recommender, table = self.recommender, _table(users)
            read = [recommender.tokenizer.known_rows(*of) for of in _histories(table, f"{users}: ")]
            _tell_of_strangers(users, read)
            folder, size = output.with_name(output.name + ".parts"), self.users_per_part
            parts = {
                folder / f"{start:010d}.parquet": slice(start, start + size) for start in range(0, len(read), size)
            }
            left = [part for part in parts if read_provenance(part).get("key") != provenance.key]
            for facts in map(read_provenance, sorted(folder.glob(_PARTS))):
                if facts and (what := provenance.differences(facts)):
                    logger.warning("%s: parts of %s are of no use; all is done anew", folder, ", ".join(what))
                    break
            cache = recommender.item_cache
            if left and cache is None:
                # Of all users, not of those that are left: an encoding's last bits depend on what is encoded beside it.
                histories = [known for known, _ in read]
                cache = cache_of_users(recommender.model, recommender.tokenizer, histories, progress)
            done = len(read) - sum(len(read[parts[part]]) for part in left)
            options = {"total": len(read), "initial": done, "unit": "user", "leave": False, "disable": not progress}
            with tqdm(desc=users.name, **options) as bar:
                for part in left:
                    names, chunk = table["user_id"][parts[part]], read[parts[part]]
                    write_artefact(part, self._ranked(names, chunk, cache, bar), provenance)
            _join(parts, output, provenance, recommender.tokenizer)
            for path in folder.glob(_PARTS):
                path.unlink()
            with suppress(OSError):  # somebody else may have put something there
                folder.rmdir()
        return len(read)

    @property
    def _settings(self) -> dict[str, Any]:
        """Those of a search, but for the choice of items."""
        return {name: self.search[name] for name in _SEARCH}

    @cached_property
    def _allowed(self) -> np.ndarray | None:
        return self.recommender.allowed_rows(*(self.search[name] for name in _CHOICE))

    def _ranked(self, names: pa.ChunkedArray, read: _Histories, item_cache: ItemCache | None, bar: tqdm) -> pa.Table:
        histories = [known for known, _ in read]
        search = {**self._settings, "allowed": self._allowed}
        rows, scores = search_users(self.recommender, histories, search, item_cache, bar)
        there = rows >= 0
        ends = pa.array(np.concatenate([[0], there.sum(axis=1).cumsum()]), pa.int32())
        items = self.recommender.tokenizer.catalogue["item_id"].combine_chunks().take(pa.array(rows[there]))
        columns = [
            names,
            pa.ListArray.from_arrays(ends, items),
            pa.ListArray.from_arrays(ends, pa.array(scores[there])),
            pa.array([skipped for _, skipped in read], pa.list_(pa.string())),
            pa.array([not known for known in histories], pa.bool_()),
        ]
        return pa.table(columns, names=RANKED_SCHEMA.names).cast(RANKED_SCHEMA)

    @cached_property
    def _provenance(self) -> Provenance:
        """Everything but the users that decides the recommendations, to the last bit of a score."""
        recommender, allowed = self.recommender, self._allowed
        catalogue = recommender.tokenizer.catalogue
        inputs = {
            "weights or configuration": hash_of_model(recommender.model),
            "catalogue or prompts": hash_of_tokenizer(recommender.tokenizer),
            "allowed items": hash_of_json(None if allowed is None else allowed.tolist()),
            "popularity": hash_of_table(catalogue.select([name for name in catalogue.column_names if name == COUNTS])),
        }
        stored = recommender.item_cache.dtype if recommender.item_cache else "float32"
        more = {"batch_size": recommender.batch_size, "item_encodings": stored, "users_per_part": self.users_per_part}
        return Provenance("recommendations", inputs, {**self._settings, **more, **versions(COMPUTING)})


def recommend_tables(
    recommender: TableRecommender,
    users: str | Path,
    output: str | Path,
    engine: str = LOCAL,
    num_workers: int = 1,
    gpus_per_worker: float = 0,
    progress: bool = True,
) -> int:
    """Recommend to the users of a file, or of all Parquet files in a folder; gives how many they are.

    Each file in a folder becomes one of the same name in the output folder. What is there is not done again, so that an
    interrupted run goes on where it was. With Ray each file is a task for one of the workers, on whatever machines the
    cluster has, and a worker that dies costs the part of a file that it was at.

    Args:
        recommender: what to ask.
        users: a file as of [`TableRecommender.recommend_file`]; or a folder, which may have folders inside. With Ray
            all machines must see it, the output and the model at the same place.
        output: a file for a file, a folder for a folder.
        engine: `"local"`, this process; or `"ray"`, which joins the cluster that `RAY_ADDRESS` names, or starts one.
        num_workers, gpus_per_worker: processes that recommend, and what each has of a GPU, with Ray.
        progress: show a bar.

    Raises:
        FileNotFoundError: there is no such file or folder, or none in it.
        MissingPackageError: Ray is not installed.
        ValueError: as of [`TableRecommender.recommend_file`]; or the users are a folder, the output a file or in it.
    """
    users, output = Path(users), Path(output)
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
    if not users.is_dir():
        found = {existing(users): output}
    elif output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; give a folder for the tables")
    elif output.resolve().is_relative_to(users.resolve()):
        raise ValueError(f"{output}: lies in {users}, whose tables are read; give another folder")
    else:
        found = {path: output / path.relative_to(users) for path in sorted(users.rglob("*.parquet"))}
    if not found:
        raise FileNotFoundError(f"{users}: no .parquet file in it; give tables of user_id and items")
    with tqdm(total=len(found), desc="recommending", unit="file", disable=not (progress and users.is_dir())) as bar:
        count = 0
        if engine == RAY:
            files = [{"users": str(file.resolve()), "output": str(target.resolve())} for file, target in found.items()]
            counts = by_ray(recommender.recommend_file, files, num_workers, gpus_per_worker)
        else:
            counts = (recommender.recommend_file(file, target, progress) for file, target in found.items())
        for number in counts:
            count += number
            bar.update()
    return count


def _table(users: Path) -> pa.Table:
    """`USERS_SCHEMA`, as far as the file has it."""
    if users.suffix != ".parquet":
        return _lines(users)
    try:
        with pq.ParquetFile(users) as file:
            return file.read(USERS_SCHEMA.names)
    except pa.ArrowException as error:
        raise ValueError(f"{users}: {' '.join(str(error).split())}") from None


def _histories(users: pa.Table, place: str = "") -> Iterator[tuple[list[str], str]]:
    """Every user's items, and what an error is to be led in by, with `place`."""
    columns = []
    for name, kind in zip(USERS_SCHEMA.names, USERS_SCHEMA.types, strict=True):
        if name not in users.column_names:
            raise ValueError(
                f"{place}there is no column {name}; a table of users has {' and '.join(USERS_SCHEMA.names)}"
            )
        try:
            columns.append(users[name].cast(kind))
        except pa.ArrowException:
            raise ValueError(f"{place}column {name} is {users[name].type}; it must be {kind}") from None
        if name == "user_id" and columns[0].null_count:
            raise ValueError(f"{place}column user_id has an empty value; name every user")
    for name, history in zip(*(column.to_pylist() for column in columns), strict=True):
        yield history or [], f"{place}user {name}: "


def _lines(path: Path) -> pa.Table:
    users: dict[str, tuple[int, list[str]]] = {}  # with the number of the line
    for number, line in filled_lines(path):
        user, *items = line.split()
        if user in users:
            raise ValueError(f"{path}:{number}: user {user} stands on line {users[user][0]} already; keep one line")
        users[user] = number, items
    if not users:
        raise ValueError(f"{path}: no users; the form is 'USER ITEM ITEM ...', one user per line")
    return pa.table([list(users), [items for _, items in users.values()]], schema=USERS_SCHEMA)


def _tell_of_strangers(users: Path, read: _Histories) -> None:
    num_skipped, num_cold = sum(len(skipped) for _, skipped in read), sum(not known for known, _ in read)
    if num_skipped or num_cold:
        what = "%s: %d items are not in the catalogue and skipped; %d users have no other and get what is popular"
        logger.warning(what, users, num_skipped, num_cold)


def _holds_recommendations(path: Path) -> bool:
    if path.suffix == ".parquet":
        return holds_table(path, *RANKED_SCHEMA.names)
    with path.open("rb") as file:
        return file.readline().replace(b'"', b"").rstrip() == ",".join(CSV_SCHEMA.names).encode()


def _join(parts: Iterable[Path], output: Path, provenance: Provenance, tokenizer) -> None:
    """One file of all parts."""
    is_csv = output.suffix == ".csv"
    schema = CSV_SCHEMA if is_csv else RANKED_SCHEMA.with_metadata(provenance.metadata)
    kind = pyarrow.csv.CSVWriter if is_csv else pq.ParquetWriter
    with new_file(output) as part, kind(part, schema) as writer:
        for path in parts:
            ranked = pq.read_table(path)
            writer.write_table(_by_item(ranked, tokenizer) if is_csv else ranked.cast(schema))


def _by_item(ranked: pa.Table, tokenizer) -> pa.Table:
    """`CSV_SCHEMA` for `RANKED_SCHEMA`."""
    ranked = ranked.combine_chunks()
    items = ranked["items"].combine_chunks()
    user = items.value_parent_indices().to_numpy()
    first = items.offsets.to_numpy()[:-1] - items.offsets[0].as_py()
    titles = [tokenizer.titles[tokenizer.item_rows[item]] for item in items.flatten().to_pylist()]
    rank = np.arange(len(user)) - first[user] + 1
    scores = ranked["scores"].combine_chunks().flatten()
    columns = [ranked["user_id"].take(pa.array(user)), rank, items.flatten(), titles, scores]
    return pa.table(columns, schema=CSV_SCHEMA)

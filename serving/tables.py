"""Tables of users in, tables of what is recommended to them out: on this machine, or on many by Ray or Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..common.files import holds_table, new_file
from ..common.provenance import Provenance, read_provenance
from ..data.sources.lines import existing
from ..pipeline_gram import check_search
from .engines import ENGINES, LOCAL, RAY, by_ray
from .recommendation import USERS_PER_PART, Recommender, provenance_of, search_users, with_users

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
_NAMES = tuple(RANKED_SCHEMA.names)
_SEARCH = {"top_k": 10, "exclude_seen": True, "num_beams": 50, "cold_share": 0.0, "cold_below": 1}
_CHOICE = {"exclude": (), "only": None, "where": ()}


class TableRecommender:
    """Recommends to the users of an Arrow table. Can be pickled: it loads its model where it is called first.

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
        self.loading = (str(model), batch_size, item_cache and str(item_cache), revision, device)
        unknown = search.keys() - {*_SEARCH, *_CHOICE}
        if unknown:
            raise ValueError(
                f"{min(unknown)!r} is no argument of a search; there are {', '.join((*_SEARCH, *_CHOICE))}"
            )
        self.search = {**_SEARCH, **_CHOICE, **search}
        check_search(**{name: self.search[name] for name in _SEARCH})
        self._recommender: Recommender | None = None

    @property
    def recommender(self) -> Recommender:
        """Loaded at the first call."""
        if self._recommender is None:
            self._recommender = Recommender.from_pretrained(*self.loading)
        return self._recommender

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recommender": None}

    def __call__(self, users: pa.Table) -> pa.Table:
        """`RANKED_SCHEMA` for `USERS_SCHEMA`, users in their order; other columns are left out.

        Users of whom nothing is known get what is popular (`fallback`); items that the catalogue does not have are
        `skipped`.

        Raises:
            ValueError: a column is missing, or of another type, or a value is.
        """
        recommender, bar = self.recommender, tqdm(disable=True)
        read = [recommender.tokenizer.known_rows(*of) for of in _histories(users)]
        search = {name: self.search[name] for name in _SEARCH}
        search["allowed"] = recommender.allowed_rows(*(self.search[name] for name in _CHOICE))
        histories = [known for known, _ in read]
        rows, scores = search_users(recommender, histories, search, recommender.item_cache, bar)
        there = rows >= 0
        ends = pa.array(np.concatenate([[0], there.sum(axis=1).cumsum()]), pa.int32())
        items = recommender.tokenizer.catalogue["item_id"].combine_chunks().take(pa.array(rows[there]))
        columns = [
            users["user_id"],
            pa.ListArray.from_arrays(ends, items),
            pa.ListArray.from_arrays(ends, pa.array(scores[there])),
            pa.array([skipped for _, skipped in read], pa.list_(pa.string())),
            pa.array([not known for known in histories], pa.bool_()),
        ]
        return pa.table(columns, names=RANKED_SCHEMA.names).cast(RANKED_SCHEMA)

    def of_batches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same of record batches, one by one."""
        for batch in batches:
            yield from self(pa.Table.from_batches([batch])).to_batches()


class FileRecommender(TableRecommender):
    """Recommends to the users of Parquet files. Ray's actors are such, and without Ray this process has one."""

    _provenance: Provenance | None = None  # of all but the users

    def recommend_file(self, users: str | Path, output: str | Path, progress: bool = False) -> int:
        """Write what is recommended to the users of a file; gives how many they are. What is there is done already.

        Raises:
            ValueError: the file is no table of users; or the output is there, of other users or another search.
        """
        users, output = Path(users), Path(output)
        if self._provenance is None:
            allowed = self.recommender.allowed_rows(*(self.search[name] for name in _CHOICE))
            made = provenance_of(self.recommender, allowed, {name: self.search[name] for name in _SEARCH})
            self._provenance = replace(made, defaults=_SEARCH)
        provenance = with_users(self._provenance, existing(users))
        if output.exists():
            differences = (
                provenance.differences(read_provenance(output)) if holds_table(output, *_NAMES) else ["content"]
            )
            if differences:
                raise ValueError(f"{output}: was made with {', '.join(differences)}; give another --output")
            return pq.read_metadata(output).num_rows
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pq.ParquetFile(users) as file, new_file(output) as part:
                bar = tqdm(
                    total=file.metadata.num_rows, desc=users.name, unit="user", disable=not progress, leave=False
                )
                with pq.ParquetWriter(part, RANKED_SCHEMA.with_metadata(provenance.metadata)) as writer, bar:
                    for batch in file.iter_batches(USERS_PER_PART):
                        writer.write_table(self(pa.Table.from_batches([batch])))
                        bar.update(len(batch))
                return file.metadata.num_rows
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{users}: {' '.join(str(error).split())}") from None


def recommend_tables(
    recommender: FileRecommender,
    users: str | Path,
    output: str | Path,
    engine: str = LOCAL,
    num_workers: int = 1,
    gpus_per_worker: float = 0,
    progress: bool = True,
) -> int:
    """Recommend to the users of a Parquet file, or of all in a folder; gives how many they are.

    Each file becomes one of the same name in the output folder, whole or not at all; what is there is not done again,
    so that an interrupted run goes on with the files that are left. With Ray each file is a task for one of the
    workers, on whatever machines the cluster has, and a worker that dies costs the file that it was at.

    Args:
        recommender: what to ask.
        users: a file of the columns `USERS_SCHEMA`, or a folder of such, which may have folders inside. With Ray all
            machines must see it, the output and the model at the same place.
        output: folder, of tables `RANKED_SCHEMA`.
        engine: `"local"`, this process; or `"ray"`, which joins the cluster that `RAY_ADDRESS` names, or starts one.
        num_workers, gpus_per_worker: processes that recommend, and what each has of a GPU, with Ray.
        progress: show a bar.

    Raises:
        FileNotFoundError: there is no such file or folder, or none in it.
        MissingPackageError: Ray is not installed.
        ValueError: a file is no table of users; an output is there, of other users or another search.
    """
    users, output = Path(users), Path(output)
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; give a folder for the tables")
    found = {path: output / path.relative_to(users) for path in sorted(users.rglob("*.parquet"))}
    if not users.is_dir():
        found = {existing(users): output / users.name}
    if not found:
        raise FileNotFoundError(f"{users}: no .parquet file in it; give tables of user_id and items")
    with tqdm(total=len(found), desc="recommending", unit="file", disable=not progress) as bar:
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


def _histories(users: pa.Table) -> Iterator[tuple[list[str], str]]:
    """Every user's items, and what an error is to be led in by."""
    for name, kind in zip(USERS_SCHEMA.names, USERS_SCHEMA.types, strict=True):
        if name not in users.column_names:
            raise ValueError(f"there is no column {name}; a table of users has {' and '.join(USERS_SCHEMA.names)}")
        try:
            column = users[name].cast(kind)
        except pa.ArrowException:
            raise ValueError(f"column {name} is {users[name].type}; it must be {kind}") from None
        if name == "user_id" and column.null_count:
            raise ValueError("column user_id has an empty value; name every user")
    names, items = (users[name].cast(kind) for name, kind in zip(USERS_SCHEMA.names, USERS_SCHEMA.types, strict=True))
    for name, history in zip(names.to_pylist(), items.to_pylist(), strict=True):
        yield history or [], f"user {name}: "

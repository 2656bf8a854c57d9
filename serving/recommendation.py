"""Recommending: for a few users at once, or for a file of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
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
from ..data.sources.lines import filled_lines
from ..item_cache_gram import ItemCache
from ..modeling_gram import GramForConditionalGeneration
from ..pipeline_gram import UserItems, items_of_rows, recommend_rows
from ..tokenization_gram import COUNTS, GramTokenizer
from .loading import find_item_cache, load_model
from .user_batches import batches_of_users, cache_of_users

logger = logging.getLogger(__name__)

USERS_PER_PART = 1024
PART_NAME = re.compile(r"\d{10}\.parquet")

RECOMMENDATIONS_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "rank": pa.int32(),
        "item_id": pa.string(),
        "title": pa.string(),
        "score": pa.float32(),
    }
)


@dataclass(frozen=True)
class Recommendation:
    """An item of the catalogue for a user, with its title there.

    `score`: mean log-probability of the tokens of the item's lexical ID, end token included; higher is better.
    """

    item_id: str
    title: str
    score: float


class Recommender:
    """A model with its item trie, in evaluation mode, and its tokenizer. Threads may share one.

    Args:
        batch_size: users in one search.
        item_cache: with the encodings of all items; without it the items of the histories are encoded at every call.

    Example:
        >>> recommender = Recommender.from_pretrained(model_folder)
        >>> recommender.recommend([["B0003", "B0007"]], top_k=1)
        [[Recommendation(item_id='B0...', title='...', score=-...)]]
    """

    def __init__(
        self,
        model: GramForConditionalGeneration,
        tokenizer: GramTokenizer,
        batch_size: int = 16,
        item_cache: ItemCache | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.model, self.tokenizer, self.batch_size, self.item_cache = model, tokenizer, batch_size, item_cache
        self._is_available: np.ndarray | None = None  # (N,) bool, replaced and never changed; None: all are
        self._changing = Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        batch_size: int = 16,
        item_cache: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
    ) -> Recommender:
        """Load a model folder, or a model of the Hub, and its item cache: that in `item_cache`, or in the model folder.

        Raises as [`load_model`] and [`find_item_cache`] do.
        """
        model, tokenizer = load_model(name_or_path, revision, device)
        return cls(model, tokenizer, batch_size, find_item_cache(name_or_path, model, tokenizer, item_cache, revision))

    def recommend(
        self,
        histories: Sequence[Sequence[str | Mapping[str, Any]]],
        top_k: int = 10,
        exclude_seen: bool = True,
        num_beams: int = 50,
        exclude: Sequence[str] = (),
        only: Sequence[str] | None = None,
        where: Sequence[str] = (),
        skip_unknown: bool = True,
        cold_share: float = 0.0,
        cold_below: int = 1,
    ) -> list[UserItems]:
        """The next items of each user: at most `top_k`, best first, fewer where the catalogue has no more.

        Each is a list of [`Recommendation`], which also says which items of the history were `skipped`, as the
        catalogue does not have them, and whether it `is_fallback`: what is popular, where no item of them is known.

        Args:
            histories: item ids of each user, oldest first; the model reads the newest of them. An item that is in no
                catalogue may be given by its fields, such as `{"title": "Silk soap"}`, in place of an id.
            top_k: items per user.
            exclude_seen: leave out every item of the user's whole history.
            num_beams: width of the search; at least `top_k` are taken.
            exclude: ids of items that none of these users gets: what is sold out, say.
            only: ids of the items that they may get; by default all.
            where: conditions that what they get meets, such as `genres=Comedy`; see [`GramTokenizer.allowed_rows`].
            skip_unknown: read what the catalogue has of each history; without it all must be there.
            cold_share, cold_below: this share of the `top_k` is for items with fewer interactions than that, for new
                ones if it is 1; see [`gram.pipeline_gram.recommend_rows`].

        Raises:
            ValueError: a history is no list of strings; `exclude` or `only` holds an item that is not in the catalogue,
                or without `skip_unknown` a history does, or is empty; a condition cannot be evaluated; a number is
                below 1.

        Example:
            >>> users = Recommender(model, tokenizer).recommend([["B0003", "B0007"], ["B0001"]], top_k=3)
            >>> [len(items) for items in users]
            [3, 3]
        """
        allowed, found = self.allowed_rows(exclude, only, where), []
        search = {"top_k": top_k, "exclude_seen": exclude_seen, "num_beams": num_beams}
        search |= {"cold_share": cold_share, "cold_below": cold_below}
        place = "histories[{}]: " if len(histories) > 1 else ""
        users = [
            self.tokenizer.known_rows(history, where) if skip_unknown else (self.rows_or_texts(history, where), [])
            for history, where in zip(histories, map(place.format, range(len(histories))), strict=True)
        ]
        for start in range(0, len(users), self.batch_size):
            rows, skipped = zip(*users[start : start + self.batch_size], strict=True)
            best = self.recommend_rows(rows, self.item_cache, allowed=allowed, **search)
            for items, history, strangers in zip(items_of_rows(self.tokenizer, *best), rows, skipped, strict=True):
                items = (Recommendation(**item) for item in items)
                found.append(UserItems(items, strangers, is_fallback=not history))
        return found

    def set_available(self, items: Sequence[str], available: bool = True) -> None:
        """From the next call on recommend these items to nobody, or again to whom they suit; all are at first.

        Raises:
            ValueError: an item is not in the catalogue; nothing is changed then.

        Example:
            >>> recommender = Recommender(model, tokenizer)
            >>> (before,) = recommender.recommend([["B0003"]], top_k=1)
            >>> recommender.set_available([before[0].item_id], False)
            >>> recommender.recommend([["B0003"]], top_k=1)[0] == before
            False
        """
        rows = self.tokenizer.rows_of(items)
        with self._changing:
            now = np.ones(len(self.tokenizer.item_ids), bool) if self._is_available is None else self._is_available
            now = now.copy()
            now[rows] = available
            self._is_available = None if now.all() else now

    def is_available(self, item: str) -> bool:
        """Whether `set_available` has left this item of the catalogue in."""
        now = self._is_available
        return now is None or bool(now[self.tokenizer.item_rows[item]])

    @property
    def unavailable(self) -> list[str]:
        """Ids of the items that `set_available` has taken out, in the order of the catalogue."""
        now = self._is_available
        return [] if now is None else [self.tokenizer.item_ids[row] for row in np.flatnonzero(~now).tolist()]

    def allowed_rows(
        self, exclude: Sequence[str] = (), only: Sequence[str] | None = None, where: Sequence[str] = ()
    ) -> np.ndarray | None:
        """Rows of the items that may be recommended now; see [`GramTokenizer.allowed_rows`]."""
        rows, now = self.tokenizer.allowed_rows(exclude, only, where), self._is_available
        if now is None:
            return rows
        return np.flatnonzero(now) if rows is None else rows[now[rows]]

    def rows_or_texts(self, items: Sequence[str | Mapping[str, Any]], place: str = "") -> list[int | str]:
        """What [`GramTokenizer.known_rows`] gives of items that must all be known, and be some.

        Raises:
            ValueError: led in by `place`: it is empty, or an item is not in the catalogue or has no text.
        """
        read, skipped = self.tokenizer.known_rows(items, place)
        if skipped or not read:
            self.tokenizer.history_rows(skipped, place)  # says what is wrong
        return read

    def recommend_rows(
        self, histories: Sequence[Sequence[int | str]], item_cache: ItemCache | None, **search: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """One search for users whose histories are rows or texts; see [`gram.pipeline_gram.recommend_rows`]."""
        return recommend_rows(self.model, self.tokenizer, histories, item_cache=item_cache, **search)


def recommend_users(
    recommender: Recommender,
    users_file: str | Path,
    output: str | Path,
    top_k: int = 10,
    exclude_seen: bool = True,
    num_beams: int = 50,
    exclude: Sequence[str] = (),
    only: Sequence[str] | None = None,
    where: Sequence[str] = (),
    skip_unknown: bool = True,
    cold_share: float = 0.0,
    cold_below: int = 1,
    users_per_part: int = USERS_PER_PART,
    progress: bool = True,
) -> int:
    r"""Recommend to every user of a file, and write a table; gives the number of users.

    Finished parts are kept in the folder `OUTPUT.parts` until all are done: called again with the same model, users and
    settings, an interrupted run goes on where it was. Parts of other settings are of no use to it and are removed.
    Where the recommender has no item cache, the items of all users are encoded once, in memory, or where they need too
    much of it, once for each part or less (see `gram.serving.user_batches`).

    Args:
        recommender: what to ask.
        users_file: one user per line, `USER ITEM ITEM ...`, oldest item first, perhaps no item, UTF-8.
        output: `.parquet` or `.csv`, with the columns of `RECOMMENDATIONS_SCHEMA`, users in the order of their file.
        top_k, exclude_seen, num_beams, exclude, only, where, skip_unknown, cold_share, cold_below: as of
            [`Recommender.recommend`].
        users_per_part: users in a part; what an interruption may cost.
        progress: show a bar with the time left.

    Raises:
        FileNotFoundError: the users' file is missing.
        ValueError: a malformed line, a user who has two lines, an unknown item or no item where these are not skipped;
            the message names file, line and user.
            Or the output has another ending, is the users' file, is there and holds something else, or is being
            written by another process.

    Example:
        >>> _ = Path("users.txt").write_text("anna B0003 B0007\nben B0001\n")
        >>> recommend_users(Recommender(model, tokenizer), "users.txt", "table.parquet", top_k=3, progress=False)
        2
        >>> pq.read_table("table.parquet")["user_id"].to_pylist()
        ['anna', 'anna', 'anna', 'ben', 'ben', 'ben']
    """
    users_file, output = Path(users_file), Path(output)
    if output.suffix not in (".parquet", ".csv") or output.is_dir():
        raise ValueError(f"{output}: give the name of a file that ends in .parquet or .csv")
    check_outputs({output: _holds_recommendations}, [users_file])
    users = _read_users(users_file, recommender.tokenizer, skip_unknown)
    with locked(output):
        search = {"top_k": top_k, "exclude_seen": exclude_seen, "num_beams": max(num_beams, top_k)}
        search |= {"cold_share": cold_share, "cold_below": cold_below}
        allowed = recommender.allowed_rows(exclude, only, where)
        provenance = provenance_of(recommender, allowed, {**search, "users_per_part": users_per_part})
        provenance = with_users(provenance, users_file)
        folder = output.with_name(output.name + ".parts")
        parts = {start: folder / f"{start:010d}.parquet" for start in range(0, len(users), users_per_part)}
        left = {
            start: users[start : start + users_per_part]
            for start, part in parts.items()
            if read_provenance(part).get("key") != provenance.key
        }
        for facts in map(read_provenance, _parts(folder)):
            if facts and (what := provenance.differences(facts)):
                logger.warning("%s: parts of %s are of no use; all is done anew", folder, ", ".join(what))
                break
        cache = recommender.item_cache
        if left and cache is None:
            # Of all users, not of those that are left: an encoding's last bits depend on what is encoded beside it.
            cache = cache_of_users(recommender.model, recommender.tokenizer, [rows for _, rows in users], progress)
        done = len(users) - sum(map(len, left.values()))
        with tqdm(total=len(users), initial=done, desc="recommending", unit="user", disable=not progress) as bar:
            for start, chunk in left.items():
                found = _recommend_chunk(recommender, chunk, {**search, "allowed": allowed}, cache, bar)
                write_artefact(parts[start], found, provenance)
        kind = pyarrow.csv.CSVWriter if output.suffix == ".csv" else pq.ParquetWriter
        with new_file(output) as part, kind(part, RECOMMENDATIONS_SCHEMA) as writer:
            for path in parts.values():
                writer.write_table(pq.read_table(path).replace_schema_metadata())
        for path in _parts(folder):
            path.unlink()
        with suppress(OSError):  # somebody else may have put something there
            folder.rmdir()
    return len(users)


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if PART_NAME.fullmatch(path.name))


def _holds_recommendations(path: Path) -> bool:
    columns = RECOMMENDATIONS_SCHEMA.names
    if path.suffix == ".parquet":
        return holds_table(path, *columns)
    with path.open("rb") as file:
        return file.readline().replace(b'"', b"").rstrip() == ",".join(columns).encode()


def provenance_of(recommender: Recommender, allowed: np.ndarray | None, settings: Mapping[str, Any]) -> Provenance:
    """Everything but the users that decides the recommendations, to the last bit of a score."""
    catalogue = recommender.tokenizer.catalogue
    inputs = {
        "weights or configuration": hash_of_model(recommender.model),
        "catalogue or prompts": hash_of_tokenizer(recommender.tokenizer),
        "allowed items": hash_of_json(None if allowed is None else allowed.tolist()),
        "popularity": hash_of_table(catalogue.select([name for name in catalogue.column_names if name == COUNTS])),
    }
    stored = recommender.item_cache.dtype if recommender.item_cache else "float32"
    more = {"batch_size": recommender.batch_size, "item_encodings": stored, **versions(COMPUTING)}
    return Provenance("recommendations", inputs, {**settings, **more})


def with_users(provenance: Provenance, users_file: Path) -> Provenance:
    """The same, and the users."""
    return replace(provenance, inputs={**provenance.inputs, "users": hash_of_file(users_file)})


def search_users(
    recommender: Recommender, histories: Sequence[Sequence[int | str]], search: Mapping[str, Any], item_cache, bar: tqdm
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (U, K) for users in their order, -1 and 0 for none; those of like history length together."""
    model, tokenizer = recommender.model, recommender.tokenizer
    rows = np.full((len(histories), min(search["top_k"], model.item_trie.num_items)), -1)
    scores = np.zeros(rows.shape, dtype=np.float32)
    for users, cache in batches_of_users(model, tokenizer, histories, recommender.batch_size, item_cache):
        batch = [histories[user] for user in users]
        rows[users], scores[users] = recommender.recommend_rows(batch, cache, **search)
        bar.update(len(users))
    return rows, scores


def _recommend_chunk(recommender: Recommender, chunk, search, item_cache, bar: tqdm) -> pa.Table:
    """A part of the table."""
    names, histories = zip(*chunk, strict=True)
    rows, scores = search_users(recommender, histories, search, item_cache, bar)
    user, place = np.nonzero(rows >= 0)
    items = recommender.tokenizer.catalogue.select(["item_id", "title"]).take(rows[user, place])
    columns = [pa.array(names).take(user), place + 1, items["item_id"], items["title"], scores[user, place]]
    return pa.table(columns, schema=RECOMMENDATIONS_SCHEMA)


def _read_users(path: Path, tokenizer: GramTokenizer, skip_unknown: bool) -> list[tuple[str, list[int]]]:
    """Users with the catalogue rows of their histories."""
    users: dict[str, tuple[int, list[int]]] = {}  # with the number of the line
    num_skipped = num_cold = 0
    for number, line in filled_lines(path):
        user, *history = line.split()
        if skip_unknown:
            rows, skipped = tokenizer.known_rows(history)
            num_skipped, num_cold = num_skipped + len(skipped), num_cold + (not rows)
        else:
            rows = tokenizer.history_rows(history, f"{path}:{number}: user {user}: ")
        if user in users:
            raise ValueError(f"{path}:{number}: user {user} stands on line {users[user][0]} already; keep one line")
        users[user] = number, rows
    if not users:
        raise ValueError(f"{path}: no users; the form is 'USER ITEM ITEM ...', one user per line")
    if num_skipped or num_cold:
        what = "%s: %d items are not in the catalogue and skipped; %d users have no other and get what is popular"
        logger.warning(what, path, num_skipped, num_cold)
    return [(user, rows) for user, (_, rows) in users.items()]

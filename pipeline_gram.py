"""transformers' pipeline for GRAM, and what every way to recommend shares: catalogue rows in, the best rows out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from transformers import Pipeline, PreTrainedConfig
from transformers.utils import logging

from .arguments_gram import whole_number
from .item_cache_gram import ITEM_CACHE_FOLDER, ItemCache
from .loading_gram import check_catalogue

TASK = "generative-recommendation"
BATCH_SIZE = 16

logger = logging.get_logger(__name__)


class GenerativeRecommendationPipeline(Pipeline):
    r"""Recommends the next items of users from the items that they have had.

    Takes what every pipeline takes (`device`, `dtype`, `batch_size`, ...); arguments of a call may be given here too,
    to hold for all calls.

    Args:
        model: a [`GramForConditionalGeneration`] with its item trie.
        tokenizer: its [`GramTokenizer`].
        item_cache: where the encodings of the items are. By default in the model folder, if `gram encode` left them
            there; True: there, or with the model on the Hub, and nowhere else; a folder; False: items are encoded when
            they are met in a history.

    Raises:
        FileNotFoundError: there are no encodings where `item_cache` says.
        ValueError: the encodings are not of this model and catalogue; model and catalogue do not belong together.

    Example:
        >>> from transformers import pipeline
        >>> recommend = pipeline("generative-recommendation", "runs/mine", trust_remote_code=True)  # doctest: +SKIP
        >>> recommend(["50", "172"], top_k=1)  # doctest: +SKIP
        [{'item_id': '181', 'title': 'Return of the Jedi', 'score': -0.71}]
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, model, tokenizer=None, item_cache: bool | str | Path | None = None, **kwargs):
        local_files_only = kwargs.pop("local_files_only", False)
        if tokenizer is None:
            raise ValueError("a GRAM needs its tokenizer, which has the catalogue: give `tokenizer`")
        super().__init__(model, tokenizer, **kwargs)
        self.model.eval()
        check_catalogue(model, tokenizer, model.name_or_path or "the model")
        self.item_cache = self._open(item_cache, local_files_only)

    def _open(self, item_cache: bool | str | Path | None, local_files_only: bool) -> ItemCache | None:
        name = self.model.name_or_path
        if item_cache is None:
            item_cache = bool(name) and (Path(name) / ITEM_CACHE_FOLDER).is_dir() and self._has_saved_dtype()
        if item_cache is False:
            return None
        if item_cache is True:
            item_cache = item_cache_folder(name, getattr(self.model.config, "_commit_hash", None), local_files_only)
        return ItemCache.open(item_cache, self.model, self.tokenizer)

    def _has_saved_dtype(self) -> bool:
        saved = PreTrainedConfig.get_config_dict(self.model.name_or_path)[0].get("dtype")
        loaded = str(self.model.dtype).removeprefix("torch.")
        if saved != loaded:
            logger.warning(f"the item encodings are of the model in {saved}, and not used for the model in {loaded}")
        return saved == loaded

    def _sanitize_parameters(self, exclude=None, only=None, where=None, score_mode=None, **search):
        search = {name: value for name, value in search.items() if value is not None}
        check_search(**search)
        choice = {"exclude": exclude, "only": only, "where": where}
        choice = {name: value for name, value in choice.items() if value is not None}
        self.tokenizer.allowed_rows(**choice)  # what is wrong is said now
        return {}, search | choice | ({} if score_mode is None else {"score_mode": score_mode}), {}

    def __call__(
        self,
        inputs: Sequence[str] | Iterable[Sequence[str]],
        *,
        num_workers: int | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """Recommend items.

        Args:
            inputs: item ids of one user, oldest first, or in place of an id the fields of an item that is in no
                catalogue, see `known_rows` of the tokenizer; a list or an array of such histories; or a data set, a
                generator or another iterable of them, which is read batch by batch. The model reads the newest items of
                a history.
            num_workers: taken, as by every pipeline; histories need no processes that load them.
            batch_size: users in one search; 16 unless the pipeline was made with another one.
            kwargs: `top_k`: items per user (10). `exclude_seen`: leave out every item of the user's whole history
                (True). `exclude`: ids of items that nobody gets. `only`: ids of the items that anybody may get (all).
                `where`: conditions on their fields, such as `"price<=20"`, see `allowed_rows` of the tokenizer.
                `num_beams`: width of the search (50), at least `top_k`. `score_mode`: `"vocabulary"` or
                `"trie"`, `exact`: search until nothing better can be found (False), both as in `generate`.
                `cold_share` (0), `cold_below` (1): a share of the places for new items, see [`recommend_rows`].

        Returns:
            For each user [`UserItems`], a list of at most `top_k` dictionaries `item_id`, `title`, `score`, best first:
            fewer where the catalogue has no more. Items of a history that the catalogue does not have are skipped;
            where nothing is left, the most popular items are recommended, scored by the logarithm of their share of
            the training part. One user's list for one history, a list of them for a list of histories, an
            iterator over them for everything else.

        Raises:
            ValueError: a history is no list of strings (the message names its place among the histories); an argument
                has an impossible value.
        """
        if batch_size is None:
            batch_size = BATCH_SIZE if self._batch_size is None else self._batch_size
        whole_number("batch_size", batch_size)
        options = {**self._forward_params, **self._sanitize_parameters(**kwargs)[1]}
        choice = {name: options.pop(name) for name in ("exclude", "only", "where") if name in options}
        options["allowed"] = self.tokenizer.allowed_rows(**choice)
        if isinstance(inputs, np.ndarray):
            inputs = inputs.tolist()
        if not isinstance(inputs, list | tuple):
            return self._stream(_read(_iterator(inputs), self.tokenizer), batch_size, options)
        if not inputs:
            raise ValueError("got an empty list; give the item ids of a history, or several such lists")
        if isinstance(inputs[0], str | Mapping):
            return next(self._stream(iter([self.tokenizer.known_rows(inputs)]), 1, options))
        return list(self._stream(iter(list(_read(inputs, self.tokenizer))), batch_size, options))

    def _stream(self, users: Iterator[tuple[list[int], list[str]]], batch_size: int, options: dict):
        while batch := list(islice(users, batch_size)):
            histories, skipped = zip(*batch, strict=True)
            found = self.run_single(list(histories), {}, options, {})
            for items, history, strangers in zip(found, histories, skipped, strict=True):
                yield UserItems(items, strangers, is_fallback=not history)

    def preprocess(self, input_: list[list[int]]) -> dict:
        """What `_forward` takes: a batch of histories, as catalogue rows."""
        return {"histories": input_}

    def recommend_rows(self, histories: list[list[int]], **options) -> tuple[np.ndarray, np.ndarray]:
        """The best catalogue rows (B, K) for histories of catalogue rows, and their scores; see the function."""
        return recommend_rows(self.model, self.tokenizer, histories, item_cache=self.item_cache, **options)

    def _forward(self, input_tensors: dict, **options) -> tuple[np.ndarray, np.ndarray]:
        return self.recommend_rows(**input_tensors, **options)

    def postprocess(self, model_outputs: tuple[np.ndarray, np.ndarray]) -> list[list[dict]]:
        """Catalogue rows with scores, made into items."""
        return items_of_rows(self.tokenizer, *model_outputs)


def _iterator(inputs) -> Iterator[Sequence[str]]:
    if not isinstance(inputs, str | Mapping):
        if isinstance(inputs, Iterable):
            return iter(inputs)
        if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):  # a data set of torch
            return (inputs[number] for number in range(len(inputs)))
    raise ValueError(f"give a list of item ids, or several such lists; got a value of type {type(inputs).__name__}")


def _read(histories: Iterable[Sequence[str]], tokenizer) -> Iterator[tuple[list[int], list[str]]]:
    """Catalogue rows of histories, and ids that are not there; what is wrong is said of the history's number."""
    return (tokenizer.known_rows(history, f"histories[{user}]: ") for user, history in enumerate(histories))


class UserItems(list):
    """What is recommended to a user, best first.

    Attributes:
        skipped: ids of the history that the catalogue does not have.
        is_fallback: True where nothing of the history is known, or it is empty: these are the most popular items.
    """

    def __init__(self, items: Iterable = (), skipped: Sequence[str] = (), is_fallback: bool = False):
        super().__init__(items)
        self.skipped, self.is_fallback = list(skipped), is_fallback


def item_cache_folder(name_or_path: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Where a model's item encodings are if it has any: in its folder, or fetched from the Hub."""
    folder = Path(name_or_path)
    if not folder.exists():
        # With a pattern that always finds something, the Hub's client has nothing to warn of.
        wanted = ["config.json", f"{ITEM_CACHE_FOLDER}/*"]
        options = {"allow_patterns": wanted, "local_files_only": local_files_only}
        folder = Path(snapshot_download(str(name_or_path), revision=revision, **options))
    return folder / ITEM_CACHE_FOLDER


def check_search(
    top_k: int = 10,
    exclude_seen: bool = True,
    num_beams: int = 50,
    exact: bool = False,
    cold_share: float = 0.0,
    cold_below: int = 1,
) -> None:
    """Raise ValueError where a number is not whole or below 1, a switch neither True nor False, a share none."""
    for name, value in (("top_k", top_k), ("num_beams", num_beams), ("cold_below", cold_below)):
        whole_number(name, value)
    if isinstance(cold_share, bool) or not isinstance(cold_share, int | float) or not 0 <= cold_share <= 1:
        raise ValueError(f"cold_share is {cold_share!r}; it must be a number from 0 to 1")
    for name, value in (("exclude_seen", exclude_seen), ("exact", exact)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; it must be True or False")


def recommend_rows(
    model,
    tokenizer,
    histories: Sequence[Sequence[int | str]],
    top_k: int = 10,
    exclude_seen: bool = True,
    num_beams: int = 50,
    item_cache: ItemCache | None = None,
    allowed: Sequence[int] | np.ndarray | None = None,
    score_mode: str | None = None,
    exact: bool = False,
    cold_share: float = 0.0,
    cold_below: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The next items of a batch of users, all searched for at once: what every way to recommend comes to.

    Args:
        model: a [`GramForConditionalGeneration`] with its item trie, in evaluation mode.
        tokenizer: its [`GramTokenizer`].
        histories: catalogue rows of B users, oldest first, and texts of items that are in no catalogue, as
            `tokenizer.known_rows` gives them; to users of none the most popular items are recommended, scored by
            `tokenizer.popularity`.
        top_k: items per user.
        exclude_seen: leave out every item of the user's whole history.
        num_beams: width of the search; at least `top_k` are taken.
        item_cache: encodings of the histories' items; without it they are encoded.
        allowed: catalogue rows of the items that these users may get, see `tokenizer.allowed_rows`; by default all.
        score_mode: see [`GramForConditionalGeneration.generate`].
        exact: likewise.
        cold_share: of the K places so many are for cold items: what a model has not learnt, it hardly recommends. Where
            there are fewer, the last places go to others: of those that a search among cold items alone finds best,
            those whose encodings are most like one of the history's.
        cold_below: cold items have fewer interactions than that in the training part; 1: new items alone.

    Returns:
        Catalogue rows (B, K) and their scores (B, K), best first; -1 and -inf where a user has no more items. K is
        `top_k`, or the items of the catalogue where these are fewer. Items that `cold_share` has brought in come last.

    Raises:
        ValueError: a number is below 1, or `cold_share` not from 0 to 1; a history is empty, or `cold_share` is given,
            and the catalogue does not say how often items were taken.
    """
    check_search(top_k, exclude_seen, num_beams, exact, cold_share, cold_below)
    is_unknown = np.array([not len(history) for history in histories])
    if is_unknown.any():
        some = [history for history in histories if len(history)]
        rows, scores = popular_rows(model, tokenizer, top_k, allowed)
        rows, scores = (np.repeat(of[None], len(histories), axis=0) for of in (rows, scores))
        if some:
            search = (top_k, exclude_seen, num_beams, item_cache, allowed, score_mode, exact, cold_share, cold_below)
            rows[~is_unknown], scores[~is_unknown] = recommend_rows(model, tokenizer, some, *search)
        return rows, scores
    texts = list(dict.fromkeys(item for history in histories for item in history if isinstance(item, str)))
    if texts:
        row_of = {text: len(tokenizer.item_ids) + place for place, text in enumerate(texts)}
        histories = [[row_of.get(item, item) for item in history] for history in histories]
        item_cache = item_cache and item_cache.with_prompts(model, tokenizer.text_prompts(texts))
    # As many beams as items rank the whole catalogue: whatever is asked for beyond that only takes memory.
    top_k = min(top_k, model.item_trie.num_items)
    num_beams = max(top_k, min(num_beams, model.item_trie.num_items))
    inputs = tokenizer(rows=histories, texts=texts, item_prompts=item_cache is None, return_tensors="pt")

    def search(allowed: Sequence[int] | np.ndarray | None, number: int) -> tuple[np.ndarray, np.ndarray]:
        output = model.generate(
            **inputs.to(model.device),
            excluded_items=histories if exclude_seen else None,
            allowed_items=allowed,
            item_cache=item_cache,
            num_beams=num_beams,
            num_return_sequences=number,
            score_mode=score_mode,
            exact=exact,
            return_dict_in_generate=True,
        )
        return output.item_indices.cpu().numpy(), output.sequences_scores.view(-1, number).cpu().numpy()

    rows, scores = search(allowed, top_k)
    places = round(cold_share * top_k)
    if places:
        is_cold = tokenizer.interactions < cold_below
        lacking = places - (is_cold[rows] & (rows >= 0)).sum(axis=1)
        cold = is_cold.nonzero()[0] if allowed is None else np.asarray(allowed)[is_cold[allowed]]
        if len(cold) and (lacking > 0).any():
            found = search(cold, num_beams)
            likeness = _likeness(model, tokenizer, found[0], histories, item_cache, texts)
            rows, scores = _with_cold_items((rows, scores), found, likeness, is_cold, lacking)
    return rows, scores


def _with_cold_items(
    best: tuple[np.ndarray, np.ndarray],
    cold: tuple[np.ndarray, np.ndarray],
    likeness: np.ndarray,
    is_cold: np.ndarray,
    lacking: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (B, K) with as many cold items more as each user lacks (B,), of rows and scores (B, C)."""
    rows, scores = (of.copy() for of in best)
    for user, number in enumerate(lacking.tolist()):
        order = [at for at in np.argsort(-likeness[user], kind="stable") if likeness[user, at] > -np.inf]
        order = [at for at in order if cold[0][user, at] not in rows[user]][: max(number, 0)]
        kept = np.flatnonzero(rows[user] >= 0)
        warm = kept[~is_cold[rows[user, kept]]]
        leaving = max(len(kept) + len(order) - rows.shape[1], 0)
        kept = np.setdiff1d(kept, warm[len(warm) - leaving :])
        size = len(kept) + len(order)
        for of, more in zip((rows, scores), cold, strict=True):
            of[user, :size] = np.concatenate([of[user, kept], more[user, order]])
    return rows, scores


def _likeness(model, tokenizer, candidates: np.ndarray, histories, item_cache, texts: Sequence[str]) -> np.ndarray:
    """(B, C) the cosine of each candidate's encoding to the nearest of the items that the model reads; -inf for none.

    An item that the user has had is like itself, and counts as none.
    """
    read = [np.asarray(history)[-tokenizer.max_history :] for history in histories]
    rows = np.unique(np.concatenate([candidates.ravel(), *read]))
    rows = rows[rows >= 0]
    if item_cache is None or not item_cache.holds(rows).all():
        known = rows[rows < len(tokenizer.item_ids)]
        item_cache = ItemCache.in_memory(model, tokenizer, known)
        item_cache = item_cache.with_prompts(model, tokenizer.text_prompts(texts)) if texts else item_cache
    vectors = item_cache.pooled(rows).numpy(force=True)
    likeness = np.full(candidates.shape, -np.inf)
    for user, history in enumerate(read):
        there = (candidates[user] >= 0) & ~np.isin(candidates[user], histories[user])
        of_candidates = vectors[np.searchsorted(rows, candidates[user, there])]
        likeness[user, there] = (of_candidates @ vectors[np.searchsorted(rows, history)].T).max(axis=1)
    return likeness


def popular_rows(model, tokenizer, top_k: int, allowed: Sequence[int] | np.ndarray | None = None) -> tuple:
    """The most popular of the items that may be recommended, as [`recommend_rows`] gives them: rows and scores (K,)."""
    leaves = model.item_trie.leaves.cpu().numpy()
    scores = np.full(len(leaves), -np.inf, dtype=np.float32)
    may = np.arange(len(leaves)) if allowed is None else np.asarray(allowed, dtype=np.int64)
    may = may[leaves[may] >= 0]
    scores[may] = tokenizer.popularity[may]
    rows = np.argsort(-scores, kind="stable")[:top_k]
    return np.where(scores[rows] > -np.inf, rows, -1), scores[rows]


def items_of_rows(tokenizer, rows: np.ndarray, scores: np.ndarray) -> list[list[dict]]:
    """What [`recommend_rows`] gave as dictionaries `item_id`, `title`, `score`."""
    return [
        [
            {"item_id": tokenizer.item_ids[row], "title": tokenizer.titles[row], "score": score}
            for row, score in zip(*user, strict=True)
            if row >= 0
        ]
        for user in zip(rows.tolist(), scores.tolist(), strict=True)
    ]


__all__ = ["GenerativeRecommendationPipeline"]

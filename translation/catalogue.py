"""The translation of a data set into its catalogue: what each item is called, and what is similar to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ..data.interactions import RecommendationData
from ..data.readers import read_lexical_ids, read_similar_items
from ..data.splits import training_part
from .collaborative import fit_or_load, fit_sasrec, nearest_items
from .embedding import embed_texts
from .hierarchy import cluster_hierarchy
from .lexical_ids import name_items
from .sasrec import SASRec, SASRecSettings
from .settings import TranslationSettings
from .statistics import TreeStatistics

logger = logging.getLogger(__name__)

CATALOGUE_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("lexical_id", pa.list_(pa.string())),
        ("similar_items", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, eq=False)
class Translation:
    """What the translation of a data set gives.

    Attributes:
        catalogue: N rows in catalogue order, `CATALOGUE_SCHEMA`: the lexical ID as tokens of the vocabulary, without
            an end token; the similar items as item ids, nearest first.
        statistics: of the ID tree.
        sasrec: the collaborative filter behind the similar items; None where they were given, or none asked for.
    """

    catalogue: pa.Table
    statistics: TreeStatistics
    sasrec: SASRec | None


def translate(
    data: RecommendationData,
    tokenizer: PreTrainedTokenizerBase,
    settings: TranslationSettings | None = None,
    *,
    sasrec_settings: SASRecSettings | None = None,
    sasrec_path: str | Path | None = None,
    progress: bool = True,
) -> Translation:
    """Give every item its lexical ID and its similar items. Of the interactions only the training part is looked at.

    Args:
        data: items and users' whole sequences.
        tokenizer: a T5-like tokenizer; lexical IDs are made of its vocabulary.
        settings: of the translation.
        sasrec_settings: of the collaborative filter.
        sasrec_path: a file that the SASRec is loaded from if it was trained on exactly this, and saved to otherwise.
        progress: show progress bars.

    Returns:
        The catalogue and how it came about. The same input and seed give the same catalogue.

    Raises:
        FileNotFoundError: a file that the settings ask for is not in the data folder.
        ValueError: such a file is malformed or does not fit the vocabulary, a user has fewer than 3 items, or the
            encoder cannot be loaded.
    """
    settings = settings or TranslationSettings()
    lexical_ids = _lexical_ids(data, tokenizer, settings, progress)
    statistics = TreeStatistics.of(lexical_ids)
    similar, sasrec = _similar_items(data, settings, sasrec_settings, sasrec_path, progress)
    item_ids = data.items.item_ids
    neighbours = [[item_ids[row] for row in rows if row >= 0] for rows in similar.tolist()]
    columns = [item_ids, data.items.titles, data.items.texts, lexical_ids, neighbours]
    return Translation(pa.table(columns, schema=CATALOGUE_SCHEMA), statistics, sasrec)


def _lexical_ids(
    data: RecommendationData, tokenizer: PreTrainedTokenizerBase, settings: TranslationSettings, progress: bool
) -> list[list[str]]:
    if settings.use_lexical_ids:
        path = _given_file(data, "lexical_ids.txt", "use_lexical_ids")
        lexical_ids = read_lexical_ids(path, data.items.item_ids)
        check_tokens(lexical_ids, data.items.item_ids, tokenizer, source=str(path))
        return lexical_ids
    vectors = embed_texts(data.items.texts, settings.encoder, settings.seed, progress)
    paths = cluster_hierarchy(vectors, settings.num_clusters, settings.depth, settings.seed)
    return name_items(paths, data.items.texts, tokenizer)


def check_tokens(
    lexical_ids: Sequence[Sequence[str]], item_ids: Sequence[str], tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    """Make sure that every token of the lexical IDs is one token of the vocabulary, and not a special one.

    Raises:
        ValueError: it is not; names `source`, the item and the token.
    """
    usable = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    for item, tokens in zip(item_ids, lexical_ids, strict=True):
        for token in tokens:
            if token not in usable:
                raise ValueError(
                    f"{source}: item {item}: token {token!r} is not in the vocabulary; use the tokenizer that the "
                    "IDs were made with"
                )


def _similar_items(
    data: RecommendationData,
    settings: TranslationSettings,
    sasrec_settings: SASRecSettings | None,
    sasrec_path: str | Path | None,
    progress: bool,
) -> tuple[np.ndarray, SASRec | None]:
    """(N, up to `num_similar`) rows of the catalogue, -1 padded, and where they come from."""
    if settings.use_similar_items:
        path = _given_file(data, "similar_items.txt", "use_similar_items")
        return read_similar_items(path, data.items.item_ids)[:, : settings.num_similar], None
    if settings.num_similar == 0:
        return np.zeros((len(data.items), 0), dtype=np.int32), None
    training = (training_part(data), len(data.items), sasrec_settings, settings.seed, progress)
    sasrec = fit_or_load(sasrec_path, *training) if sasrec_path else fit_sasrec(*training)
    return nearest_items(sasrec.item_embeddings(), settings.num_similar), sasrec


def _given_file(data: RecommendationData, name: str, setting: str) -> Path:
    if data.folder is None:
        raise ValueError(f"{setting} is set, but the data were not read from a folder; unset it")
    return data.folder / name

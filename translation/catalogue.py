"""The translation of a data set into its catalogue: what each item is called, and what is similar to it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ..collaborative.fitting import fit_or_load, sasrec_provenance
from ..collaborative.neighbours import EXACT_ITEMS, nearest_items
from ..collaborative.sasrec import SASRec, SASRecSettings
from ..collaborative.together import items_bought_together
from ..common.extras import needs
from ..common.processes import PartialState
from ..common.provenance import (
    Provenance,
    hash_of_file,
    hash_of_interactions,
    hash_of_items,
    hash_of_table,
    hash_of_texts,
    table_or_arrays,
)
from ..data.interactions import RecommendationData
from ..data.splits import training_part
from ..tokenization_gram import CATALOGUE_SCHEMA, COUNTS
from .codes import code_ids, code_tokens, residual_codes
from .embedding import embed_texts, encode_in_shards, encoder_inputs, unit_length
from .given import read_block_list, read_lexical_ids, read_similar_items, read_vectors
from .hierarchy import FAISS_ITEMS, cluster_hierarchy
from .lexical_ids import name_items
from .report import TreeStatistics
from .settings import BUILT_IN_ENCODER, CODES, ITEM_KNN, SASREC, TranslationSettings

SASREC_FILE = "sasrec.safetensors"
VECTORS_FILE, TREE_FILE, CODES_FILE = "vectors.safetensors", "tree.safetensors", "codes.safetensors"
LEXICAL_IDS_FILE, SIMILAR_ITEMS_FILE = "lexical_ids.parquet", "similar_items.parquet"
SHARDS_FOLDER = "vectors"
KNOWN_BY = 10  # interactions of an item at which the SASRec has half its share in what the item is clustered by
ARTEFACTS = (VECTORS_FILE, TREE_FILE, CODES_FILE, LEXICAL_IDS_FILE, SIMILAR_ITEMS_FILE, SASREC_FILE, SHARDS_FOLDER)


@dataclass(frozen=True, eq=False)
class Translation:
    """What the translation of a data set gives."""

    # N rows in catalogue order, `CATALOGUE_SCHEMA`, `COUNTS`, the items' other fields: the lexical ID as tokens of the
    # vocabulary, without an end token; the similar items as item ids, nearest first. Its metadata hold the provenance
    catalogue: pa.Table
    provenance: Provenance  # of the catalogue
    statistics: TreeStatistics  # of the ID tree
    sasrec: SASRec | None  # the collaborative filter behind the similar items; None where they come from elsewhere
    # tokens of the IDs that the vocabulary is to be given; none where IDs are made of its words
    new_tokens: tuple[str, ...] = ()


def translate(
    data: RecommendationData,
    tokenizer: PreTrainedTokenizerBase,
    settings: TranslationSettings | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Translation:
    """Give every item its lexical ID and its similar items. Of the interactions only the training part is looked at.

    Args:
        data: items and users' whole sequences.
        tokenizer: a T5-like tokenizer; lexical IDs are made of its vocabulary, and codes are new to it.
        settings: of the translation.
        folder: keeps what every stage makes, each with its provenance; a stage whose input and settings are those of
            the file that is there is not done again.
        progress: show progress bars.

    Returns:
        The catalogue and how it came about. The same input and seed give the same catalogue, and the same files.

    Raises:
        FileNotFoundError: a file that the settings name is missing.
        MissingPackageError: the catalogue is so large that faiss is needed, and it is not installed.
        ValueError: such a file is malformed or does not fit the vocabulary, a user has fewer than 3 items, or the
            encoder cannot be loaded.
    """
    settings = settings or TranslationSettings()
    most = EXACT_ITEMS if settings.has_sasrec else FAISS_ITEMS if _has_clusters(settings) else math.inf
    if len(data.items) > most:
        with needs("faiss", f"a catalogue of {len(data.items):,} items"):  # now, and not after an hour
            import faiss  # noqa: F401
    stages = _Stages(data, tokenizer, settings, folder, progress)
    lexical_ids, ids_from, new_tokens = stages.codes() if settings.id_tokens == CODES else stages.lexical_ids()
    similar, similar_from, sasrec = stages.similar_items()
    items = data.items
    neighbours = [[items.item_ids[row] for row in rows if row >= 0] for rows in similar.tolist()]
    inputs = {"items": stages.items, "lexical IDs": ids_from.key, "similar items": similar_from.key}
    columns = [items.item_ids, items.titles, items.texts, lexical_ids, neighbours]
    catalogue = pa.table(columns, schema=CATALOGUE_SCHEMA)
    fields = pa.table({COUNTS: np.bincount(training_part(data).items, minlength=len(items))})
    for name in () if items.fields is None else items.fields.column_names:
        if name not in (*CATALOGUE_SCHEMA.names, COUNTS):
            fields = fields.append_column(items.fields.schema.field(name), items.fields[name])
    inputs["fields"] = hash_of_table(fields)
    for field in fields.schema:
        catalogue = catalogue.append_column(field, fields[field.name])
    provenance = Provenance("catalogue", inputs, {})
    catalogue = catalogue.replace_schema_metadata(provenance.metadata)
    return Translation(catalogue, provenance, TreeStatistics.of(lexical_ids), sasrec, new_tokens)


def sasrec_settings_of(settings: TranslationSettings) -> SASRecSettings:
    """Those of its collaborative filter that a translation has settings for."""
    names = ("dim", "num_layers", "epochs", "max_length", "dropout", "negatives", "texts")
    return SASRecSettings(**{name: getattr(settings, f"sasrec_{name}") for name in names})


def _has_clusters(settings: TranslationSettings) -> bool:
    """Whether items are clustered by their vectors."""
    return settings.id_tokens == CODES or (settings.hierarchy and settings.lexical_ids is None)


def encode_together(
    texts: Sequence[str], settings: TranslationSettings, folder: Path, processes: PartialState, progress: bool = True
) -> None:
    """Let several processes fill the folder with the shards of a sentence-transformers encoder; all must call this."""
    has_vectors = _has_clusters(settings) or (settings.sasrec_texts and settings.has_sasrec)
    if has_vectors and settings.vectors is None and settings.encoder != BUILT_IN_ENCODER:
        options = _encoder_options(settings, folder)
        encode_in_shards(texts, settings.encoder, **options, processes=processes, progress=progress)


def _encoder_options(settings: TranslationSettings, folder: Path | None) -> dict[str, Any]:
    names = ("prompt", "max_length", "append_eos", "trust_remote_code")
    options = {name: getattr(settings, f"encoder_{name}") for name in names}
    return {**options, "folder": folder and folder / SHARDS_FOLDER}


class _Stages:
    """The stages of the translation, each a method that gives what it made and its provenance."""

    def __init__(self, data, tokenizer, settings, folder, progress):
        self.data, self.tokenizer = data, tokenizer
        self.settings, self.sasrec_settings = settings, sasrec_settings_of(settings)
        self.folder = None if folder is None else Path(folder)
        self.progress = progress
        self._sasrec: tuple[SASRec, str] | None = None
        self.texts = hash_of_texts(data.items.texts)
        self.items = hash_of_items(data.items)
        self.item_ids = hash_of_texts(data.items.item_ids)

    def _file(self, name: str) -> Path | None:
        return self.folder and self.folder / name

    def _kept(self, name: str, provenance: Provenance, make):
        return table_or_arrays(self._file(name), provenance, make)

    def vectors(self) -> tuple[np.ndarray, Provenance]:
        """(N, d) float32."""
        settings = self.settings
        if settings.vectors is not None:
            vectors = read_vectors(settings.vectors, self.data.items.item_ids)
            inputs = {"vectors": hash_of_file(settings.vectors), "item ids": self.item_ids}
            return vectors, Provenance("item vectors", inputs, {})
        facts, options, inputs = {"encoder": settings.encoder, "seed": settings.seed}, {}, {}
        if settings.encoder != BUILT_IN_ENCODER:
            options = _encoder_options(settings, self.folder)
            names = ("prompt", "max_length", "append_eos")
            facts = {"encoder": settings.encoder, **{name: options[name] for name in names}}
            options["progress"], inputs = self.progress, encoder_inputs(settings.encoder)
        provenance = Provenance("item vectors", {"texts": self.texts, **inputs}, facts)

        def make() -> dict[str, np.ndarray]:
            return {"vectors": embed_texts(self.data.items.texts, settings.encoder, settings.seed, **options)}

        return self._kept(VECTORS_FILE, provenance, make)["vectors"], provenance

    def sasrec(self) -> tuple[SASRec, str]:
        """The SASRec of the training part, and the key of its provenance."""
        if self._sasrec is None:
            arguments = (training_part(self.data), len(self.data.items), self.sasrec_settings, self.settings.seed)
            vectors = self.vectors()[0] if self.sasrec_settings.texts else None
            sasrec = fit_or_load(self._file(SASREC_FILE), *arguments, self.progress, vectors)
            self._sasrec = sasrec, sasrec_provenance(*arguments, vectors).key
        return self._sasrec

    def clustered(self) -> tuple[np.ndarray, dict[str, str], dict[str, Any]]:
        """(N, d) what items are clustered by; the keys of what it was made from, and settings that matter to it."""
        (vectors, vectors_from), share = self.vectors(), self.settings.sasrec_in_clusters
        keys = {"vectors": vectors_from.key}
        if not share:
            return vectors, keys, {}
        sasrec, keys["sasrec"] = self.sasrec()
        counts = np.bincount(training_part(self.data).items, minlength=len(vectors))
        shares = (share * counts / (counts + KNOWN_BY))[:, None]
        parts = [unit_length(of - of.mean(axis=0)) for of in (sasrec.items.weight.numpy(force=True), vectors)]
        both = np.hstack([np.sqrt(shares) * parts[0], np.sqrt(1 - shares) * parts[1]])
        return both.astype(np.float32), keys, {"sasrec_in_clusters": share}

    def tree(self) -> tuple[np.ndarray, Provenance]:
        """(N, depth) paths of the items."""
        vectors, keys, share = self.clustered()
        facts = {name: getattr(self.settings, name) for name in ("num_clusters", "depth", "seed")}
        if facts["num_clusters"] is None:
            facts["num_clusters"] = min(max(1 << round(math.log2(len(vectors)) / 2), 2), self.settings.max_fan_out)
        provenance = Provenance("cluster tree", keys, facts | share)

        def make() -> dict[str, np.ndarray]:
            workers = self.settings.num_workers
            return {"paths": cluster_hierarchy(vectors, **facts, num_workers=workers, progress=self.progress)}

        return self._kept(TREE_FILE, provenance, make)["paths"], provenance

    def codes(self) -> tuple[list[list[str]], Provenance, tuple[str, ...]]:
        """N lists of code tokens, and those code tokens that are new to the vocabulary."""
        vectors, keys, share = self.clustered()
        facts = {name: getattr(self.settings, name) for name in ("num_codebooks", "codebook_size", "seed")}
        provenance = Provenance("codes", keys, facts | share)
        known = self.tokenizer.get_vocab()

        def make() -> dict[str, np.ndarray]:
            return {"codes": residual_codes(vectors, **facts, progress=self.progress)}

        codes = self._kept(CODES_FILE, provenance, make)["codes"]
        tokens = code_tokens(codes, self.settings.codebook_size)
        return code_ids(codes), provenance, tuple(token for token in tokens if token not in known)

    def lexical_ids(self) -> tuple[list[list[str]], Provenance, tuple[str, ...]]:
        """N lists of tokens of the vocabulary, to which none is new."""
        settings, items = self.settings, self.data.items
        if settings.lexical_ids is not None:
            usable = self.tokenizer.get_vocab().keys() - set(self.tokenizer.all_special_tokens)
            lexical_ids = read_lexical_ids(settings.lexical_ids, items.item_ids, usable)
            inputs = {"lexical IDs": hash_of_file(settings.lexical_ids), "item ids": self.item_ids}
            return lexical_ids, Provenance("lexical IDs", inputs, {}), ()
        blocked = read_block_list(settings.blocked_tokens) if settings.blocked_tokens else []
        vocabulary = hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        inputs = {"texts": self.texts, "item ids": self.item_ids, "tokenizer": vocabulary}
        facts: dict[str, Any] = {"blocked": sorted(blocked)}
        if settings.hierarchy:
            paths, tree_from = self.tree()
            inputs["tree"], facts["max_fan_out"] = tree_from.key, settings.max_fan_out
        else:
            paths = np.full((len(items), settings.depth), -1)  # no cluster holds items together
            facts |= {"hierarchy": False, "depth": settings.depth}
        provenance = Provenance("lexical IDs", inputs, facts)

        def make() -> pa.Table:
            max_fan_out = settings.max_fan_out if settings.hierarchy else len(self.tokenizer)
            named = name_items(paths, items.texts, self.tokenizer, max_fan_out, blocked, progress=self.progress)
            return pa.table({"item_id": items.item_ids, "lexical_id": pa.array(named, pa.list_(pa.string()))})

        return self._kept(LEXICAL_IDS_FILE, provenance, make)["lexical_id"].to_pylist(), provenance, ()

    def similar_items(self) -> tuple[np.ndarray, Provenance, SASRec | None]:
        """(N, up to `num_similar`) rows of the catalogue, -1 padded; their provenance; the SASRec behind them."""
        source, k = self.settings.similar_items, self.settings.num_similar
        num_items = len(self.data.items)
        if k == 0:
            return np.zeros((num_items, 0), dtype=np.int32), Provenance("similar items", {}, {"num_similar": 0}), None
        if source not in (SASREC, ITEM_KNN):
            similar = read_similar_items(source, self.data.items.item_ids)[:, :k]
            inputs = {"similar items": hash_of_file(source), "item ids": self.item_ids}
            return similar, Provenance("similar items", inputs, {"num_similar": k}), None
        training = training_part(self.data)
        sasrec, inputs = None, {"training interactions": hash_of_interactions(training)}
        if source == SASREC:
            sasrec, key = self.sasrec()
            inputs = {"sasrec": key}
        provenance = Provenance("similar items", inputs, {"num_similar": k, "source": source, "num_items": num_items})

        def make() -> pa.Table:
            if sasrec is not None:
                rows = nearest_items(sasrec.items.weight.detach(), k)
            else:
                rows = items_bought_together(training, num_items, k)
            return pa.table({"rows": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), k)})

        flat = self._kept(SIMILAR_ITEMS_FILE, provenance, make)["rows"].combine_chunks().flatten()
        return flat.to_numpy().reshape(num_items, k), provenance, sasrec

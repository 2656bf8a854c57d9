"""Where files come from: hashes of what they were made from, and the key that says whether two are of the same.

What is asked for again is done again only where its key differs, and the names of what differs are said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from .files import new_file

if TYPE_CHECKING:  # `gram prepare` needs no torch
    import torch

METADATA_KEY = "gram.provenance"  # one key: safetensors writes several in an order of its own
FORMAT = 1  # counted up when the same input comes to give another artefact
COMPUTING = ("gram-recommender", "torch", "transformers")  # another version of these may give other numbers
PACKAGES = (
    *COMPUTING,
    *("faiss-cpu", "numpy", "scikit-learn", "scipy", "sentence-transformers", "sentencepiece", "tokenizers"),
)
_ROWS_AT_ONCE = 1 << 14  # of a table


@dataclass(frozen=True)
class Provenance:
    """Where an artefact comes from.

    Example:
        >>> before = Provenance("clusters", {"vectors": "6af2"}, {"depth": 3, "seed": 0})
        >>> now = Provenance("clusters", {"vectors": "01cd"}, {"depth": 4, "seed": 0})
        >>> now.key == before.key, now.differences(before.facts)
        (False, ['other vectors', 'depth=3, now 4'])
    """

    artefact: str  # its name
    inputs: Mapping[str, str]  # name to SHA-256: of raw inputs, or the keys of the artefacts that it was made from
    settings: Mapping[str, Any]  # all that decides the outcome besides, the seed among it; JSON values
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of settings: what was made before these were, had them

    @property
    def key(self) -> str:
        """SHA-256 of name, inputs and settings; artefacts of one key are the same."""
        facts = [FORMAT, self.artefact, dict(self.inputs), dict(self.settings)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """All of it as JSON values, with the versions of what it is made by."""
        return {
            "artefact": self.artefact,
            "key": self.key,
            "inputs": dict(self.inputs),
            "settings": dict(self.settings),
            "versions": versions(),
        }

    @property
    def metadata(self) -> dict[str, str]:
        """The facts for the head of a Parquet or safetensors file."""
        return {METADATA_KEY: json.dumps(self.facts, sort_keys=True)}

    def differences(self, written: Mapping[str, Any]) -> list[str]:
        """What of this is otherwise in the facts that something was made with; empty where nothing is.

        Inputs that only the facts have are left out, and settings as [`changes`] does.
        """
        inputs, settings = written.get("inputs", {}), written.get("settings", {})
        others = [f"other {name}" for name, content in self.inputs.items() if inputs.get(name) != content]
        return others + changes(settings, self.settings, self.defaults)


def changes(
    written: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """What differs between two trees of settings, for an error.

    What is not in `written` was made as if it had been the default there, so that a new setting makes old results stale
    only where it is used. Entries without a default, and those that are not in `wanted`, are left out.

    Example:
        >>> changes({"epochs": 2}, {"epochs": 3, "patience": 1}), changes({}, {"patience": 1}, {"patience": 0})
        (['epochs=2, now 3'], ['patience=0, now 1'])
    """
    before, now = {**flat(defaults or {}), **flat(written)}, flat(wanted)
    return [f"{name}={before[name]}, now {now[name]}" for name in before if name in now and before[name] != now[name]]


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """The values of a tree of mappings, by their names with dots.

    Example:
        >>> flat({"a": 1, "b": {"c": 2, "d": [3]}})
        {'a': 1, 'b.c': 2, 'b.d': [3]}
    """
    if not isinstance(tree, Mapping):
        return {name: tree}
    return {inner: of for key in tree for inner, of in flat(tree[key], f"{name}.{key}" if name else key).items()}


@cache
def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in names:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_provenance(path: str | Path) -> dict[str, Any]:
    """What an artefact says of itself; empty for a file that is missing, broken or says nothing."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
        else:
            raw = pq.read_schema(path).metadata or {}
            metadata = {name.decode(): value.decode() for name, value in raw.items()}
        return json.loads(metadata.get(METADATA_KEY, "{}"))
    except (OSError, SafetensorError, pa.ArrowInvalid, ValueError):
        return {}


def table_or_arrays(
    path: Path | None, provenance: Provenance, make: Callable[[], pa.Table | dict[str, np.ndarray]]
) -> pa.Table | dict[str, np.ndarray]:
    """The artefact in the file if it is the one that is wanted; otherwise it is made now, and kept there.

    The file is `.parquet` for a table, `.safetensors` for arrays; None: nothing is kept.
    """
    if path is not None and read_provenance(path).get("key") == provenance.key:
        return pq.read_table(path) if path.suffix == ".parquet" else load_file(path)
    made = make()
    if path is not None:
        write_artefact(path, made, provenance)
    return made


def write_artefact(path: Path, made: pa.Table | dict[str, np.ndarray], provenance: Provenance) -> None:
    """Write an artefact, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        if isinstance(made, pa.Table):
            pq.write_table(made.replace_schema_metadata(provenance.metadata), part)
        else:
            save_file({name: np.ascontiguousarray(array) for name, array in made.items()}, part, provenance.metadata)


def hash_of_json(values: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def hash_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_of_folder(folder: str | Path) -> str:
    """SHA-256 of the names and contents of all files in a folder and those inside."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return hash_of_json({path.relative_to(folder).as_posix(): hash_of_file(path) for path in files})


def hash_of_texts(*columns: Iterable[str]) -> str:
    """SHA-256 of columns of strings, unambiguous in where one ends."""
    digest = hashlib.sha256()
    for column in columns:
        for text in column:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()


def hash_of_table(table: pa.Table) -> str:
    """SHA-256 of a table's columns, however they are chunked; takes memory for some rows alone."""
    digest = hashlib.sha256(json.dumps(table.column_names).encode())
    for start in range(0, len(table), _ROWS_AT_ONCE):
        rows = table.slice(start, _ROWS_AT_ONCE).combine_chunks()
        for batch in rows.to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def hash_of_items(items) -> str:
    """SHA-256 of an [`ItemTable`]."""
    return hash_of_texts(items.item_ids, items.titles, items.texts)


def hash_of_interactions(interactions, splits: np.ndarray | None = None) -> str:
    """SHA-256 of [`Interactions`], who has which items in which order, and of their splits if given; not of names."""
    digest = hashlib.sha256(interactions.offsets.astype("<i8").tobytes())
    digest.update(interactions.items.astype("<i4").tobytes())
    if splits is not None:
        digest.update(splits.astype("i1").tobytes())
    return digest.hexdigest()


def hash_of_data(data) -> str:
    """SHA-256 of all of a [`RecommendationData`]: items with their texts, users, sequences, splits."""
    items, interactions = data.items, data.interactions
    texts = hash_of_texts(items.item_ids, items.titles, items.texts, interactions.user_ids)
    digest = hashlib.sha256(f"{texts} {hash_of_interactions(interactions)} ".encode())
    digest.update(data.splits.astype("i1").tobytes())
    return digest.hexdigest()


def hash_of_tokenizer(tokenizer) -> str:
    """SHA-256 of all that decides the prompts of a [`GramTokenizer`]: vocabulary, catalogue, limits and parts."""
    from ..tokenization_gram import CATALOGUE_SCHEMA

    words = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    read = hash_of_table(tokenizer.catalogue.select(CATALOGUE_SCHEMA.names))
    names = ("max_history", "max_passage_length", "with_user_prompt", "with_item_prompts", "with_id_in_item_prompt")
    return hash_of_json([words, read, [getattr(tokenizer, name) for name in names]])


def hash_of_weights(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights with their names, whatever files they are in."""
    import torch

    from ..layers_gram import tensors_of

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        for tensor in tensors_of(weight):
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_of_model(model) -> str:
    """SHA-256 of all that decides what a transformers model generates: weights, configuration, generation settings."""
    places = {"_name_or_path", "transformers_version", "_commit_hash", "auto_map", "custom_pipelines"}
    configs = [config.to_dict() for config in (model.config, model.generation_config)]
    facts = [{name: str(value) for name, value in config.items() if name not in places} for config in configs]
    return hash_of_json([hash_of_weights(model), *facts])


def hash_of_pretrained(name_or_path: str) -> str:
    """What stands for a model that is loaded: of a folder SHA-256 of its weights, on the Hub the commit.

    Raises:
        OSError: there is no such model.
    """
    from transformers.utils import cached_file

    folder = Path(name_or_path)
    if not folder.is_dir():
        return Path(cached_file(name_or_path, "config.json")).parent.name
    names = ("config.json", "model*.safetensors", "pytorch_model*.bin")
    files = sorted(path for name in names for path in folder.glob(name))
    return hash_of_json({path.name: hash_of_file(path) for path in files})

"""What the translation leaves on disk: each artefact with its provenance, made again only where that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import new_file

METADATA_KEY = "gram.provenance"  # one key: safetensors writes several in an order of its own
FORMAT = 1  # counted up when the same input comes to give another artefact
PACKAGES = (
    "faiss-cpu",
    "numpy",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "sentencepiece",
    "tokenizers",
    "torch",
)


@dataclass(frozen=True)
class Provenance:
    """Where an artefact comes from.

    Attributes:
        artefact: its name.
        inputs: name to SHA-256: of raw inputs, or the keys of the artefacts that it was made from.
        settings: all that decides the outcome besides, the seed among it; JSON values.
    """

    artefact: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of everything above; artefacts of one key are the same."""
        facts = [FORMAT, self.artefact, dict(self.inputs), dict(self.settings)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """For the head of a Parquet or safetensors file."""
        facts = {
            "artefact": self.artefact,
            "key": self.key,
            "inputs": dict(self.inputs),
            "settings": dict(self.settings),
            "versions": _versions(),
        }
        return {METADATA_KEY: json.dumps(facts, sort_keys=True)}


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in ("gram-recommender", *PACKAGES):
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
    """The artefact in the file if it is this one; otherwise it is made now, and kept there.

    Args:
        path: `.parquet` for a table, `.safetensors` for arrays; None: nothing is kept.
        provenance: of the artefact that is wanted.
        make: makes it.
    """
    if path is not None and read_provenance(path).get("key") == provenance.key:
        return pq.read_table(path) if path.suffix == ".parquet" else _load(path)
    made = make()
    if path is not None:
        write(path, made, provenance)
    return made


def write(path: Path, made: pa.Table | dict[str, np.ndarray], provenance: Provenance) -> None:
    """Write an artefact, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        if isinstance(made, pa.Table):
            pq.write_table(made.replace_schema_metadata(provenance.metadata), part)
        else:
            save_file({name: np.ascontiguousarray(array) for name, array in made.items()}, part, provenance.metadata)


def _load(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def hash_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def hash_of_texts(*columns: Iterable[str]) -> str:
    """SHA-256 of columns of strings, unambiguous in where one ends."""
    digest = hashlib.sha256()
    for column in columns:
        for text in column:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()

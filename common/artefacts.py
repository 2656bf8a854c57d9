"""What the translation leaves on disk: each artefact with its provenance, made again only where that has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from .files import new_file
from .provenance import Provenance, read_provenance


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

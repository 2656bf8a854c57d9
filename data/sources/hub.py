"""Data sets that `datasets` can stream: by name from the Hub, or from a local folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

from ...common.extras import needs
from .lines import BATCH_ROWS, Reading
from .source import PrepareSettings, Source, interaction_columns, item_columns, required
from .tables import delimited, numbered_rows


def open_hub(settings: PrepareSettings, reading: Reading) -> Source:
    """Two data sets, each `NAME[:CONFIG[:SPLIT]]`, of interactions and of items; the split is `train` by default."""
    required(settings, "interactions", "items")
    columns = interaction_columns(settings), item_columns(settings)
    names = settings.interactions, settings.items
    origins = [_origin(name) for name in names]
    return Source(
        names,
        interactions=lambda: _rows(names[0], origins[0], reading, columns[0]),
        items=lambda: _rows(names[1], origins[1], reading, columns[1]),
        files=tuple(sorted({file for origin in origins for file in Path(origin["path"]).rglob("*") if file.is_file()})),
        facts={
            kind: {**origin, "path": Path(origin["path"]).name if Path(origin["path"]).is_dir() else origin["path"]}
            for kind, origin in zip(("interactions", "items"), origins, strict=True)
        },
    )


def _origin(name: str) -> dict[str, Any]:
    """Arguments of `load_dataset`. A data set on the Hub is pinned to the commit that it is at now."""
    path, config, split = [*name.split(":"), "", ""][:3]
    if name.count(":") > 2 or not path:
        raise ValueError(f"{name}: not of the form NAME, NAME:CONFIG or NAME:CONFIG:SPLIT; correct it")
    origin = {"path": path, "name": config or None, "split": split or "train", "revision": None}
    if not Path(path).is_dir():
        if path.startswith(("/", ".")):
            raise FileNotFoundError(f"{path}: no such folder; give one, or a name on the Hub")
        from huggingface_hub import HfApi

        try:
            origin["revision"] = HfApi().dataset_info(path).sha
        except Exception as error:
            raise _failed(path, error) from error
    return origin


def _rows(name: str, origin: dict[str, Any], reading: Reading, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    with needs("data", f"{name}: a data set of the Hub"):
        from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(origin["path"], origin["name"], revision=origin["revision"])
        files = _csv_files(builder, origin["split"])
    except Exception as error:
        raise _failed(name, error) from error
    if not files:
        yield from numbered_rows(name, _streamed(name, builder, origin["split"], reading, columns), columns)
    for file in files:
        yield from delimited(file, reading, columns, builder.config.sep, quoted=True)


def _csv_files(builder, split: str) -> list[Path]:
    """The files of a plain CSV data set, here: pandas makes numbers of ids such as 007, and has no lines to name."""
    with needs("data", "a data set of the Hub"):
        from datasets import DownloadManager
        from datasets.packaged_modules.csv.csv import CsvConfig

    places = {str(part): places for part, places in (builder.config.data_files or {}).items()}.get(split, [])
    if (
        builder.name != "csv"
        or builder.config.pd_read_csv_kwargs != CsvConfig(sep=builder.config.sep).pd_read_csv_kwargs
    ):
        return []
    return [Path(place if Path(place).is_file() else DownloadManager().download_and_extract(place)) for place in places]


def _streamed(name: str, builder, split: str, reading: Reading, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    try:
        if builder.name == "csv":
            builder.config.converters = dict.fromkeys(columns, str)  # every value as it stands there
        dataset = builder.as_streaming_dataset(split=split).with_format("arrow")
        with tqdm(desc=name, unit="row", unit_scale=True, disable=None if reading.progress else True) as bar:
            for table in dataset.iter(batch_size=BATCH_ROWS):
                for batch in table.combine_chunks().to_batches():
                    yield batch
                    bar.update(batch.num_rows)
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ValueError:
    """Libraries below raise whatever they like; all of it means that the data set cannot be had."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{name}: cannot be read ({reason}); check its name, configuration and split")

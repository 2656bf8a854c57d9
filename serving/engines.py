"""Work in parts, each done whole or not at all, by the workers of Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

from ..common.extras import needs
from ..item_cache_gram import ItemCache
from .loading import load_model

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)


def by_ray(
    work: Callable[..., int], parts: Sequence[Mapping[str, Any]], num_workers: int = 1, gpus_per_worker: float = 0
) -> Iterator[int]:
    """What `work(**part)` gives for each part, in any order; it is pickled, and every worker has a copy.

    Joins the cluster that `RAY_ADDRESS` names, or starts one. A worker that dies costs the part that it was at, which
    another one does; so a part must do no harm if it is begun again.

    Raises:
        MissingPackageError: Ray is not installed.
        ValueError: `work` raised ValueError or OSError, which is told as it would be here.
    """
    with needs("ray", "engine ray"):
        import ray

    if not ray.is_initialized():
        # Of a cluster of its own every worker gets a place, or all would wait for it for ever.
        own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": max(num_workers, os.cpu_count() or 1)}
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, **own)
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_items([dict(part) for part in parts], override_num_blocks=len(parts)).map_batches(
        _Worker,
        fn_constructor_args=(work,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_gpus=gpus_per_worker or None,
        num_cpus=1,
    )
    for batch in done.iter_batches(batch_size=1, batch_format="pyarrow"):
        for number, error in zip(batch["found"].to_pylist(), batch["error"].to_pylist(), strict=True):
            if error is not None:
                raise ValueError(error)
            yield number


class _Worker:
    """An actor of Ray; it gives what a user can put right as a value."""

    def __init__(self, work: Callable[..., int]):
        self.work = work

    def __call__(self, parts: pa.Table) -> pa.Table:
        found, error = 0, None
        try:
            found = sum(self.work(**part) for part in parts.to_pylist())
        except (ValueError, OSError) as problem:
            error = str(problem)
        return pa.table({"found": [found], "error": pa.array([error], pa.string())})


_loaded = cache(load_model)  # once in a worker


def encode_part(name_or_path: str, folder: str, dtype: str, device: str | None, first: int, after: int) -> int:
    """Write the shard of some rows of a model's catalogue into a folder; gives how many they are."""
    ItemCache.encode_rows(folder, *_loaded(name_or_path, device=device), dtype, first, after)
    return after - first


def encode_by_ray(
    model,
    tokenizer,
    folder: str | Path,
    dtype: str | None = None,
    overwrite: bool = False,
    num_workers: int = 1,
    gpus_per_worker: float = 0,
    progress: bool = True,
    device: str | None = None,
) -> ItemCache:
    """As [`GramForConditionalGeneration.encode_items`], by the workers of Ray; the encodings are the same.

    The workers load the model from where it was loaded, onto `device`, see `choose_device`. All machines must see it
    and the folder at the same place. Raises as that does, and as [`by_ray`].
    """
    dtype, gaps = ItemCache.gaps(folder, model, tokenizer, dtype, overwrite=overwrite)
    name = Path(model.name_or_path)
    known = str(name.resolve() if name.exists() else name)
    encode = partial(encode_part, known, str(Path(folder).resolve()), dtype, device)
    parts = [{"first": first, "after": after} for first, after in gaps]
    rows = sum(after - first for first, after in gaps)
    with tqdm(total=rows, desc="item encodings", unit="item", disable=not (progress and parts)) as bar:
        for number in by_ray(encode, parts, num_workers, gpus_per_worker) if parts else ():
            bar.update(number)
    return ItemCache.open(folder, model, tokenizer)

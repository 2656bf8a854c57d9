"""Cache of item encodings: what the encoder makes of every item prompt, in memory or in memory-mapped shards.

An item's encoding is the encoder's output for its item prompt, before the passage position is added. So it depends on
the encoder's weights and on the prompt, and on no user.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from .layers_gram import tensors_of
from .loading_gram import new_file

ITEM_CACHE_FOLDER = "item_encodings"  # inside a model folder
METADATA_KEY = "gram.item_cache"  # one key: safetensors writes several in an order of its own
SHARD_NAME = re.compile(r"item_encodings-(\d{9,})-(\d{9,})\.safetensors")
FORMAT = 2  # counted up when the same model and catalogue come to give other shards, or prompts another wording
ROWS_PER_SHARD = 2048
BATCH_TOKENS = 16_384
_TOKENS_AT_ONCE = 4096  # that are copied: what they take on the way stays in the processor's cache
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
# All of a configuration that decides what the encoder gives.
ENCODER_FIELDS = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "layer_norm_epsilon", "feed_forward_proj"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
)
# All of a tokenizer's own settings that decides what an item prompt is.
PROMPT_SETTINGS = (
    *("max_passage_length", "with_item_prompts", "with_id_in_item_prompt"),
    *("eos_token_id", "split_special_tokens"),
)
Origin = tuple[str, Callable[[int, int], str]]  # of a cache, see `_origin`


class Block(NamedTuple):
    """Encodings of some rows: (T, d) states and for int8 their scales (T,), real tokens laid end to end."""

    rows: np.ndarray  # (n,)
    lengths: np.ndarray  # (n,)
    states: torch.Tensor
    scales: torch.Tensor | None


class ItemCache:
    """Encodings of a catalogue's items, looked up by catalogue row. Threads may share one: a look-up changes nothing.

    Made by [`GramForConditionalGeneration.encode_items`], or by [`ItemCache.open`] from the folder that it wrote. A
    folder holds shards `item_encodings-FIRST-LAST.safetensors`, catalogue rows FIRST to LAST, each with

        states (T, d): float32, bfloat16 or int8, the real tokens of its items laid end to end;
        scales (T,): float32, only for int8: what a token's numbers are to be multiplied by;
        lengths (rows,): int32, tokens of each item;

    and, in its metadata, hashes of the encoder and of what the item prompts were made from.

    Attributes:
        dtype: `"float32"`, `"bfloat16"` or `"int8"`, what is stored; `gather` gives float32 in any case.
        num_items: rows of the catalogue.
    """

    def __init__(self, num_items: int, dtype: str, blocks: Sequence[Block]):
        self.num_items, self.dtype, self._blocks = num_items, dtype, blocks
        self._block = np.full(num_items, -1, dtype=np.int32)
        self._start, self._length = np.zeros((2, num_items), dtype=np.int64)
        for number, block in enumerate(blocks):
            self._block[block.rows] = number
            self._length[block.rows] = block.lengths
            self._start[block.rows] = np.cumsum(block.lengths) - block.lengths

    @classmethod
    def open(cls, folder: str | Path, model, tokenizer) -> ItemCache:
        """Open a folder that `encode_items` or `gram encode` wrote, with the model and tokenizer that made it.

        The shards are memory-mapped: opening reads none of the encodings, and makes no prompt.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a shard is damaged, or was made with another encoder or from other item prompts; or some items
                are missing. The message says which, and what to run.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; run `{_command(model, folder)}`")
        ids = tokenizer.item_ids
        shards, unfit, _ = _survey(folder, model, len(ids), _origin(model, tokenizer))
        if unfit:
            raise ValueError(_refusal(unfit, _command(model, folder)))
        missing = _gaps(shards, len(ids), len(ids))
        if missing:
            first, after = missing[0]
            more = sum(after - first for first, after in missing[1:])
            raise ValueError(
                f"{folder}: the item encodings are incomplete, items {ids[first]} to {ids[after - 1]} (rows {first} to "
                f"{after - 1}) are missing{f' and {more} more' if more else ''}; run `{_command(model, folder)}`"
            )
        return cls(len(ids), shards[0].facts["dtype"], [shard.block for shard in shards])

    @classmethod
    def in_memory(
        cls,
        model,
        tokenizer,
        rows: Sequence[int] | None = None,
        dtype: str = "float32",
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> ItemCache:
        """Encode items on the model's device and keep the encodings there; the model is left in its mode.

        `rows`: the catalogue rows to encode; by default all. For the rest see [`encode_items`].
        """
        prompts = tokenizer.item_prompts
        rows = np.arange(len(prompts)) if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
        progress = progress and tokenizer.with_item_prompts
        with tqdm(total=len(rows), desc="item encodings", unit="item", disable=not progress) as bar:
            tensors = _encode(model, [prompts[row] for row in rows], dtype, batch_tokens, model.device, bar)
        lengths = tensors["lengths"].numpy()
        return cls(len(prompts), dtype, [Block(rows, lengths, tensors["states"], tensors.get("scales"))])

    @classmethod
    def update(
        cls, folder, model, tokenizer, dtype, batch_tokens, rows_per_shard, processes, progress, overwrite
    ) -> ItemCache:
        """Bring a folder up to date; see [`GramForConditionalGeneration.encode_items`]."""
        dtype, gaps = cls.gaps(folder, model, tokenizer, dtype, rows_per_shard, processes, overwrite)
        process, num_processes = (processes.process_index, processes.num_processes) if processes else (0, 1)
        share, origin = gaps[process::num_processes], _origin(model, tokenizer)
        options = {"total": sum(after - first for first, after in share), "desc": "item encodings", "unit": "item"}
        with tqdm(**options, disable=not (progress and process == 0 and share)) as bar:
            for first, after in share:
                cls.encode_rows(folder, model, tokenizer, dtype, first, after, batch_tokens, bar, origin)
        if num_processes > 1:
            processes.wait_for_everyone()
        return cls.open(folder, model, tokenizer)

    @classmethod
    def gaps(
        cls, folder, model, tokenizer, dtype=None, rows_per_shard=ROWS_PER_SHARD, processes=None, overwrite=False
    ) -> tuple[str, list[tuple[int, int]]]:
        """Make a folder ready for what it lacks: what it holds or will, and rows (first, after), one shard's each.

        What does not fit is removed if `overwrite` says so. Raises as [`GramForConditionalGeneration.encode_items`].
        """
        if not tokenizer.with_item_prompts:
            raise ValueError(f"{folder}: this model was trained without item prompts; there is nothing to encode")
        folder, origin, num_items = Path(folder), _origin(model, tokenizer), len(tokenizer.item_ids)
        shards, unfit, found = _survey(folder, model, num_items, origin, dtype)
        if unfit and not overwrite:
            raise ValueError(_refusal(unfit, _command(model, folder)))
        wait = processes.wait_for_everyone if processes and processes.num_processes > 1 else lambda: None
        wait()  # all have seen the same shards
        if not processes or processes.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*unfit, *folder.glob(".item_encodings-*.part")):
                path.unlink()
        wait()
        return found or "float32", _gaps(shards, num_items, rows_per_shard)

    @classmethod
    def encode_rows(
        cls, folder, model, tokenizer, dtype, first, after, batch_tokens=BATCH_TOKENS, bar=None, origin=None
    ) -> None:
        """Write the shard of catalogue rows `first` up to `after`."""
        prompts, bar = tokenizer.item_prompts[first:after], bar or tqdm(disable=True)
        tensors = _encode(model, prompts, dtype, batch_tokens, torch.device("cpu"), bar)
        encoder, hash_of_prompts = origin or _origin(model, tokenizer)
        facts = {"dtype": dtype, "encoder": encoder, "item_prompts": hash_of_prompts(first, after)}
        _write_shard(Path(folder) / f"item_encodings-{first:09d}-{after - 1:09d}.safetensors", tensors, facts)

    def pooled(self, rows: Sequence[int] | None = None) -> torch.Tensor:
        """One vector for each item (n, d_model) float32: the mean of its tokens' encodings, of length 1, or 0.

        `rows`: of the catalogue; by default all, in its order. What lies where the cache lies.
        """
        rows = np.arange(self.num_items) if rows is None else np.asarray(rows, dtype=np.int64)
        found = [torch.zeros(0, self._blocks[0].states.shape[1], device=self._blocks[0].states.device)]
        for some in np.split(rows, range(ROWS_PER_SHARD, len(rows), ROWS_PER_SHARD)):
            states, lengths = self.gather(some)
            sums = states.new_zeros(len(some), states.shape[1])
            sums.index_add_(0, torch.arange(len(some), device=states.device).repeat_interleave(lengths), states)
            found.append(torch.nn.functional.normalize(sums, dim=1))
        return torch.cat(found)

    def holds(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which of these catalogue rows (n,) have encodings here, (n,) bool."""
        rows = np.asarray(rows, dtype=np.int64)
        return (rows < self.num_items) & (self._block[np.minimum(rows, self.num_items - 1)] >= 0)

    def with_prompts(self, model, prompts: Sequence[Sequence[int]]) -> ItemCache:
        """This cache, and behind its last row the encodings of further prompts."""
        device = self._blocks[0].states.device
        tensors = _encode(model, prompts, self.dtype, BATCH_TOKENS, device, tqdm(disable=True))
        rows, lengths = self.num_items + np.arange(len(prompts)), tensors["lengths"].numpy(force=True)
        block = Block(rows, lengths, tensors["states"], tensors.get("scales"))
        return ItemCache(self.num_items + len(prompts), self.dtype, [*self._blocks, block])

    def gather(self, rows: torch.LongTensor | Sequence[int]) -> tuple[torch.Tensor, torch.LongTensor]:
        """Encodings of items, of catalogue rows (n,) in any order.

        Returns:
            States (T, d) float32, the real tokens of the items laid end to end in the order of `rows`; and the number
            of tokens of each (n,) int64. Both lie where the cache lies: a folder's on the CPU.

        Raises:
            ValueError: a row that is not in the catalogue, or not in this cache; an encoding with NaN or infinity.
        """
        rows = torch.as_tensor(rows, dtype=torch.long, device="cpu").numpy()
        if len(wrong := rows[(rows < 0) | (rows >= self.num_items)]):
            raise ValueError(f"row {wrong[0]} is not in the catalogue of {self.num_items} items")
        blocks, starts, lengths = self._block[rows], self._start[rows], self._length[rows]
        if (blocks < 0).any():
            raise ValueError(f"row {rows[blocks < 0][0]} is not in this cache, which holds a part of the catalogue")
        shape, device = (int(lengths.sum()), self._blocks[0].states.shape[1]), self._blocks[0].states.device
        if device.type == "cpu":  # NumPy's memory is in huge pages, that take a third of the time to fill
            states = torch.from_numpy(np.empty(shape, dtype=np.float32))  # (T, d)
        else:
            states = torch.empty(shape, dtype=torch.float32, device=device)
        places = np.repeat(starts - lengths.cumsum() + lengths, lengths) + np.arange(len(states))  # of tokens in blocks
        places = torch.from_numpy(places).to(states.device)
        runs = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(blocks)) + 1)  # of items of one block
        sizes = [int(lengths[run].sum()) for run in runs]
        for run, part, place in zip(runs, states.split(sizes), places.split(sizes), strict=True):
            if len(run):
                _copy(part, self._blocks[blocks[run[0]]], place)
        if not states.sum().isfinite():
            for row, part in zip(rows, states.split(lengths.tolist()), strict=True):
                if not part.isfinite().all():
                    raise ValueError(f"the encoding of row {row} holds NaN or infinity; encode the items again")
        return states, torch.from_numpy(lengths).to(states.device)


def _copy(target: torch.Tensor, block: Block, places: torch.Tensor) -> None:
    """Tokens (T,) of a block into (T, d) float32."""
    for part, place in zip(target.split(_TOKENS_AT_ONCE), places.split(_TOKENS_AT_ONCE), strict=True):
        if block.states.dtype == part.dtype:
            torch.index_select(block.states, 0, place, out=part)
        else:
            part.copy_(block.states.index_select(0, place))
        if block.scales is not None:
            part.mul_(block.scales.index_select(0, place)[:, None])


def _hash_of_encoder(model) -> str:
    """SHA-256 of all that decides what a model's encoder gives: configuration and weights, embeddings among them."""
    digest = hashlib.sha256(json.dumps([getattr(model.config, name) for name in ENCODER_FIELDS]).encode())
    for name, weight in sorted(_state(model.encoder).items()):
        for tensor in tensors_of(weight):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _state(encoder) -> dict[str, torch.Tensor]:
    """The encoder's weights; those that accelerate keeps elsewhere are fetched."""
    state = encoder.state_dict()
    if any(tensor.is_meta for weight in state.values() for tensor in tensors_of(weight)):
        try:
            from accelerate.utils import align_module_device
        except ImportError as error:  # in `try`, or the files of a checkpoint could not be loaded without accelerate
            raise ValueError("the encoder's weights are not in memory; load the model without offloading") from error
        for prefix, module in encoder.named_modules():
            with align_module_device(module, torch.device("cpu")):
                own = {f"{prefix}.{name}": weight for name, weight in module.named_parameters(recurse=False)}
                state |= {name: weight.detach().clone() for name, weight in own.items()}
    return state


@torch.no_grad()
def _encode(
    model, prompts: Sequence[Sequence[int]], dtype: str, batch_tokens: int, device: torch.device, bar: tqdm
) -> dict[str, torch.Tensor]:
    """The tensors of a shard for these prompts; prompts of like length are encoded together."""
    lengths = np.fromiter(map(len, prompts), dtype=np.int64, count=len(prompts))
    starts = np.cumsum(lengths) - lengths
    states = torch.empty(int(lengths.sum()), model.config.d_model, dtype=DTYPES[dtype], device=device)
    scales = torch.empty(len(states), dtype=torch.float32, device=device)
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(lengths, batch_tokens):
            real = torch.from_numpy(np.arange(lengths[batch[0]]) < lengths[batch, None])  # (n, L)
            input_ids = torch.full(real.shape, model.config.pad_token_id, device="cpu")
            input_ids[real] = torch.tensor([token for row in batch for token in prompts[row]], device="cpu")
            input_ids, mask = input_ids.to(model.device), real.to(model.device)
            found = model.encoder(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state[mask].float()
            places = torch.from_numpy(np.concatenate([np.arange(lengths[row]) + starts[row] for row in batch]))
            if dtype == "int8":
                scale = found.abs().amax(dim=1) / 127
                found = (found / scale.clamp(min=torch.finfo(scale.dtype).tiny)[:, None]).round()
                scales[places.to(device)] = scale.to(device)
            states[places.to(device)] = found.to(device, DTYPES[dtype])
            bar.update(len(batch))
    finally:
        model.train(was_training)
    tensors = {"states": states, "lengths": torch.from_numpy(lengths.astype(np.int32))}
    return {**tensors, "scales": scales} if dtype == "int8" else tensors


def _batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    order = np.argsort(-lengths, kind="stable")  # what needs most memory comes first
    order = order[lengths[order] > 0]  # a tokenizer without item prompts has empty ones
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


class _Shard(NamedTuple):
    """A shard's file, opened: the rows from `first` up to `after`."""

    first: int
    after: int
    facts: dict[str, str]
    block: Block


def _write_shard(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    facts = {"format": FORMAT, "lengths": _hash_of_lengths(tensors), **facts}
    try:
        with new_file(path) as part:
            save_file(tensors, part, {METADATA_KEY: json.dumps(facts, sort_keys=True)})
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None


def _hash_of_lengths(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(tensors["lengths"].numpy()).hexdigest()


def _read_shard(path: Path) -> _Shard:
    """Open a shard; raises ValueError with what is wrong with it."""
    first, last = map(int, SHARD_NAME.fullmatch(path.name).groups())
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot be read ({' '.join(str(error).split())})") from None
    facts = facts if isinstance(facts, dict) else {}
    if facts.get("format") != FORMAT:
        raise ValueError(f"has format {facts.get('format')}, not {FORMAT}")
    kinds = {"lengths": (torch.int32, 1), "states": (DTYPES.get(str(facts.get("dtype"))), 2)}
    kinds |= {"scales": (torch.float32, 1)} if facts.get("dtype") == "int8" else {}
    if {name: (tensor.dtype, tensor.dim()) for name, tensor in tensors.items()} != kinds:
        raise ValueError(f"does not hold the tensors {', '.join(kinds)} alone, or not of their types")
    if len(tensors["lengths"]) != last + 1 - first:
        raise ValueError(f"holds {len(tensors['lengths'])} items, not those that its name says")
    if facts.get("lengths") != _hash_of_lengths(tensors):
        raise ValueError("holds other numbers of tokens than it was written with")
    lengths = tensors["lengths"].numpy().astype(np.int64)
    block = Block(np.arange(first, last + 1), lengths, tensors["states"], tensors.get("scales"))
    return _Shard(first, last + 1, facts, block)


def _survey(
    folder: Path, model, num_items: int, origin: Origin, dtype: str | None = None
) -> tuple[list[_Shard], dict[Path, str], str | None]:
    """The shards that fit, in catalogue order; for every other one what is wrong with it; and what the shards hold.

    `dtype`: what the shards must hold; by default what the first one that can be read holds.
    """
    shards, unfit = [], {}
    for path in sorted(path for path in folder.glob("*") if SHARD_NAME.fullmatch(path.name)):
        try:
            shard = _read_shard(path)
            dtype = dtype or shard.facts["dtype"]
            _check_shard(shard, model, num_items, origin, dtype, shards[-1].after if shards else 0)
        except ValueError as error:
            unfit[path] = str(error)
        else:
            shards.append(shard)
    return shards, unfit, dtype


def _check_shard(shard: _Shard, model, num_items: int, origin: Origin, dtype: str, covered: int) -> None:
    rows, facts, block = f"rows {shard.first} to {shard.after - 1}", shard.facts, shard.block
    encoder, hash_of_prompts = origin
    if facts.get("encoder") != encoder:
        raise ValueError("was made with other weights of the encoder than the model has now")
    if shard.after > num_items:
        raise ValueError(f"holds items that are not in the catalogue: {rows} of {num_items} rows")
    if facts.get("item_prompts") != hash_of_prompts(shard.first, shard.after):
        raise ValueError(f"was made from other item prompts than the catalogue has now for {rows}")
    if facts["dtype"] != dtype:
        raise ValueError(f"holds {facts['dtype']}, not {dtype}")
    if shard.first < covered:
        raise ValueError(f"holds {rows}, of which other shards hold some too")
    num_tokens = int(block.lengths.sum())
    scales = block.states if block.scales is None else block.scales
    if block.states.shape != (num_tokens, model.config.d_model) or len(scales) != num_tokens:
        raise ValueError("holds more or fewer numbers than its items have")


def _refusal(unfit: dict[Path, str], command: str) -> str:
    path, reason = next(iter(unfit.items()))
    more = f" (and {len(unfit) - 1} other shards do not fit)" if len(unfit) > 1 else ""
    return f"{path}: the cache of item encodings is stale: it {reason}{more}; run `{command} --overwrite`"


def _gaps(shards: Sequence[_Shard], num_items: int, most: int) -> list[tuple[int, int]]:
    """Rows (first, after) that no shard holds, at most `most` together."""
    edges = [0, *(edge for shard in shards for edge in (shard.first, shard.after)), num_items]
    return [
        (first, min(first + most, end))
        for begin, end in zip(edges[::2], edges[1::2], strict=True)
        for first in range(begin, end, most)
    ]


def _command(model, folder: Path) -> str:
    name = model.name_or_path or "MODEL"
    output = "" if folder == Path(name) / ITEM_CACHE_FOLDER else f" --output {folder}"
    return f"gram encode {name}{output}"


def _origin(model, tokenizer) -> Origin:
    """Hash of the encoder; and a function that gives that of the prompts of catalogue rows `first` up to `after`.

    The prompts themselves are not made, which would take longer than all else that opening a cache does.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())  # what a call has left of truncation does not matter
    parts = [backend[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
    parts += [getattr(tokenizer, name) for name in PROMPT_SETTINGS]
    common = json.dumps(parts, sort_keys=True).encode()
    columns = {name: tokenizer.catalogue[name] for name in ("text", "lexical_id", "similar_items")}
    neighbours = pc.index_in(columns["similar_items"].combine_chunks().flatten(), tokenizer.catalogue["item_id"])
    ends = np.cumsum(pc.list_value_length(columns["similar_items"]).to_numpy())

    def hash_of_prompts(first: int, after: int) -> str:
        digest = hashlib.sha256(common)
        for column in columns.values():
            _add_strings(digest, column.slice(first, after - first))
        begin, end = (int(ends[row - 1]) if row else 0 for row in (first, after))
        _add_strings(digest, columns["lexical_id"].take(neighbours[begin:end]))
        return digest.hexdigest()

    return _hash_of_encoder(model), hash_of_prompts


def _add_strings(digest, column: pa.ChunkedArray) -> None:
    """Hash a column of strings, or of lists of them, unambiguous in where one ends."""
    if pa.types.is_list(column.type):
        digest.update(pc.list_value_length(column).to_numpy())
        column = pc.list_flatten(column)
    digest.update(pc.binary_length(column).to_numpy())
    digest.update("".join(column.to_pylist()).encode("utf-8", "surrogatepass"))

"""What holds a model folder together: checksums, and checks of a model that has just been loaded.

`config.json` holds the checksums of its own settings and of the weights, `tokenizer_config.json` those of its own
settings, of `tokenizer.json` and of the catalogue. So a file that was changed, or comes from another folder, is noticed
when it is loaded. A folder of an older version has none, and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from .trie_gram import ItemTrie

WEIGHTS, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
CHECKSUMS = "checksums"  # entry of both JSON files: a file's name to its SHA-256
SETTINGS = "settings"  # stands in place of the name of the JSON file itself
# Entries that decide no answer: tools that publish a model write them anew.
FREE = (CHECKSUMS, "architectures", "auto_map", "custom_pipelines", "name_or_path", "transformers_version")
_WHERE = ("cache_dir", "revision", "subfolder", "token")  # arguments of `from_pretrained` that say where files are


def find_file(name_or_path: str | Path, name: str, **where: Any) -> str | None:
    """Where a file of a folder is, or of a model on the Hub that has been fetched; None if there is none."""
    return cached_file(name_or_path, name, **where, local_files_only=True, _raise_exceptions_for_missing_entries=False)


def weight_files(name_or_path: str | Path, **where: Any) -> list[str]:
    """The files that a model's weights are loaded from, the index first if there are several; none if not safetensors.

    `where`: arguments of `from_pretrained` that say where on the Hub, from where they have been fetched.
    """
    if found := find_file(name_or_path, WEIGHTS, **where):
        return [found]
    if (index := find_file(name_or_path, WEIGHT_INDEX, **where)) is None:
        return []
    names = read_object(index)["weight_map"].values()
    return [index, *(find_file(name_or_path, name, **where) for name in sorted(set(names)))]


def check_loaded(model, info: dict[str, Any], name_or_path: str | Path | None, options: dict[str, Any]) -> None:
    """Check a model that [`GramForConditionalGeneration.from_pretrained`] has just loaded with these options.

    `info`: what transformers says of its loading; `name_or_path` is None where it got a state dictionary.
    """
    files = []
    if name_or_path is not None and not any(options.get(name) for name in ("variant", "gguf_file")):
        where = {name: options[name] for name in _WHERE if options.get(name) is not None}
        files = weight_files(name_or_path, **where)
        if config := find_file(name_or_path, "config.json", **where):
            check_checksums(config, read_object(config), files)
        if options_file := find_file(name_or_path, "generation_config.json", **where):
            read_object(options_file)  # transformers goes on without one that it cannot read
    if hasattr(model, "hf_quantizer") or getattr(model, "_hf_peft_config_loaded", False):
        return
    place = files[0] if files else name_or_path or "the state dictionary"
    if not options.get("ignore_mismatched_sizes"):
        _check_names(model, info, place)
    _check_kinds(model, files)
    _check_finite(model, place)


def _check_names(model, info: dict[str, Any], place: str) -> None:
    trie = {f"item_trie.{name}" for name in ("offsets", "tokens", "items", "sizes", "leaves", "fan_out")}
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    if trie <= missing:
        missing -= trie  # the trie is empty then, and `generate` says so
    for names, what in ((missing, "has no tensor"), (unexpected, "holds, as no GRAM does, a tensor")):
        if names:
            first, *more = sorted(names)
            others = f" (and {len(more)} more)" if more else ""
            raise ValueError(f"{place}: {what} {first!r}{others}; save the model again")


def _check_kinds(model, files: list[str]) -> None:
    """Integers where the model has floating point numbers would be turned into them, and the other way round."""
    tensors = model.state_dict()
    for path in files:
        if not path.endswith(".safetensors"):
            continue
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                kind = file.get_slice(name).get_dtype()
                if name in tensors and tensors[name].is_floating_point() != ("F" in kind):
                    raise ValueError(f"{path}: tensor {name!r} is of type {kind}; save the model again")


def _check_finite(model, place: str) -> None:
    for name, tensor in model.named_parameters():
        if tensor.device.type != "meta" and not tensor.detach().sum(dtype=torch.float32).isfinite():
            raise ValueError(f"{place}: tensor {name!r} holds NaN or infinity; train again, or load another checkpoint")


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: there is none, or something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    return content


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A place to write a file, which gets its name when it is whole; it is removed where writing fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def add_checksums(config: str | Path, files: Iterable[str | Path]) -> None:
    """Write the checksums of a JSON file's own settings, and of files that it goes with, into it."""
    config = Path(config)
    settings = read_object(config)
    settings[CHECKSUMS] = {SETTINGS: _hash_of_settings(settings)} | {Path(p).name: _hash_of_file(p) for p in files}
    with new_file(config) as part:
        part.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def check_checksums(config: str, settings: Mapping[str, Any], files: Iterable[str | Path] = ()) -> None:
    """Raise ValueError where a file, or the settings of the JSON file `config`, are not those that were saved together.

    What was saved without checksums is taken as it is.
    """
    recorded = settings.get(CHECKSUMS)
    if recorded is None:
        return
    if not isinstance(recorded, dict):
        raise ValueError(f"{config}: `{CHECKSUMS}` must be an object; save model and tokenizer again")
    if recorded.get(SETTINGS) != _hash_of_settings(settings):
        raise ValueError(
            f"{config}: was changed after it was saved; to change a setting, load the folder that it was saved in "
            "with the other value as an argument of `from_pretrained`, and save that"
        )
    for path in files:
        if recorded.get(Path(path).name) != _hash_of_file(path):
            raise ValueError(f"{path}: is not the file that {Path(config).name} was saved with; save both again")


def _hash_of_settings(settings: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in settings.items() if name not in FREE and not name.startswith("_")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _hash_of_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_catalogue(model, tokenizer, name: str) -> None:
    """Raise ValueError, naming `name`, where the model has no item trie, or does not fit the tokenizer."""
    again = "call `set_item_trie` and save model and tokenizer again"
    trie = [] if model.item_trie is None else [buffer.cpu() for buffer in model.item_trie.buffers()]
    rows = (model.item_trie.leaves >= 0).nonzero().flatten().tolist() if trie else []
    if not rows or model.item_trie.num_items != len(tokenizer.item_ids):
        num_rows = model.item_trie.num_items if rows else 0
        raise ValueError(
            f"{name}: the model's item trie has {num_rows} items, the catalogue {len(tokenizer.item_ids)}; {again}"
        )
    expected = ItemTrie.from_sequences([tokenizer.sequences[row] for row in rows], rows, model.item_trie.num_items)
    if not all(map(torch.equal, trie, expected.buffers())):
        raise ValueError(f"{name}: the model's item trie is not of the lexical IDs of the catalogue; {again}")
    ours, theirs = (tokenizer.max_history, len(tokenizer)), (model.config.max_history, model.config.vocab_size)
    if any(map(operator.gt, ours, theirs)) or tokenizer.pad_token_id != model.config.pad_token_id:
        raise ValueError(
            f"{name}: a tokenizer of max_history and tokens {ours}, pad token {tokenizer.pad_token_id}, for a model of "
            f"{theirs}, {model.config.pad_token_id}; load the one that was saved with the model"
        )

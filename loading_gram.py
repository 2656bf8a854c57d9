"""What is checked when a model is loaded: that its weights are all there, are numbers, and are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from .checksums_gram import check_checksums, read_object

WEIGHTS, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
_WHERE = ("cache_dir", "revision", "subfolder", "token")  # arguments of `from_pretrained` that say where files are


def find_file(name_or_path: str | Path, name: str, **where: Any) -> str | None:
    """Where a file of a folder is, or of a model on the Hub that has been fetched; None if there is none."""
    return cached_file(name_or_path, name, **where, local_files_only=True, _raise_exceptions_for_missing_entries=False)


def weight_files(name_or_path: str | Path, **where: Any) -> list[str]:
    """The files that a model's weights are loaded from, the index first if there are several; none if not safetensors.

    Args:
        name_or_path: a folder, or a name on the Hub, of which the files have been fetched.
        where: arguments of `from_pretrained` that say where on the Hub.
    """
    if found := find_file(name_or_path, WEIGHTS, **where):
        return [found]
    if (index := find_file(name_or_path, WEIGHT_INDEX, **where)) is None:
        return []
    names = read_object(index)["weight_map"].values()
    return [index, *(find_file(name_or_path, name, **where) for name in sorted(set(names)))]


def check_loaded(model, info: dict[str, Any], name_or_path: str | Path | None, options: dict[str, Any]) -> None:
    """Check a model that has just been loaded.

    Args:
        model: a [`GramForConditionalGeneration`].
        info: what transformers says of its loading.
        name_or_path: where it came from; None: it got a state dictionary.
        options: the arguments of `from_pretrained`.

    Raises:
        ValueError: see [`GramForConditionalGeneration.from_pretrained`].
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


__all__ = ["check_loaded", "weight_files"]

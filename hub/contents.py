"""What of a model folder belongs on the Hub: complete, and free of what is this machine's alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import get_token
from transformers.dynamic_module_utils import get_relative_import_files

from ..item_cache_gram import ITEM_CACHE_FOLDER, ItemCache
from ..loading_gram import WEIGHT_INDEX, read_object, weight_files
from ..serving.catalogue_changes import CHANGES_FILE
from ..serving.loading import MODEL_FILES, check_folder, load_model
from .card_data import CARD, EVALUATION_FILE, PLOT_FILE, TRAINING_FILE

CODE = "*_gram.py"
RESULTS = ".eval_results/*.yaml"  # for the Hub's benchmarks, written by hand
SHARDS = f"{ITEM_CACHE_FOLDER}/item_encodings-*.safetensors"
OPTIONAL_FILES = (
    *("generation_config.json", "special_tokens_map.json", "added_tokens.json"),
    *(EVALUATION_FILE, TRAINING_FILE, CHANGES_FILE, PLOT_FILE, CARD, "LICENSE"),
)
# What Inference Endpoints need beside the model: a handler, and the packages that it is run with; these bring the rest
# of the core along.
HANDLER_FILES = {name: Path(__file__).with_name(name) for name in ("handler.py", "requirements.txt")}
PLACES = ("data", "output_dir", "translation", "folder")  # entries of JSON files that name a folder of this machine
SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


def contents(folder: str | Path, item_cache: bool = False) -> dict[str, Path | bytes]:
    """The files of a model folder that are for others, by their path in the repository.

    These are the weights, the tokenizer with its catalogue, the Hub code, the configurations, and where they are there
    the card, results for benchmarks, the picture of the training, `evaluation.json`, `training.json`, the licence. The
    handler of Inference Endpoints is added, unless the folder has one of its own.
    All else stays: data, translation, checkpoints, the ranks of every user, and `sasrec.safetensors`, which serves
    to evaluate a baseline and would often be larger than the model. JSON files lose the folders of this machine.

    Args:
        folder: the model folder.
        item_cache: take the encodings of its items too.

    Returns:
        For each file where its content is, or the content itself where it differs from the file's.

    Raises:
        FileNotFoundError: the folder, or one of its files, is missing.
        ValueError: it is no GRAM's folder, or a training run has not finished there; model, tokenizer or item cache
            do not load or do not fit each other; a text holds a token, or the name of a folder of this machine.
    """
    folder = Path(folder)
    _check_finished(folder)
    paths = [*MODEL_FILES, *_code(folder), *(name for name in OPTIONAL_FILES if (folder / name).is_file())]
    model, tokenizer = load_model(folder)
    paths += [Path(path).name for path in weight_files(folder)]
    paths += sorted(path.relative_to(folder).as_posix() for path in folder.glob(RESULTS))
    if item_cache:
        ItemCache.open(folder / ITEM_CACHE_FOLDER, model, tokenizer)
        paths += sorted(path.relative_to(folder).as_posix() for path in folder.glob(SHARDS))
    found, places = {}, {str(folder.resolve())}
    for name in dict.fromkeys(paths):
        found[name] = folder / name
        if name.endswith(".json") and name not in ("tokenizer.json", WEIGHT_INDEX):
            found[name] = _portable_json(folder / name, places)
    found |= {name: folder / name if (folder / name).is_file() else new for name, new in HANDLER_FILES.items()}
    _check_private(found, folder, places)
    return found


def _check_finished(folder: Path) -> None:
    if (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder}: a training run has not finished here; run the same training command to its end")
    check_folder(folder)
    kind = read_object(folder / "config.json").get("model_type")
    if kind != "gram":
        raise ValueError(f"{folder / 'config.json'}: the model_type is {kind!r}, not 'gram'; give a GRAM's folder")


def _code(folder: Path) -> list[str]:
    """All Hub code in the folder; what the configurations name, and all that it imports, must be there."""
    modules = set()
    for name in ("config.json", "tokenizer_config.json"):
        config = read_object(folder / name)
        if not isinstance(config.get("auto_map"), dict):
            raise ValueError(f"{folder / name}: has no auto_map, so nobody could load it; save the model again")
        named = json.dumps([config["auto_map"], config.get("custom_pipelines")])
        modules |= set(re.findall(r'"(\w+)\.\w+"', named))  # not "REPOSITORY--MODULE.CLASS", which is elsewhere
    try:
        for module in sorted(modules):
            get_relative_import_files(folder / f"{module}.py")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename}: no such file of the Hub code; save the model again") from error
    return sorted(path.name for path in folder.glob(CODE))


def _portable_json(path: Path, places: set[str]) -> Path | bytes:
    """The file, or where it names folders of this machine, its content with the last part of each name."""
    content = read_object(path)
    portable = _portable(content, None, places)
    return path if portable == content else (json.dumps(portable, indent=2) + "\n").encode()


def _portable(value: Any, name: str | None, places: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _portable(entry, key, places) for key, entry in value.items()}
    if isinstance(value, list):
        return [_portable(entry, name, places) for entry in value]
    if not isinstance(value, str) or not (name in PLACES or _is_place(value)):
        return value
    if Path(value).is_absolute() and len(Path(value).parts) > 2:
        places.add(value)
    return PureWindowsPath(value).name or "."  # splits at both kinds of slashes


def _is_place(text: str) -> bool:
    return bool(re.fullmatch(r"([A-Za-z]:[\\/]|/|~/|\.\.?/)[\w.-].*", text))


def _check_private(found: dict[str, Path | bytes], folder: Path, places: set[str]) -> None:
    """Refuse a text that holds a token, or a folder of this machine."""
    patterns = [rf"{re.escape(place)}(?![\w-])" for place in sorted(places, key=len, reverse=True)]
    if len(Path.home().parts) > 1:
        patterns.append(rf"{re.escape(str(Path.home()))}/")
    machine, token = re.compile(rf"(?<![\w./-])({'|'.join(patterns)})"), get_token()
    for name, line_number, line in _lines(found):
        if SECRET.search(line) or (token and token in line):
            raise ValueError(f"{folder / name}:{line_number}: holds a token of the Hub; take it out, and revoke it")
        if place := machine.search(line):
            raise ValueError(f"{folder / name}:{line_number}: names {place[1]}, a folder of this machine; take it out")


def _lines(found: dict[str, Path | bytes]) -> Iterator[tuple[str, int, str]]:
    for name, content in found.items():
        if name.endswith((".json", ".md", ".py", ".txt", ".yaml")) and name != "tokenizer.json":
            data = content if isinstance(content, bytes) else content.read_bytes()
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
                yield name, number, line

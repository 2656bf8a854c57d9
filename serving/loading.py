"""Loading a model, its tokenizer and its item cache from a folder or the Hub, with errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..common.devices import choose_device
from ..configuration_gram import GramConfig
from ..item_cache_gram import ItemCache
from ..loading_gram import WEIGHT_INDEX, check_catalogue, read_object
from ..modeling_gram import GramForConditionalGeneration
from ..pipeline_gram import item_cache_folder
from ..tokenization_gram import CATALOGUE_FILE, GramTokenizer

MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", CATALOGUE_FILE)


def load_model(
    name_or_path: str | Path, revision: str | None = None, device: str | None = None
) -> tuple[GramForConditionalGeneration, GramTokenizer]:
    """A model in evaluation mode, on the device of [`choose_device`], and its tokenizer: of a folder or the Hub.

    Raises:
        FileNotFoundError: the folder does not exist, or one of its files.
        OSError: the Hub has no such model, or cannot be reached.
        ValueError: a file of the folder is damaged, or the model has no item trie; this machine has no such device.

    Example:
        >>> model, tokenizer = load_model(model_folder)
        >>> model.training, len(tokenizer.item_ids)
        (False, 30)
    """
    chosen, folder = choose_device(device), Path(name_or_path)
    try:
        validate_repo_id(str(name_or_path))
        may_be_on_hub = not folder.exists()
    except HFValidationError:
        may_be_on_hub = False
    if not may_be_on_hub:
        check_folder(folder)
    revision = revision or "main"
    with _named(folder, "config.json"):
        config = GramConfig.from_pretrained(name_or_path, revision=revision)
    with _named(folder, "model.safetensors", ", or has not the shapes that config.json says"):
        model = GramForConditionalGeneration.from_pretrained(name_or_path, config=config, revision=revision).eval()
    with _named(folder, "tokenizer.json", ", or tokenizer_config.json"):
        tokenizer = GramTokenizer.from_pretrained(name_or_path, revision=revision)
    check_catalogue(model, tokenizer, str(name_or_path))
    return model.to(chosen), tokenizer


@contextmanager
def _named(folder: Path, name: str, also: str = "") -> Iterator[None]:
    """Whatever transformers raises for a file becomes one line that names it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        if isinstance(error, OSError) and not folder.exists():
            raise FileNotFoundError(f"{folder}: no such folder, and no such model from the Hub ({reason})") from error
        if str(folder) in reason:
            raise ValueError(reason) from error
        raise ValueError(f"{folder / name}: cannot be read{also} ({reason}); save the model again") from error


def find_item_cache(
    name_or_path: str | Path,
    model: GramForConditionalGeneration,
    tokenizer: GramTokenizer,
    folder: str | Path | None = None,
    revision: str | None = None,
) -> ItemCache | None:
    """The cache in `folder`, or else in the model folder or repository; None where `gram encode` has left none there.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: the cache does not fit model and catalogue; it is brought up to date, or its folder removed.
    """
    own = item_cache_folder(name_or_path, revision) if folder is None else folder
    return None if folder is None and not own.is_dir() else ItemCache.open(own, model, tokenizer)


def check_folder(folder: Path) -> None:
    """Raise FileNotFoundError where a model folder or a file of it is missing; ValueError for a damaged JSON file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such model folder; give one, or a name on the Hub")
    weights = WEIGHT_INDEX if (folder / WEIGHT_INDEX).is_file() else "model.safetensors"
    for name in (*MODEL_FILES, weights):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a model folder needs it: save the model again")
    for name in (*MODEL_FILES, weights, "generation_config.json"):
        if name.endswith(".json") and (folder / name).exists():
            read_object(folder / name)

"""Checksums that tie the files of a model folder together.

`config.json` holds those of its own settings and of the weights, `tokenizer_config.json` those of its own settings, of
`tokenizer.json` and of the catalogue. So a file that was changed, or comes from another folder, is noticed when it is
loaded. A folder of an older version has none, and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums"  # entry of both JSON files: a file's name to its SHA-256
SETTINGS = "settings"  # stands in place of the name of the JSON file itself
# Entries that decide no answer: tools that publish a model write them anew.
FREE = (CHECKSUMS, "architectures", "auto_map", "custom_pipelines", "name_or_path", "transformers_version")


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


def add_checksums(config: str | Path, files: Iterable[str | Path]) -> None:
    """Write the checksums of a JSON file's own settings, and of files that it goes with, into it."""
    config = Path(config)
    settings = read_object(config)
    settings[CHECKSUMS] = {SETTINGS: _hash_of_settings(settings)} | {Path(p).name: _hash_of_file(p) for p in files}
    part = config.with_name(f".{config.name}.{os.getpid()}.part")
    part.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, config)


def check_checksums(config: str, settings: Mapping[str, Any], files: Iterable[str | Path] = ()) -> None:
    """Check what `add_checksums` wrote; where there is nothing, all is well.

    Args:
        config: name of the JSON file, for errors.
        settings: its content.
        files: those that were loaded with it.

    Raises:
        ValueError: a file, or the settings, are not those that were saved together.
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


__all__ = ["add_checksums", "check_checksums", "read_object"]

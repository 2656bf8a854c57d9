"""The translations of a reproduction: one for all rows that translate alike."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.files import locked, new_file, write_json
from ..common.provenance import hash_of_file
from ..data import RecommendationData
from ..tokenization_gram import CATALOGUE_FILE
from ..translation import TranslationSettings
from ..translation.catalogue import ARTEFACTS
from ..translation.tokenizer_folder import VOCABULARY_FILE, make_tokenizer_folder
from .comparing import hash_of_data, settings_differ

TOKENIZER_FILE = "tokenizer.json"


def make_translation(
    folder: Path, settings: Mapping[str, Any], data: RecommendationData, progress: bool = True
) -> dict[str, Any]:
    """Translate, unless that is done.

    Args:
        folder: of the translation.
        settings: `training` and `translation` of a run.
        data: what is translated.
        progress: show bars.

    Returns:
        What `FOLDER.json` says: `settings`, `hashes`, `seconds`, `statistics`.

    Raises:
        ValueError: the folder was made with other settings or data.
    """
    with locked(folder, wait=True):
        return _make_translation(folder, settings, data, progress)


def _make_translation(folder, settings, data, progress) -> dict[str, Any]:
    record, training = folder.with_name(f"{folder.name}.json"), settings["training"]
    limits = {name: training[name] for name in ("max_history", "max_passage_length")}
    words = training["tokenizer"] or training["backbone"]
    wanted = {**settings["translation"], **limits, "tokenizer": words, "data": hash_of_data(data)}
    if record.is_file():
        written = json.loads(record.read_text(encoding="utf-8"))
        difference = settings_differ(written["settings"], wanted)
        if difference:
            raise ValueError(f"{record}: made with {difference}; remove it and {folder}, or give another --output-dir")
        return written
    start = time.perf_counter()
    _take_over(folder)
    statistics = make_tokenizer_folder(
        data, folder, TranslationSettings(**settings["translation"]), words, progress=progress, **limits
    )
    hashes = {name: hash_of_file(folder / name) for name in (CATALOGUE_FILE, TOKENIZER_FILE)}
    seconds = round(time.perf_counter() - start, 2)
    write_json(record, {"settings": wanted, "hashes": hashes, "seconds": seconds, "statistics": str(statistics)})
    return json.loads(record.read_text(encoding="utf-8"))


def _take_over(folder: Path) -> None:
    """Copy what another translation has made: vectors, vocabulary, SASRec.

    Each file says what it was made from, so that what does not belong here is made anew.
    """
    others = sorted(path.parent for path in folder.parent.glob(f"*/{CATALOGUE_FILE}"))
    if folder.exists() or not others:
        return
    folder.mkdir()
    for name in (*ARTEFACTS, VOCABULARY_FILE):
        if (others[0] / name).is_file():
            with new_file(folder / name) as part:
                shutil.copyfile(others[0] / name, part)

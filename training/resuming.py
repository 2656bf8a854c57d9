"""Whether what lies in a run's folder is of the run that is asked for: finished, to go on with, or of another."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..common.provenance import (
    COMPUTING,
    Provenance,
    hash_of_interactions,
    hash_of_items,
    hash_of_pretrained,
    hash_of_tokenizer,
    versions,
)
from ..data import RecommendationData, without_test
from ..tokenization_gram import GramTokenizer
from .checkpoints import CHECKPOINTS_FOLDER, PROVENANCE_FILE, checkpoints_in
from .settings import PLACES, TrainingSettings

FINISHED_FILE = "training.json"


def provenance_of(
    settings: TrainingSettings, data: RecommendationData, tokenizer: GramTokenizer | None = None
) -> Provenance:
    """All that decides what a run learns; without a tokenizer, what is known of it before the data are translated."""
    known, start = without_test(data), settings.init_from or settings.backbone
    inputs = {
        "interactions": hash_of_interactions(known.interactions, known.splits),
        "items": hash_of_items(data.items),
    }
    if tokenizer is not None:
        inputs["translation"] = hash_of_tokenizer(tokenizer)
        inputs |= {"weights to start from": hash_of_pretrained(start)} if start else {}
    return Provenance("training", inputs, {name: of for name, of in asdict(settings).items() if name not in PLACES})


def is_trained(settings: TrainingSettings, provenance: Provenance) -> bool:
    """Whether the run's folder holds this very run, finished.

    Raises:
        ValueError: it holds another, finished or half done, which may not be overwritten; the message names what
            differs.
    """
    folder = Path(settings.output_dir)
    finished, checkpoints = folder / FINISHED_FILE, checkpoints_in(folder / CHECKPOINTS_FOLDER)
    differences = []
    if finished.is_file():
        written = json.loads(finished.read_text(encoding="utf-8"))
        differences = provenance.differences(written.get("provenance", {}))
        if not differences:
            return True
    elif checkpoints:
        differences = differences_from(checkpoints[-1], provenance)
    if differences and not settings.overwrite:
        raise ValueError(
            f"{folder}: trained with {', '.join(differences)}; take the same to go on, give --overwrite to train anew, "
            "or another --output-dir"
        )
    return False


def differences_from(checkpoint: Path, provenance: Provenance) -> list[str]:
    """What a run cannot go on with from a checkpoint; empty where it goes on as if it had never stopped."""
    path = checkpoint / PROVENANCE_FILE
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    before, now = written.get("versions", {}), versions()
    others = [
        f"{name} {before.get(name)}, now {now.get(name)}" for name in COMPUTING if before.get(name) != now.get(name)
    ]
    return provenance.differences(written) + others

"""What a run writes, each whole or not at all: checkpoints, the best model's folder; and of which run these are."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.files import json_in, put, working_folder, write_errors
from ..common.processes import Accelerator
from ..common.provenance import (
    COMPUTING,
    Provenance,
    hash_of_interactions,
    hash_of_items,
    hash_of_pretrained,
    hash_of_tokenizer,
    hash_of_weights,
    versions,
)
from ..data import RecommendationData, without_test
from ..modeling_gram import GramForConditionalGeneration
from ..tokenization_gram import GramTokenizer
from ..translation.settings import SASREC
from .distillation import teacher_of
from .settings import PLACES, TrainingSettings

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # either of which says that there is a model
CHECKPOINTS_FOLDER, PROVENANCE_FILE = "checkpoints", "provenance.json"
FINISHED_FILE, ADAPTER_FOLDER = "training.json", "adapter"  # inside a model folder


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def save_checkpoint(accelerator: Accelerator, provenance: Provenance, folder: Path, updates: int) -> None:
    """Write all that a run needs to go on, under another name, then rename it; the checkpoint before it goes."""
    partial, final = folder / "partial", folder / f"step-{updates:08d}"
    if final.exists():
        return
    try:
        with write_errors({partial: final}):
            accelerator.wait_for_everyone()
            accelerator.save_state(str(partial))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                (partial / PROVENANCE_FILE).write_text(json.dumps(provenance.facts), encoding="utf-8")
                put(partial, final)
                for old in checkpoints_in(folder)[:-1]:
                    shutil.rmtree(old)
            accelerator.wait_for_everyone()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_model_folder(
    model: GramForConditionalGeneration, adapted: PeftModel | None, tokenizer: GramTokenizer, folder: Path
) -> None:
    """Write a model folder; of a model with adapters the merged weights, and the adapters in a folder inside."""
    with working_folder(folder) as partial:
        if adapted is not None:
            model = copy.deepcopy(adapted).merge_and_unload()
            adapted.save_pretrained(partial / ADAPTER_FOLDER, save_embedding_layers=False)
            (partial / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)  # PEFT's empty card
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        put(partial, folder)


def move_files(source: Path, target: Path) -> None:
    """Move everything in a model folder to another, in place of what is there under the same name.

    Until all else is there the target has no weights: nobody takes the parts of two models for one.
    """
    paths = sorted(source.iterdir(), key=lambda path: (path.name in WEIGHTS, path.name))
    if paths and paths[-1].name in WEIGHTS:  # otherwise they have been moved before an interruption
        for name in WEIGHTS:
            (target / name).unlink(missing_ok=True)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        put(path, target / path.name)


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
    if tokenizer is not None or settings.distillation != SASREC:  # a file of one's own is there before
        teacher = teacher_of(settings, data)
        inputs |= {"teacher": hash_of_weights(teacher)} if teacher is not None else {}
    own = {name: of for name, of in asdict(settings).items() if name not in PLACES}
    return Provenance("training", inputs, own, TrainingSettings.defaults())


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
        written = json_in(finished)
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
    written = json_in(path)
    both = [(name, written.get("versions", {}).get(name), versions().get(name)) for name in COMPUTING]
    others = [f"{name} {before}, now {now}" for name, before, now in both if before != now]
    return provenance.differences(written) + others

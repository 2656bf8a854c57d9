"""What a run writes: checkpoints to resume from, and the best model's folder, each whole or not at all."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

from accelerate import Accelerator
from peft import PeftModel

from ..common.files import put, working_folder, write_errors
from ..common.provenance import Provenance
from ..modeling_gram import GramForConditionalGeneration
from ..tokenization_gram import GramTokenizer

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # either of which says that there is a model
CHECKPOINTS_FOLDER, PROVENANCE_FILE = "checkpoints", "provenance.json"
ADAPTER_FOLDER = "adapter"  # inside a model folder


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

"""What a run writes: checkpoints to resume from, and the best model's folder, each whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from peft import PeftModel

from ..files import new_file
from ..modeling_gram import GramForConditionalGeneration
from ..provenance import Provenance
from ..tokenization_gram import GramTokenizer
from .lora import ADAPTER_FOLDER, merged, save_adapter

CHECKPOINTS_FOLDER, PROVENANCE_FILE = "checkpoints", "provenance.json"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def save_checkpoint(accelerator: Accelerator, provenance: Provenance, folder: Path, updates: int) -> None:
    """Write all that a run needs to go on, under another name, then rename it; the checkpoint before it goes."""
    partial, final = folder / "partial", folder / f"step-{updates:08d}"
    if final.exists():
        return
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / PROVENANCE_FILE).write_text(json.dumps(provenance.facts), encoding="utf-8")
        os.replace(partial, final)
        for old in checkpoints_in(folder)[:-1]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def save_model_folder(
    model: GramForConditionalGeneration, adapted: PeftModel | None, tokenizer: GramTokenizer, folder: Path
) -> None:
    """Write a model folder; of a model with adapters the merged weights, and the adapters in a folder inside."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (model if adapted is None else merged(adapted)).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if adapted is not None:
        save_adapter(adapted, partial / ADAPTER_FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def move_files(source: Path, target: Path) -> None:
    """Move everything in one folder to another, in place of what is there under the same name."""
    for path in sorted(source.iterdir()):
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with indents, but lists of numbers on one line."""
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), json.dumps(content, indent=2))
    with new_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


__all__ = [
    "CHECKPOINTS_FOLDER",
    "PROVENANCE_FILE",
    "checkpoints_in",
    "move_files",
    "save_checkpoint",
    "save_model_folder",
    "write_json",
]

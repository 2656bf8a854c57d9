"""What makes a model repository deployable on Hugging Face Inference Endpoints."""

from __future__ import annotations

import os
from pathlib import Path

HANDLER = Path(__file__).with_name("handler.py")
REQUIREMENTS = ("pyarrow>=17", "torch>=2.6", "transformers>=5.10,<6")  # transformers brings the rest


def add_handler(folder: str | Path) -> list[Path]:
    """Write `handler.py`, and the `requirements.txt` that an endpoint installs, into a model folder.

    Returns:
        The files' paths.

    Raises:
        FileNotFoundError: there is no model in the folder.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'}: no such file; give a model folder")
    requirements = "".join(f"{requirement}\n" for requirement in REQUIREMENTS)
    paths = [folder / "handler.py", folder / "requirements.txt"]
    for path, text in zip(paths, (HANDLER.read_text(encoding="utf-8"), requirements), strict=True):
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    return paths

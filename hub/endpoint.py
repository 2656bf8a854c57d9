"""What makes a model repository deployable on Hugging Face Inference Endpoints."""

from __future__ import annotations

from pathlib import Path

from ..common.files import new_file

HANDLER = Path(__file__).with_name("handler.py")
REQUIREMENTS = ("pyarrow>=17", "torch>=2.6", "transformers>=5.10,<6")  # transformers brings the rest


def handler_files() -> dict[str, bytes]:
    """What an endpoint needs beside the model, by name: the handler, and the `requirements.txt` that it installs."""
    requirements = "".join(f"{requirement}\n" for requirement in REQUIREMENTS)
    return {"handler.py": HANDLER.read_bytes(), "requirements.txt": requirements.encode()}


def add_handler(folder: str | Path) -> list[Path]:
    """Write `handler.py` and `requirements.txt` into a model folder; `gram push` adds them by itself.

    Returns:
        The files' paths.

    Raises:
        FileNotFoundError: there is no model in the folder.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'}: no such file; give a model folder")
    for name, content in handler_files().items():
        with new_file(folder / name) as part:
            part.write_bytes(content)
    return [folder / name for name in handler_files()]

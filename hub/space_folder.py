"""The demo Space: its folder, a push of it to the Hub, and a run of it on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from ..common.extras import needs
from ..common.files import new_folder
from .push import full_name, plain_errors

SOURCE = Path(__file__).resolve().parent / "space"
FILES = ("README.md", "app.py", "clicks.js", "engine.py", "requirements.txt", "style.css", "views.html", "visits.py")
NO_MODEL = "models: []"


def write_space(folder: str | Path, model_id: str) -> Path:
    """Write the folder, new or empty, of a Space that shows a model of the Hub; it can be pushed as it is.

    Raises:
        ValueError: the folder holds something already, or the name cannot be one on the Hub.
    """
    validate_repo_id(model_id)
    with new_folder(folder) as partial:
        for name in FILES:
            shutil.copyfile(SOURCE / name, partial / name)
        card = (SOURCE / "README.md").read_text(encoding="utf-8")
        card = card.replace(NO_MODEL, f"models: [{json.dumps(model_id)}]", 1)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return Path(folder)


def push_space(model_id: str, repo_id: str, private: bool = False) -> str:
    """Make a Space that shows a model of the Hub, or bring it up to date; gives its URL.

    Raises:
        ValueError: a name cannot be one on the Hub.
        PermissionError, ConnectionError, OSError: as [`gram.hub.push.push`] raises them.
    """
    validate_repo_id(repo_id)
    api = HfApi()
    with tempfile.TemporaryDirectory() as place, plain_errors(repo_id):
        folder = write_space(Path(place) / "space", model_id)
        repo_id = full_name(api, repo_id)
        url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=folder, commit_message=f"Show {model_id}")
    return str(url)


def run_space(model: str, port: int | None = None) -> NoReturn:
    """Run the Space on this machine, in place of this process, until stopped; by default on the first port from 7860.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    with needs("space", "the Space"):
        if importlib.util.find_spec("gradio") is None:  # to import it takes seconds
            raise ModuleNotFoundError(name="gradio")
    environment = {**os.environ, **({"GRADIO_SERVER_PORT": str(port)} if port else {})}
    os.execve(sys.executable, [sys.executable, str(SOURCE / "app.py"), model], environment)

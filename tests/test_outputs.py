"""What commands write: over none of their inputs, over nobody else's files, and one process at a time."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from gram import cli
from gram.common.files import locked
from gram.train_accelerate import main as train

from .waiting import PATIENCE

SHAPE = ("--d-model=32", "--d-kv=8", "--d-ff=64", "--num-layers=1", "--num-heads=2", "--max-history=8", "--epochs=1")


@pytest.fixture
def gram(capsys, tmp_path, monkeypatch):
    """Runs a command in the test's folder; returns its exit code and its lines of errors."""
    monkeypatch.chdir(tmp_path)

    def run(command, *argv):
        argv = [str(word) for word in argv]
        if command == "train":
            code = cli.exit_code_of(lambda: train([*SHAPE, "--max-passage-length=48", *argv]), "gram")
        else:
            code = cli.main([command, *argv])
        errors = capsys.readouterr().err.splitlines()
        return code, [line for line in errors if line.startswith("gram: ") or "Traceback" in line]

    return run


def everything(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_log(folder):
    (folder / "visits.csv").write_text("user_id,item_id,timestamp\n1,1,1\n")
    (folder / "films.csv").write_text("item_id,title\n1,Alien\n")


# Commands that are to write what they read.
OVER_INPUTS = {
    "recommend": "recommend model --users users.csv --output users.csv",
    "recommend, other spelling": "recommend model --users users.csv --output data/../users.csv",
    "recommend, symbolic link": "recommend model --users users.csv --output link.csv",
    "recommend, hard link": "recommend model --users users.csv --output hard.csv",
    "recommend, link as input": "recommend model --users link.csv --output users.csv",
    "prepare": "prepare --format table --interactions data/visits.csv --items data/films.csv --output data",
    "translate, data": "translate --data data --output data",
    "translate, tokenizer": "translate --data data --tokenizer model --output model",
    "translate, vectors": "translate --data data --vectors model/tree.safetensors --output model",
    "train, data": "train --data data --output-dir data",
    "train, tokenizer": "train --data data --translation model --output-dir model",
    "train, model": "train --data data --init-from model --output-dir link",
    "evaluate, data": "evaluate model --data prepared --output prepared/items.json",
    "evaluate, model": "evaluate model --data data --output model/config.json",
    "reproduce": "reproduce recipe.yaml --data data --output-dir data",
    "table": "table results --output results/results.json",
    "encode": "encode model --output model/config.json",
}


@pytest.mark.parametrize("words", OVER_INPUTS.values(), ids=OVER_INPUTS)
def test_no_command_writes_over_what_it_reads(gram, model_folder, data_folder, tmp_path, words):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copytree(data_folder, tmp_path / "data")
    (tmp_path / "data" / "similar_items.parquet").write_text("of an earlier translation")
    write_log(tmp_path / "data")
    (tmp_path / "model" / "tree.safetensors").write_text("vectors")
    (tmp_path / "prepared").mkdir()
    for name in ("items", "interactions"):
        pq.write_table(pa.table({"item_id": ["B0001"], "title": ["Balm"]}), tmp_path / "prepared" / f"{name}.parquet")
    (tmp_path / "users.csv").write_text("u1 B0001 B0002\n")
    (tmp_path / "link.csv").symlink_to("users.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "users.csv")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "recipe.yaml").write_text("epochs: 1\n")
    (tmp_path / "results").mkdir()
    facts = {"reproduction": {"dataset": "shop"}, "rows": {}}
    (tmp_path / "results" / "results.json").write_text(json.dumps(facts))
    before = everything(tmp_path)
    code, errors = gram(*words.split())
    assert (code, len(errors)) == (2, 1), errors
    assert everything(tmp_path) == before
    assert (tmp_path / "link.csv").is_symlink()


# Files and folders that other people made, and commands whose output has the same name.
OVER_OTHERS = {
    "evaluate, table": ("x.parquet", "evaluate model --data data --output x.json"),
    "evaluate, results": ("x.json", "evaluate model --data data --output x.json"),
    "evaluate, SASRec": ("x.sasrec.safetensors", "evaluate model --data data --output x.json"),
    "evaluate, weights": ("x.reranking.json", "evaluate model --data data --output x.json --rerank"),
    "recommend, Parquet": ("recs.parquet", "recommend model --users users.txt --output recs.parquet"),
    "recommend, CSV": ("recs.csv", "recommend model --users users.txt --output recs.csv"),
    "train, model": ("run/config.json", "train --data data --translation model --output-dir run"),
    "train, weights": ("run/model.safetensors", "train --data data --translation model --output-dir run"),
    "train, checkpoints": ("run/checkpoints/mine.pt", "train --data data --translation model --output-dir run"),
    "quickstart": ("run/tokenizer.json", "quickstart --output-dir run"),
    "tune, results": ("tuned/item-knn/tuning.json", "tune --data data --output tuned"),
    "tune, SASRec": ("tuned/sasrec/sasrec.safetensors", "tune --data data --output tuned"),
    "translate, report": ("ids.html", "translate --data data --output words --num-similar 0 --report ids.html"),
    "translate, folder": ("words/letter.txt", "translate --data data --output words"),
    "prepare": ("made/letter.txt", "prepare --format table --interactions visits.csv --items films.csv --output made"),
    "reproduce": ("made/letter.txt", "reproduce recipe.yaml --data data --output-dir made"),
    "space": ("made/letter.txt", "space NAME/films --output made"),
    "table": ("page.md", "table results --output page.md"),
    "card": ("model/README.md", "card model"),
}


@pytest.mark.parametrize(("name", "words"), OVER_OTHERS.values(), ids=OVER_OTHERS)
def test_no_command_writes_over_what_it_did_not_make(gram, model_folder, data_folder, tmp_path, name, words):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "data").symlink_to(data_folder)
    write_log(tmp_path)
    (tmp_path / "users.txt").write_text("u1 B0001 B0002\n")
    (tmp_path / "recipe.yaml").write_text("epochs: 1\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text(json.dumps({"reproduction": {"dataset": "shop"}, "rows": {}}))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = everything(tmp_path)
    code, errors = gram(*words.split())
    assert (code, len(errors)) == (2, 1), errors
    assert str(path.relative_to(tmp_path)).split(os.sep)[0] in errors[0]
    assert everything(tmp_path) == before


def test_a_commands_own_output_is_replaced(gram, model_folder, data_folder, tmp_path):
    (tmp_path / "users.txt").write_text("u1 B0001 B0002\n")
    for output in ("recs.csv", "recs.parquet"):
        command = ["recommend", model_folder, "--users", tmp_path / "users.txt", "--num-beams=5", "--output", output]
        assert gram(*command, "--top-k=2") == (0, [])
        assert gram(*command, "--top-k=3") == (0, [])
    evaluation = ["evaluate", model_folder, "--data", data_folder, "--num-beams=5", "--output", "results.json"]
    for num_users in (3, 4):
        assert gram(*evaluation, f"--max-users={num_users}") == (0, [])
    assert json.loads((tmp_path / "results.json").read_text())["users"] == 4


def test_recommendations_have_the_form_that_the_files_name_says(gram, model_folder, tmp_path):
    (tmp_path / "users.txt").write_text("u1 B0001 B0002\nu2 B0003\n")
    for output in ("recs.csv", "recs.parquet"):
        assert gram("recommend", model_folder, "--users", "users.txt", "--output", output) == (0, [])
    by_user = zip(
        *pq.read_table(tmp_path / "recs.parquet", columns=["user_id", "items"]).to_pydict().values(), strict=True
    )
    table = pa.csv.read_csv(tmp_path / "recs.csv").to_pydict()
    expected = [(user, rank, item) for user, items in by_user for rank, item in enumerate(items, start=1)]
    assert list(zip(table["user_id"], table["rank"], table["item_id"], strict=True)) == expected
    for output in ("recs", "recs.xlsx", "recs.jsonl"):
        code, errors = gram("recommend", model_folder, "--users", "users.txt", "--output", output)
        assert (code, errors) == (2, [f"gram: error: {output}: give the name of a file that ends in .parquet or .csv"])


def test_only_its_own_parts_are_removed(gram, model_folder, tmp_path):
    (tmp_path / "users.txt").write_text("u1 B0001 B0002\n")
    letter = tmp_path / "recs.csv.parts" / "letter.txt"
    letter.parent.mkdir()
    letter.write_text("mine")
    assert gram("recommend", model_folder, "--users", "users.txt", "--output", "recs.csv") == (0, [])
    assert [path.name for path in letter.parent.iterdir()] == ["letter.txt"]


HOLDER = """
import contextlib, sys
from gram.common.files import locked
with contextlib.ExitStack() as stack:
    for path in sys.argv[1:]:
        stack.enter_context(locked(path.rstrip("/"), inside=path.endswith("/")))
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Starts a process that holds files, and folders that end in a slash, until its input ends."""
    started = []

    def start(*paths, cwd=None):
        command = [sys.executable, "-c", HOLDER, *map(str, paths)]
        started.append(subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_is_writing(gram, holder, model_folder, data_folder, tmp_path):
    (tmp_path / "users.txt").write_text("u1 B0001 B0002\n")
    write_log(tmp_path)
    table = ["--format=table", "--interactions=visits.csv", "--items=films.csv"]
    commands = {
        "made": ["prepare", *table, "--output"],
        "words/": ["translate", "--data", data_folder, "--output"],
        "run/": ["train", "--data", data_folder, "--translation", model_folder, "--output-dir"],
        "encodings/": ["encode", model_folder, "--output"],
        "results.json": ["evaluate", model_folder, "--data", data_folder, "--output"],
        "recs.csv": ["recommend", model_folder, "--users", "users.txt", "--output"],
        "tuned/": ["tune", "--data", data_folder, "--output"],
        "quick/": ["quickstart", "--output-dir"],
    }
    process = holder(*commands, cwd=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    who = f"process {process.pid} on {socket.gethostname()}, since 20"
    for output, command in commands.items():
        code, errors = gram(*command, output.rstrip("/"))
        assert (code, len(errors)) == (2, 1), errors
        assert errors[0].startswith(f"gram: error: {output.rstrip('/')}: {who}"), errors
        assert sorted(tmp_path.rglob("*")) == before


def test_a_process_that_was_killed_holds_nothing(holder, tmp_path):
    process = holder(tmp_path / "a.txt", f"{tmp_path}/run/")
    with pytest.raises(ValueError, match="writes there"), locked(tmp_path / "a.txt"):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path / "a.txt"), locked(tmp_path / "a.txt"), locked(tmp_path / "run", inside=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_one_that_waits_goes_on_when_the_other_has_ended(holder, tmp_path):
    process = holder(tmp_path / "a.txt")
    script = f"from gram.common.files import locked\nwith locked({str(tmp_path / 'a.txt')!r}, wait=True): print('mine')"
    waiting = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert f"process {process.pid} on" in waiting.stderr.readline()
    assert waiting.poll() is None
    process.communicate("")
    assert waiting.communicate(timeout=PATIENCE)[0] == "mine\n"
    assert not list(tmp_path.iterdir())


def test_a_terminated_run_leaves_nothing_half(tmp_path):
    script = """
import sys
from gram.cli import exit_code_of
from gram.common.files import new_file
def program():
    with new_file("new/a.txt") as part:
        part.write_text("half")
        print("writing", flush=True)
        sys.stdin.read()
sys.exit(exit_code_of(program))
"""
    (tmp_path / "new").mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, **pipes)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (143, "gram: error: interrupted; run the same command again to go on\n")
    assert not list((tmp_path / "new").iterdir())

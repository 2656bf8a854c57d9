"""The commands for a few minutes of a GPU, rehearsed on the CPU at toy size."""

import json
import os
import socketserver
import subprocess
import sys
import tarfile
import threading

import pytest

from gram.benchmarks import gpu
from gram.serving.recommendation import Recommender

from .conftest import ROOT
from .forks import MODULE

# In place of `python -m ...`: the process is a fork, which has nothing to import.
PYTHON = """#!{python} -SE
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as there:
    asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    there.sendall(json.dumps(asked).encode() + b"\\n")
    code, said = json.loads(there.makefile().readline())
print(said)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def shell(forks, tmp_path_factory):
    """Runs a script of `benchmarks/` with a Python that is ready at once; returns what `subprocess.run` returns."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked = json.loads(self.rfile.readline())
            done = forks.run(MODULE, *asked["arguments"], folder=asked["folder"], **asked["environment"])
            self.wfile.write(json.dumps([done.returncode, done.stdout + done.stderr]).encode() + b"\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        python = tmp_path_factory.mktemp("python") / "python"
        python.write_text(PYTHON.format(python=sys.executable, port=server.server_address[1]), encoding="utf-8")
        python.chmod(0o755)
        patient = {**os.environ, "PYTHON": str(python), "GPU_TOY": "1", "GPU_PATIENCE": "10"}

        def run(script, *arguments):
            command = ["bash", str(ROOT / "benchmarks" / script), *map(str, arguments)]
            return subprocess.run(command, env=patient, capture_output=True, text=True, check=False)

        yield run
        server.shutdown()


def figures_in(folder):
    lines = (folder / "figures.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["name"]: line for line in map(json.loads, lines)}


NAMES = {name: step for step, names in gpu.FIGURES.items() for name in names}


def test_every_figure_is_there_at_the_end(shell, tmp_path):
    done = shell("gpu.sh", tmp_path / "out")
    found = figures_in(tmp_path / "out")
    log = (tmp_path / "out" / "gpu.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "no figure" not in done.stdout, done.stdout + log
    assert found.keys() == NAMES.keys()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figures.jsonl", "gpu.log"]
    for name, line in found.items():
        assert line["unit"] == gpu.FIGURES[NAMES[name]][name]
        assert (line["data"], line["toy"], bool(line["device"])) == ("random, toy size", True, True)
        assert (
            line["value"] > 0
            or name in ("device tests that fail", "two processes: weights differ by")
            or ("CUDA graphs" in name)
        )
    assert found["training samples"]["value"] == gpu.TOY["interactions"] - 3 * gpu.TOY["users"]
    assert found["device tests that fail"]["value"] == 0
    assert found["two processes: weights differ by"]["value"] < 1e-5
    steps = found["training, bf16: steps"]["value"]
    hours = found[f"training, bf16: {gpu.EPOCHS} epochs"]["value"]
    assert hours * 3600 * steps == pytest.approx(gpu.EPOCHS * 15, rel=0.2)  # 460 samples in steps of 32 or more


def test_what_fails_stops_nothing_and_is_said(shell, tmp_path):
    (tmp_path / "nothing").mkdir()
    done = shell("gpu.sh", tmp_path / "out", tmp_path / "nothing", tmp_path / "nothing")
    assert done.returncode == 0
    found = figures_in(tmp_path / "out")
    assert found.keys() == NAMES.keys()
    without = {name for name, line in found.items() if line["value"] is None}
    assert {NAMES[name] for name in without} == {"data", "training", "compiled", "search", "static"}
    assert "Traceback" in (tmp_path / "out" / "gpu.log").read_text(encoding="utf-8")
    assert all("ended with code 1" in found[name]["missing"] for name in without)


def test_folders_that_are_not_there_are_refused(shell, tmp_path):
    missing = tmp_path / "nowhere"
    for script, between in (("gpu.sh", []), ("gpu_train.sh", ["60"])):
        for places, says in (([], "usage: bash"), ([*between, missing, tmp_path], f"{missing}: no such folder")):
            done = shell(script, *([tmp_path / "out", *places] if places else []))
            assert (done.returncode, says in done.stderr) == (2, True)
    assert not missing.exists()


def test_a_step_that_was_too_slow_keeps_what_it_had(tmp_path):
    first, *others = gpu.FIGURES["search"]
    (tmp_path / "figures.jsonl").write_text(json.dumps({"name": first, "value": 1.0}) + "\n", encoding="utf-8")
    gpu.main(["search", str(tmp_path), str(tmp_path), "--ended", "124"])
    found = figures_in(tmp_path)
    assert found[first]["value"] == 1.0
    assert [found[name]["missing"] for name in others] == ["took too long"] * len(others)


def test_training_goes_on_where_the_time_was_over(shell, quickstart_run, tmp_path):
    out, folder = tmp_path / "out", quickstart_run[0]
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_decoder_layers": 1, "num_heads": 2, "max_history": 4}
    shape |= {"max_passage_length": 32, "epochs": 2, "batch_size": 2, "micro_batch_size": 64, "validation_users": 10}
    flags = [word for name, value in shape.items() for word in (f"--{name.replace('_', '-')}", value)]
    for seconds, says in ((0, "the time is over at step 20 of "), (600, "trained; the model's folder")):
        done = shell("gpu_train.sh", out, seconds, folder / "data", folder, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout
    assert "resuming from step 20" in done.stdout
    steps = [json.loads(line)["value"] for line in (out / "progress.jsonl").read_text().splitlines()]
    assert steps[0] == 20
    assert steps == sorted(set(steps))
    with tarfile.open(out / "run.tar") as archive:
        archive.extractall(tmp_path / "model", filter="data")
    training = json.loads((tmp_path / "model" / "training.json").read_text(encoding="utf-8"))
    assert training["progress"]["updates"] == steps[-1]
    assert training["settings"]["distillation"] == "sasrec"
    recommended = Recommender.from_pretrained(tmp_path / "model").recommend([["1", "2"]], top_k=3)
    assert len(recommended[0]) == 3

"""On an accelerator, which a machine without one can only pretend to have."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from gram import cli
from gram.common.devices import choose_device
from gram.common.processes import precision, this_process

ROOT = Path(__file__).parents[1]

# What every process of a launch runs: where its model lies, and how many hours it waits for the others.
PROCESS = """
import sys
from pathlib import Path
import torch
from gram.common.processes import make_accelerator, this_process
from gram.serving.recommendation import load_model
model, _ = load_model(sys.argv[1])
accelerator = make_accelerator()
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
said = f"{model.device} {accelerator.device} {group.options._timeout.total_seconds() / 3600:g}"
Path(f"{sys.argv[2]}-{this_process().process_index}").write_text(said)
accelerator.wait_for_everyone()
"""


def close(one, other):
    """Whether two JSON values are the same but for rounding."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == (pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(one, float) else other)


def test_an_accelerator_gives_what_the_cpu_gives(model_folder, tmp_path):
    command = [sys.executable, "-m", "tests.on_other_device", str(model_folder), str(tmp_path / "encodings")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = json.loads(done.stdout.splitlines()[-1])
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert close(values, found[name]), name


def test_a_launched_process_loads_onto_its_own_device_and_waits_for_the_long_work_of_others(model_folder, tmp_path):
    (tmp_path / "process.py").write_text(PROCESS, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # What Accelerate finds on a machine of GPUs by a process's number can be said to it, too.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "meta"}
    command = [*launch, "process.py", str(model_folder), str(tmp_path / "said")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for process in range(2):
        assert (tmp_path / f"said-{process}").read_text() == "meta meta 168"


@pytest.fixture
def machine(monkeypatch):
    """Makes `choose_device` see a machine with accelerators of a kind, and an environment."""

    def pretend(kind=None, count=0, **environment):
        for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(PartialState, "_shared_state", {})
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("kind", "count", "environment", "asked", "expected"),
    [
        (None, 0, {}, None, "cpu"),
        (None, 0, {"LOCAL_RANK": "1"}, None, "cpu"),
        ("cuda", 2, {}, None, "cuda"),
        ("cuda", 2, {"LOCAL_RANK": "1"}, None, "cuda:1"),
        ("cuda", 2, {"LOCAL_RANK": "1"}, "cuda", "cuda:1"),
        ("cuda", 2, {"LOCAL_RANK": "1"}, "cuda:0", "cuda:0"),
        ("cuda", 2, {"ACCELERATE_USE_CPU": "true"}, None, "cpu"),
        ("cuda", 2, {"ACCELERATE_USE_CPU": "true"}, "cuda:1", "cuda:1"),
        ("cuda", 2, {"ACCELERATE_TORCH_DEVICE": "cuda:1"}, None, "cuda:1"),
        ("cuda", 2, {}, "cpu", "cpu"),
        ("xpu", 1, {"LOCAL_RANK": "0"}, None, "xpu:0"),
        ("mps", 1, {"LOCAL_RANK": "0"}, None, "mps"),
    ],
)
def test_a_device_is_chosen(machine, kind, count, environment, asked, expected):
    machine(kind, count, **environment)
    assert choose_device(asked) == torch.device(expected)


@pytest.mark.parametrize(
    ("kind", "count", "environment", "asked", "message"),
    [
        (None, 0, {}, "cuda", "device 'cuda' is not on this machine; there are cpu"),
        ("cuda", 2, {}, "cuda:2", "device 'cuda:2' is not on this machine; there are cpu, cuda:0, cuda:1"),
        ("cuda", 1, {}, "mps", "device 'mps' is not on this machine; there are cpu, cuda:0"),
        ("cuda", 1, {}, "GPU", "device 'GPU' is not on this machine"),
        ("cuda", 1, {"LOCAL_RANK": "1"}, None, "process 1 has no cuda device of its own, there are 1"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, kind, count, environment, asked, message):
    machine(kind, count, **environment)
    with pytest.raises(ValueError, match=re.escape(message)):
        choose_device(asked)


def test_where_accelerate_works_its_device_it_is(machine, monkeypatch):
    machine(None)
    this_process()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device 'cuda': these processes were launched on cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("command", ["recommend MODEL --history B0001", "similar MODEL --item B0001", "encode MODEL"])
def test_a_command_refuses_a_device_that_is_not_there_in_one_line(model_folder, capsys, command):
    words = [str(model_folder) if word == "MODEL" else word for word in command.split()]
    assert cli.main([*words, "--device", "cuda:77"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gram: error: device 'cuda:77' is not on this machine; there are cpu")


def test_a_command_works_on_the_device_that_is_asked_for(model_folder, capsys):
    assert cli.main(["recommend", str(model_folder), "--history", "B0001", "--top-k", "3", "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_gpu_that_is_not_used_chooses_no_precision(monkeypatch):
    this_process()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert (precision("auto"), precision("bf16")) == ("no", "bf16")  # this process is on the CPU


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "avx512_f"])
def test_a_processor_is_asked_for_bf16_only_where_it_multiplies_in_it(monkeypatch, caplog, feature):
    this_process()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True})
    is_fast = feature != "avx512_f"
    assert precision("auto") == ("bf16" if is_fast else "no")
    assert not caplog.records
    assert precision("bf16") == "bf16"
    assert ("emulates bf16" in caplog.text) is not is_fast


@pytest.mark.parametrize("program", ["gram.cli translate --output none", "gram.train_accelerate --output-dir none"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"), ({"GOMP_SPINCOUNT": "0"}, "None 0")],
)
def test_torch_is_told_that_threads_sleep_soon_unless_the_user_says_how(tmp_path, program, given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    (tmp_path / "torch.py").write_text(f"import os\nprint(*map(os.environ.get, {names}), flush=True)\nos._exit(0)\n")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(tmp_path), **given}
    command = [sys.executable, "-m", *program.split(), "--data=none"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"

"""The steps of `gpu.sh`, which says how they are run; `docs/gpu.md` says what their figures mean.

A step measures what it names in `FIGURES`. It is a process of its own, so that a limit can end it, and each of its
figures is written as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle
from pathlib import Path
from xml.etree import ElementTree

from .measuring import GB, Machine, peak_gb, wait_for

PYTHON = os.environ.get("PYTHON", sys.executable)
BEAUTY = {"users": 22_363, "items": 12_101, "interactions": 198_502, "pieces": 32_100, "words": 128, "tokens": 128}
TOY = {"users": 80, "items": 40, "interactions": 700, "pieces": 400, "words": 16, "tokens": 24}
TOY_MODEL = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
EPOCHS = 30  # of the paper's recipe
WARM = 20  # optimizer steps that do not count
BATCHES, PRECISIONS, STATIC = (1, 32, 256), ("float32", "bfloat16"), (1, 32)  # users of a search
_TRAINING = {
    "product rate": "TFLOP/s",
    "batches that one worker makes": "1/s",
    "steps": "1/s",
    "steps, batches at hand": "1/s",
    "share of the floor": "1",
    f"{EPOCHS} epochs": "hours",
    "peak memory": "GB",
    "steps of one micro-batch": "1/s",
    "peak memory, steps of one micro-batch": "GB",
}
_SEARCH = {"encoding the catalogue": "s", **{f"users, {n} at once": "1/s" for n in BATCHES}}
_SEARCH |= {"all users": "minutes", "peak memory": "GB"}
# Name and unit of each step's figures.
FIGURES = {
    "data": {"items": "1", "training samples": "1"},
    "tests": {"device tests that pass": "1", "device tests that fail": "1"},
    "training": {f"training, bf16: {name}": unit for name, unit in _TRAINING.items()},
    "compiled": {f"training, bf16, compiled: {name}": unit for name, unit in _TRAINING.items()},
    "search": {f"search, {kind}: {name}": unit for kind in PRECISIONS for name, unit in _SEARCH.items()},
    "static": {
        f"static search: {name}, {n} at once": unit
        for n in STATIC
        for name, unit in {"first": "s", "users": "1/s", "CUDA graphs left out": "1"}.items()
    },
    "processes": {"one process: steps": "1/s", "two processes: steps": "1/s", "two processes: weights differ by": "1"},
}


class Step:
    """What the functions below need of their command, and where their figures go."""

    def __init__(self, given: argparse.Namespace):
        import torch

        self.name, self.out, self.work = given.step, given.out, given.work
        self.has_cuda = torch.cuda.is_available()
        self.is_toy = not self.has_cuda or os.environ.get("GPU_TOY") == "1"
        self.device = torch.device("cuda" if self.has_cuda else "cpu")
        self.shape = TOY_MODEL if self.is_toy else {}  # the defaults are T5-small's
        size = "toy" if self.is_toy else "Beauty"
        self.data, self.translation = given.data or self.work / size, given.translation or self.work / f"{size}-ids"
        self.about = {
            "device": torch.cuda.get_device_name() if self.has_cuda else "cpu",
            "data": self.data.name if given.data else f"random, {size} size",
            "toy": self.is_toy,
        }
        self.start = time.monotonic()

    def rate(self, runs: Iterable, seconds: float, warm: int = 2) -> float:
        """How many of the runs, done by iterating, the device does a second, after some that do not count.

        At toy size, where it is only to be seen to work, all count and there is little time.
        """
        if self.is_toy:
            seconds, warm = seconds / 50, 0
        count, start = -warm, time.perf_counter()
        for _ in runs:
            count += 1
            if count == 0:
                wait_for(self.device)
                start = time.perf_counter()
            elif count > 0 and time.perf_counter() - start > seconds:
                break
        wait_for(self.device)
        return count / (time.perf_counter() - start)

    def write(self, name: str, value: float | None, **more) -> None:
        """Add a line; its seconds are those since the line before."""
        now = time.monotonic()
        line = {"name": name, "value": value, "unit": FIGURES[self.name][name], "seconds": round(now - self.start, 2)}
        with (self.out / "figures.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **self.about, **more}) + "\n")
        self.start = now


def again(run: Callable) -> Iterable:
    """The run, as often as is asked for."""
    while True:
        yield run()


def write_inputs(folder: Path, size: dict[str, int]) -> None:
    """A data folder and a tokenizer for it, of random users and items with prompts as long as `size` says."""
    import numpy as np
    import pyarrow as pa
    from transformers import T5Tokenizer

    from gram import GramTokenizer
    from gram.tokenization_gram import CATALOGUE_SCHEMA

    from .catalogues import random_ids
    from .translation import synthetic_words

    draw, names = np.random.default_rng(0), [f"i{item}" for item in range(size["items"])]
    beyond = size["interactions"] - 5 * size["users"]  # everybody has five interactions, few have many
    shares = draw.pareto(2.2, size["users"]).clip(max=50)
    lengths = 5 + np.floor(0.9 * beyond * shares / shares.sum()).astype(int)
    others = draw.integers(size["users"], size=size["interactions"] - lengths.sum())
    lengths += np.bincount(others, minlength=size["users"])
    folder.mkdir()
    lines = [
        " ".join([f"u{user}", *(names[item] for item in draw.integers(len(names), size=length))])
        for user, length in enumerate(lengths)
    ]
    (folder / "user_sequence.txt").write_text("\n".join(lines) + "\n")
    (folder / "item_text.tsv").write_text("asin\ttitle\n" + "".join(f"{name}\titem {name}\n" for name in names))

    letters = [chr(code) for code in range(33, 127)]
    words = synthetic_words()[: size["pieces"] - len(letters) - 4]
    pieces = [(piece, -3.0) for piece in ("▁", *letters, *(f"▁{word}" for word in words))]
    vocabulary = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces], extra_ids=0)
    tokens = np.array(vocabulary.convert_ids_to_tokens(range(size["pieces"])))
    texts = np.array(words)[draw.integers(len(words), size=(len(names), size["words"]))]
    columns = [names, names, [" ".join(text) for text in texts]]
    columns += [tokens[random_ids(len(names), size["pieces"], 0)[:, :-1]].tolist(), [[] for _ in names]]
    limits = {"max_history": 20, "max_passage_length": size["tokens"]}
    tokenizer = GramTokenizer.from_catalogue(vocabulary, pa.table(columns, schema=CATALOGUE_SCHEMA), **limits)
    tokenizer.save_pretrained(f"{folder}-ids")


def data(step: Step) -> None:
    """Make what the other steps read, and count it."""
    from gram import GramTokenizer
    from gram.data import read_folder, training_part

    write_inputs(step.work / "toy", TOY)
    if step.data == step.work / "Beauty":
        write_inputs(step.data, BEAUTY)
    tokenizer, training = GramTokenizer.from_pretrained(step.translation), training_part(read_folder(step.data))
    step.write("items", len(tokenizer.item_ids))
    step.write("training samples", int((training.lengths - 1).clip(min=0).sum()))


def tests(step: Step) -> None:
    """The tests of a device; at toy size one of them."""
    report = step.work / "tests.xml"
    command = [PYTHON, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/test_device.py"]
    only = ["-k", "exact"] if step.is_toy else []
    subprocess.run([*command, *only, f"--junitxml={report}"], check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in cases if any(case.find(kind) is not None for kind in ("failure", "error"))]
    step.write("device tests that pass", len(cases) - len(failed))
    step.write("device tests that fail", len(failed), failed=failed)


def training(step: Step, compile: bool = False) -> None:
    """Optimizer steps of the paper's recipe for Beauty, from random weights, by the training script's own loop."""
    import torch
    from accelerate.utils import send_to_device

    from .training import work

    if compile and not step.has_cuda:
        torch.compiler.set_stance("force_eager")  # the rehearsal is not of the compiler
    name, run = f"training, bf16{', compiled' * compile}: ", training_run(step, compile=compile)
    device, steps = run.accelerator.device, run.steps(0)
    run.model.train()
    size = {"size": 256, "length": 1 << 20} if step.is_toy else {"size": 8192}
    machine = Machine.measured(device, torch.bfloat16, **size)
    step.write(name + "product rate", machine.flops / 1e12)

    made = step.rate(run._batches(steps, range(len(steps))), 5)
    step.write(name + "batches that one worker makes", made)
    updates = (run._update(*batch) for batch in run._batches(steps, range(len(steps))))
    done = step.rate(updates, 15, WARM)
    step.write(name + "steps", done)
    step.write(name + f"{EPOCHS} epochs", EPOCHS * len(steps) / done / 3600)
    some = list(run._batches(steps, range(min(len(steps), 20))))
    flops, moved = map(sum, zip(*(work(run.model, *batch) for batch in some), strict=True))
    step.write(name + "share of the floor", machine.floor(flops, moved) / len(some) * done)
    some = send_to_device(some, device)
    updates = (run._update(*batch) for batch in cycle(some))
    step.write(name + "steps, batches at hand", step.rate(updates, 8, WARM))
    step.write(name + "peak memory", peak(device))

    run.settings.micro_batch_size = run.settings.micro_batch_tokens = 1 << 30
    updates = (run._update(*batch) for batch in run._batches(run.steps(0), range(len(steps))))
    step.write(name + "steps of one micro-batch", step.rate(updates, 8, WARM))
    step.write(name + "peak memory, steps of one micro-batch", peak(device))


def training_run(step: Step, **settings):
    """A run of the training script on the step's data, ready to train."""
    from gram import GramTokenizer
    from gram.data import read_folder
    from gram.train_accelerate import _Run, provenance_of
    from gram.training.settings import TrainingSettings

    tokenizer, data = GramTokenizer.from_pretrained(step.translation), read_folder(step.data)
    settings |= {name: getattr(tokenizer, name) for name in ("max_history", "max_passage_length")} | step.shape
    settings |= {"batch_size": 32} if step.is_toy else {}
    places = {"translation": str(step.translation), "output_dir": str(step.work / step.name)}
    chosen = TrainingSettings(str(step.data), mixed_precision="bf16", workers=1, **places, **settings)
    return _Run(chosen, data, tokenizer, provenance_of(chosen, data, tokenizer))


def peak(device) -> float:
    """The most memory that the process has held, on a GPU there, in GB."""
    import torch

    return torch.cuda.max_memory_allocated(device) / GB if device.type == "cuda" else peak_gb()


def search(step: Step) -> None:
    """Users a second with the catalogue's encodings on the device, 50 beams, by size of batch."""
    import torch

    bench = None
    for kind in PRECISIONS:
        bench = None  # its memory is not the next one's
        if step.has_cuda:
            torch.cuda.reset_peak_memory_stats()
        bench, name = new_bench(step, getattr(torch, kind)), f"search, {kind}: "
        start = time.perf_counter()
        bench.cache = bench.model.encode_items(bench.tokenizer, progress=False, dtype=kind)
        wait_for(step.device)
        step.write(name + "encoding the catalogue", time.perf_counter() - start)
        rates = []
        for batch in BATCHES:
            rates.append(batch * step.rate(again(bench.ours(bench.users(batch))), 6))
            step.write(name + f"users, {batch} at once", rates[-1])
        step.write(name + "all users", len(bench.histories) / max(rates) / 60, users=len(bench.histories))
        step.write(name + "peak memory", peak(step.device))


def static(step: Step) -> None:
    """The same where each step of a search has one shape, is compiled, and on a GPU replayed as a CUDA graph."""
    import torch
    from transformers.generation import CompileConfig

    bench = new_bench(step, torch.float32)
    options = {} if step.has_cuda else {"compile_config": CompileConfig(backend="eager")}
    bench.cache = bench.model.encode_items(bench.tokenizer, progress=False)
    skips = torch._dynamo.utils.counters["inductor"]
    for batch in STATIC:
        skips.clear()
        run = bench.ours(bench.users(batch), cache_implementation="static", **options)
        start, end = time.perf_counter(), f", {batch} at once"
        run()
        wait_for(step.device)
        step.write(f"static search: first{end}", time.perf_counter() - start)
        step.write(f"static search: users{end}", batch * step.rate(again(run), 6))
        step.write(f"static search: CUDA graphs left out{end}", skips["cudagraph_skips"])


def new_bench(step: Step, dtype):
    """A model of random weights on the device, and users."""
    from gram import GramTokenizer

    from .generation import Bench

    words = len(GramTokenizer.from_pretrained(step.translation))
    bench = Bench(step.data, step.translation, **({"vocab_size": words, **TOY_MODEL} if step.is_toy else {}))
    bench.model.to(step.device, dtype)
    return bench


def processes(step: Step) -> None:
    """The training script on toy data by one process and by two, which must learn the same.

    NCCL wants a GPU for every process of a machine. So the two say that they are on two machines, each with one GPU.
    """
    from safetensors.torch import load_file

    flags = {**TOY_MODEL, "epochs": 1, "batch_size": 32, "dropout_rate": 0.0, "mixed_precision": "no", "workers": 0}
    flags |= {"max_passage_length": TOY["tokens"], "validation_users": 8, "validation_beams": 5}
    flags |= {"data": step.work / "toy", "translation": step.work / "toy-ids"}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [PYTHON, "-m", "gram.train_accelerate", *words, "--output-dir"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    together |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    models = []
    for name, places in (
        ("one process", [{}]),
        ("two processes", [{"RANK": rank, "NCCL_HOSTID": rank} for rank in "01"]),
    ):
        folder = step.work / name.replace(" ", "-")
        environments = [{**os.environ, **(together if own else {}), **own} for own in places]
        running = [subprocess.Popen([*command, str(folder)], env=environment) for environment in environments]
        if any([process.wait() for process in running]):
            raise RuntimeError(f"{name}: training has failed")
        progress = json.loads((folder / "training.json").read_text(encoding="utf-8"))["progress"]
        step.write(f"{name}: steps", progress["updates"] / progress["seconds"])
        models.append(load_file(folder / "model.safetensors"))
    furthest = max(float((one - models[1][name]).abs().max()) for name, one in models[0].items())
    step.write("two processes: weights differ by", furthest)


RUNS = {
    "data": data,
    "tests": tests,
    "training": training,
    "compiled": partial(training, compile=True),
    "search": search,
    "static": static,
    "processes": processes,
}


def note_missing(out: Path, step: str, code: int) -> None:
    """Add a line without a value for every figure that a step has not written."""
    path = out / "figures.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    written = {json.loads(line)["name"] for line in lines}
    why = {124: "took too long", 137: "took too long"}.get(code, f"ended with code {code}, see gpu.log")
    with path.open("a", encoding="utf-8") as file:
        for name, unit in FIGURES[step].items():
            if name not in written:
                print(f"no figure: {name}: {why}")
                file.write(json.dumps({"name": name, "value": None, "unit": unit, "missing": why}) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="A step of `gpu.sh`.")
    parser.add_argument("step", choices=FIGURES)
    parser.add_argument("out", type=Path, help="folder for figures.jsonl")
    parser.add_argument("work", type=Path, help="folder for what is not kept")
    parser.add_argument("data", type=Path, nargs="?", help="data folder; random data of Beauty's size without it")
    parser.add_argument("translation", type=Path, nargs="?", help="folder that `gram translate` made of it")
    parser.add_argument("--ended", type=int, metavar="CODE", help="the step has ended so: note which figures it lacks")
    given = parser.parse_args(argv)
    if given.ended is not None:
        note_missing(given.out, given.step, given.ended)
    else:
        RUNS[given.step](Step(given))


if __name__ == "__main__":
    main()

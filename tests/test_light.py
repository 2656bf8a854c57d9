"""A light install: recommending with the core alone, and one line that names the extra for all else."""

import ast
import configparser
import json
import os
import sys
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gram import cli
from gram.serving.recommendation import Recommender

from .forks import GRAM, Forks

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = {name: set(of.split()) for name, of in SETUP["options.extras_require"].items()}
DISTRIBUTIONS = packages_distributions()  # of every top-level module that is installed
CORE = set(SETUP["options"]["install_requires"].split()) - EXTRAS["train"]

# Run before all imports: whatever is hidden is as good as not installed.
HIDE = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""

RECOMMEND = """
import json, sys
from transformers import AutoModel, AutoTokenizer, pipeline
folder, history = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(histories=[history], return_tensors="pt")
output = model.generate(**inputs, num_beams=30, num_return_sequences=5)
recommend = pipeline("generative-recommendation", model=folder, trust_remote_code=True)
found = [item["item_id"] for item in recommend(history, top_k=5, exclude_seen=False, num_beams=30)]
print(json.dumps([tokenizer.decode_items(output, num_return_sequences=5)[0], found]))
"""

TRAIN = "from runpy import run_module; run_module('gram.train_accelerate', run_name='__main__', alter_sys=True)"


@cache
def core_modules() -> set[str]:
    """Top-level modules of the core and of all that it brings along."""
    found, to_do = set(), [Requirement(line) for line in CORE]
    while to_do:
        requirement = to_do.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            to_do += map(Requirement, requires(name) or ())
    return {module for module, of in DISTRIBUTIONS.items() if found & set(map(canonicalize_name, of))}


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """Processes in which nothing can be imported but the core."""
    hidden = DISTRIBUTIONS.keys() - core_modules() - {"gram"}
    assert {"accelerate", "datasets", "faiss", "peft", "scipy", "sklearn", "sentencepiece", "uvicorn"} <= hidden
    folder = tmp_path_factory.mktemp("light")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    modules = ("gram.serving.recommendation", "pyarrow.dataset", "transformers.pipelines")
    with Forks(modules, folder, True, environment, before=f"HIDDEN = {hidden!r}\n{HIDE}") as forks:
        yield forks


@pytest.fixture(scope="module")
def history(model_folder):
    return ["B0003", "B0007"]


def test_a_model_loads_and_recommends_with_the_core_alone(light, model_folder, history):
    (found,) = Recommender.from_pretrained(model_folder).recommend([history], 5, exclude_seen=False, num_beams=30)
    expected = [item.item_id for item in found]
    done = light.run(RECOMMEND, given=json.dumps([str(model_folder), history]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [expected, expected]
    done = light.run(
        GRAM, "recommend", model_folder, "--history", history[0], "--history", history[1], "--include-seen"
    )
    assert [line.split()[2] for line in done.stdout.splitlines()[1:6]] == expected


def test_what_serves_a_model_works_with_the_core_alone(light, model_folder, tmp_path):
    pq.write_table(pa.table({"user_id": ["anna"], "items": [["B0003"]]}), tmp_path / "users.parquet")
    for command, said in (
        (["similar", model_folder, "--item", "B0003"], "B00"),
        (["encode", model_folder, "--output", tmp_path / "encodings"], "30 items encoded"),
        (["recommend", model_folder, "--users", tmp_path / "users.parquet", "--output", tmp_path / "r.csv"], "1 users"),
        (["export-vectors", model_folder, "--output", tmp_path / "vectors.npy"], "30 vectors"),
        (["remove-items", model_folder, "--ids", "B0001", "--output", tmp_path / "less"], "29 items left"),
        (["space", "someone/films", "--output", tmp_path / "space"], "Space of someone/films saved"),
    ):
        done = light.run(GRAM, *command)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("evaluate MODEL --data DATA --output OUT/results.json", "train"),
        ("evaluate MODEL --data DATA --output OUT/results.json --rerank", "train"),
        ("translate --data DATA --output OUT/new", "train"),
        ("tune --data DATA --output OUT/new", "train"),
        ("quickstart --output-dir OUT/new", "train"),
        ("reproduce beauty --data DATA --output-dir OUT/new", "train"),
        ("add-items MODEL --items OUT/items.tsv --output OUT/new", "train"),
        ("prepare --config prepare-hub --interactions OUT --items OUT --output OUT/new", "data"),
        ("encode MODEL --output OUT/new --engine ray", "ray"),
        ("recommend MODEL --users OUT/users.parquet --output OUT/new --engine ray", "ray"),
        ("export MODEL --output OUT/new", "onnx"),
        ("serve MODEL", "serve"),
        ("space MODEL --run", "space"),
    ],
)
def test_a_command_names_the_extra_that_it_misses(light, model_folder, data_folder, tmp_path, command, extra):
    pq.write_table(pa.table({"user_id": ["anna"], "items": [["B0003"]]}), tmp_path / "users.parquet")
    (tmp_path / "items.tsv").write_text("item_id\ttitle\nnew\tA new balm\n")
    places = {"MODEL": model_folder, "DATA": data_folder}
    words = [str(places.get(word, word)).replace("OUT", str(tmp_path)) for word in command.split()]
    done = light.run(GRAM, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # above it there may be a progress bar
    assert line.startswith("gram: error: ")
    assert line.endswith(f'which is not installed: run pip install "gram-recommender[{extra}]"')
    assert {path.name for path in tmp_path.iterdir()} <= {"users.parquet", "items.tsv", "new"}
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())


def test_training_names_the_extra_that_it_misses(light, data_folder, tmp_path):
    done = light.run(TRAIN, "--data", data_folder, "--output-dir", tmp_path / "model")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("train_accelerate.py: error: ")
    assert line.endswith('run pip install "gram-recommender[train]"')


def test_every_command_explains_itself_with_the_core_alone(light):
    for name in cli.COMMANDS:
        done = light.run(GRAM, name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"gram {name}" in done.stdout


def outside_the_core(path: Path):
    """Names of packages that a file imports and the core does not have, each with the extra that it stands under."""
    core, own = core_modules() | set(sys.stdlib_module_names) | {"gram"}, set()

    def visit(node, extra):
        if isinstance(node, ast.With) and isinstance(call := node.items[0].context_expr, ast.Call):
            if isinstance(call.func, ast.Name) and call.func.id == "needs":
                extra = call.args[0].value
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            named = [node.module]
        own.update((name.split(".")[0], extra) for name in named if name.split(".")[0] not in core)
        for child in ast.iter_child_nodes(node):
            visit(child, extra)

    visit(ast.parse(path.read_text(encoding="utf-8")), None)
    return own


def test_all_that_is_not_of_the_core_is_imported_under_the_name_of_its_extra():
    seen = set()
    for path in ROOT.rglob("*.py"):
        first = path.relative_to(ROOT).parts[0]
        alone = path.is_relative_to(ROOT / "hub" / "space") or path.is_relative_to(ROOT / "hub" / "metrics")
        if alone or first in ("tests", "benchmarks", "examples", "docs", "build", "dist", "runs") or first[0] == ".":
            continue
        for module, extra in outside_the_core(path):
            if path.name.endswith("_gram.py"):  # they travel: what is optional stands in `try`
                continue
            listed = {Requirement(line).name for line in EXTRAS.get(extra, ())}
            brought = {Requirement(line).name for name in listed for line in requires(name) or ()}  # as Starlette is
            assert (listed | brought) & set(map(canonicalize_name, DISTRIBUTIONS[module])), (path, module, extra)
            seen.add(extra)
    assert seen >= {"data", "faiss", "plots", "ray", "sentence-transformers", "serve", "train"}

"""Every script of `examples/`, each in a process of its own, on the folder that a quickstart has left."""

import configparser
import hashlib
import importlib.util
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gram.serving.tables import TableRecommender

from .conftest import QUICKSTART_RECIPE
from .forks import GRAM, RUN
from .hub_endpoints import Blob

EXAMPLES = Path(__file__).parents[1] / "examples"
LONGEST = 80

# What a script is told on a quickstart of 20 films, and what it then says.
RUNS = {
    "prepare_your_log": ([], "first had 'The Long Film Number"),
    "train": ([], "the model is in runs/trained"),
    "train_with_trainer": (["--steps", "2"], "the model is in runs/with-trainer"),
    "fine_tune_lora": (["--rank", "2"], "the adapted model is in runs/adapted"),
    "evaluate_model": (["--max-users", "10"], "users have their item among GRAM's ten"),
    "compare_encoders": (["--items", "1", "2"], "The Long Film Number 2: ▁"),
    "recommend": (["--history", "1", "2", "--top-k", "3"], "after The Long Film Number 1 | The Long Film Number 2"),
    "recommend_to_many": (["--max-users", "5"], "recommendations to 5 users in runs/recommendations.parquet"),
    "recommend_with_spark": ([], "30 users, in runs/ranked; the first: ["),
    "recommend_with_onnx": (["--history", "1", "2"], "  1  -"),
    "encode_catalogue": (["--dtype", "int8"], "20 items in int8"),
    "exact_search": (["--history", "1", "2"], "exact search looked at"),
    "choose_items": (["--word", "1975", "--exclude", "6"], "1 of 20 items are allowed"),
    "publish": (["--repo-id", "example"], "load it anywhere with AutoModel.from_pretrained('tester/example'"),
    "query_server": (["--history", "1", "2"], '"item_id"'),
    "hf_job": (["--repo-id", "job", "--text-columns", "title,year", "--time-column", "time"], "tester/job"),
}


@pytest.fixture(scope="module")
def folder(quickstart_run, tmp_path_factory) -> Path:
    """Where the reader stands, with `runs/quickstart`."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(quickstart_run[0], folder / "runs" / "quickstart")
    return folder


@pytest.fixture(scope="module")
def run(forks, loopback_hub, folder):
    def run(name: str, *arguments: str) -> str:
        done = forks.run(RUN, EXAMPLES / f"{name}.py", *arguments, folder=folder, HF_TOKEN=loopback_hub.token)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def data_sets(loopback_hub, folder) -> list[str]:
    """The log and the films as data sets on the Hub, and the settings of a model that is trained at once."""
    for name, table in (("log", "interactions"), ("films", "items")):
        content = (folder / "runs" / "quickstart" / "data" / f"{table}.parquet").read_bytes()
        repo = loopback_hub.create(f"tester/{name}", "dataset")
        repo.large[hashlib.sha256(content).hexdigest()] = content
        files = {**repo.at("main").files, "train.parquet": Blob(content, True)}
        repo.add("main", "the data", files)
    (folder / "tiny.yaml").write_text(QUICKSTART_RECIPE, encoding="utf-8")
    return ["--interactions", "tester/log", "--items", "tester/films", "--recipe", "tiny.yaml"]


@pytest.fixture(scope="module")
def server(forked_server, folder):
    """The address of `gram serve`, which is up."""
    with forked_server(folder / "runs" / "quickstart", folder / "server.log") as server:
        yield server.url


def check_unseen(folder, said):
    """Nobody gets what they have had."""
    histories = dict(line.split(" ", 1) for line in (folder / "runs" / "users.txt").read_text().splitlines())
    for row in pq.read_table(folder / "runs" / "recommendations.parquet").to_pylist():
        assert not set(row["items"]) & set(histories[row["user_id"]].split())


def check_tables(folder, said):
    """Spark gives what one process gives."""
    expected = TableRecommender(folder / "runs" / "quickstart")(pq.read_table(folder / "runs" / "users.parquet"))
    ranked = pq.read_table(folder / "runs" / "ranked").sort_by("user_id")
    for name in ("user_id", "items", "skipped", "fallback"):
        assert ranked[name].to_pylist() == expected.sort_by("user_id")[name].to_pylist()


CHECKS = {"recommend_to_many": check_unseen, "recommend_with_spark": check_tables}
NEEDS = {"recommend_with_spark": ("pyspark", "java"), "recommend_with_onnx": ("onnxruntime", "onnxscript")}


@pytest.mark.parametrize("name", RUNS)
def test_script_does_what_it_says(run, forks, folder, request, name):
    arguments, expected = RUNS[name]
    for needed in NEEDS.get(name, ()):
        if importlib.util.find_spec(needed) is None and shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    if name == "query_server":
        arguments = [*arguments, "--url", request.getfixturevalue("server")]
    if name == "hf_job":
        arguments = [*arguments, *request.getfixturevalue("data_sets"), "--epochs", "2"]
    if name == "recommend_with_onnx":
        exported = forks.run(GRAM, "export", "runs/quickstart", "--output", "runs/onnx", folder=folder)
        assert exported.returncode == 0, exported.stderr
    said = run(name, *arguments)
    assert expected in said
    if name in CHECKS:
        CHECKS[name](folder, said)


def test_the_job_names_its_packages():
    """As PEP 723 has it, so that a machine that has nothing can run the script, of data on the Hub, with its plot."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    text = (EXAMPLES / "hf_job.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#.*\n)+?)# ///$", text, flags=re.MULTILINE)
    metadata = tomllib.loads(re.sub(r"^# ?", "", block, flags=re.MULTILINE))
    setup = configparser.ConfigParser()
    setup.read(EXAMPLES.parent / "setup.cfg")
    (requirement,) = metadata["dependencies"]
    version = ".".join(setup["metadata"]["version"].split(".")[:2])
    assert requirement == f"{setup['metadata']['name']}[data,plots]>={version}"
    assert {"data", "plots"} <= {*setup["options.extras_require"]}
    assert metadata["requires-python"] == setup["options"]["python_requires"]


def test_every_script_is_short_listed_and_run_here():
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(scripts) == set(RUNS)
    for name, text in scripts.items():
        assert len(text.splitlines()) < LONGEST
        assert f"`python examples/{name}.py" in text
        assert f"]({name}.py)" in listed

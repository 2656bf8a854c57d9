"""Publishing on the Hub and loading from there, over HTTP: a loopback Hub, its clients in processes of their own."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from safetensors import safe_open

from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender

from .forks import BLOCK, GRAM

HISTORIES = [["1", "2"], ["5", "9", "3"], ["20"]]

# What anybody does who knows nothing but the name.
BY_NAME = """
import json, sys
from transformers import AutoModel, AutoTokenizer, pipeline
name, histories = json.load(sys.stdin)
model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
recommended = []
for history in histories:
    inputs = tokenizer(histories=[history], return_tensors="pt")
    seen = inputs["input_ids"].new_tensor([[tokenizer.item_rows[item] for item in history]])
    found = model.generate(**inputs, excluded_items=seen, num_beams=50, num_return_sequences=10)
    recommended += tokenizer.decode_items(found)
found = pipeline("generative-recommendation", model=name, trust_remote_code=True)(histories)
piped = [[item["item_id"] for item in items] for items in found]
print(json.dumps({"generate": recommended, "pipeline": piped, "package": "gram" in sys.modules}))
"""

PUSH_BY_TRANSFORMERS = """
import sys
from gram import GramForConditionalGeneration, GramTokenizer
_, folder, name = sys.argv
GramForConditionalGeneration.from_pretrained(folder).push_to_hub(name)
GramTokenizer.from_pretrained(folder).push_to_hub(name)
"""

UPLOADED = {
    *(".gitattributes", "README.md", "config.json", "generation_config.json", "evaluation.json", "training.json"),
    *("model.safetensors", "tokenizer.json", "tokenizer_config.json", "catalogue.parquet"),
    *("handler.py", "requirements.txt", "training.svg"),
}


@pytest.fixture(scope="module")
def gram(forks, loopback_hub):
    """Runs a command in a process of its own; returns its exit code, its lines and its lines of errors."""

    def run(*argv, token=loopback_hub.token, **environment):
        done = forks.run(GRAM, *argv, HF_TOKEN=token or "", **environment)
        return [done.returncode, done.stdout.splitlines(), done.stderr.splitlines()]

    return run


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.requests.clear()
    return loopback_hub


@pytest.fixture
def folder(quickstart_run, tmp_path):
    return shutil.copytree(quickstart_run[0], tmp_path / "films")


def titles(hub, repo, branch="main"):
    return [commit.title for commit in hub.commits(repo, branch)]


def push(gram, folder, repo, *flags):
    code, lines, errors = gram("push", folder, "--repo-id", repo, *flags)
    assert code == 0, errors
    return lines


def encode(folder):
    model, tokenizer = load_model(folder)
    model.encode_items(tokenizer, folder / "item_encodings", rows_per_shard=8, progress=False)


def train_on(folder):
    """Other weights, not evaluated yet."""
    model, _ = load_model(folder)
    model.encoder.block[0].layer[0].SelfAttention.q.weight.data.mul_(-2)
    model.shared.weight.data.neg_()
    model.save_pretrained(folder)
    (folder / "evaluation.json").unlink()


def spoil(folder, name, old, new):
    path = folder / name
    path.write_text(path.read_text().replace(old, new, 1))


def shard(folder, name):
    """The weights under another name, which an index gives; returns where they are now."""
    path = (folder / "model.safetensors").rename(folder / name)
    with safe_open(path, "pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_the_quickstart_loads_by_name(hub, gram, forks, folder, tmp_path):
    local = Recommender.from_pretrained(folder)
    before = [[item.item_id for item in items] for items in local.recommend(HISTORIES)]
    lines = push(gram, folder, "by-name", "--message", "First films")
    assert lines[-1] == f"{hub.url}/tester/by-name"
    assert titles(hub, "tester/by-name") == ["First films", "initial commit"]
    assert b'name = "tester/by-name"' in hub.files("tester/by-name")["README.md"]
    shutil.rmtree(folder)
    environment = {**forks.environment, "HF_HOME": str(tmp_path / "home")}
    options = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    given = json.dumps(["tester/by-name", HISTORIES])
    done = subprocess.run([sys.executable, "-c", BLOCK + BY_NAME], input=given, **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"generate": before, "pipeline": before, "package": False}


def test_only_what_is_for_others_is_uploaded(hub, gram, folder):
    (folder / ".secret").write_text("x")
    (folder / "notes.txt").write_text("x")
    (folder / "handler.py").write_text("class EndpointHandler: ...\n")
    (folder / "loss.png").write_bytes(b"picture")
    pictures = '![Loss](loss.png) ![A title](sasrec.safetensors) <img src="sasrec.safetensors">'
    spoil(folder, "README.md", "\n# ", f"\n{pictures}\n# ")
    push(gram, folder, "tester/outside")
    found = hub.files("tester/outside")
    assert {name for name in found if not name.endswith("_gram.py")} == UPLOADED
    assert {name for name in found if name.endswith("_gram.py")} == {path.name for path in folder.glob("*_gram.py")}
    for name, content in found.items():
        assert str(folder.parent).encode() not in content, name
        assert b"pytest-of-" not in content, name
        if name not in ("training.json", "evaluation.json", ".gitattributes", "requirements.txt"):
            assert content == (folder / name).read_bytes()
    assert json.loads(found["training.json"])["settings"]["data"] == "data"


def test_pushed_again(hub, gram, folder):
    push(gram, folder, "again", "--message", "first")
    uploads = hub.count("PUT")
    assert uploads == 2  # weights and catalogue
    assert "nothing has changed since the last push: no commit" in push(gram, folder, "again", "--message", "second")
    assert titles(hub, "tester/again") == ["first", "initial commit"]

    card = folder / "README.md"
    card.write_text(card.read_text() + "\nMore.\n")
    assert push(gram, folder, "again", "--message", "third")[0].startswith("uploaded 1 of ")
    new, old = hub.commits("tester/again")[:2]
    assert (new.title, old.title) == ("third", "first")
    assert [name for name in new.files if new.files[name] != old.files[name]] == ["README.md"]
    assert hub.count("PUT") == uploads

    train_on(folder)
    lines = push(gram, folder, "again", "--message", "fourth")
    assert "1 removed" in lines[0]
    new = hub.commits("tester/again")[0]
    assert set(old.files) - set(new.files) == {"evaluation.json"}
    assert [name for name in new.files if name != "README.md" and new.files[name] != old.files[name]] == [
        *("config.json", "model.safetensors")
    ]
    assert hub.count("PUT") == uploads + 1


def test_item_encodings_are_found_and_never_outdated(hub, gram, folder):
    encode(folder)
    push(gram, folder, "cached")
    assert not [name for name in hub.files("tester/cached") if "item_encodings" in name]
    push(gram, folder, "cached", "--item-cache")
    shards = {name: data for name, data in hub.files("tester/cached").items() if "item_encodings" in name}
    assert len(shards) == 3
    asked = ("--history", "1", "--history", "2")
    hub.requests.clear()
    assert gram("recommend", "tester/cached", *asked) == gram("recommend", folder, *asked)
    assert all(hub.count("HEAD", f"/tester/cached/resolve/*/{name}") for name in shards)

    push(gram, folder, "cached")  # not asked for, but they fit
    assert shards.items() <= hub.files("tester/cached").items()
    train_on(folder)
    code, _, errors = gram("push", folder, "--repo-id", "cached", "--item-cache")
    assert code == 2
    assert "stale" in errors[-1]
    shutil.rmtree(folder / "item_encodings")
    push(gram, folder, "cached")
    assert not [name for name in hub.files("tester/cached") if "item_encodings" in name]
    assert gram("recommend", "tester/cached", *asked) == gram("recommend", folder, *asked)


def test_branch(hub, gram, folder):
    push(gram, folder, "branches", "--message", "first")
    asked = ("--history", "3", "--top-k", "20")
    first = gram("recommend", folder, *asked)
    train_on(folder)
    lines = push(gram, folder, "branches", "--revision", "next/try", "--message", "second")
    assert lines[-1] == f"{hub.url}/tester/branches/tree/next/try"
    assert titles(hub, "tester/branches") == ["first", "initial commit"]
    assert titles(hub, "tester/branches", "next/try") == ["second", "first", "initial commit"]
    second = gram("recommend", folder, *asked)
    assert first != second
    assert gram("recommend", "tester/branches", *asked) == first
    assert gram("recommend", "tester/branches", "--revision", "next/try", *asked) == second
    code, _, errors = gram("recommend", "tester/branches", "--revision", "nowhere", *asked)
    assert code == 2
    assert "nowhere" in errors[-1]


def test_figures_of_other_weights_are_not_published(hub, gram, folder):
    measured = (folder / "evaluation.json").read_bytes()
    train_on(folder)
    (folder / "evaluation.json").write_bytes(measured)
    code, _, errors = gram("push", folder, "--repo-id", "tester/stale")
    assert code == 2
    assert "evaluation.json: was measured with other weights than the folder has" in errors[-1]
    assert hub.changes() == []


def test_dry_run(hub, gram, folder):
    code, lines, errors = gram("push", folder, "--repo-id", "tester/dry", "--dry-run", token=None)
    assert (code, errors) == (0, [])
    assert any(line.split() == ["30,072", "new", "model.safetensors"] for line in lines)
    assert not any("data/" in line or "sasrec" in line for line in lines)
    assert hub.changes() == []

    push(gram, folder, "tester/dry")
    train_on(folder)
    hub.requests.clear()
    code, lines, _ = gram("push", folder, "--repo-id", "tester/dry", "--dry-run", token=None)
    changed = [line.split()[1:] for line in lines[:-2] if "unchanged" not in line]
    # The card shows what it recommends.
    assert changed == [
        *(["changed", "README.md"], ["changed", "config.json"]),
        *(["removed", "evaluation.json"], ["changed", "model.safetensors"]),
    ]
    assert lines[-2].startswith("would upload 3 of ")
    assert hub.changes() == []


def test_killed_upload_goes_on(hub, gram, forks, folder, tmp_path):
    encode(folder)
    arguments = ["push", folder, "--repo-id", "killed", "--item-cache"]
    begun, stored = itertools.count(), threading.Event()

    def kill():
        if next(begun):  # all but the first one
            stored.wait(60)
            process.send_signal(signal.SIGKILL)
            raise ConnectionError("killed")

    hub.on_put, hub.on_stored = kill, stored.set
    process = forks.start(GRAM, *arguments, errors=tmp_path / "errors", HF_TOKEN=hub.token)
    process.wait()
    hub.on_put = hub.on_stored = lambda: None
    assert process.returncode < 0
    assert titles(hub, "tester/killed") == ["initial commit"]
    assert hub.count("PUT") == 1
    assert gram(*arguments)[0] == 0
    assert len(titles(hub, "tester/killed")) == 2
    sent = [request.path for request in hub.requests if request.method == "PUT"]
    assert len(sent) == len(set(sent)) == 5  # weights, catalogue, three shards: each once


def refused(gram, hub, *argv, token, **environment):
    """The one line of a command that fails."""
    code, lines, errors = gram(*argv, token=token, **environment)
    assert (code, lines, len(errors)) == (2, [], 1), errors
    assert errors[0].startswith("gram: error: ")
    return errors[0]


def test_refused_by_the_hub(hub, gram, folder):
    asked = ("push", folder, "--repo-id")
    assert "hf auth login" in refused(gram, hub, *asked, "tester/new", token=None)
    assert "(401)" in refused(gram, hub, *asked, "tester/new", token="hf_wrong")
    assert "tester/new" in refused(gram, hub, *asked, "tester/new", token=hub.other_token)
    hub.create("stranger/closed", private=True)
    hub.create("stranger/open")
    for name in ("stranger/closed", "stranger/open"):
        assert f"{name}: this token may not write there (403" in refused(gram, hub, *asked, name, token=hub.token)
    assert "stranger/closed" in refused(gram, hub, "recommend", "stranger/closed", "--history", "1", token=hub.token)
    assert ("model", "tester/new") not in hub.repos
    assert titles(hub, "stranger/open") == ["initial commit"]
    assert hub.count("PUT") == 0

    hub.create("tester/public")
    line = refused(gram, hub, *asked, "tester/public", "--private", token=hub.token)
    assert "is public already" in line
    push(gram, folder, "tester/hidden", "--private")
    assert hub.repos["model", "tester/hidden"].private
    assert "tester/hidden" in refused(gram, hub, "recommend", "tester/hidden", "--history", "1", token=None)
    assert gram("recommend", "tester/hidden", "--history", "1")[0] == 0

    line = refused(gram, hub, *asked, "tester/new", token=hub.token, HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="")
    assert f"{hub.url} cannot be reached" in line


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: shutil.rmtree(folder), "no such model folder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda folder: (folder / "trie_gram.py").unlink(), "trie_gram.py: no such file of the Hub code"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 30), "model.safetensors: cannot be read"),
        (lambda folder: (folder / "checkpoints").mkdir(), "a training run has not finished here"),
        (lambda folder: spoil(folder, "config.json", '"gram"', '"t5"'), "the model_type is 't5'"),
        (
            lambda folder: spoil(folder, "config.json", '"auto_map": {', '"auto_map": [], "x": {'),
            "config.json: has no auto_map",
        ),
        (lambda folder: shard(folder, "weights.safetensors"), "index.json: is not the file that config.json"),
        (
            lambda folder: shard(folder, "model-00001-of-00001.safetensors").unlink(),
            "model-00001-of-00001.safetensors",
        ),
        (lambda folder: spoil(folder, "README.md", "\n# ", f"\n{folder}\n# "), "a folder of this machine"),
        (lambda folder: spoil(folder, "README.md", "\n# ", f"\nhf_{'a' * 34}\n# "), "holds a token of the Hub"),
    ],
)
def test_no_half_made_or_private_folder(hub, gram, folder, change, reason):
    change(folder)
    assert reason in refused(gram, hub, "push", folder, "--repo-id", "tester/bad", token=hub.token)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("license: Apache 2.0", '"license" must be one of'),
        ("license: mit\ntags: a", '"tags" must be an array'),
        ("- a", "metadata block should be a dict"),
        ("a: [", "while parsing"),
    ],
)
def test_card_that_the_hub_refuses(hub, gram, folder, metadata, problem):
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# Films\n")
    line = refused(gram, hub, "push", folder, "--repo-id", "tester/licence", token=hub.token)
    assert "README.md: the Hub refuses the metadata: " in line
    assert problem in line
    assert hub.changes() == []


def test_any_licence_that_the_hub_takes(hub, gram, folder):
    spoil(folder, "README.md", "license: other", "license: gemma")
    push(gram, folder, "tester/gemma")
    assert b"license: gemma" in hub.files("tester/gemma")["README.md"]


@pytest.mark.parametrize("name", ["a/b/c", "films!", "-films", "films.git"])
def test_bad_name(hub, gram, folder, name):
    assert name in refused(gram, hub, "push", folder, f"--repo-id={name}", token=hub.token)
    assert hub.requests == []


def test_push_to_hub_of_transformers(hub, gram, forks, folder):
    push(gram, folder, "plain")
    before = hub.files("tester/plain")
    train_on(folder)
    done = forks.run(PUSH_BY_TRANSFORMERS, folder, "tester/plain", HF_TOKEN=hub.token)
    assert done.returncode == 0, done.stderr
    after = hub.files("tester/plain")
    assert after["README.md"] == before["README.md"]
    changed = {name for name in after if after[name] != before.get(name)}
    # `tokenizer_config.json` says how it was loaded, `config.json` what weights it goes with.
    assert changed <= {"config.json", "model.safetensors", "tokenizer_config.json"}
    asked = ("--history", "3", "--top-k", "5")
    assert gram("recommend", "tester/plain", *asked) == gram("recommend", folder, *asked)


def test_space(hub, gram):
    asked = ("space", "tester/films", "--repo-id", "demo")
    assert gram(*asked) == [0, [f"{hub.url}/spaces/tester/demo"], []]
    assert {"app.py", "README.md", "requirements.txt", "style.css"} <= set(hub.files("tester/demo", kind="space"))
    assert b'models: ["tester/films"]' in hub.files("tester/demo", kind="space")["README.md"]
    assert gram(*asked)[0] == 0
    assert [commit.title for commit in hub.commits("tester/demo", kind="space")] == [
        "Show tester/films",
        "initial commit",
    ]
    assert "no token" in refused(gram, hub, *asked, token=None)

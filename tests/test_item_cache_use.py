"""The cache of item encodings at work: many users, another process, several processes, the commands."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from gram import cli
from gram.data import evaluation_histories
from gram.evaluation.candidates import gram_candidates
from gram.hub.space.engine import Engine
from gram.item_cache_gram import ItemCache
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.serving.tables import TableRecommender
from gram.serving.user_batches import batches_of_users

from .forks import GRAM

# Run in a process that cannot import the package, on a copy of the model folder with its cache.
ELSEWHERE = """
import importlib, json, sys
try:
    import gram
    raise SystemExit("the package can be imported here")
except ImportError:
    pass
from transformers import AutoModel, AutoTokenizer
folder, histories = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
cache = model.encode_items(tokenizer, folder + "/item_encodings", progress=False)
inputs = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
output = model.generate(**inputs, item_cache=cache, num_beams=10, num_return_sequences=5, return_dict_in_generate=True)
print(json.dumps([tokenizer.decode_items(output.sequences, 5), output.sequences_scores.tolist()]))
"""


@pytest.fixture(scope="module")
def with_cache(model_folder, tmp_path_factory):
    """A model folder with its cache, made by the command; copy it before you change it."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("model") / "tiny")
    assert cli.main(["encode", str(folder)]) == 0
    return folder


@pytest.fixture
def gram(capsys):
    """Runs a command; returns its exit code, its lines, and its errors."""

    def run(*argv):
        code = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), [line for line in captured.err.splitlines() if "gram: " in line]

    return run


def test_groups_of_users_whose_items_fit_in_memory(model, tokenizer, data, monkeypatch):
    histories, targets = evaluation_histories(data, "test")

    def search(**options):
        found = gram_candidates(model, tokenizer, histories, num_beams=10, batch_size=3, progress=False, **options)
        return found["all_items"].items

    at_once = search()
    size = 4 * 32 * max(map(len, tokenizer.item_prompts))
    monkeypatch.setattr("gram.serving.user_batches.MOST_BYTES", 16 * size)
    caches, seen = [], []
    for users, cache in batches_of_users(model, tokenizer, list(histories), 3):
        seen += users.tolist()
        caches += [] if cache in caches else [cache]
        cache.gather([row for user in users for row in histories[user][-8:]])
    assert sorted(seen) == list(range(len(targets)))
    assert 1 < len(caches) < len(targets) / 3
    assert np.array_equal(search(), at_once)
    assert np.array_equal(search(item_cache=model.encode_items(tokenizer, progress=False)), at_once)


def test_a_file_of_users_gets_the_same_with_any_cache(
    model, tokenizer, model_folder, with_cache, tmp_path, monkeypatch
):
    lines = [f"u{user} {' '.join(tokenizer.item_ids[user : user + 2 + user % 9])}" for user in range(15)]
    (tmp_path / "users.txt").write_text("\n".join(lines), encoding="utf-8")
    tables = []
    for number, folder in enumerate((model_folder, model_folder, with_cache)):
        monkeypatch.setattr("gram.serving.user_batches.MOST_BYTES", (1 << 30, 50_000, 0)[number])
        recommender, output = TableRecommender(folder, batch_size=4), tmp_path / f"{number}.parquet"
        recommender.users_per_part = 7
        recommender.recommend_file(tmp_path / "users.txt", output)
        tables.append(pq.read_table(output))
    alone = Recommender(model, tokenizer).recommend([line.split()[1:] for line in lines])
    for table in tables:
        assert table["items"].to_pylist() == [[item.item_id for item in found] for found in alone]
        scores = [score for scores in table["scores"].to_pylist() for score in scores]
        np.testing.assert_allclose(scores, [item.score for found in alone for item in found], atol=1e-5)


def test_a_saved_folder_uses_its_cache_anywhere(model, tokenizer, with_cache, run_elsewhere, tmp_path):
    folder, histories = shutil.copytree(with_cache, tmp_path / "elsewhere"), [["B0001", "B0007"], ["B0003"]]
    (shard,) = (folder / "item_encodings").iterdir()
    before = shard.stat().st_mtime_ns
    answer = run_elsewhere(ELSEWHERE, [str(folder), histories])
    assert shard.stat().st_mtime_ns == before
    items, scores = answer
    inputs = tokenizer(histories=histories, return_tensors="pt")
    output = model.generate(**inputs, num_beams=10, num_return_sequences=5, return_dict_in_generate=True)
    assert items == tokenizer.decode_items(output.sequences, 5)
    assert scores == pytest.approx(output.sequences_scores.tolist(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_space_and_the_command_take_encodings_of_any_dtype(gram, model_folder, tmp_path, dtype):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    assert gram("encode", folder, "--dtype", dtype)[0] == 0
    said = f"30 items encoded in {dtype}, saved to {folder / 'item_encodings'}"
    assert gram("encode", folder)[:2] == (0, [said])
    assert len(Engine.load(str(folder)).recommend([3, 7], 5)) == 5


def test_two_processes_write_what_one_writes(model_folder, with_cache, forks, tmp_path):
    script = """
import sys
from accelerate import PartialState
from gram.serving.recommendation import load_model
model, tokenizer = load_model(sys.argv[1])
model.encode_items(tokenizer, sys.argv[2], "int8", rows_per_shard=7, processes=PartialState(cpu=True), progress=False)
"""

    def launch(script, *arguments):
        done = forks.run(script, *arguments, processes=2)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    own, words = load_model(model_folder)
    own.encode_items(words, tmp_path / "shards-1", "int8", rows_per_shard=7, progress=False)
    launch(script, model_folder, tmp_path / "shards-2")
    folders = (tmp_path / f"shards-{processes}" for processes in (1, 2))
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert len(one) == 5
    assert one == two
    lines = launch(GRAM, "encode", model_folder, "--output", tmp_path / "command")
    assert lines == [f"30 items encoded in float32, saved to {tmp_path / 'command'}"]
    found, expected = (
        load_file(next(path.iterdir())) for path in (tmp_path / "command", with_cache / "item_encodings")
    )
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5)


def test_commands_find_the_cache(gram, with_cache, model_folder, data_folder, tmp_path, monkeypatch):
    opened = []
    gather = ItemCache.gather
    monkeypatch.setattr(ItemCache, "gather", lambda cache, rows: opened.append(cache.dtype) or gather(cache, rows))
    history = ["--history", "B0001", "--history", "B0002", "--top-k", 4]
    code, plain, _ = gram("recommend", model_folder, *history)
    assert (code, opened) == (0, [])
    code, lines, _ = gram("recommend", with_cache, *history)
    assert [line.split()[2] for line in lines] == [line.split()[2] for line in plain]
    assert opened == ["float32"]
    code, lines, _ = gram("encode", model_folder, "--output", tmp_path / "int8", "--dtype", "int8")
    assert (code, lines) == (0, [f"30 items encoded in int8, saved to {tmp_path / 'int8'}"])
    assert gram("recommend", model_folder, *history, "--item-cache", tmp_path / "int8")[0] == 0
    assert opened == ["float32", "int8"]
    results = []
    for name, more in (("a", []), ("b", ["--item-cache", with_cache / "item_encodings"])):
        output = tmp_path / f"{name}.json"
        assert gram("evaluate", model_folder, "--data", data_folder, "--output", output, *more)[0] == 0
        results.append(json.loads(output.read_text(encoding="utf-8")))
    assert results[0]["models"] == results[1]["models"]


def test_commands_refuse_a_stale_cache_in_one_line(gram, with_cache, other_encoder, data_folder, tmp_path):
    folder = shutil.copytree(with_cache, tmp_path / "model")
    other_encoder.save_pretrained(folder)
    message = (
        f"stale: it was made with other weights of the encoder than the model has now; run `gram encode {folder} --"
    )
    for command in (
        ["recommend", folder, "--history", "B0001"],
        ["evaluate", folder, "--data", data_folder, "--output", tmp_path / "results.json"],
        ["encode", folder],
    ):
        code, lines, errors = gram(*command)
        assert (code, lines, len(errors)) == (2, [], 1)
        assert message in errors[0]
    assert gram("encode", folder, "--overwrite")[0] == 0
    assert gram("recommend", folder, "--history", "B0001")[0] == 0
    code, _, errors = gram("encode", "some/name")
    assert code == 2
    assert "some/name: no such model folder; for a model of the Hub give --output" in errors[0]
    code, _, errors = gram("recommend", folder, "--history", "B0001", "--item-cache", tmp_path / "nowhere")
    assert code == 2
    assert f"nowhere: no such folder; run `gram encode {folder} --output" in errors[0]

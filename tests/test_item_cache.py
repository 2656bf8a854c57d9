"""The cache of item encodings: the same ranking as without it, shards that are refused, appended, resumed, shared."""

import copy
import shutil
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie
from gram.item_cache_gram import ItemCache

ROWS = {"rows_per_shard": 8, "progress": False}  # 30 items in 4 shards
SHARDS = ["000000000-000000007", "000000008-000000015", "000000016-000000023", "000000024-000000029"]
SEARCH = {"num_beams": 30, "num_return_sequences": 30, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def made(model, tokenizer, tmp_path_factory):
    """A folder of four float32 shards; copy it before you change it."""
    folder = tmp_path_factory.mktemp("cache") / "shards"
    model.encode_items(tokenizer, folder, **ROWS)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "shards")


@pytest.fixture(scope="module")
def smaller(tokenizer):
    """The same catalogue before its last six items came: no other item is similar to them."""
    catalogue, newest = tokenizer.catalogue, set(tokenizer.item_ids[24:])
    similar = [[item for item in items if item not in newest] for items in catalogue["similar_items"].to_pylist()]
    place = catalogue.column_names.index("similar_items")
    catalogue = catalogue.set_column(place, "similar_items", pa.array(similar, pa.list_(pa.string())))
    limits = {"max_history": 8, "max_passage_length": 48}
    grown = GramTokenizer.from_catalogue(tokenizer, catalogue, **limits)
    return GramTokenizer.from_catalogue(tokenizer, catalogue.slice(0, 24), **limits), grown


def state_of(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def encoder_output(model, tokenizer, row):
    """(L, d), of the encoder alone."""
    with torch.no_grad():
        return model.encoder(input_ids=torch.tensor([tokenizer.item_prompts[row]])).last_hidden_state[0]


def cached_and_plain(model, tokenizer, histories, cache):
    plain = model.generate(**tokenizer(histories=histories, return_tensors="pt"), **SEARCH)
    inputs = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
    return model.generate(**inputs, item_cache=cache, **SEARCH), plain


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_ranking_and_scores_are_those_without_a_cache(model, tokenizer, made, place):
    cache = (
        ItemCache.open(made, model, tokenizer) if place == "folder" else model.encode_items(tokenizer, progress=False)
    )
    draw = np.random.default_rng(1)
    for size in (1, 3, 8):
        rows = [
            draw.integers(30, size=draw.integers(1, 12)) for _ in range(size)
        ]  # with repeats, and more than are read
        histories = [[tokenizer.item_ids[row] for row in user] for user in rows]
        cached, plain = cached_and_plain(model, tokenizer, histories, cache)
        assert torch.equal(cached.item_indices, plain.item_indices)
        assert torch.equal(cached.sequences, plain.sequences)
        torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("bfloat16", 1 / 256), ("int8", 0.51 / 127)])
@pytest.mark.parametrize("place", ["folder", "memory"])
def test_gathered_states_are_the_encoders(model, tokenizer, tmp_path, dtype, bound, place):
    where = tmp_path / "shards" if place == "folder" else None
    cache = model.encode_items(tokenizer, where, dtype, batch_tokens=100, **ROWS)
    rows = [29, 3, 3, 17, 8, 0]
    states, lengths = cache.gather(torch.tensor(rows))
    assert (states.dtype, lengths.dtype, cache.dtype) == (torch.float32, torch.int64, dtype)
    assert lengths.tolist() == [len(tokenizer.item_prompts[row]) for row in rows]
    for row, found in zip(rows, states.split(lengths.tolist()), strict=True):
        expected = encoder_output(model, tokenizer, row)
        error = (found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)  # of each token
        assert error.max() <= bound + 1e-6
    states, lengths = cache.gather([])
    assert (states.shape, lengths.shape) == ((0, 32), (0,))


def test_a_token_of_zeros_stays_zero_in_int8(model, tokenizer):
    silent = copy.deepcopy(model)
    silent.encoder.final_layer_norm.weight.data.zero_()
    states, _ = ItemCache.in_memory(silent, tokenizer, [3], "int8").gather([3])
    assert torch.equal(states, torch.zeros_like(states))


def test_shards_hold_real_tokens_only_and_say_what_they_are(tokenizer, made, model):
    assert sorted(path.name for path in made.iterdir()) == [f"item_encodings-{rows}.safetensors" for rows in SHARDS]
    for first, path in zip(range(0, 30, 8), sorted(made.iterdir()), strict=True):
        tensors, lengths = load_file(path), [len(prompt) for prompt in tokenizer.item_prompts[first : first + 8]]
        assert sorted(tensors) == ["lengths", "states"]
        assert tensors["lengths"].tolist() == lengths
        assert tensors["states"].shape == (sum(lengths), 32)
    model.encode_items(tokenizer, made.parent / "int8", "int8", **ROWS)
    tensors = load_file(made.parent / "int8" / f"item_encodings-{SHARDS[0]}.safetensors")
    assert tensors["states"].dtype == torch.int8
    assert tensors["scales"].shape == tensors["states"].shape[:1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_shards_are_memory_mapped(model, tokenizer, folder):
    cache = ItemCache.open(folder, model, tokenizer)
    with open("/proc/self/maps", encoding="utf-8") as lines:
        mapped = {line.split()[-1] for line in lines}
    assert {str(path) for path in folder.iterdir()} <= mapped
    before = cache.gather([9])[0].clone()
    shutil.rmtree(folder)  # what is mapped stays readable
    assert torch.equal(cache.gather([9])[0], before)


def test_a_finished_cache_is_left_alone(model, tokenizer, folder):
    before = state_of(folder)
    model.encode_items(tokenizer, folder, overwrite=True, **ROWS)
    assert state_of(folder) == before


def test_an_interrupted_run_goes_on(model, tokenizer, made, tmp_path):
    calls, encode = [], model.encoder.forward

    def interrupted(*args, **kwargs):
        calls.append(len(kwargs["input_ids"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    model.encoder.forward = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            model.encode_items(tokenizer, tmp_path / "shards", **ROWS)
        (tmp_path / "shards" / f".item_encodings-{SHARDS[3]}.safetensors.part").write_bytes(b"half a shard")
        finished = state_of(tmp_path / "shards")
        assert len(finished) == 3
        with pytest.raises(
            ValueError, match=r"incomplete, items B0016 to B0029 \(rows 16 to 29\) are missing; run `gram"
        ):
            ItemCache.open(tmp_path / "shards", model, tokenizer)
        calls[:] = [0] * 3
        model.encode_items(tokenizer, tmp_path / "shards", **ROWS)
        assert calls[3:] == [8, 6]
    finally:
        del model.encoder.forward  # its class's is there again
    found, whole = state_of(tmp_path / "shards"), state_of(made)
    assert {name: content for name, (_, content) in found.items()} == {
        name: content for name, (_, content) in whole.items()
    }
    assert all(found[name] == state for name, state in finished.items() if name in found)


def test_new_items_are_appended(model, smaller, tmp_path):
    old, grown = smaller
    before_they_came = copy.deepcopy(model)
    before_they_came.set_item_trie(ItemTrie.from_sequences(old.sequences))
    before_they_came.encode_items(old, tmp_path, **{**ROWS, "rows_per_shard": 9})
    before = state_of(tmp_path)
    with pytest.raises(ValueError, match=r"items B0024 to B0029 \(rows 24 to 29\) are missing"):
        ItemCache.open(tmp_path, model, grown)
    cache = model.encode_items(grown, tmp_path, **ROWS)
    after = state_of(tmp_path)
    assert set(after) - set(before) == {"item_encodings-000000024-000000029.safetensors"}
    assert {name: after[name] for name in before} == before
    for row in range(30):
        torch.testing.assert_close(cache.gather([row])[0], encoder_output(model, grown, row), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"000000024-000000029.*items that are not in the catalogue: rows 24 to 29 of 24"
    ):
        ItemCache.open(tmp_path, model, old)


def assert_refused(message, model, tokenizer, folder, dtype="float32"):
    """Refused by name until it is overwritten; then it is as good as new."""
    command = rf"run `gram encode MODEL --output {folder} --overwrite`"
    if dtype == "float32":
        with pytest.raises(ValueError, match=message) as refused:
            ItemCache.open(folder, model, tokenizer)
        assert command in str(refused.value)
    before = state_of(folder)
    with pytest.raises(ValueError, match=message) as refused:
        model.encode_items(tokenizer, folder, dtype, **ROWS)
    assert command in str(refused.value)
    assert state_of(folder) == before
    cache = model.encode_items(tokenizer, folder, dtype, overwrite=True, **ROWS)
    error = (cache.gather([20])[0] - encoder_output(model, tokenizer, 20)).abs().max()
    assert error < (0.1 if dtype == "int8" else 1e-5)
    return before


@pytest.mark.parametrize("part", ["encoder", "shared"])
def test_other_weights_are_refused(model, other_encoder, tokenizer, folder, part):
    other = other_encoder
    if part == "shared":
        other = copy.deepcopy(model)
        other.shared.weight.data[7, 7] += 1e-3
    assert_refused("shards/item_encodings-000000000.*other weights of the encoder", other, tokenizer, folder)
    with pytest.raises(ValueError, match="other weights of the encoder"):
        ItemCache.open(folder, model, tokenizer)


def test_weights_of_the_decoder_do_not_matter(model, tokenizer, folder):
    other = copy.deepcopy(model)
    other.position_embedding.weight.data += 1
    other.decoder.final_layer_norm.weight.data += 1
    assert ItemCache.open(folder, other, tokenizer).num_items == 30


def other_catalogue(tokenizer, column, row, value):
    """A tokenizer of the catalogue with another value in one place."""
    catalogue = tokenizer.catalogue
    values, place = catalogue[column].to_pylist(), catalogue.column_names.index(column)
    values[row] = value
    catalogue = catalogue.set_column(place, column, pa.array(values, catalogue.schema.field(column).type))
    return GramTokenizer.from_catalogue(tokenizer, catalogue, max_history=8, max_passage_length=48)


def test_other_item_prompts_are_refused(model, tokenizer, folder):
    other = other_catalogue(tokenizer, "text", 12, "title: pure calm mask")
    message = f"{SHARDS[1]}.*other item prompts than the catalogue has now for rows 8 to 15"
    before = assert_refused(message, model, other, folder)
    after = state_of(folder)
    assert [name for name in before if before[name] != after[name]] == [f"item_encodings-{SHARDS[1]}.safetensors"]


def test_whatever_decides_a_prompt_is_heeded(model, tokenizer, folder):
    first = tokenizer.catalogue.slice(0, 1).to_pylist()[0]
    lexical_id, similar = first["lexical_id"], first["similar_items"]
    ids = tokenizer.catalogue["lexical_id"].to_pylist()
    free = next(other for token in ids[1] if (other := [*lexical_id, token]) not in ids)
    changed = [
        other_catalogue(tokenizer, "lexical_id", 0, free),
        other_catalogue(tokenizer, "lexical_id", tokenizer.item_rows[similar[0]], free),  # a neighbour's
        other_catalogue(tokenizer, "similar_items", 0, similar[::-1]),
        GramTokenizer.from_catalogue(tokenizer, tokenizer.catalogue, max_history=8, max_passage_length=47),
        GramTokenizer.from_catalogue(tokenizer, tokenizer.catalogue, ["gentle"], max_history=8, max_passage_length=48),
    ]
    for other in changed:
        assert other.item_prompts[:8] != tokenizer.item_prompts[:8]
        with pytest.raises(ValueError, match=f"{SHARDS[0]}.*other item prompts than the catalogue has now"):
            ItemCache.open(folder, model, other)
    tokenizer("a text", truncation=True, max_length=1)  # which the tokenizer remembers
    longer = GramTokenizer.from_catalogue(tokenizer, tokenizer.catalogue, max_history=3, max_passage_length=48)
    for same in (tokenizer, longer, other_catalogue(tokenizer, "title", 0, "Another")):
        assert ItemCache.open(folder, model, same).num_items == 30


def test_opening_makes_no_prompt(model, tokenizer, folder, monkeypatch):
    monkeypatch.setattr(GramTokenizer, "item_prompts", property(lambda self: pytest.fail("prompts were made")))
    cache = ItemCache.open(folder, model, tokenizer)
    assert model.encode_items(tokenizer, folder, **ROWS).num_items == cache.num_items == 30
    inputs = tokenizer(histories=[tokenizer.item_ids[:3]], item_prompts=False, return_tensors="pt")
    assert len(model.generate(**inputs, item_cache=cache, num_beams=5, num_return_sequences=5)) == 5


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_is_there_is_taken_where_no_dtype_is_asked_for(model, other_encoder, tokenizer, tmp_path, dtype):
    model.encode_items(tokenizer, tmp_path, dtype, **ROWS)
    before = state_of(tmp_path)
    assert model.encode_items(tokenizer, tmp_path, progress=False).dtype == dtype
    assert state_of(tmp_path) == before
    (tmp_path / f"item_encodings-{SHARDS[1]}.safetensors").unlink()
    assert model.encode_items(tokenizer, tmp_path, **ROWS).dtype == dtype
    assert model.encode_items(tokenizer, progress=False).dtype == "float32"
    assert other_encoder.encode_items(tokenizer, tmp_path, overwrite=True, **ROWS).dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("place", ["folder", "memory"])
def test_items_are_not_copied_one_by_one(model, tokenizer, tmp_path, dtype, place):
    class Counter(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    cache = model.encode_items(tokenizer, tmp_path if place == "folder" else None, dtype, **ROWS)
    rows = np.sort(np.random.default_rng(0).integers(30, size=1000))
    with Counter() as counter:
        states, lengths = cache.gather(rows)
    assert counter.calls < 100
    for row, found in zip(rows, states.split(lengths.tolist()), strict=True):
        assert torch.equal(found, cache.gather([row])[0])


@pytest.mark.parametrize("size", [0, 5, 2000])
def test_a_truncated_shard_is_refused(model, tokenizer, folder, size):
    path = folder / f"item_encodings-{SHARDS[2]}.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(f"{SHARDS[2]}.*cannot be read", model, tokenizer, folder)


def test_another_dtype_and_a_strange_shard_are_refused(model, tokenizer, folder):
    assert_refused(f"{SHARDS[0]}.*holds float32, not int8", model, tokenizer, folder, "int8")
    path = folder / f"item_encodings-{SHARDS[2]}.safetensors"
    save_file({"states": torch.zeros(3, 32)}, path)
    with pytest.raises(ValueError, match=f"{SHARDS[2]}.*has format None, not 2"):
        ItemCache.open(folder, model, tokenizer)
    with pytest.raises(ValueError, match="dtype is 'float16'; it must be one of float32, bfloat16, int8"):
        model.encode_items(tokenizer, folder, "float16")


SPOILT = {
    "floats": {"lengths": lambda lengths: lengths.float()},
    "other lengths": {"lengths": lambda lengths: lengths - 1},
    "fewer states": {"states": lambda states: states[:-1].contiguous()},
    "narrower states": {"states": lambda states: states[:, :-1].contiguous()},
    "other types": {"states": lambda states: states.half()},
    "fewer items": {"lengths": lambda lengths: lengths[:-1].contiguous()},
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_shard_of_another_form_is_refused(model, tokenizer, folder, how):
    path = folder / f"item_encodings-{SHARDS[2]}.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {name: change(tensors[name]) for name, change in SPOILT[how].items()}, path, metadata)
    assert_refused(f"{SHARDS[2]}.*: it (holds|does not hold|tells another number) ", model, tokenizer, folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_encodings_that_are_no_numbers_are_refused_where_they_are_read(model, tokenizer, tmp_path, dtype, value):
    model.encode_items(tokenizer, tmp_path, dtype, **ROWS)
    path = tmp_path / f"item_encodings-{SHARDS[0]}.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["scales" if dtype == "int8" else "states"][0] = value  # of row 0
    save_file(tensors, path, metadata)
    cache = ItemCache.open(tmp_path, model, tokenizer)
    assert cache.gather([1, 9])[0].isfinite().all()
    with pytest.raises(ValueError, match="the encoding of row 0 holds NaN or infinity; encode the items again"):
        cache.gather([1, 0])


def test_shards_that_overlap_are_refused(model, tokenizer, folder, tmp_path):
    model.encode_items(tokenizer, tmp_path / "others", rows_per_shard=5, progress=False)
    name = "item_encodings-000000005-000000009.safetensors"
    shutil.copyfile(tmp_path / "others" / name, folder / name)
    assert_refused("holds rows 5 to 9, of which other shards hold some", model, tokenizer, folder)
    assert not (folder / name).exists()


def test_a_missing_shard_and_a_missing_folder_are_named(model, tokenizer, folder):
    for rows in SHARDS[1::2]:
        (folder / f"item_encodings-{rows}.safetensors").unlink()
    message = (
        r"shards: .* items B0008 to B0015 \(rows 8 to 15\) are missing and 6 more; run `gram encode MODEL --output"
    )
    with pytest.raises(ValueError, match=message):
        ItemCache.open(folder, model, tokenizer)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; run `gram encode MODEL --output"):
        ItemCache.open(folder / "nowhere", model, tokenizer)


def test_what_does_not_belong_together_is_refused(model, tokenizer):
    cache = ItemCache.in_memory(model, tokenizer, [4, 2])
    smaller = copy.copy(cache)
    smaller.num_items = 20
    narrow = GramForConditionalGeneration(GramConfig(**{**model.config.to_dict(), "d_model": 16}))
    narrower = ItemCache.in_memory(narrow, tokenizer, [4, 2])
    inputs = tokenizer(histories=[tokenizer.item_ids[2:5:2]], item_prompts=False, return_tensors="pt")
    assert model.generate(**inputs, item_cache=cache, num_beams=2).shape[0] == 1
    wrong = {
        "`history`, `item_cache` and the user prompts": {**inputs},
        "row 3 is not in this cache": {**inputs, "history": torch.tensor([[4, 3]]), "item_cache": cache},
        "`history` holds 30; .* from -1 to 29": {**inputs, "history": torch.tensor([[30]]), "item_cache": cache},
        "`history` holds -5; .* from -1 to 29": {**inputs, "history": torch.tensor([[4, -5]]), "item_cache": cache},
        "`item_cache` is of a catalogue of 20 items; the model's has 30": {**inputs, "item_cache": smaller},
        "`item_cache` is of a model of d_model 16, not 32": {**inputs, "item_cache": narrower},
        "`history` holds no item of user 0": {**inputs, "history": torch.tensor([[-1]]), "item_cache": cache},
        r"`history` must be of shape \(1, 8 or fewer\)": {
            **inputs,
            "history": torch.full((1, 9), 4),
            "item_cache": cache,
        },
        r"must be \(users, 1, tokens\)": {
            **tokenizer(histories=[tokenizer.item_ids[2:5:2]], return_tensors="pt"),
            "history": inputs["history"],
            "item_cache": cache,
        },
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            model.generate(**arguments, num_beams=2)
    with pytest.raises(ValueError, match="row -1 is not in the catalogue"):
        cache.gather([-1])


def test_gaps_in_a_history_and_padding_before_a_prompt_are_as_in_the_plain_form(model, tokenizer):
    history = [tokenizer.item_ids[:3], tokenizer.item_ids[5:6]]
    plain = tokenizer(histories=history, return_tensors="pt")
    plain = {name: torch.cat([values[:, :2], 0 * values[:, :1], values[:, 2:]], 1) for name, values in plain.items()}
    inputs = tokenizer(histories=history, item_prompts=False, return_tensors="pt")
    inputs = {name: torch.nn.functional.pad(inputs[name], (2, 0)) for name in ("input_ids", "attention_mask")}
    inputs["history"] = torch.tensor([[2, -1, 1, 0], [5, -1, -1, -1]])
    found = model.generate(**inputs, item_cache=ItemCache.in_memory(model, tokenizer), **SEARCH)
    expected = model.generate(**plain, **SEARCH)
    assert torch.equal(found.item_indices, expected.item_indices)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=1e-5)


def test_the_model_is_left_in_its_mode(model, tokenizer):
    other = copy.deepcopy(model).train()
    cache = ItemCache.in_memory(other, tokenizer, [3])
    assert other.training
    torch.testing.assert_close(cache.gather([3])[0], encoder_output(model, tokenizer, 3), rtol=1e-5, atol=1e-5)

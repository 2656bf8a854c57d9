"""A model folder whose files do not fit each other is refused, however it is used; it never gives another answer."""

import copy
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie, cli
from gram.pipeline_gram import GenerativeRecommendationPipeline
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender

ROOT = Path(__file__).parents[1]
WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "catalogue.parquet")
HISTORY = ["B0003", "B0007", "B0011"]
SEARCH = {"num_beams": 10, "num_return_sequences": 10}


@pytest.fixture(scope="module")
def other_folder(model, tokenizer, tmp_path_factory):
    """Another model of the same shape, and the same items in another order, with each other's lexical IDs."""
    table = tokenizer.catalogue
    lexical_ids = table["lexical_id"].to_pylist()
    place = table.column_names.index("lexical_id")
    table = table.set_column(place, "lexical_id", pa.array([*lexical_ids[1:], lexical_ids[0]])).take(
        [*range(29, -1, -1)]
    )
    other = copy.deepcopy(model)
    for weight in other.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    words = GramTokenizer.from_catalogue(tokenizer, table, max_history=7, max_passage_length=24)
    other.set_item_trie(ItemTrie.from_sequences(words.sequences))
    other.config.layer_norm_epsilon = 1e-3
    folder = tmp_path_factory.mktemp("models") / "other"
    other.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def by_classes(folder):
    """As `AutoModel` and `AutoTokenizer` load them, which never meet."""
    model = GramForConditionalGeneration.from_pretrained(folder)
    tokenizer = GramTokenizer.from_pretrained(folder)
    found = model.generate(**tokenizer(histories=[HISTORY], return_tensors="pt"), **SEARCH)
    titles = [tokenizer.titles[tokenizer.item_rows[item]] for item in tokenizer.decode_items(found)[0]]
    return tokenizer.decode_items(found)[0], titles


def by_pipeline(folder):
    model, tokenizer = GramForConditionalGeneration.from_pretrained(folder), GramTokenizer.from_pretrained(folder)
    return GenerativeRecommendationPipeline(model, tokenizer)(HISTORY)


def by_recommender(folder):
    return Recommender.from_pretrained(folder).recommend([HISTORY])


WAYS = (by_classes, by_pipeline, by_recommender)


@pytest.fixture(scope="module")
def answers(model_folder):
    return [way(model_folder) for way in WAYS]


def assert_refused_or_the_same(folder, answers):
    """Each way either raises or answers as before; `Recommender`, as all commands load, raises one kind of error."""
    for way, answer in zip(WAYS, answers, strict=True):
        try:
            found = way(folder)
        except Exception as error:
            assert way is not by_recommender or isinstance(error, ValueError | OSError), repr(error)
        else:
            assert found == answer, way


# What may happen to a file


def change_json(path, draw):
    content = json.loads(path.read_text())
    values = st.one_of(
        *(st.none(), st.booleans(), st.integers(-2, 70), st.sampled_from([1_000_000, 10**12]), st.floats(0, 1)),
        *(st.text(max_size=3), st.sampled_from(["gelu", "bfloat16", "</s>", "<unk>"]), st.just([]), st.just({})),
    )
    for name in draw(st.lists(st.sampled_from(sorted(content)), min_size=1, max_size=2)):
        if draw(st.booleans()):
            content[name] = draw(values)
        else:
            content.pop(name, None)
    path.write_text(json.dumps(content))


def change_weights(path, draw):
    tensors = load_file(path)
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    changed = {
        "missing": None,
        "rolled": tensor.roll(1, 0),
        "whole numbers": tensor.long(),
        "half as precise": tensor.bfloat16(),
        "NaN": tensor.where(torch.arange(tensor.numel()).view(tensor.shape) > 0, torch.nan),
        "infinite": tensor.where(torch.arange(tensor.numel()).view(tensor.shape) > 0, torch.inf),
        "shorter": tensor[1:].contiguous(),
        "a little more": tensor + 1,
        "superfluous": tensor.clone(),
    }
    how = draw(st.sampled_from(sorted(changed)))
    tensors[name if how != "superfluous" else "other"] = changed[how]
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def change_catalogue(path, draw):
    table = pq.read_table(path)
    order = draw(st.permutations(range(len(table))))
    column = draw(st.sampled_from(["rows", *table.column_names]))
    if column == "rows":
        table = table.take(pa.array(order[: draw(st.sampled_from([30, 30, 20, 0]))], pa.int64()))
    else:
        values = draw(st.sampled_from([table[column].take(pa.array(order)), pa.nulls(len(table), table[column].type)]))
        table = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(table, path)


def change_bytes(path, draw):
    content = bytearray(path.read_bytes())
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= draw(st.integers(1, 255))
    path.write_bytes(content)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_happens_to_a_file_the_answer_is_the_same_or_none(
    model_folder, other_folder, answers, tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("spoilt") / "model"
    folder.mkdir()
    for path in model_folder.iterdir():
        if path.suffix != ".py":
            shutil.copyfile(path, folder / path.name)
    name = data.draw(st.sampled_from(FILES))
    special = {".json": change_json, ".safetensors": change_weights, ".parquet": change_catalogue}
    how = data.draw(st.sampled_from(["bytes", "swap", "content", "content"]))
    if how == "swap":
        shutil.copyfile(other_folder / name, folder / name)
    elif how == "bytes" or name == "tokenizer.json":
        change_bytes(folder / name, data.draw)
    else:
        special[folder.joinpath(name).suffix](folder / name, data.draw)
    assert_refused_or_the_same(folder, answers)
    shutil.rmtree(folder)


# Named faults, in folders with checksums and in older ones without


def without_checksums(folder):
    """As the version before has saved it."""
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        del content["checksums"]
        (folder / name).write_text(json.dumps(content))
    return folder


def tensors_changed(**changes):
    def change(folder):
        tensors = load_file(folder / WEIGHTS)
        tensors |= {name.replace("__", "."): change(tensors) for name, change in changes.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS)

    return change


def catalogue_changed(change):
    return lambda folder: pq.write_table(
        change(pq.read_table(folder / "catalogue.parquet")), folder / "catalogue.parquet"
    )


def settings_changed(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(content))

    return change


def column_changed(name, change):
    def changed(table):
        values = pa.array(change(table[name].to_pylist()), table[name].type)
        return table.set_column(table.column_names.index(name), name, values)

    return catalogue_changed(changed)


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


NORM, QUERY = "encoder__final_layer_norm__weight", "encoder__block__0__layer__0__SelfAttention__q__weight"
exchanged = column_changed("lexical_id", lambda ids: [ids[1], ids[0], *ids[2:]])
FAULTS = {
    "rows in another order": (catalogue_changed(lambda table: table.take([1, 0, *range(2, 30)])), "lexical IDs"),
    "two lexical IDs exchanged": (exchanged, "lexical IDs"),
    "items for other leaves": (tensors_changed(item_trie__items=lambda t: t["item_trie.items"].roll(1)), "lexical IDs"),
    "sizes of another trie": (tensors_changed(item_trie__sizes=lambda t: t["item_trie.sizes"].roll(1)), "lexical IDs"),
    "a tensor missing": (tensors_changed(**{NORM: lambda t: None}), f"no tensor '{NORM.replace('__', '.')}'"),
    "a part of the trie missing": (tensors_changed(item_trie__sizes=lambda t: None), "no tensor 'item_trie.sizes'"),
    "a tensor too much": (tensors_changed(foo=lambda t: torch.zeros(2)), "a tensor 'foo'"),
    "whole numbers": (tensors_changed(**{NORM: lambda t: torch.ones(32, dtype=torch.int64)}), "is of type I64"),
    "a trie of floats": (tensors_changed(item_trie__tokens=lambda t: t["item_trie.tokens"].float()), "is of type F32"),
    "NaN": (tensors_changed(**{QUERY: lambda t: torch.full((16, 32), torch.nan)}), "holds NaN or infinity"),
    "infinity": (tensors_changed(**{NORM: lambda t: torch.full((32,), -torch.inf)}), "holds NaN or infinity"),
    "another shape": (tensors_changed(**{NORM: lambda t: torch.ones(3)}), "model.safetensors: .*shapes"),
    "half the weights": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:9000]), "model.safetensors: "),
    "no weights": (content(WEIGHTS, b""), "model.safetensors: cannot be read"),
    "a million layers": (settings_changed("config.json", num_layers=1_000_000), "`num_layers` must be at most 1000"),
    "another width": (settings_changed("config.json", d_ff=128), "model.safetensors: .*shapes"),
    "no such type": (settings_changed("config.json", dtype="nonsense"), "config.json: cannot be read"),
    "an epsilon of NaN": (settings_changed("config.json", layer_norm_epsilon=float("nan")), "`layer_norm_epsilon`"),
    "half a trie": (settings_changed("config.json", trie_depth=0), "must all be 0, or none"),
    "deep settings": (content("config.json", b"[" * 100_000), "config.json: not a readable JSON file"),
    "settings in a list": (content("config.json", b"[]"), "config.json: must hold a JSON object"),
    "settings not UTF-8": (content("tokenizer_config.json", b'{"a": "\xff"}'), "tokenizer_config.json: not a readable"),
    "no options": (content("generation_config.json", b""), "generation_config.json: not a readable JSON file"),
    "a history of no number": (settings_changed("tokenizer_config.json", max_history="x"), "max_history is 'x'"),
    "no length": (settings_changed("tokenizer_config.json", max_passage_length=0), "max_passage_length is 0"),
    "a longer history": (settings_changed("tokenizer_config.json", max_history=9), "max_history"),
    "another padding": (settings_changed("tokenizer_config.json", pad_token="</s>"), "pad token 1"),
    "no vocabulary": (content("tokenizer.json", b"{}"), "tokenizer.json: cannot be read"),
    "half a catalogue": (content("catalogue.parquet", b"PAR1"), "catalogue.parquet: not a readable Parquet file"),
    "an item without ID": (column_changed("lexical_id", lambda ids: [None, *ids[1:]]), "without a value in column 'le"),
    "an item without text": (column_changed("text", lambda texts: [None, *texts[1:]]), "without a value in column 'te"),
    "an item without title": (
        column_changed("title", lambda titles: [None, *titles[1:]]),
        "without a value in column 'ti",
    ),
    "fewer items": (
        catalogue_changed(lambda table: table.slice(0, 0)),
        "catalogue.parquet: the catalogue has no items",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_an_older_folder_is_one_line_that_names_it(folder, fault):
    spoil, message = FAULTS[fault]
    spoil(without_checksums(folder))
    with pytest.raises(ValueError, match=message) as refused:
        load_model(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_refused_by_model_or_tokenizer_alone(folder, fault):
    FAULTS[fault][0](folder)
    wrong_types = RuntimeError, TypeError, AttributeError, KeyError, SafetensorError, StrictDataclassError
    with pytest.raises((ValueError, OSError, *wrong_types)):
        GramTokenizer.from_pretrained(folder)
        GramForConditionalGeneration.from_pretrained(folder)


def test_an_older_folder_answers_as_ever(folder, answers):
    without_checksums(folder)
    assert [way(folder) for way in WAYS] == answers


def test_all_of_another_tokenizer_is_refused_where_the_two_meet(folder, other_folder):
    for name in FILES[2:]:
        shutil.copyfile(other_folder / name, folder / name)
    for way in (by_pipeline, by_recommender):
        with pytest.raises(ValueError, match="the model's item trie is not of the lexical IDs of the catalogue"):
            way(folder)
    model, tokenizer = GramForConditionalGeneration.from_pretrained(folder), GramTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="the model's item trie is not of the lexical IDs of the catalogue"):
        model.encode_items(tokenizer, progress=False)


@pytest.mark.parametrize("command", ["recommend", "evaluate", "encode", "serve"])
def test_every_command_refuses_in_one_line(capsys, folder, data_folder, command):
    exchanged(folder)
    arguments = {"recommend": ["--history", "B0001"], "evaluate": ["--data", str(data_folder)]}
    arguments["evaluate"] += ["--output", str(folder / "results.json")]
    assert cli.main([command, str(folder), *arguments.get(command, [])]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gram: ")]
    assert f"{folder}/catalogue.parquet: is not the file that tokenizer_config.json was saved with" in error


ELSEWHERE = """
import importlib.util, json, sys
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
def file(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
folders, handler, engine = json.load(sys.stdin)
def separately(folder):
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    AutoModel.from_pretrained(folder, trust_remote_code=True)
    AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
ways = {
    "separately": separately,
    "pipeline": lambda folder: pipeline("generative-recommendation", model=folder, trust_remote_code=True),
    "handler": file(handler, "handler").EndpointHandler,
    "space": file(engine, "engine").Engine.load,
}
found = {}
for folder in folders:
    for name, way in ways.items():
        try:
            way(folder)
            found[f"{folder} {name}"] = None
        except ValueError as error:
            found[f"{folder} {name}"] = str(error)
print(json.dumps(found))
"""


def test_remote_code_refuses_too(model_folder, other_folder, run_elsewhere, tmp_path):
    spoil = {"sound": lambda folder: None, "ids": exchanged}
    spoil["trie"] = lambda folder: shutil.copyfile(other_folder / WEIGHTS, folder / WEIGHTS)
    for name, change in spoil.items():
        change(shutil.copytree(model_folder, tmp_path / name))
    places = [str(ROOT / "hub" / name) for name in ("handler.py", "space/engine.py")]
    found = run_elsewhere(ELSEWHERE, [list(spoil), *places])
    for name, message in {
        "ids": "catalogue.parquet: is not the file that tokenizer_config.json was saved with",
        "trie": "model.safetensors: is not the file that config.json was saved with",
    }.items():
        for way in ("separately", "pipeline", "handler", "space"):
            assert message in found[f"{name} {way}"], (name, way)
            assert found[f"sound {way}"] is None


# What is allowed


def test_settings_are_changed_by_loading_with_others_and_saving(folder, answers):
    model = GramForConditionalGeneration.from_pretrained(folder, dropout_rate=0.3)
    model.save_pretrained(folder)
    GramTokenizer.from_pretrained(folder, max_passage_length=32).save_pretrained(folder)
    model, tokenizer = load_model(folder)
    assert (model.config.dropout_rate, tokenizer.max_passage_length) == (0.3, 32)
    GramConfig.from_pretrained(folder, d_ff=8).save_pretrained(folder / "alone")  # a configuration has no checksums
    assert GramConfig.from_pretrained(folder / "alone").d_ff == 8


def test_weights_in_several_files_are_checked_each(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    first, *more = sorted(tmp_path.glob("model-*.safetensors"))
    assert more
    by_recommender(tmp_path)
    tensors = load_file(first)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] * 2}, first)
    with pytest.raises(ValueError, match=f"{first.name}: is not the file that config.json was saved with"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_another_precision_load(folder, dtype):
    model = GramForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    assert {buffer.dtype for buffer in model.item_trie.buffers()} == {torch.int32}
    model.save_pretrained(folder / "half")
    GramForConditionalGeneration.from_pretrained(folder / "half")


def test_a_head_of_another_size_loads_when_asked(folder):
    options = {"vocab_size": 512, "ignore_mismatched_sizes": True}
    assert len(GramForConditionalGeneration.from_pretrained(folder, **options).shared.weight) == 512


# A trie that is not there


def check_no_trie(model, tokenizer):
    inputs = tokenizer(histories=[HISTORY], return_tensors="pt")
    for options in ({}, {"exact": True}, {"excluded_items": torch.tensor([[3]])}):
        with pytest.raises(ValueError, match="item trie is empty"):
            model.generate(**inputs, num_beams=2, **options)
    with pytest.raises(ValueError, match="trie"):
        model.explain(torch.tensor([[3]]), **inputs)
    with pytest.raises(ValueError, match="item trie has 0 items"):
        GenerativeRecommendationPipeline(model, tokenizer)


@pytest.mark.parametrize("how", ["no tensors", "configuration", "meta device"])
def test_a_model_without_trie_says_so_in_place_of_uninitialised_memory(model, tokenizer, folder, how):
    torch.full((1000, 1000), 77, dtype=torch.int32)  # what uninitialised memory may then hold
    if how == "no tensors":
        tensors = load_file(folder / WEIGHTS)
        save_file({name: tensor for name, tensor in tensors.items() if "trie" not in name}, folder / WEIGHTS)
        other = GramForConditionalGeneration.from_pretrained(without_checksums(folder))
    elif how == "configuration":
        other = GramForConditionalGeneration._from_config(copy.deepcopy(model.config))
    else:
        with torch.device("meta"):
            other = GramForConditionalGeneration(copy.deepcopy(model.config))
        other = other.to_empty(device="cpu")
        for module in other.modules():
            module._is_hf_initialized = False
        other.initialize_weights()
        other.tie_weights()
    check_no_trie(other.eval(), tokenizer)
    other.set_item_trie(model.item_trie)
    assert other.generate(**tokenizer(histories=[HISTORY], return_tensors="pt"), **SEARCH).shape[0] == 10


def test_a_trie_is_whole_after_copies_conversions_and_under_another_default_device(model, tokenizer):
    with torch.device("meta"):
        trie = ItemTrie.from_sequences(tokenizer.sequences)
    for other in (
        *(trie, copy.deepcopy(trie), copy.deepcopy(trie).to(torch.float16)),
        *(copy.deepcopy(model).half().item_trie, copy.deepcopy(model).to(torch.bfloat16).float().item_trie),
    ):
        for name, buffer in model.item_trie.named_buffers():
            assert torch.equal(other.get_buffer(name), buffer)
            assert other.get_buffer(name).dtype == torch.int32

"""The pipeline: from the package, and from a trained model's folder where there is no package."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers.pipelines.pt_utils import KeyDataset

from gram import GenerativeRecommendationPipeline, cli
from gram.data import read_folder
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.trie_gram import ItemTrie

COMMIT = "0123456789abcdef0123456789abcdef01234567"

ELSEWHERE = """
import json, sys
try:
    import gram
    raise SystemExit("the package can be imported here")
except ImportError:
    pass
import torch
from transformers import AutoModel, AutoTokenizer, pipeline
folder, again, histories = json.load(sys.stdin)
answers = {}
def loaded(name):
    return any(module.endswith(name) for module in sys.modules)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
answers["needless"] = loaded("pipeline_gram")
by_task = pipeline("generative-recommendation", model=folder, trust_remote_code=True, device="cpu")
answers["by task"] = by_task(histories, top_k=5, batch_size=2)
without_task = pipeline(model=folder, trust_remote_code=True, top_k=5, local_files_only=True)
answers["without task"] = list(without_task(history for history in histories))
answers["half"] = {}
for name, given in (("argument", {"dtype": torch.bfloat16}), ("model_kwargs", {"model_kwargs": {"dtype": "bfloat16"}})):
    half = pipeline(model=folder, trust_remote_code=True, **given)
    answers["half"][name] = [str(half.dtype), len(half(histories[0], top_k=5))]
by_task.save_pretrained(again)
answers["again"] = pipeline(model=again, trust_remote_code=True)(histories, top_k=5)
by_task.model.save_pretrained(folder + "-model")
by_task.tokenizer.save_pretrained(folder + "-model")
answers["model saved"] = pipeline(model=folder + "-model", trust_remote_code=True)(histories, top_k=5)
print(json.dumps(answers))
"""

FROM_HUB = """
import json, sys
from transformers import pipeline
name, history = json.load(sys.stdin)
found = []
for given in ({}, {"item_cache": True}):
    recommend = pipeline("generative-recommendation", model=name, trust_remote_code=True, **given)
    found.append([recommend.item_cache and recommend.item_cache.dtype, recommend(history)])
print(json.dumps(found))
"""

WITH_PACKAGE = """
import json, sys
from gram import GenerativeRecommendationPipeline, GramForConditionalGeneration, GramTokenizer
folder, again, histories = json.load(sys.stdin)
model, tokenizer = GramForConditionalGeneration.from_pretrained(folder), GramTokenizer.from_pretrained(folder)
from_objects = GenerativeRecommendationPipeline(model=model, tokenizer=tokenizer)
from_objects.save_pretrained(again)
print(json.dumps(from_objects(histories, top_k=5)))
"""


@pytest.fixture(scope="module")
def folder(quickstart_run, tmp_path_factory):
    return shutil.copytree(quickstart_run[0], tmp_path_factory.mktemp("pipeline") / "films")


@pytest.fixture(scope="module")
def recommender(folder):
    return Recommender.from_pretrained(folder, batch_size=4)


@pytest.fixture(scope="module")
def recommend(folder):
    return GenerativeRecommendationPipeline(*load_model(folder), device="cpu")


@pytest.fixture(scope="module")
def histories(folder):
    data = read_folder(folder / "data")
    return [[data.items.item_ids[row] for row in data.interactions[user]][:-1] for user in range(7)]


def assert_same(found, expected):
    """The same items with the same titles for every user, and the same scores but for rounding."""
    assert [[(item["item_id"], item["title"]) for item in user] for user in found] == [
        [(item["item_id"], item["title"]) for item in user] for user in expected
    ]
    for user, others in zip(found, expected, strict=True):
        assert [item["score"] for item in user] == pytest.approx([item["score"] for item in others], rel=1e-5, abs=1e-5)


def as_dictionaries(found):
    return [[vars(item) for item in user] for user in found]


def test_recommends_what_generate_and_the_recommender_return(recommend, recommender, histories):
    model, tokenizer = recommend.model, recommend.tokenizer
    output = model.generate(
        **tokenizer(histories=histories, return_tensors="pt"),
        num_beams=50,
        num_return_sequences=6,
        return_dict_in_generate=True,
    )
    found = recommend(histories, top_k=6, exclude_seen=False)
    assert [[item["item_id"] for item in user] for user in found] == tokenizer.decode_items(output.sequences, 6)
    scores = [item["score"] for user in found for item in user]
    assert scores == pytest.approx(output.sequences_scores.tolist(), rel=1e-5, abs=1e-5)
    assert_same(recommend(histories), as_dictionaries(recommender.recommend(histories)))
    choice = {"only": tokenizer.item_ids[::2], "exclude": tokenizer.item_ids[:5]}
    assert_same(recommend(histories, **choice), as_dictionaries(recommender.recommend(histories, **choice)))
    with pytest.raises(ValueError, match="item 'XXX' is not in the catalogue"):
        recommend(histories, only=["XXX"])
    strange = [["XXX", *histories[0]], [], ["YYY"]]
    found, expected = recommend(strange), recommender.recommend(strange)
    assert_same(found, as_dictionaries(expected))
    assert [(user.skipped, user.is_fallback) for user in found] == [(["XXX"], False), ([], True), (["YYY"], True)]
    assert recommend(["YYY"]).is_fallback


def test_a_choice_for_all_calls_and_one_of_a_call_hold_together(recommend, recommender, histories):
    ids = recommend.tokenizer.item_ids
    always = GenerativeRecommendationPipeline(recommend.model, recommend.tokenizer, only=ids[:8], item_cache=False)
    expected = recommender.recommend(histories, only=ids[:8], exclude=ids[:3])
    assert_same(always(histories, exclude=ids[:3]), as_dictionaries(expected))
    with pytest.raises(TypeError, match="colour"):
        recommend(histories, colour="red")


def test_one_history_gives_one_list(recommend, histories):
    (expected,) = recommend(histories[:1], top_k=3)
    assert recommend(histories[0], top_k=3) == recommend(tuple(histories[0]), top_k=3) == expected
    assert list(expected[0]) == ["item_id", "title", "score"]


def test_takes_arrays_and_what_every_pipeline_takes(recommend, histories):
    expected = recommend(histories[:2], top_k=3)
    arrays = [np.array(history) for history in histories[:2]]
    assert recommend(arrays, top_k=3, num_workers=2, batch_size=4) == expected
    assert recommend(arrays[0], top_k=3) == recommend(histories[0], top_k=3)


def test_batches_and_streams_give_what_users_get_alone(recommend, histories, monkeypatch):
    alone, sizes = [recommend(history, top_k=4) for history in histories], []
    generate = recommend.model.generate
    monkeypatch.setattr(
        recommend.model, "generate", lambda **given: sizes.append(len(given["input_ids"])) or generate(**given)
    )
    assert_same(recommend(histories, top_k=4, batch_size=3), alone)
    assert_same(recommend(histories, top_k=4), alone)
    assert sizes == [3, 3, 1, 7]
    table = Dataset.from_dict({"history": histories})
    for stream in (iter(histories), KeyDataset(table, "history"), table["history"], (each for each in histories)):
        assert_same(list(recommend(stream, top_k=4, batch_size=3)), alone)


def test_a_stream_is_read_batch_by_batch(recommend, histories):
    taken = []
    stream = recommend((taken.append(user) or history for user, history in enumerate(histories)), batch_size=2)
    assert taken == []
    next(stream)
    assert taken == [0, 1]
    assert list(recommend(iter([]))) == []


def test_nothing_seen_and_nothing_that_does_not_exist(recommend):
    item_ids = recommend.tokenizer.item_ids
    found = recommend(item_ids[:15], top_k=10**9, num_beams=1)
    assert sorted(item["item_id"] for item in found) == sorted(item_ids[15:])
    found = recommend([item_ids, item_ids[:1]], top_k=len(item_ids) + 1, exclude_seen=False)
    assert [sorted(item["item_id"] for item in user) for user in found] == [sorted(item_ids)] * 2
    assert recommend([item_ids, item_ids[1:]], exact=True) == [[], recommend(item_ids[1:], exact=True)]


@pytest.mark.parametrize("search", [{"score_mode": "trie"}, {"exact": True}])
def test_other_ways_to_search(recommend, histories, search):
    inputs = recommend.tokenizer(histories=histories[:2], return_tensors="pt")
    output = recommend.model.generate(
        **inputs, **search, num_beams=50, num_return_sequences=5, return_dict_in_generate=True
    )
    found = recommend(histories[:2], top_k=5, exclude_seen=False, **search)
    items = [[item["item_id"] for item in user] for user in found]
    assert items == recommend.tokenizer.decode_items(output.sequences, 5)


def test_arguments_of_the_pipeline_hold_for_its_calls(recommend, histories):
    given = {"top_k": 3, "exclude_seen": False, "batch_size": 2}
    made = GenerativeRecommendationPipeline(recommend.model, recommend.tokenizer, device="cpu", **given)
    assert made(histories) == recommend(histories, **given)
    assert made(histories, top_k=2) == recommend(histories, **{**given, "top_k": 2})


def test_uses_the_item_encodings_of_the_folder(folder, histories, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "films")
    model, tokenizer = load_model(folder)
    without = GenerativeRecommendationPipeline(model, tokenizer)
    assert without.item_cache is None
    with pytest.raises(FileNotFoundError, match="films/item_encodings: no such folder; run `gram encode"):
        GenerativeRecommendationPipeline(model, tokenizer, item_cache=True)
    assert cli.main(["encode", str(folder)]) == 0
    expected = without(histories)
    for item_cache in (None, True, folder / "item_encodings"):
        with_cache = GenerativeRecommendationPipeline(model, tokenizer, item_cache=item_cache)
        assert with_cache.item_cache.dtype == "float32"
        assert_same(with_cache(histories), expected)
    assert GenerativeRecommendationPipeline(model, tokenizer, item_cache=False).item_cache is None

    half = GenerativeRecommendationPipeline(model.to(torch.bfloat16), tokenizer)
    assert half.item_cache is None
    assert len(half(histories[0], top_k=5)) == 5
    other, _ = load_model(folder)
    other.shared.weight.data += 0.1
    with pytest.raises(ValueError, match="stale: it was made with other weights"):
        GenerativeRecommendationPipeline(other, tokenizer)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "empty list"),
        ([["1"], "2"], r"histories\[1\]: a history is a list of item ids, got the string '2'"),
        ([["1"], 2], r"histories\[1\]: a history is a list of item ids, got a value of type int"),
        ([["1"], {"2": 1}], r"histories\[1\]: a history is a list of item ids, got a value of type dict"),
        ([["1"], None], r"histories\[1\]: a history is a list of item ids, got a value of type NoneType"),
        (["1", 2], "item ids are strings, got 2"),
        ([[["1"]]], r"histories\[0\]: item ids are strings, got \['1'\]"),
        ("1", "several such lists; got a value of type str"),
        ({"inputs": ["1"]}, "got a value of type dict"),
        (None, "got a value of type NoneType"),
    ],
)
def test_wrong_histories_are_named(recommend, inputs, message):
    with pytest.raises(ValueError, match=message):
        recommend(inputs)


def test_a_wrong_history_of_a_stream_is_named_by_its_place(recommend):
    stream = recommend(iter([["1"], ["2"], ["3"], ["1", 7]]), batch_size=2)
    assert [len(next(stream)) for _ in range(2)] == [10, 10]
    with pytest.raises(ValueError, match=r"histories\[3\]: item ids are strings, got 7"):
        next(stream)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_k": 0}, "top_k is 0; it must be at least 1"),
        ({"top_k": "5"}, "top_k is '5'; it must be a whole number"),
        ({"top_k": True}, "top_k is True; it must be a whole number"),
        ({"num_beams": 2.5}, "num_beams is 2.5; it must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"exclude_seen": "no"}, "exclude_seen is 'no'; it must be True or False"),
        ({"score_mode": "best"}, "score_mode is 'best'; it must be one of"),
    ],
)
def test_impossible_arguments_are_named(recommend, wrong, message):
    with pytest.raises(ValueError, match=message):
        recommend(["1"], **wrong)
    with pytest.raises(TypeError, match="top_n"):
        recommend(["1"], top_n=3)


def test_model_and_tokenizer_must_belong_together(recommend, tokenizer, model):
    with pytest.raises(ValueError, match="give `tokenizer`"):
        GenerativeRecommendationPipeline(model)
    with pytest.raises(ValueError, match="item trie has 30 items, the catalogue 20"):
        GenerativeRecommendationPipeline(model, recommend.tokenizer)
    short = copy.deepcopy(model)
    short.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences[:20]))
    with pytest.raises(ValueError, match="item trie has 20 items, the catalogue 30"):
        GenerativeRecommendationPipeline(short, tokenizer)


def test_a_folder_carries_its_pipeline(recommend, folder, histories, run_elsewhere, forks, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "films")
    expected = recommend(histories, top_k=5)
    answers = run_elsewhere(ELSEWHERE, [str(folder), str(tmp_path / "again"), histories])
    assert answers["needless"] is False
    for name in ("by task", "without task", "again", "model saved"):
        assert_same(answers[name], expected)
    assert answers["half"] == {name: ["torch.bfloat16", 5] for name in ("argument", "model_kwargs")}

    done = forks.run(WITH_PACKAGE, given=json.dumps([str(folder), str(tmp_path / "packaged"), histories]))
    assert done.returncode == 0, done.stderr
    assert_same(json.loads(done.stdout.splitlines()[-1]), expected)
    config = [json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "packaged")]
    assert config[0]["custom_pipelines"] == config[1]["custom_pipelines"]
    code = {path.name for path in folder.glob("*.py")}
    assert "pipeline_gram.py" in code
    assert code == {path.name for path in (tmp_path / "packaged").glob("*.py")}
    assert code == {path.name for path in (tmp_path / "again").glob("*.py")}


def test_a_model_of_the_hub_brings_its_item_encodings_when_asked(
    recommend, folder, histories, elsewhere, run_elsewhere
):
    downloaded = elsewhere.folder / "cache" / "hub" / "models--shop--films"
    shutil.copytree(folder, downloaded / "snapshots" / COMMIT)
    (downloaded / "refs").mkdir()
    (downloaded / "refs" / "main").write_text(COMMIT)
    assert cli.main(["encode", str(folder), "--output", str(downloaded / "snapshots" / COMMIT / "item_encodings")]) == 0
    (plain, items), (with_cache, same_items) = run_elsewhere(FROM_HUB, ["shop/films", histories[0]])
    assert (plain, with_cache) == (None, "float32")
    assert_same([items, same_items], [recommend(histories[0])] * 2)


OLD = """
import json, sys
from transformers import pipeline
try:
    pipeline("generative-recommendation", model=json.load(sys.stdin), trust_remote_code=True)
    print(json.dumps(None))
except KeyError as error:
    print(json.dumps(str(error)))
"""


def test_a_folder_without_pipeline_gets_one_when_it_is_saved_again(folder, run_elsewhere, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "films")
    (folder / "pipeline_gram.py").unlink()
    for name in ("modeling_gram.py", "configuration_gram.py"):
        text = (folder / name).read_text(encoding="utf-8")
        text = text.replace("    from .pipeline_gram import GenerativeRecommendationPipeline", "    pass")
        (folder / name).write_text(text.replace('"custom_pipelines"', '"nothing"'), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["custom_pipelines"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "Unknown task generative-recommendation" in run_elsewhere(OLD, str(folder))
    model, tokenizer = load_model(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert run_elsewhere(OLD, str(folder)) is None
